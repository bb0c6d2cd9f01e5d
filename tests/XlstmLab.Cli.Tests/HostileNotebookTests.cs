using System.Diagnostics;
using System.Globalization;
using XlstmLab.Notebooks;
using XlstmLab.Tests.Notebooks;
using Xunit;

namespace XlstmLab.Tests.Cli;

/// <summary>Notebooks that want to break what runs them: the file stays whole, the run ends, and no process is left.</summary>
[Collection(nameof(ProcessCollection))]
public sealed class HostileNotebookTests
{
    private const string Child =
        "System.IO.File.WriteAllText(\"child\", $\"{System.Diagnostics.Process.Start(\"sleep\", \"600\").Id}\");\n";

    [Theory]
    [InlineData("", "not valid JSON")]
    [InlineData("{\"nbformat\":4,\"nbformat_minor\":5,\"metadata\":{},\"cells\":[{\"cell_type\":\"code\",\"sou", "not valid JSON")]
    [InlineData("\0\u0001PK", "not valid JSON")]
    [InlineData("[1]", "no JSON object")]
    [InlineData("{\"nbformat\":3,\"nbformat_minor\":0,\"metadata\":{},\"worksheets\":[]}", "format 3")]
    [InlineData("{\"nbformat\":99,\"nbformat_minor\":0,\"metadata\":{},\"cells\":[]}", "format 99")]
    [InlineData("{\"nbformat\":4,\"nbformat_minor\":5,\"metadata\":{},\"cells\":{}}", "no list 'cells'")]
    [InlineData("deep", "not valid JSON")]
    public async Task Run_FileThatIsNoNotebook_IsRefusedAndStaysAsItIs(string text, string message)
    {
        LongTests.SkipUnless(message == "no list 'cells'");
        using TempFolder folder = new();
        string file = folder.Write("broken.ipynb", text == "deep" ? new string('[', 200_000) : text);
        byte[] before = File.ReadAllBytes(file);
        var result = await CommandLine.RunAsync("notebook", "run", file, "--html", folder["page.html"]);

        Assert.Equal(1, result.Code);
        Assert.Contains(message, result.Error, StringComparison.Ordinal);
        Assert.Contains("broken.ipynb", result.Error, StringComparison.Ordinal);
        Assert.Equal(before, File.ReadAllBytes(file));
        Assert.Equal(["broken.ipynb"], folder.Entries);
    }

    [Fact]
    public async Task Run_FileThatIsNotThere_SaysSoAndMakesNone()
    {
        LongTests.Skip();
        using TempFolder folder = new();
        foreach (string path in new[] { folder["none.ipynb"], folder["no", "folder.ipynb"], folder.Path })
        {
            var result = await CommandLine.RunAsync("notebook", "run", path);

            Assert.NotEqual(0, result.Code);
            Assert.Contains(path, result.Error, StringComparison.Ordinal);
            Assert.Empty(folder.Entries);
        }
    }

    [Theory]
    [InlineData("#r \"nowhere.dll\"", "nowhere.dll")]
    [InlineData("#load \"nowhere.csx\"", "nowhere.csx")]
    [InlineData("#!import nowhere.dib", "nowhere.dib")]
    [InlineData("#!fsharp\n#r \"nowhere.dll\"", "nowhere.dll")]
    [InlineData("#!fsharp\n#load \"nowhere.fsx\"", "nowhere.fsx")]
    [InlineData("#!fsharp\nSystem.IO.File.ReadAllText \"nowhere.txt\"", "nowhere.txt")]
    public async Task Run_CellThatNamesNoFile_FailsByItsName(string source, string name)
    {
        LongTests.Skip();
        using TempFolder folder = new();
        string input = folder.Notebook("1", source, "3");
        var result = await CommandLine.RunAsync("notebook", "run", input);

        Assert.Equal(1, result.Code);
        Assert.Contains("error: cell 2", result.Error, StringComparison.Ordinal);
        Assert.Contains(name, result.Error, StringComparison.Ordinal);
        Assert.Equal("error", Notebook.Load(input).Cells[1].Outputs.Last().Type());
        Assert.Equal(["in.ipynb"], folder.Entries);
    }

    [Theory]
    [InlineData("#!fsharp\nexit 0")]
    [InlineData("#!fsharp\nlet rec deep n = 1 + deep (n + 1)\nprintfn \"%d\" (deep 0)")]
    [InlineData("#!fsharp\nSystem.Diagnostics.Process.GetCurrentProcess().Kill()")]
    [InlineData("unsafe { *(int*)8 = 1; }")]
    [InlineData("System.Runtime.InteropServices.Marshal.WriteInt32(8, 1);")]
    public async Task Run_CellThatBreaksItsProcess_FailsAndItsChildEnds(string source)
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "Processes are found by /proc.");
        LongTests.Skip();
        using TempFolder folder = new();
        string input = folder.Notebook(Child, source, "3");
        var result = await CommandLine.RunAsync("notebook", "run", input);

        Assert.Equal(1, result.Code);
        Assert.Contains("error: cell 2", result.Error, StringComparison.Ordinal);
        var cells = Notebook.Load(input).Cells;
        Assert.Equal("error", cells[1].Outputs.Last().Type());
        Assert.Empty(cells[2].Outputs);
        Assert.False(NotebookFolders.IsRunning(File.ReadAllText(folder["child"])));
        Assert.Equal(["child", "in.ipynb"], folder.Entries);
    }

    [Theory]
    [InlineData("while (true) { }", "--timeout")]
    [InlineData("#!fsharp\nwhile true do ()", "--timeout")]
    [InlineData("#!fsharp\nwhile true do ()", "--cell-timeout")]
    [InlineData("#!fsharp\nSystem.Threading.Thread.Sleep(-1)", "--cell-timeout")]
    [InlineData("while (true) { try { while (true) { } } finally { System.Threading.Thread.Sleep(-1); } }", "--cell-timeout")]
    [InlineData("new System.Threading.Thread(() => { while (true) { } }).Start();\nwhile (true) Console.WriteLine(\"x\");", "--timeout")]
    public async Task Run_EndlessLoop_EndsAtItsLimitWithAllProcesses(string source, string limit)
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "Processes are found by /proc.");
        LongTests.Skip();
        using TempFolder folder = new();
        string input = folder.Notebook(Child + "System.IO.File.WriteAllText(\"own\", $\"{Environment.ProcessId}\");", source, "3");
        var result = await CommandLine.RunAsync("notebook", "run", input, limit, "6", "--json");

        Assert.Equal((1, "timed_out"), (result.Code, result.Json["outcome"]!.GetValue<string>()));
        Assert.Equal("error", Notebook.Load(input).Cells[1].Outputs.Last().Type());
        Assert.False(NotebookFolders.IsRunning(File.ReadAllText(folder["own"])));
        Assert.False(NotebookFolders.IsRunning(File.ReadAllText(folder["child"])));
    }

    [Theory]
    [InlineData("for (int i = 0; i < 300_000; i++) Console.WriteLine(new string('x', 1000));")]
    [InlineData("#!fsharp\nfor i in 1 .. 300_000 do System.Console.WriteLine(String.replicate 100 \"0123456789\")")]
    [InlineData("for (int i = 0; i < 300; i++) display(new string('x', 1_000_000));")]
    [InlineData("for (int i = 0; i < 300; i++) HTML(new string('x', 1_000_000)).Display();")]
    [InlineData("for (int i = 0; i < 300_000; i++) Console.Error.Write(new string('\\0', 1000));")]
    public async Task Run_HugeOutput_IsCutWithLittleMemory(string source)
    {
        LongTests.Skip();
        using TempFolder folder = new();
        const string peak = "System.Diagnostics.Process.GetCurrentProcess().PeakWorkingSet64 >> 20";
        string input = folder.Notebook(peak, source, peak);
        var result = await CommandLine.RunAsync("notebook", "run", input);

        Assert.True(result.Code == 0, result.Error.Length > 2000 ? result.Error[^2000..] : result.Error);
        var cells = Notebook.Load(input).Cells;
        double MiB(int cell) => double.Parse(cells[cell].Outputs.Single().Text("text/plain"), CultureInfo.InvariantCulture);
        Assert.InRange(MiB(2) - MiB(0), 0, 500);
        Assert.Contains("left out", cells[1].Outputs.Last().Text(), StringComparison.Ordinal);
        Assert.InRange(new FileInfo(input).Length, 1_000_000, 60_000_000);
        Assert.InRange(result.Error.Length, 0, 20_000_000);
    }

    [Fact]
    public async Task Run_KilledItself_LeavesAWholeFileAndNoProcess()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "Processes are found by /proc.");
        LongTests.Skip();
        using TempFolder folder = new();
        string input = folder.Notebook(
            "1", Child + "System.IO.File.WriteAllText(\"own\", $\"{Environment.ProcessId}\");\nwhile (true) { }");
        using var run = Process.Start(new ProcessStartInfo(
            "dotnet", [typeof(XlstmLab.Cli.Program).Assembly.Location, "notebook", "run", input])
        {
            RedirectStandardError = true,
            RedirectStandardOutput = true,
        })!;
        run.BeginErrorReadLine();
        run.BeginOutputReadLine();
        await Browser.UntilAsync(
            () => Task.FromResult(File.Exists(folder["own"]) && File.ReadAllText(folder["own"]).Length > 0), 60, "the cell");
        run.Kill();

        await Browser.UntilAsync(
            () => Task.FromResult(!NotebookFolders.IsRunning(File.ReadAllText(folder["own"]))
                && !NotebookFolders.IsRunning(File.ReadAllText(folder["child"]))), 60, "the end");
        Assert.Equal("1", Notebook.Load(input).Cells[0].Outputs.Single().Text("text/plain"));
        Assert.Equal(["child", "in.ipynb", "own"], folder.Entries);
    }

    [Theory]
    [InlineData("Environment.Exit(0);")]
    [InlineData("Environment.FailFast(\"broken\");")]
    [InlineData("int Deep(int n) => Deep(n + 1) + 1;\nDeep(0)")]
    [InlineData("#!fsharp\nexit 0")]
    public void Kernel_CellThatEndsIt_LeavesNoProcess(string source)
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "Processes are found by /proc.");
        LongTests.SkipUnless(source.StartsWith("Environment.Exit", StringComparison.Ordinal));
        using TempFolder folder = new();
        using JupyterClient client = new();
        client.Run(Child.Replace("\"child\"", $"\"{folder["child"]}\"", StringComparison.Ordinal));
        Assert.True(NotebookFolders.IsRunning(File.ReadAllText(folder["child"])));
        client.Execute(source);

        Assert.True(client.Process.WaitForExit(60_000));
        AssertEnds(folder["child"]);
    }

    [Fact]
    public void Kernel_Killed_LeavesNoProcess()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "Processes are found by /proc.");
        LongTests.Skip();
        using TempFolder folder = new();
        using JupyterClient client = new();
        client.Run(Child.Replace("\"child\"", $"\"{folder["child"]}\"", StringComparison.Ordinal));
        string loop = client.Execute("Console.WriteLine(1); while (true) { }");
        client.WaitFor(loop, message => message.Type == "stream");
        client.Process.Kill();

        Assert.True(client.Process.WaitForExit(60_000));
        AssertEnds(folder["child"]);
    }

    [Fact]
    public void Kernel_HugeOutput_IsCutAndServesOn()
    {
        LongTests.Skip();
        using JupyterClient client = new();
        var answer = client.Run(
            "for (int i = 0; i < 50_000; i++) Console.WriteLine(new string('x', 1000));\n"
            + "for (int i = 0; i < 40; i++) display(new string('y', 1_000_000));");
        long text = answer.Published.Where(message => message.Type == "stream").Sum(
            message => (long)((string)message.Content["text"]!).Length);
        long values = answer.Published.Where(message => message.Type == "display_data").Sum(
            message => (long)message.Content.ToJsonString().Length);

        Assert.InRange(text, 1_000_000, 2_001_000);
        Assert.InRange(values, 10_000_000, 21_000_000);
        Assert.Contains(
            "is not shown",
            string.Concat(answer.Published.Where(message => message.Type == "stream").Select(message => (string)message.Content["text"]!)),
            StringComparison.Ordinal);
        Assert.Equal("2", (string?)client.Run("1 + 1").Content("execute_result")["data"]!["text/plain"]);
    }

    private static void AssertEnds(string file)
    {
        long start = Stopwatch.GetTimestamp();
        while (NotebookFolders.IsRunning(File.ReadAllText(file)))
        {
            Assert.True(Stopwatch.GetElapsedTime(start).TotalSeconds < 30, "The child of a cell goes on.");
            Thread.Sleep(50);
        }
    }
}
