using System.Globalization;
using System.Text.Json.Nodes;
using TorchSharp;
using XlstmLab.Native;
using XlstmLab.Native.Cuda;
using XlstmLab.Training;
using static TorchSharp.torch;

namespace XlstmLab.Notebooks;

/// <summary>What a cell shows of its trainings: their curves in a small picture, and where the latest is.</summary>
internal sealed class TrainingPanel
{
    private const double Width = 720;
    private const double Height = 250;

    /// <summary>A cell may train one model after the other: the picture has the last ones.</summary>
    private const int CurvesShown = 8;

    private readonly List<TrainingCurve> _curves = [];

    /// <summary>Adds a training, which is the latest from now on.</summary>
    public TrainingCurve Add(TrainingConfig recipe, Device device)
    {
        TrainingCurve curve = new(recipe, device);
        _curves.Add(curve);
        return curve;
    }

    /// <summary>The picture.</summary>
    public string Svg()
    {
        var style = ChartHtml.Style;
        List<TrainingCurve> told = [.. _curves.Where(curve => curve.Last is not null)];
        var (latest, several) = (told[^1], told.Count > 1);
        List<JsonObject> traces = [];
        foreach (var (index, curve) in told.Index().TakeLast(CurvesShown))
        {
            string color = style.Colors[(several ? index : 0) % style.Colors.Count];
            string name = several ? string.Create(CultureInfo.InvariantCulture, $"training {index + 1}") : "training";
            traces.AddRange(several ? Traces(curve, name, color) : [
                Trace(curve.Losses, name, color, "lines", 1.6),
                .. curve.Validations.Count > 0
                    ? [Trace(curve.Validations, "validation", style.Colors[1 % style.Colors.Count], "lines+markers", 2)]
                    : Array.Empty<JsonObject>(),
            ]);
        }

        List<string> notes =
        [
            string.Create(CultureInfo.InvariantCulture, $"{latest.Last!.TokensPerSecond:N0} tokens/s"),
            latest.Memory(),
            latest.IsOver ? $"took {Readable.Duration(latest.Last.Seconds)}" : $"{latest.TimeLeft()} left",
        ];
        if (latest.Bits() is { Length: > 0 } bits)
        {
            notes.Add($"validation {bits}");
        }

        string title = (several ? string.Create(CultureInfo.InvariantCulture, $"training {told.Count}: ") : "") + latest.Where();
        return Draw(title, told.TakeLast(CurvesShown).Max(curve => curve.IsOver ? curve.Last!.Step : curve.Recipe.Steps), traces, notes);
    }

    /// <summary>The curves of one training among several.</summary>
    public static IReadOnlyList<JsonObject> Traces(TrainingCurve curve, string name, string color)
    {
        List<JsonObject> traces = [Trace(curve.Losses, name, color, "lines", 1.2)];
        if (curve.Validations.Count > 0)
        {
            var validation = Trace(curve.Validations, "validation", color, "lines+markers", 2);
            validation["showlegend"] = false;
            traces.Add(validation);
        }

        return traces;
    }

    /// <summary>A small picture of losses over steps.</summary>
    /// <param name="title">What is above it.</param>
    /// <param name="steps">Where the axis ends.</param>
    /// <param name="traces">The curves.</param>
    /// <param name="notes">Lines in its corner.</param>
    public static string Draw(string title, int steps, IReadOnlyList<JsonObject> traces, IReadOnlyList<string> notes)
    {
        JsonObject figure = new()
        {
            ["data"] = new JsonArray([.. traces]),
            ["layout"] = new JsonObject
            {
                ["template"] = ChartHtml.Style.ToTemplate(hasTitle: true),
                ["width"] = Width,
                ["height"] = Height,
                ["title"] = title,
                ["xaxis"] = new JsonObject { ["title"] = "step", ["range"] = new JsonArray(0.0, (double)steps) },
                ["yaxis"] = new JsonObject { ["title"] = "loss (nats per token)" },
                ["annotations"] = new JsonArray([.. notes.Select((note, line) => new JsonObject
                {
                    ["text"] = note,
                    ["xref"] = "paper",
                    ["yref"] = "paper",
                    ["x"] = 0.99,
                    ["y"] = 0.98 - 0.13 * line,
                    ["xanchor"] = "right",
                    ["yanchor"] = "top",
                })]),
            },
        };
        return ChartSvg.Draw(figure) ?? "";
    }

    /// <summary>The same in words, a line for each training.</summary>
    public string Text() => string.Join('\n', _curves.Where(curve => curve.Last is not null).Select(curve =>
        $"{curve.Headline()}, {(curve.IsOver ? $"{Readable.Duration(curve.Last!.Seconds)} of training" : $"{curve.TimeLeft()} left")}"));

    private static JsonObject Trace(IEnumerable<(double Step, double Loss)> points, string name, string color, string mode, double width)
    {
        var finite = points.Where(point => double.IsFinite(point.Loss)).ToArray();
        return new JsonObject
        {
            ["type"] = "scatter",
            ["mode"] = mode,
            ["name"] = name,
            ["x"] = new JsonArray([.. finite.Select(point => (JsonNode)point.Step)]),
            ["y"] = new JsonArray([.. finite.Select(point => (JsonNode)point.Loss)]),
            ["line"] = new JsonObject { ["color"] = color, ["width"] = width },
            ["marker"] = new JsonObject { ["color"] = color, ["size"] = 5 },
        };
    }
}

/// <summary>The course of one training, in a bounded number of points.</summary>
/// <param name="recipe">Its settings.</param>
/// <param name="device">Where it computes.</param>
internal sealed class TrainingCurve(TrainingConfig recipe, Device device)
{
    private const int MostPoints = 400;

    private readonly List<(double Steps, double Losses, int Count)> _buckets = [];
    private int _perBucket = 1;

    public TrainingConfig Recipe => recipe;

    /// <summary>The training loss, averaged over as many updates as the picture cannot tell apart.</summary>
    public IEnumerable<(double Step, double Loss)> Losses => _buckets.Select(
        bucket => (bucket.Steps / bucket.Count, bucket.Losses / bucket.Count));

    /// <summary>The validation loss.</summary>
    public List<(double Step, double Loss)> Validations { get; } = [];

    /// <summary>The metrics of the latest update; null before the first.</summary>
    public TrainingMetrics? Last { get; private set; }

    /// <summary>Whether the training has ended.</summary>
    public bool IsOver { get; set; }

    private TrainingMetrics? LastValidated { get; set; }

    /// <summary>Takes the metrics of an update.</summary>
    public void Take(TrainingMetrics metrics)
    {
        Last = metrics;
        if (metrics.ValidationLoss is { } validation)
        {
            LastValidated = metrics;
            Validations.Add((metrics.Step, validation));
        }

        if (!double.IsFinite(metrics.Loss))
        {
            return;
        }

        if (_buckets.Count > 0 && _buckets[^1] is var (steps, losses, count) && count < _perBucket)
        {
            _buckets[^1] = (steps + metrics.Step, losses + metrics.Loss, count + 1);
            return;
        }

        _buckets.Add((metrics.Step, metrics.Loss, 1));
        if (_buckets.Count > MostPoints)
        {
            _perBucket *= 2;
            List<(double Steps, double Losses, int Count)> halved =
                [.. _buckets.Chunk(2).Select(pair => (pair.Sum(b => b.Steps), pair.Sum(b => b.Losses), pair.Sum(b => b.Count)))];
            _buckets.Clear();
            _buckets.AddRange(halved);
        }
    }

    /// <summary>Where it is, with its losses, in all units.</summary>
    public string Headline() => Where() + (Bits() is { Length: > 0 } bits ? $" ({bits})" : "");

    /// <summary>Where it is, with its losses.</summary>
    public string Where()
    {
        string where = !IsOver || Last!.Step == recipe.Steps ? string.Create(
            CultureInfo.InvariantCulture, $"step {Last!.Step:N0} of {recipe.Steps:N0}")
            : string.Create(CultureInfo.InvariantCulture, $"stopped after step {Last.Step:N0} of {recipe.Steps:N0}");
        string validation = LastValidated is not { } at ? "" : string.Create(
            CultureInfo.InvariantCulture, $", validation {at.ValidationLoss:F3}");
        return string.Create(CultureInfo.InvariantCulture, $"{where}: loss {Last!.Loss:F3}") + validation;
    }

    /// <summary>The last validation in bits per byte; empty if there is none in that unit.</summary>
    public string Bits() =>
        LastValidated?.ValidationBitsPerByte is { } bits ? string.Create(CultureInfo.InvariantCulture, $"{bits:F3} bits per byte") : "";

    /// <summary>How far it is, and how fast.</summary>
    public string Line() => string.Create(
        CultureInfo.InvariantCulture,
        $"step {Last!.Step:N0} of {recipe.Steps:N0}, loss {Last.Loss:F3}, {Last.TokensPerSecond:N0} tokens/s");

    /// <summary>What is held of the memory in which it computes.</summary>
    public string Memory()
    {
        if (device.type != DeviceType.CUDA)
        {
            return $"{Readable.Size(SystemMemory.Resident)} of memory";
        }

        var (free, total) = Gpu.Memory(Math.Max(0, device.index));
        return $"{Readable.Size(total - free)} of GPU memory";
    }

    /// <summary>How long it still takes at its pace.</summary>
    public string TimeLeft()
    {
        double left = Last!.Seconds * (recipe.Steps - Last.Step) / Last.Step;
        return left < 90 ? string.Create(CultureInfo.InvariantCulture, $"{left:F0} s") : string.Create(
            CultureInfo.InvariantCulture, $"{left / 60:F0} min");
    }
}
