using Deedle;
using Microsoft.Data.Analysis;
using XlstmLab.Evaluation;
using XlstmLab.Evaluation.LogLikelihood;
using XlstmLab.Training;

namespace XlstmLab.Analysis;

/// <summary>Results as short tables with units: what notebooks show, and what DataFrames and Deedle frames are made of.</summary>
public static class ResultTables
{
    private static readonly Dictionary<string, string> Units = new()
    {
        ["loss"] = "nats/token",
        ["validation_loss"] = "nats/token",
        ["ema_validation_loss"] = "nats/token",
        ["bits_per_byte"] = "bits/byte",
        ["validation_bits_per_byte"] = "bits/byte",
        ["seconds"] = "s",
        ["tokens_per_second"] = "tokens/s",
        ["context_length"] = "tokens",
        ["half_life"] = "tokens",
        ["memory_length"] = "tokens",
        ["mean_rate_half_life"] = "tokens",
        ["effective_tokens"] = "tokens",
        ["start"] = "token",
        ["end"] = "token",
        ["log_likelihood"] = "nats",
    };

    /// <summary>One row: losses, counts and how they were measured.</summary>
    public static MetricsTable ToTable(this EvaluationResult result)
    {
        ArgumentNullException.ThrowIfNull(result);
        return Row(
            ("loss", result.Loss),
            ("perplexity", result.Perplexity),
            ("bits_per_byte", result.Bytes > 0 ? result.BitsPerByte : (double?)null),
            ("tokens", result.Tokens),
            ("bytes", result.Bytes > 0 ? result.Bytes : (long?)null),
            ("documents", result.Documents),
            ("policy", result.Options.Policy.ToString()),
            ("context_length", result.Options.ContextLength));
    }

    /// <summary>A row a range of positions.</summary>
    public static MetricsTable ToTable(this ExtrapolationResult result)
    {
        ArgumentNullException.ThrowIfNull(result);
        return Of(result.Ranges.Select(r => new { r.Start, r.End, r.Tokens, r.Loss, r.Perplexity, r.BeyondTraining }));
    }

    /// <summary>A row a task and length; scores from 0 to 1.</summary>
    public static MetricsTable ToTable(this RulerResult result)
    {
        ArgumentNullException.ThrowIfNull(result);
        return Of(result.Scores.Select(s => new { Task = s.Name, s.Length, s.Samples, s.Score }));
    }

    /// <summary>A row a metric of the task and of its groups; accuracies from 0 to 1.</summary>
    public static MetricsTable ToTable(this TaskScore score)
    {
        ArgumentNullException.ThrowIfNull(score);
        return Of(score.Metrics);
    }

    /// <summary>One row: how far the run came, its losses and its speed.</summary>
    public static MetricsTable ToTable(this TrainingResult result)
    {
        ArgumentNullException.ThrowIfNull(result);
        return Row(
            ("status", result.Status.ToString()),
            ("step", result.Step),
            ("tokens", result.Tokens),
            ("seconds", result.Seconds),
            ("tokens_per_second", result.Tokens / result.Seconds),
            ("loss", result.Last?.Loss),
            ("validation_loss", result.Validation?.ValidationLoss),
            ("validation_perplexity", result.Validation?.ValidationPerplexity),
            ("validation_bits_per_byte", result.Validation?.ValidationBitsPerByte));
    }

    /// <summary>A row an update, without the statistics of gates and parameters.</summary>
    public static MetricsTable ToTable(this IEnumerable<TrainingMetrics> metrics) => Of(metrics);

    /// <summary>A row a block and head: gates, half-lives and what makes up the memory.</summary>
    public static MetricsTable ToTable(this GateRecording recording)
    {
        ArgumentNullException.ThrowIfNull(recording);
        return Of(recording.Summarize());
    }

    /// <summary>A DataFrame of <see cref="ToTable(EvaluationResult)"/>.</summary>
    public static DataFrame ToDataFrame(this EvaluationResult result) => result.ToTable().ToDataFrame();

    /// <summary>A Deedle frame of <see cref="ToTable(EvaluationResult)"/>.</summary>
    public static Frame<int, string> ToFrame(this EvaluationResult result) => result.ToTable().ToFrame();

    /// <summary>A DataFrame of <see cref="ToTable(TaskScore)"/>.</summary>
    public static DataFrame ToDataFrame(this TaskScore score) => score.ToTable().ToDataFrame();

    /// <summary>A Deedle frame of <see cref="ToTable(TaskScore)"/>.</summary>
    public static Frame<int, string> ToFrame(this TaskScore score) => score.ToTable().ToFrame();

    /// <summary>A DataFrame of <see cref="ToTable(TrainingResult)"/>.</summary>
    public static DataFrame ToDataFrame(this TrainingResult result) => result.ToTable().ToDataFrame();

    /// <summary>A Deedle frame of <see cref="ToTable(TrainingResult)"/>, its row keyed by the step.</summary>
    public static Frame<int, string> ToFrame(this TrainingResult result) => result.ToTable().ToFrame();

    /// <summary>Records as a table with the units of their columns.</summary>
    internal static MetricsTable Of<T>(IEnumerable<T> records) =>
        MetricsTable.Of([.. MetricsTable.From(records).Columns.Select(c => c with { Unit = Units.GetValueOrDefault(c.Name) })]);

    private static MetricsTable Row(params (string Name, object? Value)[] cells) =>
        MetricsTable.Of([.. cells.Select(c =>
            new TableColumn(c.Name, c.Value?.GetType() ?? typeof(double), [c.Value]) { Unit = Units.GetValueOrDefault(c.Name) })]);
}
