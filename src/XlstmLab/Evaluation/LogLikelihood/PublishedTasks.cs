using System.Text.RegularExpressions;

namespace XlstmLab.Evaluation.LogLikelihood;

/// <summary>ARC, grade-school science questions (Clark et al. 2018, arXiv:1803.05457): the Easy and the Challenge part.</summary>
/// <remarks>
/// Dataset allenai/ai2_arc: question, choices {text, label}, answerKey. Harness tasks arc_easy and arc_challenge: "Question: {question}",
/// a new line and "Answer:", then each choice's text. acc and acc_norm. Four choices as a rule, three or five in a few.
/// </remarks>
/// <param name="Name">arc_easy or arc_challenge; both read alike.</param>
public sealed record ArcTask(string Name) : LikelihoodTask(Name)
{
    /// <inheritdoc/>
    public override TaskItem Item(TaskRow row)
    {
        var (question, choices, answer) = row.LabelledQuestion("question");
        return Question($"Question: {question}\nAnswer:", choices, answer);
    }
}

/// <summary>HellaSwag, how a short scene goes on (Zellers et al. 2019, arXiv:1905.07830).</summary>
/// <remarks>
/// Dataset Rowan/hellaswag: activity_label, ctx_a, ctx_b, endings (4), label. Harness task hellaswag: "{activity_label}: {ctx_a} {ctx_b}",
/// ctx_b with its first letter raised and all others lowered, then each ending. Query and endings are cleaned of what WikiHow left:
/// outer white space is dropped, " [title]" becomes ". ", other square brackets go with their content, and then double spaces become single
/// ones, once. acc and acc_norm, on the validation part.
/// </remarks>
public sealed partial record HellaSwagTask() : LikelihoodTask("hellaswag")
{
    /// <inheritdoc/>
    public override TaskItem Item(TaskRow row)
    {
        var endings = row.Texts("endings");
        var second = row.Text("ctx_b");
        if (second.Length > 0)
        {
            second = second[..1].ToUpperInvariant() + Lower(second[1..]);
        }

        return Question(
            Clean($"{row.Text("activity_label")}: {row.Text("ctx_a")} {second}"), endings.Select(Clean),
            row.Answer("label", 0, endings.Count));
    }

    private static string Clean(string text) => Brackets().Replace(text.Trim().Replace(" [title]", ". ", StringComparison.Ordinal), "")
        .Replace("  ", " ", StringComparison.Ordinal);

#pragma warning disable CA1308 // The task is defined by lower case.
    private static string Lower(string text) => text.ToLowerInvariant();
#pragma warning restore CA1308

    [GeneratedRegex(@"\[.*?\]", RegexOptions.CultureInvariant)]
    private static partial Regex Brackets();
}

/// <summary>PIQA, which of two ways reaches an everyday goal (Bisk et al. 2020, arXiv:1911.11641).</summary>
/// <remarks>
/// Dataset piqa: goal, sol1, sol2, label. Harness task piqa: "Question: {goal}", a new line and "Answer:", then each solution. acc and
/// acc_norm, on the validation part.
/// </remarks>
public sealed record PiqaTask() : LikelihoodTask("piqa")
{
    /// <inheritdoc/>
    public override TaskItem Item(TaskRow row) =>
        Question($"Question: {row.Text("goal")}\nAnswer:", [row.Text("sol1"), row.Text("sol2")], row.Answer("label", 0, 2));
}

/// <summary>WinoGrande, what a blank refers to (Sakaguchi et al. 2019, arXiv:1907.10641).</summary>
/// <remarks>
/// Dataset winogrande, winogrande_xl: sentence with a blank "_", option1, option2, answer "1" or "2". Harness task winogrande with partial
/// evaluation (Trinh and Le 2018, arXiv:1806.02847): the text up to the blank with each option in its place, then what follows the blank,
/// which is the same for both and alone is scored. acc, on the validation part.
/// </remarks>
public sealed record WinoGrandeTask() : LikelihoodTask("winogrande")
{
    /// <inheritdoc/>
    public override TaskMetrics Metrics => TaskMetrics.Accuracy;

    /// <inheritdoc/>
    public override TaskItem Item(TaskRow row)
    {
        var sentence = row.Text("sentence");
        var blank = sentence.IndexOf('_', StringComparison.Ordinal);
        if (blank < 0)
        {
            throw row.Refuse("sentence", "a text with a blank '_'");
        }

        var rest = sentence[(blank + 1)..].Trim();
        var before = sentence[..blank];
        return new([new(before + row.Text("option1"), rest), new(before + row.Text("option2"), rest)], row.Answer("answer", 1, 2));
    }
}

/// <summary>OpenBookQA, elementary science questions without their book (Mihaylov et al. 2018, arXiv:1809.02789).</summary>
/// <remarks>
/// Dataset allenai/openbookqa, main: question_stem, choices {text, label}, answerKey. Harness task openbookqa: the stem, then each
/// choice's text. acc and acc_norm.
/// </remarks>
public sealed record OpenBookQaTask() : LikelihoodTask("openbookqa")
{
    /// <inheritdoc/>
    public override TaskItem Item(TaskRow row)
    {
        var (question, choices, answer) = row.LabelledQuestion("question_stem");
        return Question(question, choices, answer);
    }
}

/// <summary>LAMBADA, the last word of a passage (Paperno et al. 2016, arXiv:1606.06031).</summary>
/// <remarks>
/// Datasets EleutherAI/lambada_openai (the text as Radford et al. 2019 used it) and lambada (the original, lower case and tokenised): text.
/// Harness tasks lambada_openai and lambada_standard: the text up to its last space, then the last word. acc, whether greedy decoding gives
/// the word, and perplexity, exp(-mean log p(word)) over passages, not tokens.
/// </remarks>
/// <param name="Name">lambada_openai or lambada_standard; both read alike.</param>
public sealed record LambadaTask(string Name) : LikelihoodTask(Name)
{
    /// <inheritdoc/>
    public override TaskMetrics Metrics => TaskMetrics.Cloze;

    /// <inheritdoc/>
    public override TaskItem Item(TaskRow row)
    {
        var text = row.Text("text");
        var space = text.LastIndexOf(' ');
        return space > 0 && space < text.Length - 1
            ? new([new(text[..space], text[(space + 1)..])], 0)
            : throw row.Refuse("text", "a text whose last word stands after a space");
    }
}

/// <summary>MMLU, exam questions of 57 subjects (Hendrycks et al. 2021, arXiv:2009.03300).</summary>
/// <remarks>
/// Dataset cais/mmlu: question, subject, choices (4), answer. Harness task mmlu: "The following are multiple choice questions (with
/// answers) about {subject}." and an empty line, then examples, then the question, the choices after "A. " to "D. " on lines of their own,
/// "Answer:", and then each letter. Examples are the first of the same subject's dev part, five as published. acc over all questions, of
/// each subject, and its mean over subjects.
/// </remarks>
public sealed record MmluTask() : LikelihoodTask("mmlu")
{
    private static readonly string[] Letters = ["A", "B", "C", "D"];

    /// <inheritdoc/>
    public override TaskMetrics Metrics => TaskMetrics.Accuracy;

    /// <inheritdoc/>
    public override FewShotSelection Selection => FewShotSelection.First;

    /// <inheritdoc/>
    public override TaskItem Item(TaskRow row)
    {
        var choices = row.Texts("choices");
        if (choices.Count != Letters.Length)
        {
            throw row.Refuse("choices", $"a list of {Letters.Length} texts");
        }

        var subject = row.Text("subject");
        var lines = Letters.Zip(choices, (letter, choice) => $"{letter}. {choice}\n");
        return Question($"{row.Text("question").Trim()}\n{string.Concat(lines)}Answer:", Letters,
            row.Answer("answer", 0, Letters.Length)) with
        {
            Group = subject,
            Description = $"The following are multiple choice questions (with answers) about {subject.Replace('_', ' ')}.\n\n",
        };
    }
}

/// <summary>BLiMP, which of two sentences is grammatical (Warstadt et al. 2020, arXiv:1912.00582).</summary>
/// <remarks>
/// Dataset nyu-mll/blimp: sentence_good, sentence_bad, UID, the name of one of 67 paradigms. Harness tasks blimp_*: each whole sentence
/// after the end of document alone. acc of each paradigm, and its mean over paradigms. Without examples.
/// </remarks>
public sealed record BlimpTask() : LikelihoodTask("blimp")
{
    /// <inheritdoc/>
    public override TaskMetrics Metrics => TaskMetrics.Accuracy;

    /// <inheritdoc/>
    public override bool GroupsCountAlike => true;

    /// <inheritdoc/>
    public override TaskItem Item(TaskRow row) =>
        Question("", [row.Text("sentence_good"), row.Text("sentence_bad")], 0) with { Group = row.Text("UID") };
}
