using System.Diagnostics;
using System.Reflection;
using System.Runtime.InteropServices;
using TorchSharp;
using XlstmLab.Benchmarks;
using XlstmLab.Native;
using XlstmLab.Operations;

namespace XlstmLab.Cli.Machine;

/// <summary>The libtorch in use and what it can do here.</summary>
internal sealed record TorchReport
{
    /// <summary>The version of TorchSharp.</summary>
    public required string TorchSharp { get; init; }

    /// <summary>The version of libtorch.</summary>
    public required string Libtorch { get; init; }

    /// <summary>The folder libtorch was loaded from.</summary>
    public required string Folder { get; init; }

    /// <summary>The file of TorchSharp's own library, the bridge.</summary>
    public required string Bridge { get; init; }

    /// <summary>Whether the bridge is a copy that does without a newer C++ runtime.</summary>
    public required bool BridgeWeakened { get; init; }

    /// <summary>Why what finalisers free is not kept until calls that may hold it have ended; null where it is.</summary>
    public required string? LateFreeAbsence { get; init; }

    /// <summary>Which of its code paths MKL takes for float32 matrix products, and who chose it.</summary>
    public required string Mkl { get; init; }

    /// <summary>Threads of one operation.</summary>
    public required int Threads { get; init; }

    /// <summary>The CUDA devices.</summary>
    public required int CudaDevices { get; init; }

    /// <summary>The CUDA compiler library that was found, for kernels compiled at run time.</summary>
    public required string? Nvrtc { get; init; }

    /// <summary>Why the library's CUDA kernels are not used; null where they are.</summary>
    public required string? KernelAbsence { get; init; }

    /// <summary>Why a training's updates are no CUDA graphs; null where they are.</summary>
    public required string? GraphAbsence { get; init; }

    /// <summary>Whether the system has a driver of NVIDIA.</summary>
    public required bool CudaDriver { get; init; }

    /// <summary>Measured operations a second of a float32 matrix product, in thousand millions.</summary>
    public required double Float32Gflops { get; init; }

    /// <summary>The same in bfloat16.</summary>
    public required double BFloat16Gflops { get; init; }

    /// <summary>Measured bytes copied a second, in thousand millions.</summary>
    public required double CopyGigabytesPerSecond { get; init; }

    /// <summary>Looks and measures; about two seconds.</summary>
    /// <exception cref="NativeTorchException">libtorch cannot be loaded.</exception>
    public static TorchReport Measure(int? threads, CancellationToken cancellationToken)
    {
        Compute.Begin(threads);
        var bridge = BridgeFile();
        return new()
        {
            TorchSharp =
                typeof(torch).Assembly.GetCustomAttribute<AssemblyInformationalVersionAttribute>()?.InformationalVersion.Split('+')[0]
                ?? "?",
            Libtorch = NativeTorch.Version,
            Folder = NativeTorch.Folder,
            Bridge = bridge,
            BridgeWeakened = bridge.Contains(Path.Combine("xlstmlab", "native"), StringComparison.Ordinal),
            LateFreeAbsence = NativeTorch.LateFreeAbsence,
            Mkl = MklPath.Description,
            Threads = torch.get_num_threads(),
            CudaDevices = NativeTorch.IsCudaAvailable ? torch.cuda.device_count() : 0,
            Nvrtc = Native.Cuda.Nvrtc.Find(),
            KernelAbsence = Kernel.Absence,
            GraphAbsence = Kernel.GraphAbsence,
            CudaDriver = CanLoad(OperatingSystem.IsWindows() ? "nvcuda" : "libcuda.so.1"),
            Float32Gflops = Rates.MatrixProduct(torch.ScalarType.Float32, 1024, 0.4, cancellationToken) / 1e9,
            BFloat16Gflops = Rates.MatrixProduct(torch.ScalarType.BFloat16, 512, 0.4, cancellationToken) / 1e9,
            CopyGigabytesPerSecond = Rates.MemoryCopy(1L << 28, 0.4, cancellationToken) / 1e9,
        };
    }

    private static string BridgeFile()
    {
        using var process = Process.GetCurrentProcess();
        return process.Modules.Cast<ProcessModule>()
            .FirstOrDefault(m => m.ModuleName.Contains("LibTorchSharp", StringComparison.Ordinal))?.FileName ?? "unknown";
    }

    private static bool CanLoad(string library)
    {
        if (!NativeLibrary.TryLoad(library, out var handle))
        {
            return false;
        }

        NativeLibrary.Free(handle);
        return true;
    }
}
