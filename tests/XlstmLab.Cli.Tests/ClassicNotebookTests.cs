using System.Diagnostics;
using XlstmLab.Cli.Machine;
using XlstmLab.Notebooks;
using XlstmLab.Tests.Notebooks;
using Xunit;

namespace XlstmLab.Tests.Cli;

/// <summary>A person's session in the classic Notebook, by its own buttons, in a browser without a window.</summary>
[Collection(nameof(ProcessCollection))]
public sealed class ClassicNotebookTests : IDisposable
{
    private const string Cells = "Jupyter.notebook.get_cells().filter(c => c.cell_type == 'code')";
    private const string Idle = Cells + ".every(c => c.input_prompt_number != '*')";
    private const string LastOutputs = "Jupyter.notebook.get_cells().at(-1).output_area.outputs";

    private const string Training = """
        using XlstmLab.Models;
        using XlstmLab.Runs;
        using XlstmLab.Text;
        using XlstmLab.Training;
        var config = XlstmPresets.Bytes1M with { EmbeddingDim = 16, HeadCount = 2, BlockCount = 1 };
        var recipe = LabDefaults.Training(100_000) with { BatchSize = 1, ContextLength = 8, ValidationTokens = 64, ValidateEvery = 50, TensorBoard = false };
        var run = Lab.Train(config, Corpus.Open("tinyshakespeare"), recipe, new() { Folder = "run" });
        """;

    private readonly JupyterPrograms _jupyter = new();

    public void Dispose() => _jupyter.Dispose();

    [Fact]
    public async Task Session_RunAllInterruptRestart_Works()
    {
        await _jupyter.RequireAsync("notebook");
        Assert.SkipUnless(FigureFiles.HasBrowser, "There is no Chromium, Chrome or Edge.");
        LongTests.Skip();
        await _jupyter.InstallAsync();
        _jupyter.Folder.Notebook(
            "using XlstmLab.Visualization;\nint kept = 41;",
            "Plots.Lines([new PlotSeries(\"squares\", [1, 2, 3, 4], [1, 4, 9, 16])], \"side\", \"area\")",
            "#!fsharp\n#!share --from csharp kept\nkept + 1",
            "var shown = display(\"before\");\nawait Task.Delay(300);\nshown.Update(HTML(\"<b id='updated'>after</b>\"));");
        int port = RankProcesses.FreePort();
        using var server = Process.Start(_jupyter.Start(
            "jupyter", "notebook", "--no-browser", "--ip=127.0.0.1", $"--port={port}", "--port-retries=0", "--allow-root",
            "--NotebookApp.token=given"))!;
        server.BeginOutputReadLine();
        server.BeginErrorReadLine();
        try
        {
            await WaitForServerAsync(port, server);
            using var browser = await Browser.OpenAsync(
                $"http://127.0.0.1:{port}/notebooks/in.ipynb?token=given", _jupyter.Folder["profile"]);
            await browser.WaitAsync(
                "window.Jupyter && Jupyter.notebook && Jupyter.notebook.kernel && Jupyter.notebook.kernel.is_connected() && "
                + "Jupyter.notebook.kernel.info_reply.status");
            Assert.Equal("C#", (string?)await browser.EvaluateAsync("Jupyter.notebook.kernel.info_reply.language_info.name"));

            // Run all: values, a chart that is drawn, F#, a display that is replaced.
            await browser.EvaluateAsync("document.querySelector('#run_all_cells a').click()");
            await browser.WaitAsync($"{Cells}.every(c => c.input_prompt_number > 0)");
            await browser.WaitAsync("document.querySelector('#updated')");
            await browser.WaitAsync(
                "document.querySelectorAll('.output_area svg').length == 1 && "
                + "document.querySelector('.output_area svg').getBoundingClientRect().width > 300");
            Assert.Equal("42", (string?)await browser.EvaluateAsync($"{Cells}[2].output_area.outputs[0].data['text/plain']"));
            Assert.Equal(0, (int?)await browser.EvaluateAsync("document.querySelectorAll('.output_error').length"));
            await browser.EvaluateAsync("document.querySelector('.output_area svg').scrollIntoView({block: 'center'})");
            await browser.SaveAsync("run-all");

            // The stop button ends an endless loop, and what was declared stays.
            await AddAsync(browser, "Console.Write(\"loops\"); while (true) { }");
            await browser.WaitAsync($"{LastOutputs}.length > 0");
            await browser.EvaluateAsync(
                "document.querySelector(\"button[data-jupyter-action='jupyter-notebook:interrupt-kernel']\").click()");
            await browser.WaitAsync($"{LastOutputs}.some(o => o.output_type == 'error' && o.evalue.includes('interrupted')) && {Idle}");
            await AddAsync(browser, "kept + 2");
            await browser.WaitAsync($"{LastOutputs}.length > 0");
            Assert.Equal("43", (string?)await browser.EvaluateAsync($"{LastOutputs}[0].data['text/plain']"));
            await browser.SaveAsync("interrupted");

            // A training redraws its one panel; the button ends it with a checkpoint, and the next cell has the model.
            await AddAsync(browser, Training);
            await browser.WaitAsync(
                $"(() => {{ const o = {LastOutputs}; window.steps = window.steps || new Set(); "
                + "if (o.length == 1 && o[0].data) window.steps.add(o[0].data['text/plain']); return window.steps.size > 3; })()");
            await browser.WaitAsync("document.querySelectorAll('.output_area svg').length == 2");
            await browser.EvaluateAsync("[...document.querySelectorAll('.output_area svg')].at(-1).scrollIntoView({block: 'center'})");
            await browser.SaveAsync("training");
            await browser.EvaluateAsync(
                "document.querySelector(\"button[data-jupyter-action='jupyter-notebook:interrupt-kernel']\").click()");
            await browser.WaitAsync($"{LastOutputs}.some(o => o.output_type == 'error' && o.evalue.includes('interrupted')) && {Idle}");
            Assert.StartsWith(
                "stopped after step ",
                (string?)await browser.EvaluateAsync($"{LastOutputs}[0].data['text/plain']"), StringComparison.Ordinal);
            await AddAsync(
                browser,
                "$\"{run.Result.Status} {System.IO.Directory.Exists(run.Result.Checkpoint)} {run.Evaluate(Split.Validation, "
                + "documents: 1).Loss > 0}\"");
            await browser.WaitAsync($"{LastOutputs}.length > 0");
            Assert.Equal("Stopped True True", (string?)await browser.EvaluateAsync($"{LastOutputs}[0].data['text/plain']"));
            await browser.SaveAsync("training-stopped");

            // So does F#, which goes on by itself: the button's restart ends it, and what was declared.
            await AddAsync(browser, "#!fsharp\nprintf \"loops\"\nwhile true do ()");
            await browser.WaitAsync($"{LastOutputs}.length > 0");
            await browser.EvaluateAsync(
                "document.querySelector(\"button[data-jupyter-action='jupyter-notebook:interrupt-kernel']\").click()");
            await browser.WaitAsync($"{LastOutputs}.some(o => o.output_type == 'error' && o.evalue.includes('restarted')) && {Idle}");
            await browser.EvaluateAsync(
                "document.querySelector(\"button[data-jupyter-action='jupyter-notebook:confirm-restart-kernel']\").click()");
            await browser.WaitAsync("document.querySelector('.modal.in .btn-danger')");
            await browser.EvaluateAsync("document.querySelector('.modal.in .btn-danger').click()");
            await browser.WaitAsync("!document.querySelector('.modal.in') && Jupyter.notebook.kernel.is_connected()");
            await AddAsync(browser, "kept + 3");
            await browser.WaitAsync($"{LastOutputs}.some(o => o.output_type == 'error' && o.evalue.includes('kept'))");
            await AddAsync(browser, "1 + 3");
            await browser.WaitAsync($"{LastOutputs}.length > 0");
            Assert.Equal("4", (string?)await browser.EvaluateAsync($"{LastOutputs}[0].data['text/plain']"));
            await browser.SaveAsync("restarted");

            // What the page saved is a notebook with all of it.
            await browser.EvaluateAsync("Jupyter.notebook.save_notebook()");
            var saved = Notebook.Load(_jupyter.Folder["in.ipynb"]).CodeCells.ToArray();
            Assert.Equal(11, saved.Length);
            Assert.Equal("4", saved[^1].Outputs.Single().Text("text/plain"));
            Assert.NotNull(saved[1].Outputs.Single()["data"]![ChartHtml.FigureType]);
        }
        finally
        {
            server.Kill(entireProcessTree: true);
            server.WaitForExit(10_000);
        }
    }

    /// <summary>Adds a cell at the end and runs it.</summary>
    private static async Task AddAsync(Browser browser, string source) => await browser.EvaluateAsync(
        $$"""
        (() => { const c = Jupyter.notebook.insert_cell_at_bottom('code'); c.set_text({{System.Text.Json.JsonSerializer.Serialize(source)}}); c.execute(); c.element[0].scrollIntoView({block: 'end'}); })()
        """);

    private static async Task WaitForServerAsync(int port, Process server)
    {
        using HttpClient http = new();
        await Browser.UntilAsync(
            async () =>
            {
                Assert.False(server.HasExited, "The server of notebooks ended.");
                try
                {
                    return (await http.GetAsync($"http://127.0.0.1:{port}/api", TestContext.Current.CancellationToken)).IsSuccessStatusCode;
                }
                catch (HttpRequestException)
                {
                    return false;
                }
            },
            60,
            "the server of notebooks");
    }
}
