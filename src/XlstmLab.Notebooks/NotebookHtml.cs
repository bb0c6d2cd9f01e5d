using System.Globalization;
using System.Net;
using System.Reflection;
using System.Text;
using System.Text.Json.Nodes;

namespace XlstmLab.Notebooks;

/// <summary>Exports notebooks as pages that can be read and printed without a network or a server.</summary>
public static class NotebookHtml
{
    private const string Html = "text/html";

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

    /// <summary>
    /// The page that <see cref="Export"/> writes. Source, console text and plain text are escaped; HTML outputs are taken as they are.
    /// </summary>
    /// <param name="notebook">The notebook.</param>
    /// <param name="fallbackTitle">The title if the notebook has no heading.</param>
    /// <param name="pictures">Where relative paths of pictures in prose start; null leaves those pictures out.</param>
    public static string Render(Notebook notebook, string fallbackTitle, string? pictures = null)
    {
        ArgumentNullException.ThrowIfNull(notebook);
        StringBuilder body = new();
        string? language = NotebookLanguage.Default(notebook);
        foreach (var cell in notebook.Cells)
        {
            Append(body, cell, pictures, (NotebookLanguage.Of(cell) ?? language) == CellLanguage.CSharp);
        }

        string title = Title(notebook) ?? fallbackTitle;
        bool foreignCharts = notebook.CodeCells.SelectMany(cell => cell.Outputs)
            .Any(output => output["data"] is JsonObject data && OfflineHtml.DrawsWithForeignPlotly(MultilineText.Join(data[Html])));
        string library = foreignCharts || ChartHtml.IsChart(body.ToString()) ? ChartHtml.LibraryScript() : "";
        library += foreignCharts ? "\n" + OfflineHtml.ModuleLoader : "";
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
            {{MermaidHtml.Scripts(body.ToString())}}<script>
            window.addEventListener("beforeprint", function () {
              document.querySelectorAll(".cell > details").forEach(function (d) { d.open = true; });
              if (window.Plotly) document.querySelectorAll(".js-plotly-plot").forEach(function (c) { window.Plotly.Plots.resize(c); });
            });
            </script>
            </body>
            </html>

            """;
    }

    private static void Append(StringBuilder body, NotebookCell cell, string? pictures, bool isCSharp)
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
                AppendCode(body, cell, isCSharp);
                break;
            default:
                throw UnknownValue.Of(cell.Kind);
        }
    }

    private static void AppendCode(StringBuilder body, NotebookCell cell, bool isCSharp)
    {
        string source = cell.Source.Trim('\n', '\r');
        if (source.Length == 0 && !cell.Outputs.Any())
        {
            return;
        }

        string count = cell.ExecutionCount?.ToString(CultureInfo.InvariantCulture) ?? "";
        body.Append("<section class=\"cell\">\n<details open><summary><span class=\"count\">").Append(count)
            .Append("</span><span class=\"first\">")
            .Append(WebUtility.HtmlEncode(cell.FirstLine)).Append("</span><span class=\"time\">").Append(Duration(cell)).Append(
                "</span></summary>\n<pre class=\"code\">")
            .Append(isCSharp ? CSharpHtml.Render(source) : WebUtility.HtmlEncode(source)).Append("</pre></details>\n");
        foreach (var output in cell.Outputs)
        {
            AppendOutput(body, output);
        }

        body.Append("</section>\n");
    }

    /// <summary>Shows an output as far as it can be understood: any program may have written it.</summary>
    private static void AppendOutput(StringBuilder body, JsonObject output)
    {
        string Text(string key) => MultilineText.Join(output[key]);
        switch (Text("output_type"))
        {
            case "stream":
                string name = Text("name") == "stderr" ? "stderr" : "stdout";
                body.Append($"<pre class=\"{name}\">").Append(WebUtility.HtmlEncode(TerminalText.Plain(Text("text")))).Append("</pre>\n");
                break;
            case "error":
                string trace = output["traceback"] is JsonArray lines
                    ? string.Join("\n", lines.Select(MultilineText.Join)) : Text("traceback");
                string message = trace.Trim().Length > 0 ? trace : $"{Text("ename")}: {Text("evalue")}".TrimStart(':', ' ');
                body.Append("<pre class=\"error\">").Append(WebUtility.HtmlEncode(TerminalText.Plain(message))).Append("</pre>\n");
                break;
            case var _ when output["data"] is JsonObject data:
                body.Append("<div class=\"output\">").Append(Shown(data)).Append("</div>\n");
                break;
            default:
                body.Append("<pre>").Append(WebUtility.HtmlEncode(TerminalText.Plain(output.ToJsonString()))).Append("</pre>\n");
                break;
        }
    }

    /// <summary>The richest form of a value that a page can show.</summary>
    private static string Shown(JsonObject data)
    {
        bool Has(string mimeType) => data[mimeType] is not null;
        string Text(string mimeType) => MultilineText.Join(data[mimeType]);
        if (Has(Html))
        {
            return OfflineHtml.Render(ChartHtml.WithoutLibrary(Text(Html)));
        }

        if (data[ChartHtml.FigureType] is JsonObject figure)
        {
            return ChartHtml.Fragment(figure);
        }

        foreach (string type in new[] { "image/png", "image/jpeg", "image/gif" })
        {
            if (Has(type))
            {
                string base64 = string.Concat(Text(type).Where(c => char.IsAsciiLetterOrDigit(c) || c is '+' or '/' or '='));
                return $"<img alt=\"\" src=\"data:{type};base64,{base64}\">";
            }
        }

        if (Has("image/svg+xml"))
        {
            // As a picture, an SVG runs no scripts.
            string base64 = Convert.ToBase64String(Encoding.UTF8.GetBytes(Text("image/svg+xml")));
            return $"<img alt=\"\" src=\"data:image/svg+xml;base64,{base64}\">";
        }

        if (Has(MermaidHtml.Type))
        {
            return MermaidHtml.Render(Text(MermaidHtml.Type));
        }

        if (Has("text/markdown"))
        {
            return MarkdownHtml.Render(Text("text/markdown"), null, null);
        }

        if (Has("text/latex"))
        {
            return MathHtml.Render(Text("text/latex").Trim('$', ' ', '\n'), display: true);
        }

        string plain = Has("text/plain") ? Text("text/plain") : MultilineText.Join(data.FirstOrDefault().Value);
        return $"<pre>{WebUtility.HtmlEncode(TerminalText.Plain(plain))}</pre>";
    }

    private static string? Title(Notebook notebook) => notebook.Cells
        .Where(cell => cell.Kind == CellKind.Markdown)
        .SelectMany(cell => cell.Source.Split('\n'))
        .FirstOrDefault(line => line.StartsWith("# ", StringComparison.Ordinal))?[2..].Trim().Trim('#', ' ');

    private static string Duration(NotebookCell cell) => cell.Seconds switch
    {
        null or < 0.1 => "",
        < 100 and var seconds => string.Create(CultureInfo.InvariantCulture, $"{seconds:0.0} s"),
        var seconds => string.Create(CultureInfo.InvariantCulture, $"{(int)(seconds / 60)} min {seconds % 60:00} s"),
    };
}
