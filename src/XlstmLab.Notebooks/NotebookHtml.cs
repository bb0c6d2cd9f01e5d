using System.Globalization;
using System.Net;
using System.Reflection;
using System.Text;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;

namespace XlstmLab.Notebooks;

/// <summary>Exports notebooks as pages that can be read and printed without a network or a server.</summary>
public static partial class NotebookHtml
{
    private static readonly Lazy<string> Css = new(() =>
    {
        using StreamReader reader = new(Assembly.GetExecutingAssembly().GetManifestResourceStream("XlstmLab.Notebooks.page.css")!);
        return reader.ReadToEnd().Replace("\r\n", "\n", StringComparison.Ordinal);
    });

    /// <summary>Writes a notebook as one self-contained HTML file.</summary>
    /// <param name="notebook">The notebook, usually an executed one.</param>
    /// <param name="path">The file to write; a file of that name is replaced.</param>
    /// <param name="pictures">Where relative paths of pictures in prose start; null leaves those pictures out.</param>
    /// <exception cref="NotebookException">The file cannot be written.</exception>
    public static void Export(Notebook notebook, string path, string? pictures = null)
    {
        ArgumentNullException.ThrowIfNull(notebook);
        NotebookFile.Write(path, Encoding.UTF8.GetBytes(Render(notebook, Path.GetFileNameWithoutExtension(path), pictures)));
    }

    /// <summary>The page that <see cref="Export"/> writes. Source, console text and plain text are escaped; HTML outputs are taken as they are.</summary>
    /// <param name="notebook">The notebook.</param>
    /// <param name="fallbackTitle">The title if the notebook has no heading.</param>
    /// <param name="pictures">Where relative paths of pictures in prose start; null leaves those pictures out.</param>
    public static string Render(Notebook notebook, string fallbackTitle, string? pictures = null)
    {
        ArgumentNullException.ThrowIfNull(notebook);
        StringBuilder body = new();
        foreach (var cell in notebook.Cells)
        {
            Append(body, cell, pictures);
        }

        string title = Title(notebook) ?? fallbackTitle;
        string library = ChartHtml.IsChart(body.ToString()) ? ChartHtml.LibraryScript() : "";
        return $$"""
            <!DOCTYPE html>
            <html lang="en">
            <head>
            <meta charset="utf-8">
            <meta name="viewport" content="width=device-width, initial-scale=1">
            <title>{{WebUtility.HtmlEncode(title)}}</title>
            <style>
            {{Css.Value}}</style>
            {{library}}
            </head>
            <body>
            <main>
            {{body}}</main>
            <script>
            window.addEventListener("beforeprint", function () {
              document.querySelectorAll(".cell > details").forEach(function (d) { d.open = true; });
              if (window.Plotly) document.querySelectorAll(".js-plotly-plot").forEach(function (c) { window.Plotly.Plots.resize(c); });
            });
            </script>
            </body>
            </html>

            """;
    }

    private static void Append(StringBuilder body, NotebookCell cell, string? pictures)
    {
        switch (cell.Kind)
        {
            case CellKind.Markdown:
                body.Append("<section class=\"prose\">\n")
                    .Append(MarkdownHtml.Render(cell.Source, cell.Json["attachments"] as JsonObject, pictures)).Append("</section>\n");
                break;
            case CellKind.Raw:
                body.Append("<pre class=\"raw\">").Append(WebUtility.HtmlEncode(cell.Source)).Append("</pre>\n");
                break;
            case CellKind.Code:
                AppendCode(body, cell);
                break;
            default:
                throw UnknownValue.Of(cell.Kind);
        }
    }

    private static void AppendCode(StringBuilder body, NotebookCell cell)
    {
        string source = cell.Source.Trim('\n', '\r');
        if (source.Length == 0 && !cell.Outputs.Any())
        {
            return;
        }

        string count = cell.ExecutionCount?.ToString(CultureInfo.InvariantCulture) ?? "";
        body.Append("<section class=\"cell\">\n<details open><summary><span class=\"count\">").Append(count).Append("</span><span class=\"first\">")
            .Append(WebUtility.HtmlEncode(cell.FirstLine)).Append("</span><span class=\"time\">").Append(Duration(cell)).Append("</span></summary>\n<pre class=\"code\">")
            .Append(CSharpHtml.Render(source)).Append("</pre></details>\n");
        foreach (var output in cell.Outputs)
        {
            AppendOutput(body, output);
        }

        body.Append("</section>\n");
    }

    private static void AppendOutput(StringBuilder body, JsonObject output)
    {
        switch (output["output_type"]!.GetValue<string>())
        {
            case "stream":
                string name = output["name"]!.GetValue<string>() == "stderr" ? "stderr" : "stdout";
                body.Append($"<pre class=\"{name}\">").Append(WebUtility.HtmlEncode(Terminal(MultilineText.Join(output["text"])))).Append("</pre>\n");
                break;
            case "error":
                string trace = string.Join("\n", output["traceback"]!.AsArray().Select(line => line!.GetValue<string>()));
                string message = trace.Length > 0 ? trace : $"{output["ename"]}: {output["evalue"]}";
                body.Append("<pre class=\"error\">").Append(WebUtility.HtmlEncode(Terminal(message))).Append("</pre>\n");
                break;
            default:
                body.Append("<div class=\"output\">").Append(Shown(output["data"]!.AsObject())).Append("</div>\n");
                break;
        }
    }

    /// <summary>The richest form of a value that a page can show.</summary>
    private static string Shown(JsonObject data)
    {
        string Text(string mimeType) => MultilineText.Join(data[mimeType]);
        if (data.ContainsKey("text/html"))
        {
            return ChartHtml.WithoutLibrary(Text("text/html"));
        }

        foreach (string type in new[] { "image/png", "image/jpeg", "image/gif" })
        {
            if (data.ContainsKey(type))
            {
                string base64 = string.Concat(Text(type).Where(c => char.IsAsciiLetterOrDigit(c) || c is '+' or '/' or '='));
                return $"<img alt=\"\" src=\"data:{type};base64,{base64}\">";
            }
        }

        if (data.ContainsKey("image/svg+xml") && MultilineText.IsValid(data["image/svg+xml"]))
        {
            // As a picture, an SVG runs no scripts.
            return $"<img alt=\"\" src=\"data:image/svg+xml;base64,{Convert.ToBase64String(Encoding.UTF8.GetBytes(Text("image/svg+xml")))}\">";
        }

        if (data.ContainsKey("text/markdown"))
        {
            return MarkdownHtml.Render(Text("text/markdown"), null, null);
        }

        if (data.ContainsKey("text/latex"))
        {
            return MathHtml.Render(Text("text/latex").Trim('$', ' ', '\n'), display: true);
        }

        string plain = data.ContainsKey("text/plain") ? Text("text/plain") : data.FirstOrDefault().Value?.ToJsonString() ?? "";
        return $"<pre>{WebUtility.HtmlEncode(plain)}</pre>";
    }

    /// <summary>What a terminal would show in the end: colours dropped, lines overwritten after a carriage return.</summary>
    private static string Terminal(string text) => string.Join('\n', AnsiSequence().Replace(text.Replace("\r\n", "\n", StringComparison.Ordinal), "").Split('\n').Select(line =>
        line.TrimEnd('\r') is var shown && shown.LastIndexOf('\r') is >= 0 and var start ? shown[(start + 1)..] : shown));

    private static string? Title(Notebook notebook) => notebook.Cells
        .Where(cell => cell.Kind == CellKind.Markdown)
        .SelectMany(cell => cell.Source.Split('\n'))
        .FirstOrDefault(line => line.StartsWith("# ", StringComparison.Ordinal))?[2..].Trim().Trim('#', ' ');

    private static string Duration(NotebookCell cell)
    {
        if (cell.Metadata["execution"] is not JsonObject times || Time(times["iopub.execute_input"]) is not { } began || Time(times["shell.execute_reply"]) is not { } ended)
        {
            return "";
        }

        double seconds = (ended - began).TotalSeconds;
        return seconds < 0.1 ? "" : seconds < 100
            ? string.Create(CultureInfo.InvariantCulture, $"{seconds:0.0} s")
            : string.Create(CultureInfo.InvariantCulture, $"{(int)(seconds / 60)} min {seconds % 60:00} s");
    }

    private static DateTimeOffset? Time(JsonNode? node) =>
        MultilineText.IsString(node) && DateTimeOffset.TryParse(node!.GetValue<string>(), CultureInfo.InvariantCulture, DateTimeStyles.AssumeUniversal, out var time) ? time : null;

    [GeneratedRegex("\x1b\\[[0-9;?]*[A-Za-z]")]
    private static partial Regex AnsiSequence();
}
