using System.Text;
using System.Text.Json;
using XlstmLab.Training;

namespace XlstmLab.Evaluation.LogLikelihood;

/// <summary>What a model makes of an answer.</summary>
/// <param name="Answer">The answer's text.</param>
/// <param name="LogLikelihood">log p(answer | query), in nats.</param>
/// <param name="Unconditional">log p(answer) without the query, in nats; null if it was not asked for.</param>
/// <param name="Bytes">The UTF-8 bytes of the answer, without the space before it.</param>
/// <param name="Characters">The Unicode characters (code points) of the answer, without the space before it.</param>
/// <param name="Tokens">The tokens of the answer, with the space before it.</param>
/// <param name="IsGreedy">Whether greedy decoding gives the answer.</param>
/// <param name="TokensCut">The tokens that the query lost from the left.</param>
public sealed record AnswerScore(
    string Answer, double LogLikelihood, double? Unconditional, int Bytes, int Characters, int Tokens, bool IsGreedy, int TokensCut);

/// <summary>What a model makes of a question.</summary>
/// <param name="Sample">The index of the question, from 0.</param>
/// <param name="Group">The part of the task it belongs to; null where there are none.</param>
/// <param name="Gold">The index of the right answer.</param>
/// <param name="Predicted">The index of the answer with the highest log-likelihood, the first of equals.</param>
/// <param name="Answers">The answers.</param>
public sealed record SampleScore(int Sample, string? Group, int Gold, int Predicted, IReadOnlyList<AnswerScore> Answers);

/// <summary>A metric of a task or of one of its groups.</summary>
/// <param name="Task">The task's name.</param>
/// <param name="Group">The group; null for the whole task.</param>
/// <param name="Metric">The metric's name, as in the harness: see <see cref="TaskEvaluator.Measure"/>.</param>
/// <param name="Value">Its value; an accuracy is a share from 0 to 1.</param>
/// <param name="StandardError">Its standard error; NaN for a single question.</param>
/// <param name="Samples">The number of questions.</param>
/// <param name="Shots">The number of examples before each question.</param>
public sealed record TaskMetric(string Task, string? Group, string Metric, double Value, double StandardError, int Samples, int Shots);

/// <summary>An answer of a question, as a row of a table.</summary>
/// <param name="Task">The task's name.</param>
/// <param name="Sample">The index of the question, from 0.</param>
/// <param name="Group">The part of the task it belongs to; null where there are none.</param>
/// <param name="Choice">The index of the answer, from 0.</param>
/// <param name="Answer">The answer's text.</param>
/// <param name="IsGold">Whether it is the right one.</param>
/// <param name="IsPredicted">Whether it has the highest log-likelihood.</param>
/// <param name="LogLikelihood">log p(answer | query), in nats.</param>
/// <param name="Unconditional">log p(answer), in nats; null if it was not asked for.</param>
/// <param name="Bytes">Its UTF-8 bytes.</param>
/// <param name="Tokens">Its tokens.</param>
/// <param name="IsGreedy">Whether greedy decoding gives it.</param>
public sealed record AnswerRow(
    string Task, int Sample, string? Group, int Choice, string Answer, bool IsGold, bool IsPredicted, double LogLikelihood,
    double? Unconditional, int Bytes, int Tokens, bool IsGreedy);

/// <summary>What a model makes of a task.</summary>
/// <param name="Task">The task's name.</param>
/// <param name="Options">How it was put to the model; the selection of examples is the one in force.</param>
/// <param name="Metrics">The metrics of the task, and then of each group.</param>
/// <param name="Samples">Every question.</param>
public sealed record TaskScore(string Task, TaskOptions Options, IReadOnlyList<TaskMetric> Metrics, IReadOnlyList<SampleScore> Samples)
{
    /// <summary>The questions that were left out, see <see cref="TaskOptions.SkipJoined"/>.</summary>
    public int Skipped { get; init; }

    /// <summary>A metric of the whole task.</summary>
    /// <param name="metric">Its name, such as acc.</param>
    /// <exception cref="KeyNotFoundException">The task has no such metric; the message lists those it has.</exception>
    public TaskMetric this[string metric] => Metrics.FirstOrDefault(m => m.Group is null && m.Metric == metric)
        ?? throw new KeyNotFoundException(
            $"{Task} has no metric '{metric}'; it has {string.Join(", ", Metrics.Where(m => m.Group is null).Select(m => m.Metric))}.");

    /// <summary>A row an answer, for a DataFrame.</summary>
    public IEnumerable<AnswerRow> AnswerRows() =>
        from sample in Samples
        from answer in sample.Answers.Index()
        let score = answer.Item
        select new AnswerRow(
            Task, sample.Sample, sample.Group, answer.Index, score.Answer, answer.Index == sample.Gold, answer.Index == sample.Predicted,
            score.LogLikelihood, score.Unconditional, score.Bytes, score.Tokens, score.IsGreedy);

    /// <summary>
    /// Writes <c>TASK.json</c>, the options and metrics, and <c>TASK.samples.jsonl</c>, a line a question, into a folder.
    /// </summary>
    /// <param name="folder">The folder; it is made if there is none, and files of those names are replaced.</param>
    /// <exception cref="IOException">A file cannot be written.</exception>
    public void Write(string folder)
    {
        AtomicFile.Write(Path.Combine(folder, $"{Task}.samples.jsonl"), stream =>
        {
            foreach (var sample in Samples)
            {
                stream.Write(Encoding.UTF8.GetBytes(JsonSerializer.Serialize(sample, RunJson.Line) + "\n"));
            }
        });
        AtomicFile.WriteText(
            Path.Combine(folder, $"{Task}.json"),
            JsonSerializer.Serialize(new { Task, Options, Skipped, Metrics }, RunJson.Indented) + "\n");
    }
}
