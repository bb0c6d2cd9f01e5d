using System.Text.Json;
using XlstmLab.Notebooks;
using XlstmLab.Tests.Notebooks;
using Xunit;

namespace XlstmLab.Tests.Cli;

/// <summary>
/// The repository's notebooks, those that train with small parameters, by all that runs them: our runner, Jupyter with our kernel, and the
/// official tool.
/// </summary>
[Collection(nameof(ProcessCollection))]
public sealed class RepositoryNotebookTests : IDisposable
{
    private const string ToolVersion = "1.0.712001";

    private static readonly string[] All =
        [.. Directory.GetFiles(Path.Combine(TestSetup.RepositoryRoot, "notebooks"), "*.ipynb").Select(path => Path.GetFileName(path))
            .Order(StringComparer.Ordinal)];

    /// <summary>Those but the studies', which <see cref="StudyNotebookTests"/> has run.</summary>
    private static readonly string[] Names = [.. All.Where(name => name[0] is not ('1' or '2'))];

    private readonly JupyterPrograms _jupyter = new();

    private TempFolder Folder => _jupyter.Folder;

    public void Dispose() => _jupyter.Dispose();

    [Fact]
    public async Task Runner_AllInOneCommand_Succeed()
    {
        LongTests.Skip();
        Assert.NotEmpty(Names);
        string[] copies = [.. Names.Select(name => Copy(name, withValues: false))];
        var result = await CommandLine.RunAsync(
            ["notebook", "run", .. copies,
                "-f", Folder.Write("small.json", JsonSerializer.Serialize(SmallValues())), "-o", Folder["out/"]]);

        Assert.True(result.Code == 0, result.Error);
        Assert.All(Names, name => AssertWhole(Folder["out", name]));
    }

    [Fact]
    public async Task Nbconvert_OurKernel_RunsEach()
    {
        await _jupyter.RequireAsync("nbconvert");
        LongTests.Skip();
        await _jupyter.InstallAsync();
        File.CreateSymbolicLink(Folder["results"], Path.Combine(TestSetup.RepositoryRoot, "results"));
        string[] copies = [.. All.Select(name => Copy(name, withValues: true))];
        var result = await _jupyter.RunAsync(
            "jupyter", ["nbconvert", "--to", "notebook", "--execute", .. copies, "--output-dir", Folder["out"]]);

        Assert.True(result.Code == 0, result.Error);
        Assert.All(All, name => AssertWhole(Folder["out", name]));
        const string validate = "import nbformat, sys\nfor name in sys.argv[1:]: nbformat.validate(nbformat.read(name, 4))";
        var valid = await _jupyter.RunAsync(JupyterPrograms.Python, ["-c", validate, .. All.Select(name => Folder["out", name])]);
        Assert.True(valid.Code == 0, valid.Error);
    }

    [Fact]
    public async Task Nbconvert_OfficialToolsFSharp_FindsLibtorchForACellThatTouchesItFirst()
    {
        string program = await InstallToolAsync();
        Folder.Notebook(
            $"#r \"{Path.Combine(Path.GetDirectoryName(program)!, "TorchSharp.dll")}\"\nopen TorchSharp\n(torch.arange 4L).sum().ToInt64()",
            "System.Environment.GetEnvironmentVariable \"DOTNET_STARTUP_HOOKS\" |> isNull");
        var result = await _jupyter.RunAsync(
            "jupyter", "nbconvert", "--to", "notebook", "--execute", Folder["in.ipynb"], "--output-dir", Folder["out"],
            "--ExecutePreprocessor.kernel_name=xlstm-tool-fsharp");

        Assert.True(result.Code == 0, result.Error);
        var cells = Notebook.Load(Folder["out", "in.ipynb"]).CodeCells.ToArray();
        Assert.Contains("6", Result(cells[0]), StringComparison.Ordinal);
        Assert.Contains("true", Result(cells[1]), StringComparison.OrdinalIgnoreCase);

        // The tool's first output is a script of its own.
        static string Result(NotebookCell cell) => cell.Outputs.Last()!["data"]!.ToJsonString();
    }

    [Fact]
    public async Task Nbconvert_OfficialTool_RunsTheFirst()
    {
        await InstallToolAsync();
        string first = Names.Single(name => name.StartsWith("01-", StringComparison.Ordinal));
        File.CreateSymbolicLink(Folder["artifacts"], Path.Combine(TestSetup.RepositoryRoot, "artifacts"));
        var result = await _jupyter.RunAsync(
            "jupyter", "nbconvert", "--to", "notebook", "--execute", Copy(first, withValues: true), "--output-dir", Folder["out"],
            "--ExecutePreprocessor.kernel_name=xlstm-tool-csharp");

        Assert.True(result.Code == 0, result.Error);
        Assert.InRange(new FileInfo(Folder["out", first]).Length, 10_000, 1_000_000);
        var cells = Notebook.Load(Folder["out", first]).CodeCells.ToArray();
        Assert.All(cells, cell => Assert.DoesNotContain("error", cell.Outputs.Select(output => output.Type())));
        Assert.Contains(
            cells.SelectMany(cell => cell.Outputs),
            output => output!["data"]?["text/html"] is not null
                && output.Text("text/html").Contains("\"type\":\"violin\"", StringComparison.Ordinal));
    }

    /// <summary>Installs the kernels of the unaltered tool with the libraries of this build, and tells of its program.</summary>
    private async Task<string> InstallToolAsync()
    {
        await _jupyter.RequireAsync("nbconvert");
        LongTests.Skip();

        // Notebooks refer to this build.
        string program = Path.Combine(TestSetup.RepositoryRoot, "artifacts", "bin", "XlstmLab.Cli", "release", "xlstm.dll");
        Assert.SkipUnless(File.Exists(program), $"There is no {program}: build with -c Release.");
        string tool = await OfficialToolAsync();
        var install = await _jupyter.RunAsync(
            "dotnet", program, "notebook", "install", "--path", Folder["jupyter/kernels"], "--official-tool", tool);
        Assert.True(install.Code == 0, install.Error);
        return program;
    }

    /// <summary>The unaltered tool, which is kept beside the build; skips the test where no package source has it.</summary>
    private async Task<string> OfficialToolAsync()
    {
        string folder = Path.Combine(TestSetup.RepositoryRoot, "artifacts", "dotnet-interactive", ToolVersion);
        string package = Path.Combine(folder, ".store", "microsoft.dotnet-interactive", ToolVersion);
        if (!Directory.Exists(package))
        {
            var result = await _jupyter.RunAsync(
                "dotnet", "tool", "install", "--tool-path", folder, "Microsoft.dotnet-interactive", "--version", ToolVersion);
            Assert.SkipUnless(
                result.Code == 0,
                $"The tool Microsoft.dotnet-interactive {ToolVersion} cannot be restored: "
                + $"{result.Error.Trim().Split('\n')[0]}");
        }

        return Directory.EnumerateFiles(package, "Microsoft.DotNet.Interactive.App.dll", SearchOption.AllDirectories).First();
    }

    /// <summary>A copy of a notebook without outputs, one folder below what it writes to.</summary>
    private string Copy(string name, bool withValues)
    {
        var notebook = Notebook.Load(Path.Combine(TestSetup.RepositoryRoot, "notebooks", name));
        foreach (var cell in notebook.CodeCells)
        {
            cell.ClearOutputs();
        }

        if (withValues)
        {
            var declared = NotebookParameters.Names(notebook);
            NotebookParameters.Inject(notebook, SmallValues().Where(value => declared.Contains(value.Key)).ToDictionary());
        }

        Directory.CreateDirectory(Folder["notebooks"]);
        notebook.Save(Folder["notebooks", name]);
        return Folder["notebooks", name];
    }

    /// <summary>Values with which a notebook takes seconds: a text of its own, few steps, short contexts.</summary>
    private Dictionary<string, object?> SmallValues()
    {
        string[] words =
            [.. "the of and to in that people states government for be it shall all united congress by with as our".Split(' ')];
        Random random = new(1);
        for (int document = 0; document < 4; document++)
        {
            Folder.Write($"texts/{document}.txt", string.Join(
                ' ', Enumerable.Range(0, 300).Select(_ => $"The {string.Join(' ', random.GetItems(words, 12))}.")));
        }

        return new()
        {
            ["dataset"] = Folder["texts"],
            ["steps"] = 5,
            ["ablationSteps"] = 3,
            ["batchSize"] = 2,
            ["contextLength"] = 96,
            ["textLength"] = 300,
            ["measured"] = Path.Combine(TestSetup.RepositoryRoot, "results", "bench", "inference.csv"),
            ["publishedFile"] = Path.Combine(TestSetup.RepositoryRoot, "results", "published", "inference.csv"),
        };
    }

    private static void AssertWhole(string path)
    {
        var cells = Notebook.Load(path).CodeCells.ToArray();
        Assert.All(cells, cell => Assert.NotNull(cell.ExecutionCount));
        Assert.All(cells, cell => Assert.DoesNotContain("error", cell.Outputs.Select(output => output.Type())));
        Assert.Contains(cells.SelectMany(cell => cell.Outputs), output => output!["data"]?[ChartHtml.FigureType] is not null);
    }
}
