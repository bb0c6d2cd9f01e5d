using System.Runtime.InteropServices;
using System.Runtime.Intrinsics.X86;

namespace XlstmLab.Native;

/// <summary>Which of its code paths MKL takes, the library inside libtorch that multiplies float32 matrices on x64.</summary>
/// <remarks>
/// MKL asks a function of its own whether the processor is Intel's, and gives others a path that does not use what they have: a matrix
/// product takes twice to three times as long on an AMD EPYC with AVX-512. A library that is loaded before libtorch, with a function of
/// that name, answers instead; which instructions the processor has, MKL still asks the processor. Only Linux looks names up like this.
/// </remarks>
internal static unsafe class MklPath
{
    /// <summary>The environment variable that leaves the choice to MKL when it is <c>off</c>.</summary>
    public const string Variable = "XLSTM_MKL";

    private const string Question = "mkl_serv_intel_cpu_true";

    /// <summary>What was chosen and why, for who reads a report.</summary>
    public static string Description { get; private set; } = "libtorch is not loaded";

    /// <summary>Whether MKL is told to use what the processor has.</summary>
    public static bool IsChosen { get; private set; }

    /// <summary>Chooses. It must come before libtorch is loaded.</summary>
    public static void Choose()
    {
        try
        {
            (IsChosen, Description) = Reason() is { } reason ? (false, reason) : Answer();
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or DllNotFoundException or EntryPointNotFoundException)
        {
            Description = $"MKL's own choice: {e.Message}";
        }
    }

    /// <summary>Why MKL's own choice stays.</summary>
    private static string? Reason() =>
        RuntimeInformation.ProcessArchitecture != Architecture.X64 ? "this processor has no MKL"
        : X86Base.CpuId(0, 0) is not (_, 0x68747541, 0x444d4163, 0x69746e65) ? "MKL's own choice" // AuthenticAMD
        : !Avx2.IsSupported || !Fma.IsSupported ? "MKL's own choice: the processor has no AVX2"
        : !OperatingSystem.IsLinux() ? "MKL's own choice, which is a slow one on an AMD processor: only on Linux it can be made for it"
        : Environment.GetEnvironmentVariable(Variable)?.Equals("off", StringComparison.OrdinalIgnoreCase) == true
        ? $"MKL's own choice: {Variable}=off"
        : null;

    private static (bool IsChosen, string Description) Answer()
    {
        const int Now = 2, Global = 0x100;
        var file = JumpLibrary.File("mkl-path", [Question]);
        var system = NativeLibrary.TryLoad("libdl.so.2", out var loader) ? loader : NativeLibrary.Load("libc.so.6");
        var open = (delegate* unmanaged<byte*, int, nint>)NativeLibrary.GetExport(system, "dlopen");
        var path = Marshal.StringToCoTaskMemUTF8(file);
        var library = open((byte*)path, Now | Global);
        Marshal.FreeCoTaskMem(path);
        if (library == 0)
        {
            throw new DllNotFoundException($"{file} could not be loaded");
        }

        *(nint*)NativeLibrary.GetExport(library, JumpLibrary.Table) = (nint)(delegate* unmanaged<int>)&Yes;
        return (true, $"what this AMD processor has, {(Avx512F.IsSupported ? "AVX-512" : "AVX2")}, where MKL itself would not use it "
            + $"({Variable}=off leaves it to MKL)");
    }

    [UnmanagedCallersOnly]
    private static int Yes() => 1;
}
