using System.Text.Json.Nodes;
using XlstmLab.Notebooks;
using XlstmLab.Tests.Notebooks;
using Xunit;

namespace XlstmLab.Tests.Cli;

/// <summary>The kernel as Jupyter's own clients see it.</summary>
[Collection(nameof(ProcessCollection))]
public sealed class JupyterTests : IDisposable
{
    private readonly JupyterPrograms _jupyter = new();

    private TempFolder Folder => _jupyter.Folder;

    public void Dispose() => _jupyter.Dispose();

    [Fact]
    public async Task Session_OfJupyterClient_IsAnswered()
    {
        await _jupyter.RequireAsync("jupyter_client");
        LongTests.Skip();
        await _jupyter.InstallAsync();
        var (code, output, error) = await _jupyter.RunAsync(
            JupyterPrograms.Python,
            Path.Combine(TestSetup.RepositoryRoot, "tests", "XlstmLab.Cli.Tests", "Notebooks", "jupyter_session.py"),
            "xlstm-csharp", Folder.Path);
        Assert.True(code == 0, error);
        var found = JsonNode.Parse(output)!;

        string Outputs(string name) => found[name]!["outputs"]!.ToJsonString(Plain);
        Assert.Equal("""[["execute_result",{"text/plain":"2"},null]]""", Outputs("value"));
        Assert.Equal(1, (int)found["value"]!["count"]!);
        Assert.Equal("""[["stream","out",null],["stream","err",null]]""", Outputs("streams"));
        var update = found["update"]!["outputs"]!.AsArray();
        Assert.Equal(["display_data", "update_display_data"], update.Select(o => (string)o![0]!));
        Assert.Equal((string)update[0]![2]!, (string)update[1]![2]!);
        Assert.Equal("<b>after</b>", (string)update[1]![1]!["text/html"]!);
        var chart = found["chart"]!["outputs"]![0]![1]!;
        Assert.Equal("scatter", (string)chart["application/vnd.plotly.v1+json"]!["data"]![0]!["type"]!);
        Assert.StartsWith("<svg", (string)chart["image/svg+xml"]!, StringComparison.Ordinal);
        Assert.Equal("error", (string)found["error"]!["status"]!);
        Assert.Equal("""[["error","broken",null]]""", Outputs("error"));
        Assert.Equal("""[["stream","5",null],["execute_result",{"text/plain":"10"},null]]""", Outputs("fsharp"));

        Assert.Equal(["Write", "WriteLine"], found["complete"]!["matches"]!.AsArray().Select(m => (string)m!));
        Assert.Equal((20, 23), ((int)found["complete"]!["cursor_start"]!, (int)found["complete"]!["cursor_end"]!));
        Assert.Contains("larger of two", (string)found["inspect"]!["data"]!["text/plain"]!, StringComparison.Ordinal);
        Assert.False((bool)found["nothing"]!["found"]!);
        Assert.Equal(["incomplete", "complete", "incomplete", "complete"], found["incomplete"]!.AsArray().Select(s => (string)s!));
        Assert.Equal("1 + 1", (string)found["history"]![0]![2]!);
        Assert.Equal("ok", (string)found["comms"]!["status"]!);
        Assert.Equal("C#", (string)found["info"]!);

        Assert.Contains("nobody is there to answer", Outputs("refused"), StringComparison.Ordinal);
        Assert.Equal(["name?", "secret?"], found["asked"]!.AsArray().Select(a => (string)a!["prompt"]!));
        Assert.Equal([false, true], found["asked"]!.AsArray().Select(a => (bool)a!["password"]!));
        Assert.Equal("Adax", (string)found["answered"]![0]![1]!["text/plain"]!);

        Assert.Contains("The cell was interrupted.", Outputs("loop"), StringComparison.Ordinal);
        Assert.Contains("The cell was interrupted.", Outputs("signal"), StringComparison.Ordinal);
        Assert.Equal("""[["execute_result",{"text/plain":"5"},null]]""", Outputs("after"));
        Assert.Equal(["error", "aborted", "aborted"], found["aborted"]!.AsArray().Select(s => (string)s!));
        Assert.Empty(found["silent"]!.AsArray());
        Assert.Equal("""[["execute_result",{"text/plain":"6"},null]]""", Outputs("unsigned"));
        Assert.Contains("'kept' does not exist", Outputs("restarted"), StringComparison.Ordinal);
        Assert.False((bool)found["child"]!);
    }

    [Fact]
    public async Task Nbconvert_NotebookOfBothLanguages_RunsUnderDotnetsNames()
    {
        await _jupyter.RequireAsync("nbconvert");
        LongTests.Skip();
        await _jupyter.InstallAsync();
        string input = Folder.Notebook(
            "int n = 20;\nvar shown = display(\"before\");",
            "shown.Update(\"after\");\nint more = 1;\n#!fsharp\n#!share --from csharp n\nlet m = n + 1",
            "#!share --from fsharp m\nConsole.Write(\"x\");\n2 * m");
        var (code, _, error) = await _jupyter.RunAsync(
            "jupyter", "nbconvert", "--to", "notebook", "--execute", input, "--output", "done.ipynb");

        Assert.True(code == 0, error);
        Assert.Equal("after", Notebook.Load(Folder["done.ipynb"]).Cells[0].Outputs.Single().Text("text/plain"));
        var outputs = Notebook.Load(Folder["done.ipynb"]).Cells[2].Outputs.ToArray();
        Assert.Equal("x", outputs[0].Text());
        Assert.Equal("42", outputs[1].Text("text/plain"));
        Assert.Equal(
            0,
            (await _jupyter.RunAsync(JupyterPrograms.Python, "-c", "import nbformat; "
                + $"nbformat.validate(nbformat.read('{Folder["done.ipynb"]}', 4))")).Code);
    }

    [Fact]
    public async Task Console_LinesOfAPerson_AreRun()
    {
        await _jupyter.RequireAsync("jupyter_console");
        LongTests.Skip();
        await _jupyter.InstallAsync();
        var (code, output, error) = await _jupyter.RunAsync(
            "/bin/sh", "-c", "printf '6 * 7\\nint kept = 5;\\nkept + 1\\n' | jupyter console --kernel xlstm-csharp --simple-prompt");

        Assert.True(code == 0, error);
        Assert.Contains("Out[1]: 42", output, StringComparison.Ordinal);
        Assert.Contains("Out[3]: 6", output, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Install_KernelsOfOthers_StayAsTheyAre()
    {
        Directory.CreateDirectory(Folder["kernels/.net-csharp"]);
        File.WriteAllText(Folder["kernels/.net-csharp/kernel.json"], "{}");
        var result = await CommandLine.RunAsync("notebook", "install", "--path", Folder["kernels"], "--dotnet-names");

        Assert.True(result.Code == 0, result.Error);
        Assert.Equal(
            ["xlstm-csharp", "xlstm-fsharp", ".net-fsharp"],
            result.Out.Split('\n', StringSplitOptions.RemoveEmptyEntries).Select(file => Path.GetFileName(file)));
        Assert.Equal("{}", File.ReadAllText(Folder["kernels/.net-csharp/kernel.json"]));
        var spec = JsonNode.Parse(File.ReadAllText(Folder["kernels/xlstm-fsharp/kernel.json"]))!;
        Assert.Equal(
            ["notebook", "kernel", "{connection_file}", "--language", "fsharp"],
            spec["argv"]!.AsArray().Select(a => (string)a!).TakeLast(5));
        Assert.Equal(("F#", "message"), ((string)spec["language"]!, (string)spec["interrupt_mode"]!));
    }

    private static readonly System.Text.Json.JsonSerializerOptions Plain =
        new() { Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping };
}
