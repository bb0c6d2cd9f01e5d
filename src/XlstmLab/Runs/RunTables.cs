using System.Globalization;
using Deedle;
using Microsoft.Data.Analysis;
using XlstmLab.Analysis;
using XlstmLab.Models;
using XlstmLab.Training;

namespace XlstmLab.Runs;

/// <summary>Configurations, models and runs as short tables: quantity, value and unit.</summary>
/// <remarks>Of settings, those are named that are not as in a record that says nothing; <see cref="ConfigSettings"/> has all.</remarks>
public static class RunTables
{
    private const int CostLength = 2048;

    /// <summary>What the sizes tell already.</summary>
    private static readonly string[] OfSizes =
        [nameof(LanguageModelConfig.VocabularySize), nameof(LanguageModelConfig.EmbeddingDim), nameof(LanguageModelConfig.BlockCount)];

    /// <summary>The sizes of an architecture, its costs and its settings.</summary>
    public static MetricsTable ToTable(this LanguageModelConfig config)
    {
        ArgumentNullException.ThrowIfNull(config);
        return Table([.. Sizes(config), .. Changed(ConfigSettings.Of(config), OfSizes)]);
    }

    /// <summary>The sizes of a model, where it is, and its settings.</summary>
    public static MetricsTable ToTable(this LanguageModel model)
    {
        ArgumentNullException.ThrowIfNull(model);
        var first = model.parameters().First();
        return Table(
        [
            .. Sizes(model.Config),
            ("device", first.device.ToString(), ""),
            ("weights", first.dtype.ToString(), ""),
            .. Changed(ConfigSettings.Of(model.Config), OfSizes),
        ]);
    }

    /// <summary>The sizes of a training and its settings.</summary>
    public static MetricsTable ToTable(this TrainingConfig config)
    {
        ArgumentNullException.ThrowIfNull(config);
        var tokens = Enumerable.Range(1, config.Steps).Sum(step => (long)config.BatchSizeAt(step)) * config.ContextLength;
        return Table(
        [
            ("steps", Number(config.Steps), "updates"),
            ("batch", Number(config.BatchSize), "sequences"),
            ("context", Number(config.ContextLength), "tokens"),
            ("tokens", Number(tokens), "tokens"),
            ("peak rate", config.PeakLearningRate.ToString(CultureInfo.InvariantCulture), ""),
            .. Changed(
                ConfigSettings.Of(config),
                [nameof(config.Steps), nameof(config.BatchSize), nameof(config.ContextLength), nameof(config.PeakLearningRate)]),
        ]);
    }

    /// <summary>A run: its model, what it was trained on, and what came of it.</summary>
    public static MetricsTable ToTable(this TrainedRun run)
    {
        ArgumentNullException.ThrowIfNull(run);
        var rows = new List<(string, string, string)> { ("run", run.Folder, "") };
        rows.AddRange(Sizes(run.Config));
        if (run.Text is { Data.Length: > 0 } text)
        {
            rows.Add(("text", text.Data, ""));
        }

        if (run.Result is { } result)
        {
            rows.Add(("status", result.Status.ToString(), ""));
            rows.Add(("step", Number(result.Step), "updates"));
            rows.Add(("tokens", Number(result.Tokens), "tokens"));
            rows.Add(("time", result.Seconds.ToString("F1", CultureInfo.InvariantCulture), "s"));
            rows.Add(("loss", result.Last?.Loss.ToString("F4", CultureInfo.InvariantCulture) ?? "", "nats/token"));
            rows.Add(("validation", result.Validation?.ValidationLoss?.ToString("F4", CultureInfo.InvariantCulture) ?? "", "nats/token"));
            rows.Add(
                ("validation", result.Validation?.ValidationBitsPerByte?.ToString("F4", CultureInfo.InvariantCulture) ?? "", "bits/byte"));
        }

        return Table([.. rows.Where(r => r.Item2.Length > 0)]);
    }

    /// <summary>A DataFrame of <see cref="ToTable(LanguageModelConfig)"/>.</summary>
    public static DataFrame ToDataFrame(this LanguageModelConfig config) => config.ToTable().ToDataFrame();

    /// <summary>A Deedle frame of <see cref="ToTable(LanguageModelConfig)"/>.</summary>
    public static Frame<int, string> ToFrame(this LanguageModelConfig config) => config.ToTable().ToFrame();

    /// <summary>A DataFrame of <see cref="ToTable(TrainingConfig)"/>.</summary>
    public static DataFrame ToDataFrame(this TrainingConfig config) => config.ToTable().ToDataFrame();

    /// <summary>A Deedle frame of <see cref="ToTable(TrainingConfig)"/>.</summary>
    public static Frame<int, string> ToFrame(this TrainingConfig config) => config.ToTable().ToFrame();

    private static IEnumerable<(string, string, string)> Sizes(LanguageModelConfig config) =>
    [
        ("kind", config.ModelType, ""),
        ("parameters", Number(config.CountParameters()), ""),
        ("width d", Number(config.EmbeddingDim), "channels"),
        ("blocks L", Number(config.BlockCount), ""),
        ("vocabulary V", Number(config.VocabularySize), "ids"),
        ("forward cost", (config.ForwardFlopsPerToken(CostLength) / 1e6).ToString("N2", CultureInfo.InvariantCulture),
            $"MFLOP/token, of {CostLength}"),
        ("state", (config.StateBytes(CostLength) / 1024.0).ToString("N1", CultureInfo.InvariantCulture),
            $"KiB/sequence, of {CostLength} tokens"),
    ];

    private static IEnumerable<(string, string, string)> Changed(IEnumerable<ConfigSetting> settings, string[] told) =>
        settings.Where(s => s.IsChanged && !told.Contains(s.Property)).Select(s => (s.Name, s.Value, ""));

    private static string Number(long value) => value.ToString("N0", CultureInfo.InvariantCulture);

    private static MetricsTable Table(IReadOnlyList<(string Quantity, string Value, string Unit)> rows) => MetricsTable.Of(
        new TableColumn("quantity", typeof(string), [.. rows.Select(r => r.Quantity)]) { IsKey = true },
        new TableColumn("value", typeof(string), [.. rows.Select(r => r.Value)]),
        new TableColumn("unit", typeof(string), [.. rows.Select(r => r.Unit)]));
}
