using System.Collections.Concurrent;
using System.Diagnostics;
using System.Text.Json.Nodes;
using XlstmLab.Cli;
using Xunit;

namespace XlstmLab.Tests.Cli;

/// <summary>The program as users of other cultures start it, with the system's globalization and without.</summary>
[Collection(nameof(ProcessCollection))]
public sealed class CultureProcessTests
{
    private static readonly ConcurrentDictionary<string, Task<CommandResult>> Versions = new();

    private static readonly Lazy<Task<CommandResult>> InvariantModels = new(() => StartAsync("C", "1", ["models", "bytes"]));

    public static TheoryData<string, string> Cultures()
    {
        var data = new TheoryData<string, string>();
        foreach (var language in new[] { "de_DE", "tr_TR", "ar_SA", "fa_IR" })
        {
            data.Add(language, "0");
        }

        data.Add("de_DE", "1");
        return data;
    }

    [Theory]
    [MemberData(nameof(Cultures))]
    public async Task Train_NumbersOfTheCommandLine_AreThoseOfTheInvariantCulture(string language, string invariant)
    {
        await RequireAsync(language, invariant);
        using var temp = new TempFolder();
        var text = temp.Write("small.txt", string.Concat(Enumerable.Repeat("It is a truth universally acknowledged.\n", 40)));
        string[] train =
        [
            "train", "--preset", "bytes-1m", "--data", text, "--steps", "1", "--batch-size", "1", "--context", "32", "--validation-tokens",
            "64", "--threads", "1",
        ];
        var comma = await StartAsync(language, invariant, [.. train, "--out", temp["comma"], "--lr", "0,003"]);
        Assert.Equal(2, comma.Code);
        Assert.Contains("Did you mean 0.003?", comma.Error, StringComparison.Ordinal);
        Assert.False(Directory.Exists(temp["comma"]));

        var point = await StartAsync(
            language, invariant, [.. train, "--out", temp["point"], "--lr", "0.003", "--weight-decay", "0.25", "--clip", "0.5", "--json"]);
        Assert.True(point.Code == 0, point.Error);
        var training = JsonNode.Parse(File.ReadAllText(temp["point", "config.json"]))!["training"]!;
        Assert.Equal(
            (0.003, 0.25, 0.5),
            ((double)training["peak_learning_rate"]!, (double)training["weight_decay"]!,
                (double)training["gradient_clip"]!));
        Assert.True((double)point.Json["validation"]!["validation_loss"]! > 0);
    }

    [Theory]
    [MemberData(nameof(Cultures))]
    public async Task Models_Table_IsThatOfTheInvariantCulture(string language, string invariant)
    {
        await RequireAsync(language, invariant);
        var there = await StartAsync(language, invariant, ["models", "bytes"]);
        Assert.True(there.Code == 0, there.Error);
        Assert.Equal((await InvariantModels.Value).Out, there.Out);
    }

    private static async Task RequireAsync(string language, string invariant)
    {
        LongTests.SkipUnless(language == "de_DE" && invariant == "0");
        var version = await Versions.GetOrAdd(invariant, i => StartAsync("C", i, ["--version"]));
        Assert.SkipWhen(
            version.Code != 0 && version.Error.Contains("ICU", StringComparison.Ordinal),
            "This system has no ICU: .NET has no cultures here.");
        Assert.Equal(0, version.Code);
    }

    private static async Task<CommandResult> StartAsync(string language, string invariant, string[] args)
    {
        var start = new ProcessStartInfo("dotnet") { RedirectStandardOutput = true, RedirectStandardError = true };
        start.ArgumentList.Add(Path.ChangeExtension(typeof(Program).Assembly.Location, ".dll"));
        Array.ForEach(args, start.ArgumentList.Add);
        start.Environment["LC_ALL"] = start.Environment["LANG"] = language == "C" ? "C" : language + ".UTF-8";
        start.Environment["DOTNET_SYSTEM_GLOBALIZATION_INVARIANT"] = invariant;
        using var process = Process.Start(start)!;
        var (output, error) = (process.StandardOutput.ReadToEndAsync(), process.StandardError.ReadToEndAsync());
        await process.WaitForExitAsync(TestContext.Current.CancellationToken);
        return new(process.ExitCode, await output, await error);
    }
}
