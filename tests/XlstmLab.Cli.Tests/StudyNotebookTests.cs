using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using XlstmLab.Experiments;
using Xunit;

namespace XlstmLab.Tests.Cli;

/// <summary>The notebooks of the papers' claims: what is committed says what the committed rows say, and they run.</summary>
[Collection(nameof(ProcessCollection))]
public sealed partial class StudyNotebookTests
{
    private const int MostBytes = 500_000;

    private static readonly string Folder = Path.Combine(TestSetup.RepositoryRoot, "notebooks");

    public static TheoryData<string> Names =>
        [.. Directory.GetFiles(Folder, "*.ipynb").Select(path => Path.GetFileName(path)!).Where(name => name[0] is '1' or '2')];

    [Theory]
    [MemberData(nameof(Names))]
    public void Notebook_AsCommitted_SaysWhatTheRowsSay(string name)
    {
        var path = Path.Combine(Folder, name);
        Assert.InRange(new FileInfo(path).Length, 1, MostBytes);
        var notebook = JsonNode.Parse(File.ReadAllText(path))!.AsObject();
        AssertWhole(notebook, Studies(notebook));

        var last = Source(notebook["cells"]!.AsArray()[^1]!);
        Assert.Contains(
            $"xlstm study run {string.Join(' ', Studies(notebook).Select(study => $"results/studies/{study}"))} --device cuda",
            last, StringComparison.Ordinal);
    }

    /// <summary>Every study is in one of them, so that every claim of the report has its notebook.</summary>
    [Fact]
    public void Notebooks_Together_HaveAllStudies() => Assert.Equal(
        Directory.GetDirectories(Path.Combine(TestSetup.RepositoryRoot, "results", "studies")).Select(folder => Path.GetFileName(folder)!)
            .Order(StringComparer.Ordinal),
        Names.SelectMany(name => Studies(JsonNode.Parse(File.ReadAllText(Path.Combine(Folder, name.Data)))!.AsObject()))
            .Order(StringComparer.Ordinal));

    /// <summary>All cells of all of them, one after another in one process, from the stored rows.</summary>
    [Fact]
    public async Task Notebooks_InOneProcess_RunFromStoredRows()
    {
        LongTests.Skip();
        using var folder = CommandLine.Folder();
        JsonObject? all = null;
        foreach (var name in Names)
        {
            var notebook = JsonNode.Parse(File.ReadAllText(Path.Combine(Folder, name.Data)))!.AsObject();
            foreach (var cell in notebook["cells"]!.AsArray().OfType<JsonObject>().Where(cell => (string?)cell["cell_type"] == "code"))
            {
                (cell["outputs"], cell["execution_count"]) = (new JsonArray(), null);
            }

            if (all is null)
            {
                all = notebook;
                continue;
            }

            foreach (var cell in notebook["cells"]!.AsArray())
            {
                all["cells"]!.AsArray().Add(cell!.DeepClone());
            }
        }

        File.CreateSymbolicLink(folder["results"], Path.Combine(TestSetup.RepositoryRoot, "results"));
        var path = folder.Write("notebooks/all.ipynb", all!.ToJsonString());
        var result = await CommandLine.RunAsync("notebook", "run", path);
        Assert.True(result.Code == 0, result.Error);
        var done = JsonNode.Parse(await File.ReadAllTextAsync(path, TestContext.Current.CancellationToken))!.AsObject();
        AssertWhole(done, Studies(done));
    }

    [Fact]
    public async Task Report_AsCommitted_IsWhatTheRowsMake()
    {
        var result = await CommandLine.RunAsync(
            "study", "report", "--results", Path.Combine(TestSetup.RepositoryRoot, "results"), "--check");
        Assert.True(result.Code == 0, result.Error);
    }

    [Fact]
    public async Task Report_OfOtherRows_IsWrittenAnew()
    {
        using var folder = CommandLine.Folder();
        const string study =
            """{ "question": "Is more more?", "axes": { "beta1": [0.8, 0.9] }, "seeds": [1], "claims": [{ "text": "Yes", "source": "nowhere", "better": "beta1=0.9", "worse": "beta1=0.8" }] }""";
        folder.Write("results/studies/more/study.json", study);
        folder.Write("results/README.md", "# Mine\n<!-- studies -->\n<!-- /studies -->\n");
        Assert.Contains("LOG.md", (await Report()).Error, StringComparison.Ordinal);
        folder.Write("results/LOG.md", "<!-- studies -->\n<!-- /studies -->\n");
        var stale = await Report("--check");
        Assert.True(stale.Code == 1 && stale.Error.Contains("LOG.md, README.md", StringComparison.Ordinal), stale.Error);
        Assert.Equal(0, (await Report()).Code);
        Assert.Contains(
            "1 claim: 1 is not run yet. 0 of 2 runs",
            await File.ReadAllTextAsync(folder["results/README.md"], TestContext.Current.CancellationToken), StringComparison.Ordinal);
        Assert.Equal(0, (await Report("--check")).Code);

        Task<CommandResult> Report(params string[] more) => CommandLine.RunAsync(
            ["study", "report", "--results", folder["results"], .. more]);
    }

    private static void AssertWhole(JsonObject notebook, IReadOnlyList<string> studies)
    {
        JsonObject[] cells = [.. notebook["cells"]!.AsArray().OfType<JsonObject>().Where(cell => (string?)cell["cell_type"] == "code")];
        Assert.All(cells, cell => Assert.NotNull(cell["execution_count"]));
        JsonObject[] outputs = [.. cells.SelectMany(cell => cell["outputs"]!.AsArray()).OfType<JsonObject>()];
        Assert.DoesNotContain("error", outputs.Select(output => (string?)output["output_type"]));
        Assert.Contains(outputs, output => output["data"]?["application/vnd.plotly.v1+json"] is not null);
        var printed = string.Concat(
            outputs.Where(output => (string?)output["output_type"] == "stream").Select(output => Joined(output["text"]!)));
        Assert.NotEmpty(studies);
        Assert.All(studies, study => Assert.Contains(
            Study.ReadFile(Path.Combine(TestSetup.RepositoryRoot, "results", "studies", study)).Read().Conclusion(), printed,
            StringComparison.Ordinal));
    }

    /// <summary>The studies whose rows a notebook reads.</summary>
    private static string[] Studies(JsonObject notebook) =>
        [.. notebook["cells"]!.AsArray().SelectMany(cell => ReadStudy().Matches(Source(cell!)).Select(match => match.Groups[1].Value))];

    private static string Source(JsonNode cell) => Joined(cell["source"]!);

    private static string Joined(JsonNode text) =>
        text is JsonArray lines ? string.Concat(lines.Select(line => (string?)line)) : (string?)text ?? "";

    [GeneratedRegex("Study.ReadFile\\(\"../results/studies/([a-z0-9-]+)\"\\)")]
    private static partial Regex ReadStudy();
}
