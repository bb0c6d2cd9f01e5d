using System.Diagnostics;
using XlstmLab.Notebooks;
using Xunit;

namespace XlstmLab.Tests.Notebooks;

[Collection(NotebookTestSetup.Name)]
public sealed class NotebookRunnerTests
{
    private const string Declarations = "[parameters]int steps = 10;\nvar rate = 1e-3;\nstring name = \"a\", path = null;\n"
        + "bool fast = false;\nfloat? scale = null;\nconst int Fixed = 1;\nvar list = new[] { 1 };";

    [Fact]
    public async Task RunAsync_ValidNotebook_WritesOutputsAfterEachCell()
    {
        using TempFolder folder = new();
        string input = folder.Notebook("Console.WriteLine(Environment.CurrentDirectory);", "int a = 2;", "a + 1");
        string before = Environment.CurrentDirectory;
        List<(CellEvent, int, int)> events = [];
        ImmediateProgress<CellProgress> progress = new(report =>
        {
            // At every moment the file is a whole notebook with the outputs so far.
            var soFar = Notebook.Load(folder["out.ipynb"]);
            int done = soFar.CodeCells.Count(cell => cell.ExecutionCount is not null);
            Assert.Equal(report.Event == CellEvent.Finished ? report.Index : report.Index - 1, done);
            events.Add((report.Event, report.Index, report.Count));
        });
        var result = await NotebookRunner.RunAsync(
            input, folder["out.ipynb"], progress: progress, cancellationToken: TestContext.Current.CancellationToken);

        Assert.Equal((NotebookOutcome.Succeeded, 3, 3), (result.Outcome, result.CodeCells, result.Executed));
        Assert.Null(result.FirstError);
        Assert.Equal(before, Environment.CurrentDirectory);
        Assert.Equal(7, events.Count);
        Assert.Equal((CellEvent.Output, 1, 3), events[1]);
        var cells = Notebook.Load(result.OutputPath).Cells;
        Assert.Equal(Path.GetFileName(folder.Path), Path.GetFileName(cells[0].Outputs.Single().Text().Trim()));
        Assert.Equal("3", cells[2].Outputs.Single().Text("text/plain"));
        Assert.NotNull(cells[1].Metadata["execution"]!["shell.execute_reply"]);
        Assert.Equal(["in.ipynb", "out.ipynb"], Directory.EnumerateFiles(folder.Path).Select(Path.GetFileName).Order());
    }

    [Fact]
    public async Task RunAsync_FailingCell_StopsAndKeepsOutputs()
    {
        using TempFolder folder = new();
        string input = folder.Notebook(
            "1", "[raises-exception]throw new Exception(\"meant\");", "Console.Write(\"so far\");\nthrow new Exception(\"bad\");", "4");
        var result = await NotebookRunner.RunAsync(input, folder["out.ipynb"], cancellationToken: TestContext.Current.CancellationToken);

        Assert.Equal((NotebookOutcome.Failed, 4, 3), (result.Outcome, result.CodeCells, result.Executed));
        Assert.Equal("cell 3, line 2: bad", result.FirstError!.ToString());
        var cells = Notebook.Load(result.OutputPath).Cells;
        Assert.Equal(["stream", "error"], cells[2].Outputs.Select(output => output.Type()));
        Assert.Empty(cells[3].Outputs);
        Assert.Null(cells[3].ExecutionCount);
    }

    [Fact]
    public async Task RunAsync_Parameters_AreInjectedAndReplacedOnTheNextRun()
    {
        using TempFolder folder = new();
        string input = folder.Notebook(Declarations, "FormattableString.Invariant($\"{steps} {rate} {name} {path} {fast} {scale}\")");
        string output = folder["out.ipynb"];
        Dictionary<string, object?> first = new()
        {
            ["steps"] = "20",
            ["rate"] = -0.5,
            ["name"] = "a \"b\"\\",
            ["path"] = "c:\\d",
            ["fast"] = true,
            ["scale"] = "1.5",
        };
        await NotebookRunner.RunAsync(input, output, first, cancellationToken: TestContext.Current.CancellationToken);
        var cells = Notebook.Load(output).Cells;
        Assert.Equal(3, cells.Count);
        Assert.Equal(["injected-parameters"], cells[1].Tags);
        Assert.Equal("20 -0.5 a \"b\"\\ c:\\d True 1.5", cells[2].Outputs.Single().Text("text/plain"));

        await NotebookRunner.RunAsync(
            output, output, new Dictionary<string, object?> { ["steps"] = 7 }, cancellationToken: TestContext.Current.CancellationToken);
        cells = Notebook.Load(output).Cells;
        Assert.Equal(3, cells.Count);
        Assert.Equal("// Parameters\nsteps = 7;", cells[1].Source);
        Assert.Equal("7 0.001 a  False ", cells[2].Outputs.Single().Text("text/plain"));
    }

    [Theory]
    [InlineData("stps", "5", "does not declare 'stps'; it declares steps, rate")]
    [InlineData("steps", "1e3", "'steps' is declared as int; '1e3'")]
    [InlineData("steps", "99999999999", "declared as int")]
    [InlineData("rate", "fast", "declared as double")]
    [InlineData("fast", "yes", "declared as bool")]
    [InlineData("Fixed", "2", "const")]
    [InlineData("list", "2", "cannot be set from outside")]
    [InlineData("steps", null, "declared as int")]
    public async Task RunAsync_ParameterThatDoesNotFit_SaysWhy(string name, string? value, string message)
    {
        using TempFolder folder = new();
        string input = folder.Notebook(Declarations);
        var error = await Assert.ThrowsAsync<NotebookException>(() => NotebookRunner.RunAsync(
            input, folder["out.ipynb"], new Dictionary<string, object?> { [name] = value },
            cancellationToken: TestContext.Current.CancellationToken));

        Assert.Contains(message, error.Message, StringComparison.Ordinal);
        Assert.False(File.Exists(folder["out.ipynb"]));
    }

    [Fact]
    public void Inject_NoParametersCell_SaysSo()
    {
        var error = Assert.Throws<NotebookException>(
            () => NotebookParameters.Inject(new Notebook(), new Dictionary<string, object?> { ["a"] = 1 }));

        Assert.Contains("tagged 'parameters'", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task RunAsync_TimeLimit_InterruptsTheCellAndKeepsAValidFile()
    {
        using TempFolder folder = new();
        string input = folder.Notebook("1", "Console.Write(\"x\"); while (true) { }", "3");
        HandClock clock = new();
        ImmediateProgress<CellProgress> progress = new(report =>
        {
            if (report.Event == CellEvent.Output)
            {
                clock.Ring();
            }
        });
        var result = await NotebookRunner.RunAsync(
            input, folder["out.ipynb"], null, new RunLimits(TimeSpan.FromSeconds(2), null, clock), progress,
            TestContext.Current.CancellationToken);

        Assert.Equal((NotebookOutcome.TimedOut, 2), (result.Outcome, result.Executed));
        Assert.Contains("time limit of 00:00:02", result.FirstError!.Message, StringComparison.Ordinal);
        Assert.Equal("1", Notebook.Load(result.OutputPath).Cells[0].Outputs.Single().Text("text/plain"));
    }

    [Theory]
    [InlineData("p.WaitForExit();")]
    [InlineData("await p.WaitForExitAsync();")]
    [InlineData("")]
    public async Task RunAsync_ProcessesOfACell_EndWithTheRun(string wait)
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "Processes are found by /proc.");
        using TempFolder folder = new();
        string input = folder.Notebook(
            """
            using System.Diagnostics;
            var p = Process.Start("sleep", "600");
            Process.Start("sh", new[] { "-c", "setsid nohup sleep 600 >/dev/null 2>&1 & echo $! > grandchild" }).WaitForExit();
            Console.Write(p.Id);
            """,
            "Console.Write(\"x\");\n" + wait);
        HandClock clock = new();
        var started = 0;
        ImmediateProgress<CellProgress> progress = new(report =>
        {
            if (report.Event == CellEvent.Output)
            {
                started = report.Index == 1 ? int.Parse(report.Text!, System.Globalization.CultureInfo.InvariantCulture) : started;
                if (report.Index == 2 && wait.Length > 0)
                {
                    clock.Ring();
                }
            }
        });
        var result = await NotebookRunner.RunAsync(
            input, folder["out.ipynb"], null, new RunLimits(TimeSpan.FromSeconds(2), null, clock), progress,
            TestContext.Current.CancellationToken);

        Assert.Equal(wait.Length > 0 ? NotebookOutcome.TimedOut : NotebookOutcome.Succeeded, result.Outcome);
        Assert.True(started > 0);
        Assert.False(NotebookFolders.IsRunning($"{started}"));
        Assert.False(NotebookFolders.IsRunning(File.ReadAllText(folder["grandchild"])));
        Assert.Null(Environment.GetEnvironmentVariable(CellProcesses.Variable));
    }

    /// <summary>A clock whose timers go off by hand.</summary>
    private sealed class HandClock : TimeProvider
    {
        private Action? _ring;

        public void Ring() => Task.Run(_ring!);

        public override ITimer CreateTimer(TimerCallback callback, object? state, TimeSpan dueTime, TimeSpan period)
        {
            _ring = () => callback(state);
            return new Timer(_ => { });
        }
    }

    [Fact]
    public async Task RunAsync_Cancelled_ThrowsAfterWritingAValidFile()
    {
        using TempFolder folder = new();
        string input = folder.Notebook("Console.WriteLine(\"going\"); while (true) { }");
        using CancellationTokenSource cancellation = new();
        long start = 0;
        ImmediateProgress<CellProgress> progress = new(report =>
        {
            if (report.Event == CellEvent.Output)
            {
                Assert.Equal("going\n", report.Text);
                start = Stopwatch.GetTimestamp();
                cancellation.CancelAfter(50);
            }
        });
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() =>
            NotebookRunner.RunAsync(input, folder["out.ipynb"], progress: progress, cancellationToken: cancellation.Token));

        Assert.InRange(Stopwatch.GetElapsedTime(start).TotalSeconds, 0, 20);
        Assert.Equal(["stream", "error"], Notebook.Load(folder["out.ipynb"]).Cells[0].Outputs.Select(output => output.Type()));
    }

    [Fact]
    public async Task RunAsync_CellsOfSeveralLanguages_RunAsTheirMetadataSay()
    {
        using TempFolder folder = new();
        Notebook notebook = new();
        foreach (var (text, language) in new[] { ("int n = 20;", "csharp"),
            ("#!share --from csharp n\nlet m = n + 1", "fsharp"), ("<i>x</i>", "html") })
        {
            NotebookCell cell = new(CellKind.Code, text);
            cell.Metadata["polyglot_notebook"] = new System.Text.Json.Nodes.JsonObject { ["kernelName"] = language };
            notebook.Cells.Add(cell);
        }

        notebook.Cells.Add(new NotebookCell(CellKind.Code, "#!share --from fsharp m\n2 * m"));
        notebook.Save(folder["in.ipynb"]);
        var result = await NotebookRunner.RunAsync(
            folder["in.ipynb"], folder["out.ipynb"], cancellationToken: TestContext.Current.CancellationToken);

        Assert.Equal(NotebookOutcome.Succeeded, result.Outcome);
        var cells = Notebook.Load(folder["out.ipynb"]).Cells;
        Assert.Equal("<i>x</i>", cells[2].Outputs.Single().Text("text/html"));
        Assert.Equal("42", cells[3].Outputs.Single().Text("text/plain"));
    }

    [Fact]
    public async Task RunAsync_NotebookWithTimes_TellsItsShareByThem()
    {
        using TempFolder folder = new();
        string input = folder.Notebook("1", "2", "3");
        var notebook = Notebook.Load(input);
        foreach (var (cell, seconds) in notebook.Cells.Zip([1, 7, 2]))
        {
            cell.Metadata["execution"] = new System.Text.Json.Nodes.JsonObject
            {
                ["iopub.execute_input"] = "2026-01-02T03:04:10.000000Z",
                ["shell.execute_reply"] = $"2026-01-02T03:04:1{seconds}.000000Z",
            };
        }

        notebook.Save(input);
        List<CellProgress> started = [];
        ImmediateProgress<CellProgress> progress = new(report =>
        {
            if (report.Event == CellEvent.Started)
            {
                started.Add(report);
            }
        });
        await NotebookRunner.RunAsync(
            input, folder["out.ipynb"], progress: progress, cancellationToken: TestContext.Current.CancellationToken);

        Assert.Equal([(0, 0.1, 1.0), (0.1, 0.7, 7.0), (0.8, 0.2, 2.0)], started.Select(
            p => (Math.Round(p.Share, 6), Math.Round(p.Weight, 6), p.UsualSeconds!.Value)));
    }

    [Fact]
    public async Task RunAsync_TrainingInACell_IsToldAndShownInOnePanel()
    {
        using TempFolder folder = new();
        string input = folder.Notebook(
            """
            using XlstmLab.Training;
            foreach (int steps in new[] { 2000, 1000 })
            {
                using var training = TrainingWatch.Current.Begin(new TrainingConfig { Steps = steps }, TorchSharp.torch.CPU);
                var metrics = new TrainingMetrics
                {
                    Step = 500, Tokens = 1, Loss = 2.5, LearningRate = 1, GradientNorm = 1, ClippedShare = 0, BatchSize = 1, TokensPerSecond = 3456, Seconds = 100,
                };
                training.Report(metrics);
                training.Report(metrics with { Step = 1000, Seconds = 200, Loss = 2.25, ValidationLoss = 2.375, ValidationBitsPerByte = 3.4264 });
            }
            """);
        List<string?> told = [];
        ImmediateProgress<CellProgress> progress = new(report => told.AddRange(report.Event == CellEvent.Status ? [report.Text] : []));
        var result = await NotebookRunner.RunAsync(
            input, folder["out.ipynb"], progress: progress, cancellationToken: TestContext.Current.CancellationToken);

        Assert.Equal("step 500 of 2,000, loss 2.500, 3,456 tokens/s, 5 min of training left", told[0]);
        Assert.Equal("step 1,000 of 1,000, loss 2.250, 3,456 tokens/s, 0 s of training left", told[^1]);
        var output = Assert.Single(Notebook.Load(result.OutputPath).Cells[0].Outputs);
        Assert.Equal(
            "stopped after step 1,000 of 2,000: loss 2.250, validation 2.375 (3.426 bits per byte), 3:20 of training\n"
            + "step 1,000 of 1,000: loss 2.250, validation 2.375 (3.426 bits per byte), 3:20 of training",
            output.Text("text/plain"));
        Assert.Contains("3,456 tokens/s", output.Text("image/svg+xml"), StringComparison.Ordinal);
    }

    [Fact]
    public async Task RunAsync_CellBeyondItsTime_IsInterrupted()
    {
        using TempFolder folder = new();
        string input = folder.Notebook("Console.Write(\"x\"); while (true) { }", "2");
        HandClock clock = new();
        ImmediateProgress<CellProgress> progress = new(report =>
        {
            if (report.Event == CellEvent.Output)
            {
                clock.Ring();
            }
        });
        var result = await NotebookRunner.RunAsync(
            input, folder["out.ipynb"], null, new RunLimits(null, TimeSpan.FromSeconds(3), clock), progress,
            TestContext.Current.CancellationToken);

        Assert.Equal((NotebookOutcome.TimedOut, 1), (result.Outcome, result.Executed));
        Assert.Contains("The cell reached its time limit of 00:00:03", result.FirstError!.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(
        "let steps = 10\nlet rate = 1e-3 // per step\nlet name : string = \"a\"\nlet mutable fast = false\nlet scale: float32 = 1.0f",
        "let steps = 7\nlet rate = 2.0\nlet name = \"b \\\"c\\\"\"\nlet fast = true\nlet scale = 0.5f")]
    public void Inject_FSharpParameters_AreDeclaredAnew(string declared, string injected)
    {
        Notebook notebook = new();
        notebook.Metadata["kernelspec"] = new System.Text.Json.Nodes.JsonObject
        {
            ["name"] = ".net-fsharp",
            ["language"] = "F#",
            ["display_name"] = "F#",
        };
        NotebookCell cell = new(CellKind.Code, declared);
        cell.Metadata["tags"] = new System.Text.Json.Nodes.JsonArray("parameters");
        notebook.Cells.Add(cell);
        NotebookParameters.Inject(
            notebook, new Dictionary<string, object?>
            {
                ["steps"] = "7",
                ["rate"] = "2",
                ["name"] = "b \"c\"",
                ["fast"] = "true",
                ["scale"] = "0.5",
            });

        Assert.Equal("// Parameters\n" + injected, notebook.Cells[1].Source);
        Assert.Contains(
            "declared as int; 'x'",
            Assert.Throws<NotebookException>(() =>
                NotebookParameters.Inject(notebook, new Dictionary<string, object?> { ["steps"] = "x" })).Message,
            StringComparison.Ordinal);
    }

    [Fact]
    public async Task RunAsync_ValueReplacedByALaterCell_IsReplacedInTheFile()
    {
        using TempFolder folder = new();
        string input = folder.Notebook("var shown = display(1);", "shown.Update(HTML(\"<b>two</b>\"));", "3");
        await NotebookRunner.RunAsync(input, folder["out.ipynb"], cancellationToken: TestContext.Current.CancellationToken);
        var cells = Notebook.Load(folder["out.ipynb"]).Cells;

        Assert.Equal("<b>two</b>", cells[0].Outputs.Single().Text("text/html"));
        Assert.Empty(cells[1].Outputs);
        Assert.Equal("3", cells[2].Outputs.Single().Text("text/plain"));
    }

    [Theory]
    [InlineData(
        """{"kernelspec":{"display_name":"Python 3","language":"python","name":"python3"},"language_info":{"name":"python"}}""",
        "{}", "print(1)", "'python'")]
    [InlineData("""{"kernelspec":{"display_name":"Python 3","name":"python3"}}""", "{}", "print(1)", "'python3'")]
    [InlineData("""{"kernelspec":{"display_name":"Python 3.11"}}""", "{}", "print(1)", "'Python 3.11'")]
    [InlineData("""{"language_info":{"name":"R"}}""", "{}", "1", "'R'")]
    [InlineData(
        """{"kernelspec":{"display_name":".NET (C#)","language":"C#","name":".net-csharp"},"polyglot_notebook":{"kernelInfo":{"defaultKernelName":"pwsh"}}}""",
        "{}", "1", "'pwsh'")]
    [InlineData("{}", """{"dotnet_interactive":{"language":"pwsh"}}""", "1", "'pwsh'")]
    [InlineData("{}", """{"vscode":{"languageId":"python"}}""", "1", "'python'")]
    [InlineData("{}", "{}", "1\n#!sql\nselect 1", "'#!sql'")]
    public async Task RunAsync_NotebookOfAnotherLanguage_IsRefusedUntouched(string metadata, string cell, string source, string named)
    {
        using TempFolder folder = new();
        string text = $$"""
            {"cells":[{"cell_type":"code","id":"a","metadata":{},"source":"System.IO.File.WriteAllText(\"ran\", \"\")","outputs":[],"execution_count":null},
            {"cell_type":"code","id":"b","metadata":{{cell}},"source":{{System.Text.Json.JsonSerializer.Serialize(source)}},
            "outputs":[{"output_type":"stream","name":"stdout","text":"kept"}],"execution_count":4}],"metadata":{{metadata}},"nbformat":4,"nbformat_minor":5}
            """;
        File.WriteAllText(folder["in.ipynb"], text);
        var error = await Assert.ThrowsAsync<NotebookException>(() => NotebookRunner.RunAsync(
            folder["in.ipynb"], folder["in.ipynb"], new Dictionary<string, object?> { ["n"] = 1 },
            cancellationToken: TestContext.Current.CancellationToken));

        Assert.Contains(named, error.Message, StringComparison.Ordinal);
        Assert.Contains("C#", error.Message, StringComparison.Ordinal);
        Assert.Equal(text, File.ReadAllText(folder["in.ipynb"]));
        Assert.Equal(["in.ipynb"], Directory.EnumerateFileSystemEntries(folder.Path).Select(Path.GetFileName));
    }

    [Theory]
    [InlineData("{}", "{}")]
    [InlineData(
        """{"kernelspec":{"name":"csharp"},"language_info":{"name":"polyglot-notebook"}}""",
        """{"vscode":{"languageId":"polyglot-notebook"}}""")]
    [InlineData(
        """{"kernelspec":{"display_name":".NET (C#)","language":"c#","name":"mine"},"language_info":{"name":"C#"}}""",
        """{"dotnet_interactive":{"language":"csharp"}}""")]
    public async Task RunAsync_NotebookThatIsCSharpOrSaysNothing_Runs(string metadata, string cell)
    {
        using TempFolder folder = new();
        File.WriteAllText(
            folder["in.ipynb"],
            $$"""{"cells":[{"cell_type":"code","metadata":{{cell}},"source":"1 + 1"}],"metadata":{{metadata}},"nbformat":4,"nbformat_minor":4}""");
        var result = await NotebookRunner.RunAsync(
            folder["in.ipynb"], folder["in.ipynb"], cancellationToken: TestContext.Current.CancellationToken);

        Assert.Equal(NotebookOutcome.Succeeded, result.Outcome);
    }
}
