using XlstmLab.Text;

namespace XlstmLab.Tasks.Ruler;

/// <summary>Makes samples of RULER's tasks at any length, counted in a model's own tokens.</summary>
/// <remarks>
/// A sample has as much haystack as leaves room for the answer: it is never longer than asked for, and shorter by less than one more piece
/// of haystack (a word, a sentence, a needle, a listed word with its repetitions, one step of the coded words' counts, a paragraph), unless
/// there is no more. Task, length, index, tokenizer and options decide it, on every machine.
/// </remarks>
/// <param name="tokenizer">The model's tokenizer.</param>
/// <param name="options">What the tasks are made of; null is the default.</param>
public sealed class RulerGenerator(ITokenizer tokenizer, RulerOptions? options = null)
{
    /// <summary>The longest length: what a sample's draws are numbered by has so many bits.</summary>
    public const int LongestLength = int.MaxValue / 4;

    private const int MostSamples = 1 << 25;
    private readonly Dictionary<(RulerTask, int), Questions> _questions = [];

    /// <summary>The tokenizer.</summary>
    public ITokenizer Tokenizer => tokenizer;

    /// <summary>What the tasks are made of.</summary>
    public RulerOptions Options { get; } = options ?? new();

    /// <summary>The sample of that number.</summary>
    /// <param name="task">The task.</param>
    /// <param name="length">The number of tokens that prompt and room for the answer may take together.</param>
    /// <param name="index">The number, from 0. Questions begin anew once all that fit were asked, with other distractors.</param>
    /// <exception cref="ArgumentException">
    /// The length has no room for the task, or questions or words are missing; the message says how much is needed.
    /// </exception>
    public RulerSample Sample(RulerTask task, int length, int index)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(length, 1);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(length, LongestLength);
        ArgumentOutOfRangeException.ThrowIfNegative(index);
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(index, MostSamples);
        var least = int.MaxValue;
        foreach (var problem in Problems(task, length, index))
        {
            var answer = AnswerTokens(task, problem);
            var smallest = problem.Build(problem.Least);
            var tokens = Encode(smallest);
            if (tokens.Length + answer > length)
            {
                least = Math.Min(least, tokens.Length + answer);
                continue;
            }

            var (draft, prompt) = Fit(problem, smallest, tokens, length - answer);
            return new(task, length, index, draft.Text, prompt, answer, draft.Answers, draft.Needles);
        }

        throw TooShort(task, length, least);
    }

    /// <summary>The first samples of a task.</summary>
    /// <inheritdoc cref="Sample" path="/exception"/>
    public IEnumerable<RulerSample> Samples(RulerTask task, int length, int count) =>
        Enumerable.Range(0, count).Select(index => Sample(task, length, index));

    private IEnumerable<RulerProblem> Problems(RulerTask task, int length, int index)
    {
        // The default is a dataset, which only these tasks need.
        var needsText = task is RulerTask.NiahSingle2 or RulerTask.NiahSingle3 or RulerTask.NiahMultikey1
            or RulerTask.NiahMultivalue or RulerTask.NiahMultiquery or RulerTask.Cwe;
        var full = needsText ? Options with { Haystack = Options.Haystack ?? Haystack.Default } : Options;
        return task switch
        {
            RulerTask.Vt => [NeedleTasks.Variables(task, length, index, full)],
            RulerTask.Cwe => WordTasks.Common(length, index, full),
            RulerTask.Fwe => [WordTasks.Frequent(length, index, full)],
            RulerTask.Qa1 or RulerTask.Qa2 => [QuestionTasks.Create(task, Question(task, length, index), length, index, full)],
            _ when task.IsNeedle() => [NeedleTasks.Needles(task, length, index, full)],
            _ => throw UnknownValue.Of(task),
        };
    }

    private int AnswerTokens(RulerTask task, RulerProblem problem) =>
        Options.AnswerTokens ?? Math.Max(task.PublishedAnswerTokens(), (tokenizer.Encode(problem.Reply).Length * 5 + 3) / 4);

    private int[] Encode(RulerDraft draft) => tokenizer.EncodeDocument(draft.Text);

    /// <summary>The problem with the most units that fit, where the fewest, given with their tokens, do.</summary>
    private (RulerDraft Draft, int[] Prompt) Fit(RulerProblem problem, RulerDraft best, int[] prompt, int room)
    {
        var units = problem.Least;

        // Tokens grow almost evenly with units, so that a line through two measurements is a good guess; halving is for where it is not.
        var (tooMany, slope) = (problem.Most + 1, 0.0);
        for (var step = 0; tooMany - units > 1; step++)
        {
            var guess = slope == 0 ? units + 32L
                : step % 8 == 7 ? units + (tooMany - (long)units) / 2
                : units + (long)((room - prompt.Length) / slope);
            var tried = (int)Math.Clamp(guess, units + 1, tooMany - 1);
            var draft = problem.Build(tried);
            var tokens = Encode(draft);
            slope = Math.Max(1e-3, (tokens.Length - prompt.Length) / (double)(tried - units));
            if (tokens.Length <= room)
            {
                (units, best, prompt) = (tried, draft, tokens);
            }
            else
            {
                tooMany = tried;
            }
        }

        var characters = (int)((room - prompt.Length) * (long)best.Text.Length / prompt.Length);
        for (var attempt = 0; attempt < 4 && problem.Fill?.Invoke(units, characters) is { } fuller; attempt++, characters -= characters / 8)
        {
            var tokens = Encode(fuller);
            if (tokens.Length <= room)
            {
                return (fuller, tokens);
            }
        }

        return (best, prompt);
    }

    private RulerQuestion Question(RulerTask task, int length, int index)
    {
        if (Options.Questions is not { } given || !given.Tasks.Contains(task))
        {
            throw new ArgumentException(
                $"{task.Name()} needs questions about "
                + $"{(task == RulerTask.Qa1 ? "one paragraph, as SQuAD has" : "several paragraphs, as HotpotQA has")}: "
                + $"give a file by {nameof(RulerOptions)}.{nameof(RulerOptions.Questions)}.");
        }

        if (!_questions.TryGetValue((task, length), out var asked))
        {
            var all = given.Of(task).ToArray();
            var order = new RulerRandom(Options.Seed, task, length, 0, RulerDraws.Questions).Permutation(all.Length);
            asked = new(new(order.Select(k => all[k])), []);
            _questions.Add((task, length), asked);
        }

        // Questions whose own paragraphs are too long are passed over.
        while (asked.Fitting.Count <= index && asked.Unseen.TryDequeue(out var question))
        {
            var problem = QuestionTasks.Create(task, question, length, 0, Options);
            var tokens = Encode(problem.Build(0)).Length + AnswerTokens(task, problem);
            if (tokens <= length)
            {
                asked.Fitting.Add(question);
            }

            asked.Least = Math.Min(asked.Least, tokens);
        }

        return asked.Fitting.Count > 0 ? asked.Fitting[index % asked.Fitting.Count] : throw TooShort(task, length, asked.Least);
    }

    private ArgumentException TooShort(RulerTask task, int length, int least) => new(
        $"{task.Name()} takes {least} tokens of this tokenizer at least, room for the answer included, and {length} were given: "
        + "ask for a greater length, leave the task out, "
        + $"or make room by {nameof(RulerOptions)}.{nameof(RulerOptions.Example)} and {nameof(RulerOptions.AnswerTokens)}.");

    /// <summary>Questions of a task and length: those known to fit, and those not yet looked at.</summary>
    private sealed record Questions(Queue<RulerQuestion> Unseen, List<RulerQuestion> Fitting)
    {
        /// <summary>The number of tokens that the shortest of those seen takes.</summary>
        public int Least { get; set; } = int.MaxValue;
    }
}
