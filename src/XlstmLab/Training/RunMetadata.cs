using System.ComponentModel;
using System.Diagnostics;
using System.Reflection;
using System.Runtime.InteropServices;
using TorchSharp;
using XlstmLab.Native;
using XlstmLab.Native.Cuda;
using XlstmLab.Operations;

namespace XlstmLab.Training;

/// <summary>What a run ran on and how far it came: <c>meta.json</c>.</summary>
public sealed record RunMetadata
{
    /// <summary>The commit checked out in the working folder, or null.</summary>
    public string? GitCommit { get; init; }

    /// <summary>Whether tracked files differed from that commit; null where there is none.</summary>
    public bool? GitDirty { get; init; }

    /// <summary>
    /// The version of this library, with the commit it was built from where the build knew it; <c>-changed</c> if files differed from it.
    /// </summary>
    public string LibraryVersion { get; init; } = "";

    /// <summary>The version of TorchSharp.</summary>
    public string TorchSharpVersion { get; init; } = "";

    /// <summary>The version of the libtorch that was loaded.</summary>
    public string LibtorchVersion { get; init; } = "";

    /// <summary>
    /// Which of its code paths MKL took for float32 matrix products on the CPU, and who chose it: results differ by rounding.
    /// </summary>
    public string Mkl { get; init; } = "";

    /// <summary>The operating system, the processor's architecture and the version of .NET.</summary>
    public string Platform { get; init; } = "";

    /// <summary>The device of the parameters.</summary>
    public string Device { get; init; } = "";

    /// <summary>The GPU's name with its driver; null on the CPU.</summary>
    public string? DeviceName { get; init; }

    /// <summary>Whether the library's CUDA kernels served: <c>on</c>, or why not.</summary>
    public string Kernels { get; init; } = "";

    /// <summary>Whether updates ran as CUDA graphs: <c>on</c>, or why not.</summary>
    public string Graphs { get; init; } = "off";

    /// <summary>libtorch's threads. Runs repeat bit for bit only with as many.</summary>
    public int Threads { get; init; }

    /// <summary>How many ranks trained together, by what they were connected, and what they shared; null for one.</summary>
    public string? Ranks { get; init; }

    /// <summary>The seed of the training configuration.</summary>
    public int Seed { get; init; }

    /// <summary>The number of trainable numbers in the model.</summary>
    public long Parameters { get; init; }

    /// <summary>When the run first started, in UTC.</summary>
    public DateTimeOffset StartedAt { get; init; }

    /// <summary>When this file was written last, in UTC.</summary>
    public DateTimeOffset UpdatedAt { get; init; }

    /// <summary>How the run ended, or that it has not.</summary>
    public TrainingStatus Status { get; init; }

    /// <summary>What made it fail.</summary>
    public string? Error { get; init; }

    /// <summary>The updates done.</summary>
    public int Step { get; init; }

    /// <summary>The tokens predicted in training.</summary>
    public long Tokens { get; init; }

    /// <summary>The seconds of training.</summary>
    public double Seconds { get; init; }

    /// <summary>What can be known before the first step.</summary>
    internal static RunMetadata Collect(torch.Device device, torch.ScalarType computeType, int seed, long parameters)
    {
        var commit = Git("rev-parse", "HEAD");
        return new()
        {
            GitCommit = commit,
            GitDirty = commit is null ? null : Git("status", "--porcelain", "--untracked-files=no") is { Length: > 0 },
            LibraryVersion = Version(typeof(RunMetadata).Assembly),
            TorchSharpVersion = Version(typeof(torch).Assembly),
            LibtorchVersion = NativeTorch.Version,
            Mkl = MklPath.Description,
            Platform = string.Join(
                ", ", RuntimeInformation.OSDescription, RuntimeInformation.ProcessArchitecture, RuntimeInformation.FrameworkDescription),
            Device = device.ToString(),
            DeviceName = device.type == DeviceType.CUDA ? $"{Gpu.Name(Math.Max(0, device.index))}, {Gpu.Driver()}" : null,
            Kernels = KernelState(device, computeType),
            Threads = torch.get_num_threads(),
            Seed = seed,
            Parameters = parameters,
            StartedAt = DateTimeOffset.UtcNow,
        };
    }

    private static string KernelState(torch.Device device, torch.ScalarType computeType) =>
        device.type != DeviceType.CUDA ? "off: the CPU computes"
        : Kernel.Absence is { } absence ? $"off: {absence.Split('\n')[0]}"
        : computeType != torch.ScalarType.BFloat16 ? $"off: they compute in bfloat16, this run in {computeType}"
        : "on";

    private static string Version(Assembly assembly) =>
        assembly.GetCustomAttribute<AssemblyInformationalVersionAttribute>()?.InformationalVersion
        ?? assembly.GetName().Version?.ToString()
        ?? "";

    /// <summary>What git answers about the working folder; null where there is no git, no repository or no answer in time.</summary>
    private static string? Git(params string[] arguments)
    {
        try
        {
            using var git = Process.Start(new ProcessStartInfo("git", arguments)
            {
                RedirectStandardOutput = true,
                RedirectStandardError = true,
            });
            var answer = git!.StandardOutput.ReadToEndAsync();
            var errors = git.StandardError.ReadToEndAsync();
            if (!git.WaitForExit(TimeSpan.FromSeconds(5)))
            {
                git.Kill();
                return null;
            }

            _ = errors.Result;
            return git.ExitCode == 0 ? answer.Result.Trim() : null;
        }
        catch (Win32Exception)
        {
            return null;
        }
    }
}
