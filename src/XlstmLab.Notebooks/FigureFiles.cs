using System.ComponentModel;
using System.Diagnostics;
using System.Globalization;
using System.Text;
using System.Text.RegularExpressions;
using Plotly.NET;

namespace XlstmLab.Notebooks;

/// <summary>Charts as files for papers and pages: SVG, PNG, PDF and HTML.</summary>
/// <remarks>
/// HTML needs nothing but this library. The others are drawn by a browser that is on the machine, Chromium, Chrome or Edge, without a
/// window and without a network; <see cref="BrowserVariable"/> names one that is not found.
/// </remarks>
public static partial class FigureFiles
{
    /// <summary>The environment variable that names the browser's program.</summary>
    public const string BrowserVariable = "XLSTM_BROWSER";

    private const int UsualWidth = 900;
    private const int Seconds = 90;

    private static readonly string[] Names =
        ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge",
            "microsoft-edge-stable", "msedge"];

    private static readonly string[] Applications = ["Google Chrome", "Chromium", "Microsoft Edge"];

    private static readonly Environment.SpecialFolder[] ProgramFolders =
        [Environment.SpecialFolder.ProgramFiles, Environment.SpecialFolder.ProgramFilesX86, Environment.SpecialFolder.LocalApplicationData];

    /// <summary>Whether a browser was found.</summary>
    internal static bool HasBrowser => InstalledBrowser() is not null;

    /// <summary>Draws a chart into a file, in the look that notebooks give it. The file is whole or absent.</summary>
    /// <param name="chart">The chart.</param>
    /// <param name="path">A file that ends in .svg, .png, .pdf or .html; replaced if it is there.</param>
    /// <param name="width">The width in CSS pixels, 1/96 inch; null for the chart's own, else 900.</param>
    /// <param name="height">The height in CSS pixels; null for the chart's own, else that of the style.</param>
    /// <param name="scale">Pixels of a PNG for each CSS pixel.</param>
    /// <exception cref="ArgumentException">The file ends otherwise.</exception>
    /// <exception cref="NotebookException">There is no browser to draw with, or it failed; the message says what to do.</exception>
    /// <exception cref="IOException">The file cannot be written.</exception>
    public static void SaveFigure(this GenericChart chart, string path, int? width = null, int? height = null, double scale = 2)
    {
        ArgumentNullException.ThrowIfNull(chart);
        ArgumentException.ThrowIfNullOrWhiteSpace(path);
        var ending = Path.GetExtension(path).ToUpperInvariant();
        var figure = ChartHtml.Styled(chart);
        var own = figure["layout"]!;
        var (wide, high) = (width ?? Own("width") ?? UsualWidth, height ?? Own("height") ?? ChartHtml.Style.Height);
        ArgumentOutOfRangeException.ThrowIfLessThan(wide, 1, nameof(width));
        ArgumentOutOfRangeException.ThrowIfLessThan(high, 1, nameof(height));
        switch (ending)
        {
            case ".HTML":
                AtomicFile.WriteText(
                    path,
                    "<!doctype html>\n<html><head><meta charset=\"utf-8\"><title>Figure</title></head><body>\n"
                    + $"{ChartHtml.LibraryScript()}\n{ChartHtml.Fragment(figure)}\n</body></html>\n");
                break;
            case ".SVG":
                AtomicFile.WriteText(path, Encoding.UTF8.GetString(Image("svg", 1)));
                break;
            case ".PNG":
                AtomicFile.Write(path, stream => stream.Write(Image("png", scale)));
                break;
            case ".PDF":
                AtomicFile.Write(path, stream => stream.Write(Print(Encoding.UTF8.GetString(Image("svg", 1)), wide, high)));
                break;
            default:
                throw new ArgumentException(
                    $"'{path}' ends in '{Path.GetExtension(path)}'; expected .svg, .png, .pdf or .html.", nameof(path));
        }

        int? Own(string name) =>
            own[name] is System.Text.Json.Nodes.JsonValue value && value.TryGetValue<double>(out var pixels) ? (int)pixels : null;

        byte[] Image(string format, double factor)
        {
            figure["layout"]!["width"] = wide;
            figure["layout"]!["height"] = high;
            var page = string.Create(
                CultureInfo.InvariantCulture,
                $$"""
                <!doctype html><html><head><meta charset="utf-8"></head><body><div id="chart"></div>{{ChartHtml.LibraryScript()}}
                <script>(async function(){var f={{figure.ToJsonString()}},text;
                try{var e=document.getElementById("chart");await window.Plotly.newPlot(e,f.data,f.layout,{staticPlot:true});
                var url=await window.Plotly.toImage(e,{format:"{{format}}",width:{{wide}},height:{{high}},scale:{{factor}},imageDataOnly:true});
                text="image "+("{{format}}"==="svg"?btoa(unescape(encodeURIComponent(url))):url);}catch(x){text="error "+x;}
                document.documentElement.innerHTML="<body><pre>"+text.replace(/&/g,"&amp;").replace(/</g,"&lt;")+"</pre></body>";})();</script></body></html>
                """);
            var dom = Browse(page, "--virtual-time-budget=30000", "--dump-dom");
            var answer = Answer().Match(Encoding.UTF8.GetString(dom));
            return answer is { Success: true } && answer.Groups[1].Value == "image"
                ? Convert.FromBase64String(answer.Groups[2].Value.Trim())
                : throw new NotebookException(
                    $"The browser drew no figure{(answer.Success ? $": {answer.Groups[2].Value}" : "")}. Save it as .html, "
                    + "and open that in a browser to see why.");
        }
    }

    /// <summary>A page with one drawing, as PDF.</summary>
    private static byte[] Print(string svg, int width, int height)
    {
        var file = Path.Combine(Path.GetTempPath(), $"xlstm-figure-{Guid.NewGuid():N}.pdf");
        try
        {
            var page = string.Create(
                CultureInfo.InvariantCulture,
                $$"""
                <!doctype html><html><head><meta charset="utf-8"><style>@page{size:{{width}}px {{height}}px;margin:0}html,body{margin:0;padding:0}svg{display:block}</style></head><body>{{svg}}</body></html>
                """);
            Browse(page, "--no-pdf-header-footer", $"--print-to-pdf={file}");
            return File.Exists(file) ? File.ReadAllBytes(file) : throw new NotebookException(
                "The browser printed no PDF. Save the figure as .svg, which other programs turn into PDF.");
        }
        finally
        {
            File.Delete(file);
        }
    }

    /// <summary>Opens a page without a window.</summary>
    /// <returns>What the browser wrote to its standard output.</returns>
    private static byte[] Browse(string page, params string[] options)
    {
        var folder = Directory.CreateTempSubdirectory("xlstm-figure-").FullName;
        try
        {
            var html = Path.Combine(folder, "page.html");
            File.WriteAllText(html, page);
            var start = new ProcessStartInfo(FindBrowser())
            {
                RedirectStandardOutput = true,
                RedirectStandardError = true,
                StandardOutputEncoding = Encoding.UTF8,
            };
            string[] always =
            [
                "--headless", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-extensions",
                "--disable-background-networking",
                $"--user-data-dir={Path.Combine(folder, "profile")}",
            ];

            // Its sandbox cannot be set up by root, nor in most containers; the page is our own.
            string[] bare = OperatingSystem.IsLinux() ? ["--no-sandbox", "--disable-dev-shm-usage"] : [];
            foreach (var argument in always.Concat(bare).Concat(options).Append(new Uri(html).AbsoluteUri))
            {
                start.ArgumentList.Add(argument);
            }

            using var browser = Process.Start(start)!;
            var (answer, errors) = (browser.StandardOutput.ReadToEndAsync(), browser.StandardError.ReadToEndAsync());
            if (!browser.WaitForExit(TimeSpan.FromSeconds(Seconds)))
            {
                browser.Kill(entireProcessTree: true);
                throw new NotebookException(
                    $"The browser {start.FileName} did not draw the figure within {Seconds} s. Save it as .html, which needs none.");
            }

            return browser.ExitCode == 0
                ? Encoding.UTF8.GetBytes(answer.Result)
                : throw new NotebookException(
                    $"The browser {start.FileName} failed with code {browser.ExitCode}: "
                    + $"{errors.Result.Split('\n', StringSplitOptions.RemoveEmptyEntries).LastOrDefault()} Name another by "
                    + $"{BrowserVariable}, or save as .html, which needs none.");
        }
        catch (Win32Exception e)
        {
            throw new NotebookException(
                $"The browser cannot be started: {e.Message} Name another by {BrowserVariable}, or save as .html, which needs none.");
        }
        finally
        {
            DeleteProfile(folder);
        }
    }

    /// <summary>Deletes what a browser left; one of its processes may still be ending.</summary>
    private static void DeleteProfile(string folder)
    {
        try
        {
            Directory.Delete(folder, recursive: true);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // It lies among the system's temporary files.
        }
    }

    /// <summary>The program of the browser that is named or found.</summary>
    /// <exception cref="NotebookException">There is none.</exception>
    internal static string FindBrowser() =>
        Environment.GetEnvironmentVariable(BrowserVariable) is { Length: > 0 } named
            ? File.Exists(named) ? named : throw new NotebookException($"{BrowserVariable} names '{named}', and there is no such program.")
            : InstalledBrowser() ?? throw new NotebookException(
                $"There is no browser to draw with: looked for {string.Join(", ", Names)} on the PATH. Install Chromium, Chrome or Edge, "
                + $"name its program by {BrowserVariable}, or save as .html, which needs none.");

    private static string? InstalledBrowser()
    {
        var suffix = OperatingSystem.IsWindows() ? ".exe" : "";
        var folders = (Environment.GetEnvironmentVariable("PATH") ?? "").Split(Path.PathSeparator, StringSplitOptions.RemoveEmptyEntries);
        var onPath = Names.SelectMany(name => folders.Select(folder => Path.Combine(folder, name + suffix)));
        string[] installed = OperatingSystem.IsWindows()
            ? [.. ProgramFolders
                .Select(Environment.GetFolderPath)
                .SelectMany(f => new[]
                {
                    Path.Combine(f, "Google", "Chrome", "Application", "chrome.exe"),
                    Path.Combine(f, "Microsoft", "Edge", "Application", "msedge.exe"),
                })]
            : OperatingSystem.IsMacOS()
                ? [.. Applications.Select(name => $"/Applications/{name}.app/Contents/MacOS/{name}")]
                : [];
        return onPath.Concat(installed).FirstOrDefault(File.Exists);
    }

    [GeneratedRegex("<pre>(image|error) ([^<]*)</pre>")]
    private static partial Regex Answer();
}
