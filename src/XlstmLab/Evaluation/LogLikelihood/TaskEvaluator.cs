using System.Text;
using XlstmLab.Models;
using XlstmLab.Text;

namespace XlstmLab.Evaluation.LogLikelihood;

/// <summary>Puts tasks to a model and measures its answers.</summary>
public static class TaskEvaluator
{
    /// <summary>Scores every answer of every question.</summary>
    /// <remarks>
    /// The prompt of a question is its description, then k examples, each followed by an empty line, then its query; the continuation is a
    /// space and the answer. Unconditional log-likelihoods have the end of document alone as their context. Results do not depend on the
    /// order of the questions, but for which random examples a question gets.
    /// </remarks>
    /// <param name="model">The model.</param>
    /// <param name="tokenizer">Its tokenizer.</param>
    /// <param name="task">The task.</param>
    /// <param name="items">Its questions.</param>
    /// <param name="options">How to put them; null is the default.</param>
    /// <param name="examples">
    /// Where examples are chosen from, such as the questions of the training part; those of a question's own group, and never the question
    /// itself. Null where there are no shots.
    /// </param>
    /// <param name="progress">Told after each batch.</param>
    /// <param name="cancellationToken">Stops between batches.</param>
    /// <exception cref="ArgumentException">
    /// There are no questions or too few examples, an option makes no sense, or an answer cannot be scored; the message says why.
    /// </exception>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    public static TaskScore Evaluate(
        LanguageModel model, ITokenizer tokenizer, LikelihoodTask task, IReadOnlyList<TaskItem> items, TaskOptions? options = null,
        IReadOnlyList<TaskItem>? examples = null, IProgress<ScoringProgress>? progress = null,
        CancellationToken cancellationToken = default)
    {
        options ??= new();
        options.Validate();
        options = options with { Selection = options.Selection ?? task.Selection };
        if (items.Count == 0)
        {
            throw new ArgumentException($"Expected at least one question of {task.Name}, got none.", nameof(items));
        }

        var prompts = Prompts(task, items, options, examples ?? []);
        var asked = items.Index()
            .Where(i => !options.SkipJoined || !Requests(i.Index, i.Item).Any(r => TokenizedRequest.IsJoined(r, tokenizer))).ToList();
        if (asked.Count == 0)
        {
            throw new ArgumentException(
                $"Each of the {items.Count} questions of {task.Name} has an answer that the tokenizer merges into its question: "
                + "none is left to score.",
                nameof(items));
        }

        var requests = asked.SelectMany(i => Requests(i.Index, i.Item)).ToList();
        var conditional = requests.Count;
        if (options.MutualInformation)
        {
            requests.AddRange(asked.SelectMany(i => i.Item.Choices).Select(c => new ScoreRequest("", $" {c.Answer}")));
        }

        var scores = LogLikelihoodScorer.Score(model, tokenizer, requests, options.Scoring, progress, cancellationToken);
        var samples = new List<SampleScore>(items.Count);
        var next = 0;
        foreach (var (index, item) in asked)
        {
            var answers = new List<AnswerScore>(item.Choices.Count);
            foreach (var choice in item.Choices)
            {
                var score = scores[next];
                answers.Add(new(
                    choice.Answer, score.LogLikelihood, options.MutualInformation ? scores[conditional + next].LogLikelihood : null,
                    Encoding.UTF8.GetByteCount(choice.Answer), choice.Answer.EnumerateRunes().Count(),
                    score.Tokens, score.IsGreedy, score.TokensCut));
                next++;
            }

            samples.Add(new(index, item.Group, item.Gold, Best(answers, a => a.LogLikelihood), answers));
        }

        return new(task.Name, options, Measure(task, samples, options.Shots), samples) { Skipped = items.Count - asked.Count };

        IEnumerable<ScoreRequest> Requests(int index, TaskItem item) =>
            item.Choices.Select(c => new ScoreRequest(prompts[index] + c.Query, $" {c.Answer}"));
    }

    /// <summary>The metrics of answered questions.</summary>
    /// <remarks>
    /// Names are those of lm-evaluation-harness, and so are their meanings; acc_norm_tokens it does not have.
    /// acc: the share of questions whose right answer has the highest log-likelihood. acc_norm: after dividing by the answer's characters
    /// (code points). acc_bytes: by its UTF-8 bytes. acc_norm_tokens: by its tokens. acc_mutual_info: after subtracting the log-likelihood
    /// without the query (Brown et al. 2020, section 2.4; Holtzman et al. 2021, arXiv:2104.08315), where it was computed. Of equals the
    /// first is chosen; an empty answer is never chosen where lengths count. For cloze tasks, acc: the share that greedy decoding finds;
    /// perplexity: exp(-mean log-likelihood) over questions. Standard errors are s / sqrt(N) with the sample's standard deviation s over N
    /// questions; that of the perplexity is the perplexity times that of the mean log-likelihood (delta method). Where a task has groups,
    /// each metric is also given for each group and, as <c>METRIC_group_mean</c>, as the mean of the groups' values, its standard error
    /// sqrt(sum of squared errors) / groups; where <see cref="LikelihoodTask.GroupsCountAlike"/>, that is the metric of the whole too.
    /// </remarks>
    /// <param name="task">The task.</param>
    /// <param name="samples">Its questions, at least one.</param>
    /// <param name="shots">The number of examples before each question.</param>
    public static IReadOnlyList<TaskMetric> Measure(LikelihoodTask task, IReadOnlyList<SampleScore> samples, int shots)
    {
        var whole = MeasureGroup(task, samples, null, shots).ToList();
        var groups = samples.GroupBy(s => s.Group).Where(g => g.Key is not null).OrderBy(g => g.Key, StringComparer.Ordinal)
            .Select(g => MeasureGroup(task, [.. g], g.Key, shots).ToList()).ToList();
        if (groups.Count > 0)
        {
            var means = Enumerable.Range(0, whole.Count).Select(m => whole[m] with
            {
                Value = groups.Average(g => g[m].Value),
                StandardError = Math.Sqrt(groups.Sum(g => g[m].StandardError * g[m].StandardError)) / groups.Count,
            }).ToList();
            whole = [.. task.GroupsCountAlike ? means : whole, .. means.Select(m => m with { Metric = $"{m.Metric}_group_mean" })];
        }

        return [.. whole, .. groups.SelectMany(g => g)];
    }

    private static IEnumerable<TaskMetric> MeasureGroup(LikelihoodTask task, IReadOnlyList<SampleScore> samples, string? group, int shots)
    {
        if (task.Metrics.Known() == TaskMetrics.Cloze)
        {
            var (mean, error) = Mean(samples.Select(s => s.Answers[s.Gold].LogLikelihood));
            yield return Accuracy("acc", s => s.Answers[s.Gold].IsGreedy);
            yield return new(task.Name, group, "perplexity", Math.Exp(-mean), Math.Exp(-mean) * error, samples.Count, shots);
            yield break;
        }

        yield return Best("acc", a => a.LogLikelihood);
        if (task.Metrics == TaskMetrics.NormalizedAccuracy)
        {
            yield return Best("acc_norm", a => a.LogLikelihood / a.Characters);
            yield return Best("acc_bytes", a => a.LogLikelihood / a.Bytes);
            yield return Best("acc_norm_tokens", a => a.LogLikelihood / a.Tokens);
        }

        if (samples.All(s => s.Answers.All(a => a.Unconditional is not null)))
        {
            yield return Best("acc_mutual_info", a => a.LogLikelihood - a.Unconditional!.Value);
        }

        TaskMetric Best(string metric, Func<AnswerScore, double> score) => Accuracy(
            metric, s => TaskEvaluator.Best(s.Answers, score) == s.Gold);

        TaskMetric Accuracy(string metric, Func<SampleScore, bool> isRight)
        {
            var (mean, error) = Mean(samples.Select(s => isRight(s) ? 1.0 : 0.0));
            return new(task.Name, group, metric, mean, error, samples.Count, shots);
        }
    }

    /// <summary>The index of the highest score, the first of equals.</summary>
    private static int Best(IReadOnlyList<AnswerScore> answers, Func<AnswerScore, double> score) =>
        answers.Index().MaxBy(a => score(a.Item)).Index;

    private static (double Mean, double StandardError) Mean(IEnumerable<double> values)
    {
        var all = values.ToArray();
        var mean = all.Average();
        return (mean, Math.Sqrt(all.Sum(v => (v - mean) * (v - mean)) / (all.Length - 1) / all.Length));
    }

    /// <summary>What stands before each question's query.</summary>
    private static string[] Prompts(
        LikelihoodTask task, IReadOnlyList<TaskItem> items, TaskOptions options, IReadOnlyList<TaskItem> examples)
    {
        var pools = examples.GroupBy(e => e.Group ?? "").ToDictionary(g => g.Key, g => g.Select(e => e.Example).ToArray());
        return [.. items.Select((item, index) => options.Shots == 0 ? item.Description : item.Description + Examples(item, index))];

        string Examples(TaskItem item, int index)
        {
            var pool = pools.GetValueOrDefault(item.Group ?? "", []);
            var others = pool.Count(e => e != item.Example);
            if (others < options.Shots)
            {
                throw new ArgumentException(
                    $"Expected at least {options.Shots} examples for {task.Name}{(item.Group is null ? "" : $", {item.Group}")} besides "
                    + $"the question itself, got {others}: give the file of the training or dev part, or ask for fewer shots.",
                    nameof(examples));
            }

            var chosen = options.Selection == FewShotSelection.First
                ? pool.Where(e => e != item.Example).Take(options.Shots)
                : Choose(pool, item.Example, options, index);
            return string.Concat(chosen.Select(e => $"{e}\n\n"));
        }
    }

    /// <summary>Examples but one, in random order, that depend on the seed and on the question's index alone.</summary>
    private static IEnumerable<string> Choose(string[] pool, string without, TaskOptions options, int index)
    {
        var random = new SplitMix64(options.Seed, index);
        var chosen = new List<int>(options.Shots);
        while (chosen.Count < options.Shots)
        {
            var k = (int)(random.NextDouble() * pool.Length);
            if (pool[k] != without && !chosen.Contains(k))
            {
                chosen.Add(k);
            }
        }

        return chosen.Select(k => pool[k]);
    }
}
