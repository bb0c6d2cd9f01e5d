using Deedle;
using Microsoft.Data.Analysis;
using Microsoft.DotNet.Interactive.Formatting;
using Plotly.NET;
using TorchSharp;

namespace XlstmLab.Notebooks;

/// <summary>Shows charts, tables and tensors in notebooks: in this library's engine and in .NET Interactive's.</summary>
public static class LabFormatters
{
    private const string Html = "text/html";
    private const string Plain = "text/plain";
    private static readonly Lock Gate = new();
    private static bool _registered;

    /// <summary>
    /// Registers <c>text/html</c> and a short <c>text/plain</c> for Plotly.NET charts, data frames of Microsoft.Data.Analysis,
    /// Deedle frames and series, and TorchSharp tensors. Calling it again changes the chart style only.
    /// </summary>
    /// <param name="charts">The look of charts that do not set their own; by default <see cref="ChartStyle.Default"/>.</param>
    /// <remarks>A notebook for .NET Interactive calls this in its first cell, after <c>#r</c>; <see cref="CellEngine"/> does it itself.</remarks>
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
            Register<DataFrame>(frame => TableHtml.Render(Tables.Of(frame)), frame => Tables.Of(frame).Describe("DataFrame"));
            Register<IFrame>(frame => TableHtml.Render(Tables.Of(frame)), frame => Tables.Of(frame).Describe("Frame"));
            RegisterSeries();
            Register<torch.Tensor>(TensorText.Render, TensorText.Describe);
        }
    }

    private static void Register<T>(Func<T, string> html, Func<T, string> plain)
    {
        Formatter.Register(html, Html);
        Formatter.Register(plain, Plain);
        Formatter.SetPreferredMimeTypesFor(typeof(T), Html, Plain);
    }

    private static void RegisterSeries()
    {
        Formatter.Register(typeof(Series<,>), (object series, TextWriter writer) => writer.Write(TableHtml.Render(Tables.OfSeries(series))), Html);
        Formatter.Register(typeof(Series<,>), (object series, TextWriter writer) => writer.Write(Tables.OfSeries(series).Describe("Series")), Plain);
        Formatter.SetPreferredMimeTypesFor(typeof(Series<,>), Html, Plain);
    }
}
