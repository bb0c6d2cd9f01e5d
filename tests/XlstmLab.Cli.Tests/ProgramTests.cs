using System.CommandLine;
using System.Diagnostics;
using XlstmLab.Cli;
using XlstmLab.Cli.Terminals;
using XlstmLab.Models;
using Xunit;

namespace XlstmLab.Tests.Cli;

public sealed class ProgramTests
{
    private static readonly string Xlstm = Path.ChangeExtension(typeof(Program).Assembly.Location, ".dll");

    public static TheoryData<string> CommandPaths()
    {
        var data = new TheoryData<string>();
        Add(Program.CreateRoot(), "");
        return data;

        void Add(Command command, string path)
        {
            data.Add(path.Trim());
            foreach (var sub in command.Subcommands.Where(c => !c.Hidden))
            {
                Add(sub, $"{path} {sub.Name}");
            }
        }
    }

    [Theory]
    [MemberData(nameof(CommandPaths))]
    public async Task Help_EveryCommand_SaysWhatItDoesOnStdout(string path)
    {
        var result = await CommandLine.RunAsync([.. path.Split(' ', StringSplitOptions.RemoveEmptyEntries), "--help"]);
        Assert.Equal(0, result.Code);
        Assert.Contains("Usage:", result.Out, StringComparison.Ordinal);
        Assert.Empty(result.Error);
    }

    [Fact]
    public void Examples_EveryCommand_CanBeParsed()
    {
        var root = Program.CreateRoot();
        foreach (var example in All(root).OfType<ExampleCommand>().SelectMany(c => c.Examples))
        {
            var line = example[example.IndexOf("xlstm ", StringComparison.Ordinal)..]["xlstm ".Length..];
            Assert.True(root.Parse(line).Errors.Count == 0, example);
        }

        static IEnumerable<Command> All(Command command) => command.Subcommands.SelectMany(All).Prepend(command);
    }

    [Fact]
    public async Task Models_ThatTrainHelpPointsTo_AreAllPresets()
    {
        Assert.Contains("xlstm models", (await CommandLine.RunAsync("train", "--help")).Out, StringComparison.Ordinal);
        var list = (await CommandLine.RunAsync("models")).Out;
        Assert.All(Presets.All.Keys, name => Assert.Contains($"| {name} ", list, StringComparison.Ordinal));
    }

    [Theory]
    [InlineData("", "Required command")]
    [InlineData("nonsense", "nonsense")]
    [InlineData("data", "Required command")]
    [InlineData("train", "--out")]
    [InlineData("train --out x --steps 0", "--steps must be at least 1")]
    [InlineData("train --out x --steps many", "--steps")]
    [InlineData("train --out x --resume --start-over", "do not go together")]
    [InlineData("train --out x --schedule linear", "linear")]
    [InlineData("generate x --greedy --temperature 2", "do not go together")]
    [InlineData("eval x --policy none", "none")]
    [InlineData("data ngrams --order 0..9", "1..6")]
    [InlineData("bench cells --lengths 1,b", "separated by commas")]
    [InlineData("bench cells --forms tree", "tree")]
    [InlineData("bench cells --shapes 1,2,3", "--shapes")]
    [InlineData("bench train --preset bytes-1m:8", "8x2048")]
    [InlineData("bench decode --batch 0", "at least 1")]
    [InlineData("notebook run x.ipynb -p steps", "NAME=VALUE")]
    public async Task WrongUsage_IsToldOnStderr_With2(string line, string expected)
    {
        var result = await CommandLine.RunAsync(line.Split(' ', StringSplitOptions.RemoveEmptyEntries));
        Assert.Equal(2, result.Code);
        Assert.Empty(result.Out);
        Assert.Contains(expected, result.Error, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("data info no-such-data", "no-such-data")]
    [InlineData("eval no-such-folder", "no-such-folder")]
    [InlineData("generate no-such-folder", "no-such-folder")]
    [InlineData("notebook run no-such.ipynb", "no-such.ipynb")]
    [InlineData("train --out no-such-run --resume", "no run")]
    [InlineData("train --out never-made --device cuda", "CUDA")]
    public async Task Failure_IsOneMessageWithoutTrace_With1(string line, string expected)
    {
        var result = await CommandLine.RunAsync(line.Split(' '));
        Assert.Equal(1, result.Code);
        Assert.Empty(result.Out);
        Assert.StartsWith("error: ", result.Error, StringComparison.Ordinal);
        Assert.Contains(expected, result.Error, StringComparison.Ordinal);
        Assert.DoesNotContain("   at ", result.Error, StringComparison.Ordinal);
        Assert.False(Directory.Exists("never-made"));
    }

    [Fact]
    public async Task Failure_Verbose_ShowsTheTrace() =>
        Assert.Contains("   at ", (await CommandLine.RunAsync("eval", "no-such-folder", "--verbose")).Error, StringComparison.Ordinal);

    [Fact]
    public async Task Process_ExitCodesAndStreams_AreThoseOfTheCommand()
    {
        var version = await StartAsync("--version");
        Assert.Equal(0, version.Code);
        Assert.StartsWith("xlstm 0.", version.Out, StringComparison.Ordinal);
        Assert.Equal(2, (await StartAsync("nonsense")).Code);
        var failure = await StartAsync("eval", "no-such-folder");
        Assert.Equal((1, ""), (failure.Code, failure.Out));
    }

    [Fact]
    public async Task Process_Help_DoesNotLoadLibtorch()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "Only Linux's loader says what it loads.");
        var help = await StartAsync(("LD_DEBUG", "files"), "train", "--help");
        Assert.Equal(0, help.Code);
        Assert.Contains("libclrjit", help.Error, StringComparison.Ordinal);
        Assert.DoesNotContain("libtorch", help.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Process_DoctorWithoutLibtorch_SaysWhatWasTried_With1()
    {
        var doctor = await StartAsync(("XLSTM_LIBTORCH", "/no/such/folder"), "doctor");
        Assert.Equal(1, doctor.Code);
        Assert.Contains("/no/such/folder", doctor.Out, StringComparison.Ordinal);
        Assert.Contains("XLSTM_LIBTORCH is set", doctor.Out, StringComparison.Ordinal);
    }

    private static Task<CommandResult> StartAsync(params string[] args) => StartAsync(("XLSTM_TEST", "1"), args);

    private static async Task<CommandResult> StartAsync((string Name, string Value) variable, params string[] args)
    {
        var start = new ProcessStartInfo("dotnet", [Xlstm, .. args]) { RedirectStandardOutput = true, RedirectStandardError = true };
        start.Environment[variable.Name] = variable.Value;
        using var process = Process.Start(start)!;
        var stdout = process.StandardOutput.ReadToEndAsync();
        var stderr = process.StandardError.ReadToEndAsync();
        await process.WaitForExitAsync();
        return new(process.ExitCode, await stdout, await stderr);
    }

    [Fact]
    public void A_device_without_enough_memory_is_told_with_what_helps()
    {
        const string libtorch = "CUDA out of memory. Tried to allocate 3.07 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1.12 GiB "
            + "is free. Including non-PyTorch memory, this process has 77.98 GiB memory in use. Of the allocated memory 70.1 GiB is "
            + "allocated by PyTorch. If reserved but unallocated memory is large try setting PYTORCH_ALLOC_CONF\n"
            + "Exception raised from malloc at CUDACachingAllocator.cpp:1";
#pragma warning disable CA2201 // It is what TorchSharp throws.
        var message = Program.Message(new System.Runtime.InteropServices.ExternalException(libtorch));
#pragma warning restore CA2201
        Assert.StartsWith("CUDA out of memory. Tried to allocate 3.07 GiB. GPU 0 has a total capacity", message, StringComparison.Ordinal);
        Assert.Contains("--micro-batch-size", message, StringComparison.Ordinal);
        Assert.DoesNotContain("PYTORCH", message, StringComparison.Ordinal);
        Assert.DoesNotContain("raised from", message, StringComparison.Ordinal);
    }
}
