using System.Globalization;
using static TorchSharp.torch;

namespace XlstmLab.Experiments;

/// <summary>A run with what it will take.</summary>
/// <param name="Run">The run.</param>
/// <param name="IsDone">Whether its result is there.</param>
/// <param name="Seconds">The seconds that it will take alone; null where no rate is known.</param>
/// <param name="Source">Where the rate comes from.</param>
public sealed record PlannedRun(StudyRun Run, bool IsDone, double? Seconds, string Source);

/// <summary>What a study will take.</summary>
/// <param name="Runs">Its runs.</param>
public sealed record StudyPlan(IReadOnlyList<PlannedRun> Runs)
{
    /// <summary>The runs that are to be done.</summary>
    public IReadOnlyList<PlannedRun> Open => [.. Runs.Where(run => !run.IsDone)];

    /// <summary>Their tokens.</summary>
    public long Tokens => Open.Sum(run => run.Run.Tokens);

    /// <summary>Their operations, forward and twice as much backward.</summary>
    public double Flops => Open.Sum(run => run.Run.Flops);

    /// <summary>Their seconds, one after another; null where a rate is missing.</summary>
    public double? Seconds => Open.All(run => run.Seconds is not null) ? Open.Sum(run => run.Seconds!.Value) : null;

    /// <summary>Plans a study.</summary>
    /// <remarks>
    /// Rates are those of the table's rows on such a device, by the variant or else by the nearest number of operations a token; else of a
    /// file that <c>xlstm bench train</c> wrote; else of a few updates that are timed, if asked for. What a run takes beside its updates is
    /// in it where rows tell: on a GPU graphs are recorded for three seconds or so, one run at a time. Tests are not.
    /// </remarks>
    /// <param name="study">The study.</param>
    /// <param name="onGpu">Whether it is to run on a GPU: rates of the other kind of device tell nothing.</param>
    /// <param name="rates">Measured rates, as <see cref="ReadRates"/> gives them.</param>
    /// <param name="measureOn">Where to time a few updates of what no rate is known of; null for nowhere.</param>
    /// <param name="cancellationToken">Stops the timing.</param>
    /// <exception cref="ArgumentException">The study cannot be run as it is.</exception>
    public static StudyPlan Of(
        Study study, bool onGpu, IReadOnlyList<MeasuredRate>? rates = null, Device? measureOn = null,
        CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(study);
        var rows = StudyTable.ReadAll(study.Tables(), []);
        var done = rows.Where(row => row.IsDone).Select(row => row.Id).ToHashSet();
        var earlier =
            rows.Where(row => row.TokensPerSecond > 0 && row.Tokens > 0 && row.Device.StartsWith("CPU", StringComparison.Ordinal) != onGpu)
                .ToArray();
        var timed = new Dictionary<string, double>();
        return new([.. study.Expand().Select(run => Planned(run))]);

        PlannedRun Planned(StudyRun run)
        {
            // Runs side by side share the device. What a run takes beside its updates, graphs to record and validations, does not grow with
            // them.
            var beside = earlier.Length == 0 ? 0 : earlier.Average(
                row => Math.Max(0, row.Seconds - row.Tokens / row.TokensPerSecond!.Value) / row.SideBySide);
            if (earlier.Where(row => row.Variant == run.Variant).Select(row => row.TokensPerSecond * row.SideBySide).Average() is { } own)
            {
                return new(run, done.Contains(run.Id), run.Tokens / own + beside, "earlier runs of it");
            }

            var known = earlier.Select(
                row => new MeasuredRate(row.Variant, row.Flops / row.Tokens, row.TokensPerSecond!.Value * row.SideBySide))
                .Concat(onGpu ? rates ?? [] : []).ToArray();
            if (known.Length > 0)
            {
                var nearest = known.MinBy(rate => Math.Abs(Math.Log(rate.FlopsPerToken / run.FlopsPerToken)))!;
                return new(
                    run, done.Contains(run.Id), run.Flops / (nearest.FlopsPerToken * nearest.TokensPerSecond) + beside,
                    string.Create(CultureInfo.InvariantCulture, $"{nearest.Name} at {nearest.TokensPerSecond:N0} tokens/s"));
            }

            if (measureOn is null)
            {
                return new(run, done.Contains(run.Id), null, "no rate is known");
            }

            if (!timed.TryGetValue(run.Variant, out var rate))
            {
                timed[run.Variant] = rate = Time(study, run, measureOn, cancellationToken);
            }

            return new(run, done.Contains(run.Id), run.Tokens / rate, "a few updates, timed");
        }
    }

    /// <summary>The rates in a file that <c>xlstm bench train</c> wrote, of this library's runs.</summary>
    /// <param name="csv">The file, such as <c>results/h100/train.csv</c>.</param>
    /// <exception cref="InvalidDataException">It has not the columns of one.</exception>
    public static IReadOnlyList<MeasuredRate> ReadRates(string csv)
    {
        string[] lines = [.. File.ReadAllLines(csv).Where(line => !line.StartsWith('#'))];
        var names = lines.Length == 0 ? [] : lines[0].Split(',');
        var (preset, implementation, rate, operations) = (
            Array.IndexOf(names, "preset"), Array.IndexOf(names, "implementation"), Array.FindIndex(
                names, n => n.StartsWith("tokens", StringComparison.Ordinal)),
            Array.FindIndex(names, n => n.StartsWith("TFLOP", StringComparison.OrdinalIgnoreCase)));
        return Math.Min(Math.Min(preset, implementation), Math.Min(rate, operations)) < 0
            ? throw new InvalidDataException(
                $"{csv} has no columns preset, implementation, tokens/s and TFLOP/s; expected what 'xlstm bench train --csv' writes.")
            : [.. lines.Skip(1).Select(line => line.Split(',')).Where(
                cells => cells.Length > operations && cells[implementation] == "XlstmLab")
                .Select(cells => (Name: cells[preset], Rate: Number(cells[rate]), Operations: Number(cells[operations])))
                .Where(r => r.Rate > 0 && r.Operations > 0)
                .Select(r => new MeasuredRate(r.Name, r.Operations * 1e12 / r.Rate, r.Rate))];

        static double Number(string cell) =>
            double.TryParse(cell, NumberStyles.Float, CultureInfo.InvariantCulture, out var number) ? number : 0;
    }

    /// <summary>Tokens a second of the second half of a few updates.</summary>
    private static double Time(Study study, StudyRun run, Device device, CancellationToken cancellationToken)
    {
        const int updates = 6;
        var folder = Directory.CreateTempSubdirectory("xlstm-plan-").FullName;
        try
        {
            var trial = study with
            {
                Folder = folder,
                Seeds = [run.Training.Seed],
                Overrides = [.. study.Overrides, FormattableString.Invariant($"steps={updates}"),
                    FormattableString.Invariant($"training.batch_size={run.Training.BatchSize}"), "training.validation_tokens=1"],
                Measure = study.Measure with { TestTokens = 1, ExtrapolateTo = null, TestRows = 1, ValidationRows = 1 },
                Claims = [],
                Base = null,
                Axes = [.. study.Axes.Select(
                    axis => axis with { Values = [.. axis.Values.Where(v => v.Label == run.Differences[axis.Name])] })],
            };
            var rates = new List<double>();
            trial.Run(
                device, new ImmediateProgress<StudyProgress>(p => rates.AddRange(p.Metrics is { } m ? [m.TokensPerSecond] : [])),
                null, cancellationToken);
            return rates.Count > 0 ? rates.Skip(rates.Count / 2).Average() : double.NaN;
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }
}

/// <summary>A rate that was measured.</summary>
/// <param name="Name">Of what.</param>
/// <param name="FlopsPerToken">Its operations a token, forward and backward.</param>
/// <param name="TokensPerSecond">Its tokens a second.</param>
public sealed record MeasuredRate(string Name, double FlopsPerToken, double TokensPerSecond);
