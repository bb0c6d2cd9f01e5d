using System.Text.RegularExpressions;
using Xunit;

namespace XlstmLab.Tests;

public sealed partial class LayeringTests
{
    /// <summary>The folders of the library, each of which may name those before it.</summary>
    private static readonly string[] Order =
    [
        "", "Native", "Operations", "Collectives", "Layers", "Mixers", "Models", "Checkpoints", "Text", "Tasks", "Inference", "Training",
        "Evaluation", "Analysis",
        "Runs", "Exports", "Experiments", "Visualization",
    ];

    /// <summary>The projects, each with those it may use: what is beside the library needs the library alone.</summary>
    private static readonly Dictionary<string, string[]> Projects = new()
    {
        ["XlstmLab"] = [],
        ["XlstmLab.Benchmarks"] = ["XlstmLab"],
        ["XlstmLab.Corpora"] = ["XlstmLab"],
        ["XlstmLab.Notebooks"] = ["XlstmLab"],
        ["XlstmLab.Serving"] = ["XlstmLab"],
        ["XlstmLab.Cli"] = ["XlstmLab", "XlstmLab.Benchmarks", "XlstmLab.Corpora", "XlstmLab.Notebooks", "XlstmLab.Serving"],
    };

    [Fact]
    public void Projects_EveryOne_UsesOnlyThoseBelowIt()
    {
        var files = Directory.EnumerateFiles(Path.Combine(TestSetup.RepositoryRoot, "src"), "*.csproj", SearchOption.AllDirectories)
            .OrderBy(Path.GetFileNameWithoutExtension, StringComparer.Ordinal).ToArray();
        Assert.Equal(Projects.Keys.Order(StringComparer.Ordinal), files.Select(Path.GetFileNameWithoutExtension));
        Assert.All(files, file => Assert.Equal(
            Projects[Path.GetFileNameWithoutExtension(file)],
            Reference().Matches(File.ReadAllText(file)).Select(match => match.Groups[1].Value)));
    }

    [Fact]
    public void Sources_EveryFolder_NamesOnlyThoseBelowIt()
    {
        var root = Path.Combine(TestSetup.RepositoryRoot, "src", "XlstmLab");
        var upward = Directory.EnumerateFiles(root, "*.cs", SearchOption.AllDirectories)
            .Where(file => !file.Split(Path.DirectorySeparatorChar).Any(part => part is "bin" or "obj"))
            .SelectMany(file => Upward(Path.GetRelativePath(root, file), File.ReadAllText(file)))
            .Order(StringComparer.Ordinal);
        Assert.Empty(upward);
    }

    /// <summary>The test would find what it is for.</summary>
    [Theory]
    [InlineData("using XlstmLab.Models;", 1)]
    [InlineData("using static XlstmLab.Training.Trainer;", 1)]
    [InlineData("using M = XlstmLab.Models.LanguageModel;", 1)]
    [InlineData("using XlstmLab.Operations;\nusing XlstmLab.Native.Cuda;\nusing XlstmLab;", 0)]
    public void Upward_FileOfLayers_FindsWhatIsAbove(string usings, int expected) =>
        Assert.Equal(expected, Upward(Path.Combine("Layers", "A.cs"), usings + "\n\nnamespace XlstmLab.Layers;\n").Count());

    private static IEnumerable<string> Upward(string file, string source)
    {
        var own = Rank(
            file.Contains(Path.DirectorySeparatorChar, StringComparison.Ordinal) ? file.Split(Path.DirectorySeparatorChar)[0] : "");
        return Using().Matches(source).Select(match => match.Groups[1].Value).Where(name => Rank(name) > own)
            .Select(name => $"{file} names {name}");
    }

    private static int Rank(string folder)
    {
        var rank = Array.IndexOf(Order, folder);
        return rank >= 0 ? rank : throw new InvalidOperationException(
            $"{folder} has no place in the order of the library's folders: give it one.");
    }

    [GeneratedRegex("""<ProjectReference Include="[^"]*/([\w.]+)\.csproj" />""")]
    private static partial Regex Reference();

    [GeneratedRegex(@"^(?:global )?using (?:static )?(?:\w+ = )?XlstmLab\.?(\w*)", RegexOptions.Multiline)]
    private static partial Regex Using();
}
