using System.CommandLine;
using System.Globalization;
using System.Runtime.InteropServices;
using XlstmLab.Cli.Machine;
using XlstmLab.Cli.Terminals;
using XlstmLab.Native;
using XlstmLab.Text;

namespace XlstmLab.Cli.Commands;

/// <summary><c>xlstm doctor</c>: what this machine offers, whether all is in place, and what would make it faster.</summary>
internal static class DoctorCommand
{
    /// <summary>The command.</summary>
    public static Command Create()
    {
        var json = new Option<bool>("--json") { Description = "Print one JSON document." };
        var threads = ComputeOptions.Threads();
        var command = new ExampleCommand(
            "doctor",
            "Shows devices, versions and threads, measures the machine, and says what would make it faster.",
            "xlstm doctor",
            "xlstm doctor --json",
            "XLSTM_LIBTORCH=/opt/venv/lib/python3.12/site-packages/torch/lib xlstm doctor")
        {
            json,
            threads,
        };
        command.SetAction((parsed, cancellationToken) =>
            Task.FromResult(Run(new(parsed), parsed.GetValue(threads), parsed.GetValue(json), cancellationToken)));
        return command;
    }

    private static int Run(Terminal terminal, int? threads, bool json, CancellationToken cancellationToken)
    {
        var report = Examine(threads, cancellationToken);
        if (json)
        {
            terminal.WriteJson(report);
        }
        else
        {
            Write(terminal, report);
        }

        if (report.Fault is not null && json)
        {
            terminal.Note($"error: {report.Fault}");
        }

        return report.Fault is null ? ExitCode.Success : ExitCode.Failure;
    }

    private static DoctorReport Examine(int? threads, CancellationToken cancellationToken)
    {
        TorchReport? torch = null;
        string? fault = null;
        try
        {
            torch = TorchReport.Measure(threads, cancellationToken);
        }
        catch (NativeTorchException e)
        {
            fault = e.Message;
        }

        var (datasets, folder) = FindDatasets();
        var report = new DoctorReport
        {
            System = $"{RuntimeInformation.OSDescription}, {RuntimeInformation.ProcessArchitecture}",
            Processor = Processor.Current,
            MemoryBytes = SystemMemory.Total,
            AvailableMemoryBytes = SystemMemory.Available,
            DotNet = RuntimeInformation.FrameworkDescription,
            Torch = torch,
            Fault = fault,
            DatasetFolder = folder,
            Datasets = datasets,
            WorkingFolder = Environment.CurrentDirectory,
            FreeDiskBytes = new DriveInfo(Environment.CurrentDirectory).AvailableFreeSpace,
        };
        return report with { Advice = [.. Advise(report)] };
    }

    private static (IReadOnlyList<string> Names, string? Folder) FindDatasets()
    {
        try
        {
            return (Datasets.Names(), Datasets.Folder);
        }
        catch (DirectoryNotFoundException)
        {
            return ([], null);
        }
    }

    private static IEnumerable<string> Advise(DoctorReport report)
    {
        var (logical, physical) = (report.Processor.LogicalCores, report.Processor.PhysicalCores);
        if (report.Torch is { } torch)
        {
            if (torch.Threads != physical)
            {
                yield return $"{torch.Threads} threads on {physical} cores: unset OMP_NUM_THREADS, or give --threads {physical}"
                    + (torch.Threads > physical ? "; threads that share a core slow each other down." : ".");
            }

            if (torch.CudaDriver && torch.CudaDevices == 0)
            {
                yield return $"There is a CUDA driver, and this libtorch cannot use it: set {NativeTorch.FolderVariable} to "
                    + "site-packages/torch/lib of a PyTorch with CUDA.";
            }

            if (torch.LateFreeAbsence is not null)
            {
                yield return "A garbage collection may free a tensor or a number while libtorch reads it: set DOTNET_gcConcurrent=0, "
                    + "keep other threads from allocating, and hold tensors in dispose scopes (docs/torchsharp-finalizers.md).";
            }

            var ratio = torch.BFloat16Gflops / torch.Float32Gflops;
            yield return ratio > 1.2
                ? string.Create(
                    CultureInfo.InvariantCulture,
                    $"Matrix products are {ratio:0.0} times as fast in bfloat16: "
                    + $"--compute bf16 may pay for wide models, not for small ones; 'xlstm bench train --compute bf16' tells.")
                : ratio >= 1 ? string.Create(
                    CultureInfo.InvariantCulture,
                    $"Stay with --compute float32: products in bfloat16 are hardly faster ({ratio:0.0} times).")
                : string.Create(
                    CultureInfo.InvariantCulture, $"Stay with --compute float32: products in bfloat16 take {1 / ratio:0.0} times as long.");
        }

        if (RuntimeInformation.ProcessArchitecture == Architecture.X64 && !report.Processor.Simd.Contains("AVX2"))
        {
            yield return "This processor, or the virtual machine's, has no AVX2: a newer one computes several times as fast.";
        }

        if (report.AvailableMemoryBytes < 2L << 30)
        {
            yield return "Less than 2 GiB of memory are free: take a smaller batch or a shorter context.";
        }

        if (report.FreeDiskBytes < 2L << 30)
        {
            yield return "Less than 2 GiB of disk are free here: put runs on another disk by --out.";
        }

        if (report.DatasetFolder is null)
        {
            yield return $"No folder of datasets was found: work inside the clone, or set {Datasets.FolderVariable}.";
        }

        if (logical > physical)
        {
            yield return $"{logical} processors are {physical} cores: more than {physical} threads rarely help.";
        }
    }

    private static void Write(Terminal terminal, DoctorReport report)
    {
        var pairs = new List<(string, string)>
        {
            ("system", report.System),
            ("processor", report.Processor.ToString()),
            ("memory", $"{Readable.Size(report.MemoryBytes)}, {Readable.Size(report.AvailableMemoryBytes)} free"),
            (".NET", report.DotNet),
        };
        if (report.Torch is { } torch)
        {
            pairs.AddRange(
            [
                ("TorchSharp", torch.TorchSharp),
                ("libtorch", $"{torch.Libtorch} from {torch.Folder}"),
                ("bridge", torch.BridgeWeakened ? $"a copy for this system's older C++ runtime, {torch.Bridge}"
                    : $"as published, {torch.Bridge}"),
                ("finalisers", torch.LateFreeAbsence is { } unsafeBecause ? $"free at once: {unsafeBecause}"
                    : "free late: collections in other threads are safe"),
                ("MKL", torch.Mkl),
                ("threads", string.Create(CultureInfo.InvariantCulture, $"{torch.Threads}")),
                ("CUDA", torch.CudaDevices > 0 ? $"{torch.CudaDevices} devices"
                    : torch.CudaDriver ? "a driver, but not in this libtorch" : "no device"),
                ("NVRTC", torch.Nvrtc ?? "not found (only CUDA kernels need it)"),
                ("kernels", torch.KernelAbsence is { } reason ? $"not used: {reason.Split('\n')[0]}"
                    : "compiled when first needed, with --compute bf16 on a GPU"),
                ("graphs", torch.GraphAbsence is { } noGraphs ? $"not used: {noGraphs.Split('\n')[0]}"
                    : "on a GPU, a training's updates start as a whole"),
                ("matrix product", string.Create(
                    CultureInfo.InvariantCulture,
                    $"{torch.Float32Gflops:0} GFLOP/s in float32 (1024 x 1024), {torch.BFloat16Gflops:0} in bfloat16 (512 x 512)")),
                ("memory copy", string.Create(CultureInfo.InvariantCulture, $"{torch.CopyGigabytesPerSecond:0.0} GB/s (256 MiB)")),
            ]);
        }
        else
        {
            pairs.Add(("libtorch", report.Fault!));
        }

        pairs.Add(
            ("datasets", report.DatasetFolder is null
                ? "no folder found" : $"{string.Join(", ", report.Datasets)} in {report.DatasetFolder}"));
        pairs.Add(("disk", $"{Readable.Size(report.FreeDiskBytes)} free in {report.WorkingFolder}"));
        if (report.Advice.Count > 0)
        {
            pairs.Add(("advice", string.Join("\n", report.Advice)));
        }

        terminal.WritePairs(pairs);
    }

    private sealed record DoctorReport
    {
        public required string System { get; init; }

        public required Processor Processor { get; init; }

        public required long MemoryBytes { get; init; }

        public required long AvailableMemoryBytes { get; init; }

        public required string DotNet { get; init; }

        public required TorchReport? Torch { get; init; }

        public required string? Fault { get; init; }

        public required string? DatasetFolder { get; init; }

        public required IReadOnlyList<string> Datasets { get; init; }

        public required string WorkingFolder { get; init; }

        public required long FreeDiskBytes { get; init; }

        public IReadOnlyList<string> Advice { get; init; } = [];
    }
}
