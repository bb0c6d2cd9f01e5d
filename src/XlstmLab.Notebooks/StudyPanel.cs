using System.Diagnostics;
using System.Globalization;
using TorchSharp;
using XlstmLab.Training;

namespace XlstmLab.Notebooks;

/// <summary>
/// What a cell shows of a study: how many of its runs are done, the curves of those that run, and how long the rest takes.
/// </summary>
/// <param name="name">The study's name.</param>
/// <param name="total">All its runs.</param>
/// <param name="done">Those that were done before.</param>
internal sealed class StudyPanel(string name, int total, int done)
{
    /// <summary>As many runs as a GPU has side by side at most.</summary>
    private const int CurvesShown = 8;

    private readonly Stopwatch _watch = Stopwatch.StartNew();
    private readonly List<(string Name, int Color, TrainingCurve Curve)> _curves = [];
    private int _done = done;
    private int _failed;
    private int _begun;
    private double? _first;

    /// <summary>Whether no more of its runs is to come.</summary>
    public bool IsOver { get; private set; }

    /// <summary>Whether there is something to draw.</summary>
    public bool HasCurves => _curves.Exists(run => run.Curve.Last is not null);

    private IEnumerable<(string Name, int Color, TrainingCurve Curve)> Running => _curves.Where(
        run => !run.Curve.IsOver && run.Curve.Last is not null);

    /// <summary>The share of the study that is done.</summary>
    private double Share => (_done + Running.Sum(run => run.Curve.Last!.Step / (double)run.Curve.Recipe.Steps)) / total;

    /// <summary>Adds a run. One that is begun again takes the place of its first attempt.</summary>
    public TrainingCurve Add(string run, TrainingConfig recipe, torch.Device device)
    {
        _curves.RemoveAll(other => other.Name == run);
        for (int ended; _curves.Count >= CurvesShown && (ended = _curves.FindIndex(other => other.Curve.IsOver)) >= 0;)
        {
            _curves.RemoveAt(ended);
        }

        TrainingCurve curve = new(recipe, device);
        _curves.Add((run, _begun++, curve));
        return curve;
    }

    /// <summary>Takes the metrics of an update.</summary>
    public void Take(TrainingCurve curve, TrainingMetrics metrics)
    {
        curve.Take(metrics);

        // What a checkpoint brought along took no time of this cell.
        _first ??= Share - 1.0 / curve.Recipe.Steps / total;
    }

    /// <summary>A run has come to its end.</summary>
    public void End(bool hasFailed)
    {
        _done++;
        _failed += hasFailed ? 1 : 0;
    }

    /// <summary>No more of its runs is to come.</summary>
    public void Finish()
    {
        _watch.Stop();
        IsOver = true;
    }

    /// <summary>Where it is, in a line.</summary>
    public string Headline()
    {
        int running = Running.Count();
        string failed = _failed > 0 ? string.Create(CultureInfo.InvariantCulture, $", {_failed} failed") : "";
        return string.Create(CultureInfo.InvariantCulture, $"{name}: {_done} of {total} runs done{failed}") + (IsOver ? "" : string.Create(
            CultureInfo.InvariantCulture, $", {running} running"));
    }

    /// <summary>The same with the rate and the time that is left.</summary>
    public string Line() => $"{Headline()}, {Rate()}, {Time()}";

    /// <summary>The picture.</summary>
    public string Svg()
    {
        var style = ChartHtml.Style;
        var shown = Running.ToList();
        if (shown.Count == 0)
        {
            shown = [.. _curves.Where(run => run.Curve.Last is not null).TakeLast(CurvesShown)];
        }

        string[] notes = IsOver ? [Time()] : [Rate(), shown[^1].Curve.Memory(), Time()];
        return TrainingPanel.Draw(
            Headline(),
            shown.Max(run => run.Curve.Recipe.Steps),
            [.. shown.SelectMany(run => TrainingPanel.Traces(run.Curve, run.Name, style.Colors[run.Color % style.Colors.Count]))],
            notes);
    }

    /// <summary>The same in words, a line for each run that is under way.</summary>
    public string Text() => string.Join('\n', Running.Select(run => $"{run.Name}: {run.Curve.Headline()}").Prepend(Line()));

    private string Rate() => string.Create(
        CultureInfo.InvariantCulture, $"{Running.Sum(run => run.Curve.Last!.TokensPerSecond):N0} tokens/s");

    private string Time()
    {
        double seconds = _watch.Elapsed.TotalSeconds;
        return IsOver || _first is not { } first || Share <= first ? $"took {Readable.Duration(seconds)}"
            : $"{Readable.Duration(seconds * (1 - Share) / (Share - first))} left";
    }
}
