using System.Text.Json.Nodes;
using XlstmLab.Notebooks.Jupyter;
using Xunit;

namespace XlstmLab.Tests.Notebooks;

[Collection(nameof(ProcessCollection))]
public sealed class KernelSpecsTests
{
    [Fact]
    public async Task Install_IntoAFolder_WritesBothKernelsAndReplacesThem()
    {
        using TempFolder folder = new();
        folder.Write("xlstm-csharp/kernel.json", "older");
        var result = await CommandLine.RunAsync(
            "notebook", "install", "--path", folder.Path, "--plugin", typeof(KernelSpecsTests).Assembly.Location);

        Assert.True(result.Code == 0, result.Error);
        Assert.Equal([folder["xlstm-csharp"], folder["xlstm-fsharp"]], result.Out.Split('\n', StringSplitOptions.RemoveEmptyEntries));
        foreach (var (language, name) in new[] { ("csharp", "C#"), ("fsharp", "F#") })
        {
            var kernel = Read(folder[$"xlstm-{language}", "kernel.json"]);
            string[] words = Words(kernel);
            Assert.All(words[..2], word => Assert.True(Path.IsPathRooted(word) && File.Exists(word), word));
            Assert.Equal(
                ["notebook", "kernel", "{connection_file}", "--language", language, "--plugin", typeof(KernelSpecsTests).Assembly.Location],
                words[2..]);
            Assert.Equal(
                (name, $"XlstmLab ({name})", "message"),
                ((string?)kernel["language"], (string?)kernel["display_name"], (string?)kernel["interrupt_mode"]));
        }
    }

    [Fact]
    public async Task Install_IntoAnInstallation_GoesToItsShare()
    {
        using TempFolder folder = new();
        var result = await CommandLine.RunAsync("notebook", "install", "--prefix", folder.Path);

        Assert.True(result.Code == 0, result.Error);
        Assert.True(File.Exists(folder["share", "jupyter", "kernels", "xlstm-fsharp", "kernel.json"]));
        Assert.Equal(2, (await CommandLine.RunAsync("notebook", "install", "--prefix", folder.Path, "--path", folder.Path)).Code);
    }

    [Fact]
    public async Task Install_WhereAFileIs_SaysWhatToDo()
    {
        using TempFolder folder = new();
        var result = await CommandLine.RunAsync("notebook", "install", "--path", folder.Write("taken", ""));

        Assert.Equal(1, result.Code);
        Assert.Contains("--path names another one", result.Error, StringComparison.Ordinal);
    }

    [Fact]
    public void UserFolder_FollowsJupytersVariables()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "Other systems have other places.");
        string? before = Environment.GetEnvironmentVariable("JUPYTER_DATA_DIR");
        try
        {
            Environment.SetEnvironmentVariable("JUPYTER_DATA_DIR", "/data");
            Assert.Equal("/data/kernels", KernelSpecs.UserFolder());
            Environment.SetEnvironmentVariable("JUPYTER_DATA_DIR", null);
            Assert.EndsWith("/jupyter/kernels", KernelSpecs.UserFolder(), StringComparison.Ordinal);
        }
        finally
        {
            Environment.SetEnvironmentVariable("JUPYTER_DATA_DIR", before);
        }
    }

    [Fact]
    public async Task Install_ForTheTool_GivesItTheLibrariesThatItLacks()
    {
        using TempFolder folder = new();
        string tool = folder.Write("tool/Microsoft.DotNet.Interactive.App.dll", "");
        folder.Write("tool/FSharp.Core.dll", "");
        folder.Write("tool/Deedle.dll", "");
        var result = await CommandLine.RunAsync("notebook", "install", "--path", folder["kernels"], "--official-tool", tool);

        Assert.True(result.Code == 0, result.Error);
        string[] words = Words(Read(folder["kernels", "xlstm-tool-fsharp", "kernel.json"]));
        string libraries = folder["kernels", "xlstm-tool-fsharp", "xlstm.deps.json"];
        Assert.Equal(
            ["exec", "--additional-deps", libraries, tool, "jupyter", "--default-kernel", "fsharp", "{connection_file}",
                "--http-local-only"], words[1..]);
        var variables = Read(folder["kernels", "xlstm-tool-csharp", "kernel.json"])["env"]!;
        Assert.Equal(
            ("1", "XlstmLab.Notebooks"),
            ((string?)variables["DOTNET_INTERACTIVE_CLI_TELEMETRY_OPTOUT"], (string?)variables["DOTNET_STARTUP_HOOKS"]));

        // The newer FSharp.Core replaces the tool's; what it has otherwise stays.
        var files = Read(libraries)["targets"]!.AsObject().Single().Value!.AsObject()
            .SelectMany(library => library.Value!["runtime"]!.AsObject()).ToDictionary(
                file => Path.GetFileName(file.Key), file => (string)file.Value!["localPath"]!);
        Assert.Contains("FSharp.Core.dll", files.Keys);
        Assert.Contains("XlstmLab.dll", files.Keys);
        Assert.DoesNotContain("Deedle.dll", files.Keys);
        Assert.All(files, file => Assert.True(File.Exists(Path.Combine(folder["tool"], file.Value)), file.Value));
    }

    [Fact]
    public async Task Install_WithoutTheTool_SaysWhereItComesFrom()
    {
        using TempFolder folder = new();
        var result = await CommandLine.RunAsync("notebook", "install", "--path", folder.Path, "--official-tool", folder["no.dll"]);

        Assert.Equal(1, result.Code);
        Assert.Contains($"There is no file {folder["no.dll"]}", result.Error, StringComparison.Ordinal);
        Assert.Empty(folder.Entries);
    }

    private static JsonNode Read(string path) => JsonNode.Parse(File.ReadAllText(path))!;

    private static string[] Words(JsonNode kernel) => [.. kernel["argv"]!.AsArray().Select(word => (string)word!)];
}
