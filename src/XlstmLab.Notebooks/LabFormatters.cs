using Deedle;
using Microsoft.Data.Analysis;
using Microsoft.DotNet.Interactive.Formatting;
using Plotly.NET;
using TorchSharp;
using XlstmLab.Analysis;
using XlstmLab.Evaluation;
using XlstmLab.Evaluation.LogLikelihood;
using XlstmLab.Experiments;
using XlstmLab.Models;
using XlstmLab.Runs;
using XlstmLab.Training;

namespace XlstmLab.Notebooks;

/// <summary>Shows charts, tables and tensors in notebooks: in this library's engine and in .NET Interactive's.</summary>
public static class LabFormatters
{
    private const string Html = "text/html";
    private const string Plain = "text/plain";
    private const string Latex = "text/latex";
    private static readonly Lock Gate = new();
    private static bool _registered;

    /// <summary>
    /// Registers <c>text/html</c> and a short <c>text/plain</c> for Plotly.NET charts, data frames of Microsoft.Data.Analysis,
    /// Deedle frames and series, TorchSharp tensors, and this library's results, configurations, models and runs. Calling it again changes
    /// the chart style only.
    /// </summary>
    /// <param name="charts">The look of charts that do not set their own; by default <see cref="ChartStyle.Default"/>.</param>
    /// <remarks>
    /// A notebook for .NET Interactive calls this in its first cell, after <c>#r</c>; <see cref="CellEngine"/> does it itself.
    /// </remarks>
    public static void Register(ChartStyle? charts = null)
    {
        lock (Gate)
        {
            if (charts is not null || !_registered)
            {
                ChartHtml.Style = charts ?? ChartStyle.Default;
            }

            // Whoever calls this from a cell starts a notebook: its next chart brings the drawing library along.
            ChartHtml.ForgetProcess();
            if (_registered)
            {
                return;
            }

            _registered = true;
            Formatter.DefaultMimeType = Html;
            Register<GenericChart>(ChartHtml.Render, ChartHtml.Describe);
            Formatter.Register<GenericChart>(ChartHtml.Json, ChartHtml.FigureType);
            Formatter.Register<GenericChart>(ChartHtml.Svg, ChartHtml.PictureType);
            Register<DataFrame>(Tables.Of, "DataFrame");
            Register<IFrame>(Tables.Of, "Frame");
            RegisterSeries();
            Register<MetricsTable>(Tables.Of, "table");
            Register<EvaluationResult>(result => result.ToTable(), "evaluation");
            Register<ExtrapolationResult>(result => Tables.Of(result.ToTable()), "extrapolation");
            Register<RulerResult>(result => Tables.Of(result.ToTable()), "RULER");
            Register<TaskScore>(score => Tables.Of(score.ToTable()), "score");
            Register<TrainingResult>(result => result.ToTable(), "training");
            Register<IReadOnlyList<TrainingMetrics>>(metrics => Tables.Of(metrics.ToTable()), "metrics");
            Register<GateRecording>(recording => Tables.Of(recording.ToTable()), "gates");
            Register<LanguageModelConfig>(config => Tables.Of(config.ToTable()), "configuration");
            Register<TrainingConfig>(config => Tables.Of(config.ToTable()), "configuration");
            Register<LanguageModel>(model => Tables.Of(model.ToTable()), "model");
            Register<TrainedRun>(run => Tables.Of(run.ToTable()), "run");
            Register<StudyResult>(study => Tables.Of(study.Rows.ToTable()), "study");
            Register<StudyComparison>(comparison => Tables.Of(comparison.ToTable()), "comparison");
            Register<IReadOnlyList<JudgedClaim>>(claims => Tables.Of(StudyComparison.ToTable(claims)), "claims");
            Register<torch.Tensor>(TensorText.Render, TensorText.Describe);
        }
    }

    /// <summary>
    /// Does the same for the cells of this library. Their charts are figures, which whoever shows the notebook draws, with a picture for
    /// where nobody does.
    /// </summary>
    internal static void RegisterForCells()
    {
        Register();
        Formatter.SetPreferredMimeTypesFor(typeof(GenericChart), ChartHtml.FigureType);
        foreach (var formula in new[] { typeof(NotebookApi.LaTeXString), typeof(NotebookApi.MathString) })
        {
            Formatter.Register(formula, (value, writer) => writer.Write(value), Latex);
            Formatter.Register(formula, (value, writer) => writer.Write(value), Plain);
            Formatter.SetPreferredMimeTypesFor(formula, Latex, Plain);
        }

        RegisterPicture<TrainingPanel>(panel => panel.Svg(), panel => panel.Text());
        RegisterPicture<StudyPanel>(panel => panel.Svg(), panel => panel.Text());
    }

    private static void RegisterPicture<T>(Func<T, string> svg, Func<T, string> plain)
    {
        Formatter.Register(svg, ChartHtml.PictureType);
        Formatter.Register(plain, Plain);
        Formatter.SetPreferredMimeTypesFor(typeof(T), ChartHtml.PictureType, Plain);
    }

    private static void Register<T>(Func<T, MetricsTable> head, string kind) =>
        Register<T>(value => TableHtml.Render(head(value)), value => Tables.Describe(head(value), kind));

    private static void Register<T>(Func<T, string> html, Func<T, string> plain)
    {
        Formatter.Register(html, Html);
        Formatter.Register(plain, Plain);
        Formatter.SetPreferredMimeTypesFor(typeof(T), Html, Plain);
    }

    private static void RegisterSeries()
    {
        Formatter.Register(
            typeof(Series<,>), (object series, TextWriter writer) => writer.Write(TableHtml.Render(Tables.OfSeries(series))), Html);
        Formatter.Register(
            typeof(Series<,>),
            (object series, TextWriter writer) => writer.Write(Tables.Describe(Tables.OfSeries(series), "Series")), Plain);
        Formatter.SetPreferredMimeTypesFor(typeof(Series<,>), Html, Plain);
    }
}
