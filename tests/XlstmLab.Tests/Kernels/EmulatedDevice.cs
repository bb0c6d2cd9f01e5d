using System.Collections.Concurrent;
using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;
using System.Security.Cryptography;
using System.Text;
using System.Text.RegularExpressions;
using XlstmLab.Native.Cuda;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Kernels;

/// <summary>Runs CUDA kernels on the CPU, on CPU tensors: their sources become C++ by <c>Emulator.h</c>, which says how.</summary>
internal sealed partial class EmulatedDevice : IKernelDevice
{
    private static readonly ConcurrentDictionary<string, nint> Libraries = new();
    private static readonly ConcurrentDictionary<nint, (nint Library, string Name)> Functions = new();
    private static readonly Lazy<string?> Obstacle = new(() => RunCompiler("--version") is null ? null : "no g++ to compile the kernels with");
    private static int _count;

    /// <summary>Why there is no emulation here; null where there is.</summary>
    public static string? Absence => OperatingSystem.IsLinux() ? Obstacle.Value : "the emulator has been tried on Linux only";

    public bool Serves(Tensor tensor) => tensor.device_type == TorchSharp.DeviceType.CPU;

    public int Multiprocessors(int device) => 3;

    public nint Load(string file, IReadOnlyList<string> defines, int device, string function)
    {
        var key = $"{file} {string.Join(' ', defines)}";
        var library = Libraries.GetOrAdd(key, _ => NativeLibrary.Load(Build(file, defines)));
        var known = Functions.FirstOrDefault(f => f.Value == (library, function)).Key;
        if (known != 0)
        {
            return known;
        }

        nint handle = Interlocked.Increment(ref _count);
        Functions[handle] = (library, function);
        return handle;
    }

    public unsafe void Launch(nint function, LaunchShape shape, void** arguments)
    {
        var (library, name) = Functions[function];
        var launch = (delegate* unmanaged<byte*, uint*, uint*, uint, uint, void**, int>)NativeLibrary.GetExport(library, "emulate_launch");
        var error = (delegate* unmanaged<byte*>)NativeLibrary.GetExport(library, "emulate_error");
        var grid = stackalloc uint[] { (uint)shape.Blocks, (uint)shape.BlocksY, (uint)shape.BlocksZ };
        var block = stackalloc uint[] { (uint)shape.Threads, 1, 1 };
        fixed (byte* text = Encoding.UTF8.GetBytes(name + '\0'))
        {
            if (launch(text, grid, block, (uint)shape.Cluster, (uint)shape.SharedBytes, arguments) != 0)
            {
                throw new InvalidOperationException($"{name}: {Marshal.PtrToStringUTF8((nint)error())}");
            }
        }
    }

    private static string Build(string file, IReadOnlyList<string> defines)
    {
        var emulator = Path.Combine(TestSetup.RepositoryRoot, "tests", "XlstmLab.Tests", "Kernels", "Emulator");
        var source = KernelSources.Read(file, without: "Ptx.cuh");
        source = "#include \"Ptx.cuh\"\n" + source + "\n"
            + string.Join('\n', EntryPoint().Matches(source).Select(m => $"REGISTER({m.Groups[2].Value}{(m.Groups[1].Success ? ", " + m.Groups[1].Value : "")})"));
        var content = string.Join('\n', [source, .. defines, .. Directory.EnumerateFiles(emulator).Order(StringComparer.Ordinal).Select(File.ReadAllText)]);
        var hash = Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(content)))[..24];
        var folder = Directory.CreateDirectory(Path.Combine(Path.GetTempPath(), "xlstmlab-emulator", hash)).FullName;
        var library = Path.Combine(folder, "kernel.so");
        if (!File.Exists(library))
        {
            var code = Path.Combine(folder, "kernel.cpp");
            File.WriteAllText(code, source);
            var aside = string.Create(CultureInfo.InvariantCulture, $"{library}.{Environment.ProcessId}");
            var fault = RunCompiler(
                ["-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden", "-shared", "-I", emulator, .. defines.Select(d => "-D" + d), code, Path.Combine(emulator, "Emulator.cpp"), "-o", aside]);
            if (fault is not null)
            {
                throw new InvalidOperationException($"{file} with {string.Join(' ', defines)}: {fault}");
            }

            File.Move(aside, library, overwrite: true);
        }

        return library;
    }

    /// <summary>Runs g++; null if it succeeds.</summary>
    private static string? RunCompiler(params string[] arguments)
    {
        var start = new ProcessStartInfo("g++", arguments) { RedirectStandardError = true, RedirectStandardOutput = true };
        try
        {
            using var process = Process.Start(start)!;
            var output = process.StandardOutput.ReadToEndAsync();
            var errors = process.StandardError.ReadToEnd();
            process.WaitForExit();
            output.Wait();
            return process.ExitCode == 0 ? null : errors;
        }
        catch (System.ComponentModel.Win32Exception e)
        {
            return e.Message;
        }
    }

    [GeneratedRegex(@"\bKERNEL\s+void\s+(?:__launch_bounds__\s*\(([^{};]*?)\)\s*)?(\w+)\s*\(")]
    private static partial Regex EntryPoint();
}
