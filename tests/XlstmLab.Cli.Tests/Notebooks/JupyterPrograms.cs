using System.Diagnostics;
using Xunit;

namespace XlstmLab.Tests.Notebooks;

/// <summary>Jupyter's own programs from Debian's packages, in a folder of a test, with this program's kernels.</summary>
internal sealed class JupyterPrograms : IDisposable
{
    public const string Python = "/usr/bin/python3";

    /// <summary>The folder the programs run in.</summary>
    public TempFolder Folder { get; } = new();

    public void Dispose() => Folder.Dispose();

    /// <summary>Skips the test where Debian's packages are not there.</summary>
    /// <param name="modules">Python's modules of them.</param>
    public async Task RequireAsync(params string[] modules)
    {
        Assert.SkipUnless(File.Exists(Python) && OperatingSystem.IsLinux(), $"There is no {Python}.");
        foreach (string module in modules)
        {
            Assert.SkipUnless(
                (await RunAsync(Python, "-c", $"import {module}")).Code == 0, $"Debian's {module.Replace('_', '-')} is not installed.");
        }
    }

    /// <summary>Installs the kernels of the program that the tests belong to.</summary>
    public async Task InstallAsync()
    {
        var result = await CommandLine.RunAsync("notebook", "install", "--path", Folder["jupyter/kernels"], "--dotnet-names");
        Assert.True(result.Code == 0, result.Error);
    }

    /// <summary>Runs a program to its end.</summary>
    public Task<CommandResult> RunAsync(string program, params string[] arguments) => CommandLine.RunAsync(
        Start(program, arguments), TimeSpan.FromMinutes(5));

    /// <summary>How a program is started that finds the kernels.</summary>
    public ProcessStartInfo Start(string program, params string[] arguments)
    {
        ProcessStartInfo start = new(program, arguments)
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            WorkingDirectory = Folder.Path,
        };
        start.Environment["JUPYTER_PATH"] = Folder["jupyter"];
        start.Environment["JUPYTER_RUNTIME_DIR"] = Folder["runtime"];
        start.Environment["JUPYTER_CONFIG_DIR"] = Folder["config"];
        start.Environment["PATH"] = "/usr/bin:" + Environment.GetEnvironmentVariable("PATH");
        return start;
    }
}
