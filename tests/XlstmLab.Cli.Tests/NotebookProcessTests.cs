using System.Diagnostics;
using XlstmLab.Notebooks;
using XlstmLab.Tests.Notebooks;
using Xunit;

namespace XlstmLab.Tests.Cli;

/// <summary>Notebooks that the command line runs in a process of their own.</summary>
[Collection(nameof(ProcessCollection))]
public sealed class NotebookProcessTests
{
    [Theory]
    [InlineData("Environment.Exit(0);", "exit code 0")]
    [InlineData("[System.Runtime.InteropServices.DllImport(\"libc\")] static extern void _exit(int code);\n_exit(0);", "exit code 0")]
    [InlineData("Environment.FailFast(\"broken\");", "SIGABRT")]
    [InlineData("int Deep(int n) => Deep(n + 1) + 1;\nDeep(0)", "SIGABRT")]
    [InlineData("System.Diagnostics.Process.GetCurrentProcess().Kill();", "SIGKILL")]
    [InlineData(
        "new System.Threading.Thread(() => throw new Exception(\"elsewhere\")).Start(); System.Threading.Thread.Sleep(20_000);", "SIGABRT")]
    public async Task Run_CellThatEndsTheProcess_FailsAndKeepsTheOutputs(string source, string how)
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "Exit codes of signals are Linux's.");
        LongTests.SkipUnless(source.StartsWith("Environment.FailFast", StringComparison.Ordinal));
        using TempFolder folder = new();
        string input = folder.Notebook("Console.WriteLine(\"first\");", "Console.WriteLine(\"before\");\n" + source, "3");
        var result = await CommandLine.RunAsync("notebook", "run", input, "--json");

        Assert.Equal((1, "failed"), (result.Code, result.Json["outcome"]!.GetValue<string>()));
        Assert.Contains("error: cell 2:", result.Error, StringComparison.Ordinal);
        Assert.Contains(how, result.Error, StringComparison.Ordinal);
        var cells = Notebook.Load(input).Cells;
        Assert.Equal("first\n", cells[0].Outputs.Single().Text());
        Assert.Equal(["stream", "error"], cells[1].Outputs.Select(output => output.Type()));
        Assert.Equal("before\n", cells[1].Outputs.First().Text());
        Assert.Contains(how, (string)cells[1].Outputs.Last()["evalue"]!, StringComparison.Ordinal);
        Assert.Empty(cells[2].Outputs);
        Assert.Equal(["in.ipynb"], Directory.EnumerateFileSystemEntries(folder.Path).Select(Path.GetFileName));
    }

    [Fact]
    public async Task Run_ProcessesOfADeadCell_End()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "Processes are found by /proc.");
        using TempFolder folder = new();
        string input = folder.Notebook(
            "System.IO.File.WriteAllText(\"id\", $\"{System.Diagnostics.Process.Start(\"sleep\", \"600\").Id}\"); "
            + "Environment.FailFast(\"x\");");
        await CommandLine.RunAsync("notebook", "run", input);

        Assert.False(NotebookFolders.IsRunning(File.ReadAllText(folder["id"])));
    }

    [Fact]
    public async Task Run_FSharpCellThatTouchesTorchSharpFirst_FindsLibtorch()
    {
        using TempFolder folder = new();
        string input = folder.Notebook("#!fsharp\nopen TorchSharp\n(torch.arange 4L).sum().ToInt64()");
        var result = await CommandLine.RunAsync("notebook", "run", input);

        Assert.True(result.Code == 0, result.Error);
        Assert.Equal("6", Notebook.Load(input).CodeCells.Single().Outputs.Single().Text("text/plain"));
    }

    [Fact]
    public async Task Run_LongCell_PassesItsOutputOnAndTellsWhereItIs()
    {
        using TempFolder folder = new();
        string input = folder.Notebook(
            "Console.WriteLine(\"step 1\"); Console.Error.Write(\"\\e[31m10 %\\r20 %\"); Console.WriteLine(\"going\"); "
            + "System.Threading.Thread.Sleep(12_500);",
            "throw new Exception(\"bad\");");
        var result = await CommandLine.RunAsync("notebook", "run", input);

        Assert.Equal(1, result.Code);
        int output = result.Error.IndexOf("step 1\n", StringComparison.Ordinal);
        Assert.True(output >= 0, result.Error);
        Assert.Matches(@"%[ ]in\.ipynb: cell 1 of 2, [\d.:]+( s)?: going", result.Error[output..]);
        Assert.Contains("20 %", result.Error, StringComparison.Ordinal);
        Assert.DoesNotContain('\e', result.Error);
        Assert.Contains("error: cell 2, line 1: bad", result.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Run_CellThatCannotBeStopped_EndsAtTheTimeLimit()
    {
        LongTests.Skip();
        using TempFolder folder = new();
        string input = folder.Notebook("System.Threading.Thread.Sleep(-1);");
        long start = Stopwatch.GetTimestamp();
        var result = await CommandLine.RunAsync("notebook", "run", input, "--timeout", "3", "--json");

        Assert.Equal((1, "timed_out"), (result.Code, result.Json["outcome"]!.GetValue<string>()));
        Assert.InRange(Stopwatch.GetElapsedTime(start).TotalSeconds, 0, 60);
        Assert.Contains("time limit", result.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Run_Cancelled_SavesAndLeavesNoProcess()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "Processes are found by /proc.");
        using TempFolder folder = new();
        string input = folder.Notebook(
            "System.IO.File.WriteAllText(\"id\", $\"{Environment.ProcessId}\"); Console.Write(\"x\"); while (true) { }");
        using CancellationTokenSource cancellation = new();
        var run = CommandLine.RunAsync(cancellation.Token, "notebook", "run", input);
        while (!run.IsCompleted && !(File.Exists(folder["id"]) && File.ReadAllText(folder["id"]).Length > 0))
        {
            await Task.Delay(50, TestContext.Current.CancellationToken);
        }

        await cancellation.CancelAsync();
        Assert.Equal(130, (await run).Code);
        Assert.False(NotebookFolders.IsRunning(File.ReadAllText(folder["id"])));
        Assert.Equal("error", Notebook.Load(input).Cells[0].Outputs.Last().Type());
    }

    [Fact]
    public async Task Run_WithAPlugin_CellsHaveItsMixersByNameAndByType()
    {
        using TempFolder folder = new();
        string input = folder.Notebook(
            "using XlstmLab.Models;\nusing XlstmLab.Tests.Mixers;\n"
            + "var byName = new XlstmConfig { EmbeddingDim = 16, BlockCount = 1, HeadCount = 2, VocabularySize = 8, "
            + "Mixers = \"moving_average\" };\nConsole.Write(byName == byName with { Mixers = new MovingAverageMixerConfig() });");
        var result = await CommandLine.RunAsync("notebook", "run", input, "--plugin", typeof(NotebookProcessTests).Assembly.Location);

        Assert.True(result.Code == 0, result.Error);
        Assert.Equal("True", Notebook.Load(input).Cells[0].Outputs.Single().Text());
    }

    [Fact]
    public async Task Run_NotebookOfAnotherKernel_SaysSoAndLeavesTheFile()
    {
        using TempFolder folder = new();
        const string python =
            """{"cells":[{"cell_type":"code","id":"a","metadata":{},"source":"print(1)","outputs":[],"execution_count":null}],"metadata":{"kernelspec":{"name":"python3","language":"python"}},"nbformat":4,"nbformat_minor":5}""";
        File.WriteAllText(folder["p.ipynb"], python);
        var result = await CommandLine.RunAsync("notebook", "run", folder["p.ipynb"], "--html", folder["p.html"]);

        Assert.Equal(1, result.Code);
        Assert.Contains("'python'", result.Error, StringComparison.Ordinal);
        Assert.Equal(python, File.ReadAllText(folder["p.ipynb"]));
        Assert.False(File.Exists(folder["p.html"]));
    }

    [Fact]
    public async Task Run_SeveralNotebooks_TakeTheParametersThatTheyDeclare()
    {
        using TempFolder folder = new();
        folder.Notebook("[parameters]int stepCount = 1; string name = \"\";", "$\"{stepCount} {name}\"");
        File.Move(folder["in.ipynb"], folder["first.ipynb"]);
        folder.Notebook("[parameters]#!fsharp\nlet stepCount = 1\nlet rate = 0.5", "#!fsharp\n$\"{stepCount} {rate}\"");
        File.Move(folder["in.ipynb"], folder["second.ipynb"]);
        File.WriteAllText(folder["values.yaml"], "# values\nstepCount: 7  # few\nname: 'it''s # 1'\n");
        string[] run = ["notebook", "run", folder["first.ipynb"], folder["second.ipynb"], "-f", folder["values.yaml"],
            "-o", folder["out"], "--html", folder["pages/"]];
        var result = await CommandLine.RunAsync([.. run, "-p", "rate=2"]);

        Assert.True(result.Code == 0, result.Error);
        Assert.Equal("7 it's # 1", Notebook.Load(folder["out/first.ipynb"]).Cells[2].Outputs.Single().Text("text/plain"));
        Assert.Equal("7 2", Notebook.Load(folder["out/second.ipynb"]).Cells[2].Outputs.Single().Text("text/plain"));
        Assert.True(File.Exists(folder["pages/first.html"]) && File.Exists(folder["pages/second.html"]));

        var refused = await CommandLine.RunAsync([.. run, "-p", "rat=2"]);
        Assert.Equal(2, refused.Code);
        Assert.Contains("'rat'; they declare stepCount, name, rate. Did you mean 'rate'?", refused.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Run_ThreadThatOutlivesItsCell_EndsWithTheRun()
    {
        using TempFolder folder = new();
        string input = folder.Notebook("new System.Threading.Thread(() => System.Threading.Thread.Sleep(-1)).Start();", "2");
        var result = await CommandLine.RunAsync("notebook", "run", input, "--json");

        Assert.Equal((0, "succeeded"), (result.Code, result.Json["outcome"]!.GetValue<string>()));
    }

    [Fact]
    public async Task Run_CellBeyondItsTime_EndsTheRunAndKeepsTheOthers()
    {
        // The first cell, which the compiler is loaded for, has to be within its time beside other work.
        LongTests.Skip();
        using TempFolder folder = new();
        string input = folder.Notebook("1", "#!csharp\nConsole.Write(\"x\"); while (true) { }", "3");
        var result = await CommandLine.RunAsync("notebook", "run", input, "--cell-timeout", "15", "--json");

        Assert.Equal((1, "timed_out"), (result.Code, result.Json["outcome"]!.GetValue<string>()));
        Assert.Contains("cell 2: The cell reached its time limit of 00:00:15", result.Error, StringComparison.Ordinal);
        Assert.Equal(
            ["execute_result", "stream", "error"],
            Notebook.Load(input).Cells.SelectMany(cell => cell.Outputs).Select(output => output.Type()));
    }

    [Fact]
    public async Task Run_HugeLineOfTheProcessItself_IsCut()
    {
        using TempFolder folder = new();
        string input = folder.Notebook(
            "var output = Console.OpenStandardOutput();\nvar block = new byte[1 << 20];\nArray.Fill(block, (byte)'x');\n"
            + "for (int i = 0; i < 50; i++) output.Write(block);",
            "\"after\"");
        var result = await CommandLine.RunAsync("notebook", "run", input);

        Assert.True(result.Code == 0, result.Error);
        Assert.InRange(result.Error.Length, 1000, 10_000);
        Assert.Equal("after", Notebook.Load(input).Cells[1].Outputs.Single().Text("text/plain"));
    }

    [Fact]
    public async Task Run_FromACellAfterAFailure_GoesOnInTheStateThatWasKept()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "Processes are found by /proc.");
        using TempFolder folder = new();
        string input = folder.Notebook(
            "[parameters]int a = 2;", "Console.Write(Environment.ProcessId);", "throw new Exception(\"bad\");", "a + 1");
        var failed = await CommandLine.RunAsync("notebook", "run", input, "-p", "a=20", "--keep", "3");
        Assert.Equal(1, failed.Code);
        Assert.Contains("kept for 3 minutes", failed.Error, StringComparison.Ordinal);
        string process = Notebook.Load(input).Cells[2].Outputs.Single().Text();
        Assert.True(NotebookFolders.IsRunning(process));

        var refused = await CommandLine.RunAsync("notebook", "run", input, "--from", "5");
        Assert.Equal(1, refused.Code);
        Assert.Contains("cell 4 has not run to its end", refused.Error, StringComparison.Ordinal);

        Change("a = a / 0;");
        var again = await CommandLine.RunAsync("notebook", "run", input, "--from", "4");
        Assert.Contains("cell 4, line 1", again.Error, StringComparison.Ordinal);
        Assert.True(NotebookFolders.IsRunning(process));

        Change("a += 20;");
        var done = await CommandLine.RunAsync("notebook", "run", input, "--from", "4", "--json");
        Assert.True(done.Code == 0, done.Error);
        Assert.Equal(2, done.Json["executed"]!.GetValue<int>());
        var cells = Notebook.Load(input).Cells;
        Assert.Equal(process, cells[2].Outputs.Single().Text());
        Assert.Equal("41", cells[4].Outputs.Single().Text("text/plain"));

        var none = await CommandLine.RunAsync("notebook", "run", input, "--from", "4");
        Assert.Equal(1, none.Code);
        Assert.Contains("cells 1 to 3 must run again", none.Error, StringComparison.Ordinal);
        await EndsAsync(process);

        void Change(string source)
        {
            var notebook = Notebook.Load(input);
            notebook.Cells[3].Source = source;
            notebook.Save(input);
        }
    }

    [Theory]
    [InlineData("stop")]
    [InlineData("run")]
    public async Task Stop_OrAnotherRun_EndsTheProcessThatWasKept(string command)
    {
        LongTests.SkipUnless(command == "stop");
        Assert.SkipUnless(OperatingSystem.IsLinux(), "Processes are found by /proc.");
        using TempFolder folder = new();
        string input = folder.Notebook("Console.Write(Environment.ProcessId); throw new Exception(\"bad\");");
        await CommandLine.RunAsync("notebook", "run", input, "--keep", "3");
        string process = Notebook.Load(input).Cells[0].Outputs.First().Text();
        await CommandLine.RunAsync("notebook", command, input);
        await EndsAsync(process);

        Assert.Contains("No process has kept", (await CommandLine.RunAsync("notebook", "stop", input)).Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Run_KeptBeyondItsTime_Ends()
    {
        LongTests.Skip();
        Assert.SkipUnless(OperatingSystem.IsLinux(), "Processes are found by /proc.");
        using TempFolder folder = new();
        string input = folder.Notebook("Console.Write(Environment.ProcessId); throw new Exception(\"bad\");");
        await CommandLine.RunAsync("notebook", "run", input, "--keep", "0.001");
        await EndsAsync(Notebook.Load(input).Cells[0].Outputs.First().Text());
    }

    private static async Task EndsAsync(string process)
    {
        while (NotebookFolders.IsRunning(process))
        {
            await Task.Delay(50, TestContext.Current.CancellationToken);
        }
    }
}
