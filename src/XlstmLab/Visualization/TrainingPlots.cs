using Plotly.NET;
using Plotly.NET.LayoutObjects;
using XlstmLab.Analysis;

namespace XlstmLab.Visualization;

/// <summary>The laboratory's plots: Plotly charts in the style of <see cref="PlotStyle"/>.</summary>
/// <remarks>
/// They have no titles, which belong to the text around them; <see cref="PlotStyle.Titled"/> gives one to a figure that stands alone.
/// </remarks>
public static partial class Plots
{
    /// <summary>Training curves, and validation curves where the runs have any.</summary>
    /// <param name="runs">One or several runs.</param>
    /// <param name="metric">What is shown.</param>
    /// <param name="axis">What it is shown against.</param>
    /// <param name="smoothing">
    /// The weight of the past, a, from 0 to below 1, in s_t = a s_(t-1) + (1 - a) y_t, divided by 1 - a^t; the raw training curve stays
    /// visible, paler. Validation is never smoothed.
    /// </param>
    /// <param name="logX">Whether the horizontal axis is logarithmic.</param>
    /// <param name="logY">Whether the vertical axis is logarithmic.</param>
    /// <remarks>
    /// Bits per byte of the training loss are those of the run's <see cref="PlotRun.BytesPerToken"/>; where that is not set, of the bytes
    /// that the validation's tokens spell.
    /// </remarks>
    /// <exception cref="ArgumentException">There is no run, a run has no rows, or lacks what the axes need.</exception>
    public static GenericChart LearningCurves(
        IReadOnlyList<PlotRun> runs,
        CurveMetric metric = CurveMetric.Loss,
        CurveAxis axis = CurveAxis.Steps,
        double smoothing = 0,
        bool logX = false,
        bool logY = false)
    {
        RequireSome(runs, "run");
        if (smoothing is not (>= 0 and < 1))
        {
            throw new ArgumentOutOfRangeException(nameof(smoothing), smoothing, "Expected a weight from 0 to below 1.");
        }

        var traces = new List<Trace>();
        var (allX, allY) = (new List<double>(), new List<double>());
        for (var r = 0; r < runs.Count; r++)
        {
            var (run, color) = (runs[r], PlotStyle.Color(r));
            var prefix = runs.Count > 1 ? run.Name + ", " : "";
            var x = Position(run, axis);
            var training = Loss(run, metric, "loss");
            allX.AddRange(x);
            allY.AddRange(training);
            if (smoothing > 0)
            {
                traces.Add(Line(prefix + "training, raw", x, training, PlotStyle.Translucent(color, 0.22), width: 1, inLegend: false));
                training = Smoothed(training, smoothing);
            }

            traces.Add(Line(prefix + "training", x, training, color));
            if (HasValidation(run, metric))
            {
                var validation = Loss(run, metric, "validation_loss");
                var at = Enumerable.Range(0, x.Length).Where(i => double.IsFinite(validation[i])).ToArray();
                allY.AddRange(validation);
                var validationColor = runs.Count > 1 ? color : PlotStyle.Color(1);
                traces.Add(PlotStyle.Trace(
                    "scatter",
                    ("name", prefix + "validation"),
                    ("mode", "lines+markers"),
                    ("x", PlotStyle.Gaps(at.Select(i => x[i]))),
                    ("y", PlotStyle.Gaps(at.Select(i => validation[i]))),
                    ("line", PlotStyle.Obj(("color", validationColor), ("width", 2), ("dash", "dash"))),
                    ("marker", PlotStyle.Obj(
                        ("size", 7), ("color", "white"), ("line", PlotStyle.Obj(("color", validationColor), ("width", 2)))))));
            }
        }

        var xTitle = axis switch
        {
            CurveAxis.Steps => "Training step",
            CurveAxis.Tokens => "Training tokens",
            CurveAxis.Flops => "Training compute (FLOPs)",
            _ => throw UnknownValue.Of(axis),
        };
        var yTitle = metric switch
        {
            CurveMetric.Loss => "Cross-entropy (nats per token)",
            CurveMetric.BitsPerByte => "Cross-entropy (bits per byte)",
            _ => throw UnknownValue.Of(metric),
        };
        return PlotStyle.Chart(traces, LinearOrLog(xTitle, allX, logX), LinearOrLog(yTitle, allY, logY));
    }

    /// <summary>Learning rate and gradient norm of runs against the step, one above the other.</summary>
    /// <param name="runs">One or several runs.</param>
    /// <param name="logNorm">Whether the gradient norm's axis is logarithmic.</param>
    /// <exception cref="ArgumentException">
    /// There is no run, a run has no rows, or lacks <c>learning_rate</c> or <c>gradient_norm</c>.
    /// </exception>
    public static GenericChart Optimization(IReadOnlyList<PlotRun> runs, bool logNorm = true)
    {
        RequireSome(runs, "run");
        var traces = new List<Trace>();
        var norms = new List<double>();
        for (var r = 0; r < runs.Count; r++)
        {
            var x = Position(runs[r], CurveAxis.Steps);
            var norm = runs[r].Metrics.Numbers("gradient_norm");
            norms.AddRange(norm);
            var several = runs.Count > 1;
            traces.Add(Line(runs[r].Name, x, runs[r].Metrics.Numbers("learning_rate"), PlotStyle.Color(r), inLegend: several));
            traces.Add(Lower(Line(runs[r].Name, x, norm, PlotStyle.Color(r), width: 1.3, inLegend: false)));
        }

        return TwoPanels(
            traces,
            PlotStyle.Axis("Training step"),
            PlotStyle.Axis("Learning rate", ("rangemode", "tozero")),
            LinearOrLog("Gradient norm", norms, logNorm));
    }

    /// <summary>Training loss and gradient norm of runs against the step, one above the other.</summary>
    /// <param name="runs">One or several runs.</param>
    /// <param name="smoothing">
    /// The weight of the past, from 0 to below 1, for both, as in <see cref="LearningCurves"/>; raw curves are not drawn.
    /// </param>
    /// <param name="logNorm">Whether the gradient norm's axis is logarithmic.</param>
    /// <exception cref="ArgumentException">There is no run, a run has no rows, or lacks <c>loss</c> or <c>gradient_norm</c>.</exception>
    public static GenericChart Stability(IReadOnlyList<PlotRun> runs, double smoothing = 0, bool logNorm = true)
    {
        RequireSome(runs, "run");
        if (smoothing is not (>= 0 and < 1))
        {
            throw new ArgumentOutOfRangeException(nameof(smoothing), smoothing, "Expected a weight from 0 to below 1.");
        }

        var traces = new List<Trace>();
        var norms = new List<double>();
        for (var r = 0; r < runs.Count; r++)
        {
            var (x, color, dash) = (Position(runs[r], CurveAxis.Steps), PlotStyle.Color(r), PlotStyle.Dash(r));
            var norm = Smoothed(runs[r].Metrics.Numbers("gradient_norm"), smoothing);
            norms.AddRange(norm);
            traces.Add(Line(
                runs[r].Name, x, Smoothed(runs[r].Metrics.Numbers("loss"), smoothing), color, width: 1.6, dash: dash,
                inLegend: runs.Count > 1));
            traces.Add(Lower(Line(runs[r].Name, x, norm, color, width: 1.3, dash: dash, inLegend: false)));
        }

        return TwoPanels(
            traces,
            PlotStyle.Axis("Training step"),
            PlotStyle.Axis("Loss (nats per token)"),
            LinearOrLog("Gradient norm", norms, logNorm));
    }

    /// <summary>What the updates of a run did: gradient norm above, update ratio below, a curve for each group of parameters.</summary>
    /// <param name="updates">The updates, as <see cref="UpdateTraces.Updates"/> gives them.</param>
    /// <exception cref="ArgumentException">There is no update.</exception>
    public static GenericChart UpdateTraces(IReadOnlyList<UpdateTrace> updates)
    {
        RequireSome(updates, "update");
        var traces = new List<Trace>();
        foreach (var (at, group) in updates.GroupBy(u => u.Group).Index())
        {
            var x = group.Select(u => (double)u.Step).ToArray();
            var (color, dash) = (PlotStyle.Color(at), PlotStyle.Dash(at));
            traces.Add(Line(group.Key, x, [.. group.Select(u => u.GradientNorm)], color, width: 1.6, dash: dash));
            traces.Add(Lower(Line(group.Key, x, [.. group.Select(u => u.UpdateRatio)], color, width: 1.6, dash: dash, inLegend: false)));
        }

        return TwoPanels(
            traces,
            PlotStyle.Axis("Training step"),
            LinearOrLog("Gradient norm", updates.Select(u => u.GradientNorm), log: true),
            LinearOrLog("Update / weight norm", updates.Select(u => u.UpdateRatio), log: true));
    }

    /// <summary>A trace moved to the lower panel.</summary>
    private static Trace Lower(Trace trace)
    {
        trace.SetProperty("yaxis", "y2");
        return trace;
    }

    /// <summary>Two panels, one above the other, over one axis.</summary>
    private static GenericChart TwoPanels(
        IReadOnlyList<Trace> traces, LinearAxis x, LinearAxis top, LinearAxis bottom,
        params ReadOnlySpan<(string Name, object? Value)> layout)
    {
        x.SetProperty("anchor", "y2");
        top.SetProperty("domain", new[] { 0.54, 1 });
        bottom.SetProperty("domain", new[] { 0, 0.46 });
        return PlotStyle.Chart(traces, x, top, PlotStyle.Height + 60, [("yaxis2", bottom), .. layout]);
    }

    private static double[] Position(PlotRun run, CurveAxis axis)
    {
        if (run.Metrics.RowCount == 0)
        {
            throw new ArgumentException($"Run '{run.Name}' has no metrics yet.");
        }

        if (axis == CurveAxis.Steps)
        {
            return run.Metrics.Numbers("step");
        }

        var tokens = run.Metrics.Numbers("tokens");
        if (axis == CurveAxis.Tokens)
        {
            return tokens;
        }

        var flops = run.FlopsPerToken ?? throw new ArgumentException($"Set FlopsPerToken of run '{run.Name}' to plot it against compute.");
        return Array.ConvertAll(tokens, t => t * flops);
    }

    private static bool HasValidation(PlotRun run, CurveMetric metric) =>
        run.Metrics.Has("validation_loss") || (metric == CurveMetric.BitsPerByte && run.Metrics.Has("validation_bits_per_byte"));

    private static double[] Loss(PlotRun run, CurveMetric metric, string column)
    {
        if (metric == CurveMetric.Loss)
        {
            return run.Metrics.Numbers(column);
        }

        if (column == "validation_loss" && run.Metrics.Has("validation_bits_per_byte"))
        {
            return run.Metrics.Numbers("validation_bits_per_byte");
        }

        var bytes = run.BytesPerToken ?? ValidationBytesPerToken(run)
            ?? throw new ArgumentException($"Set BytesPerToken of run '{run.Name}' to plot bits per byte: its metrics have none.");
        return Array.ConvertAll(run.Metrics.Numbers(column), loss => loss / Math.Log(2) / bytes);
    }

    /// <summary>The bytes that a token of the validation text spells, which its loss in both units tells; null if there is none.</summary>
    private static double? ValidationBytesPerToken(PlotRun run)
    {
        if (!run.Metrics.Has("validation_loss") || !run.Metrics.Has("validation_bits_per_byte"))
        {
            return null;
        }

        var (losses, bits) = (run.Metrics.Numbers("validation_loss"), run.Metrics.Numbers("validation_bits_per_byte"));
        var ratios = losses.Zip(bits, (nats, perByte) => nats / Math.Log(2) / perByte)
            .Where(ratio => double.IsFinite(ratio) && ratio > 0).ToArray();
        return ratios.Length > 0 ? ratios.Average() : null;
    }

    /// <summary>The exponential mean, free of the bias towards its start; gaps stay gaps.</summary>
    private static double[] Smoothed(double[] values, double weight)
    {
        var (mean, total) = (0.0, 0.0);
        return Array.ConvertAll(values, value =>
        {
            if (!double.IsFinite(value))
            {
                return double.NaN;
            }

            (mean, total) = (weight * mean + (1 - weight) * value, weight * total + (1 - weight));
            return mean / total;
        });
    }
}
