using System.Globalization;
using System.Runtime.InteropServices;
using System.Text;

namespace XlstmLab.Native.Cuda;

/// <summary>NVIDIA's run-time compiler of CUDA C++: finds it, loads it, and compiles.</summary>
public static unsafe partial class Nvrtc
{
    /// <summary>The environment variable that names NVRTC's library file.</summary>
    public const string FileVariable = "XLSTM_NVRTC";

    /// <summary>The name that the imports below go by.</summary>
    internal const string Library = "xlstm-nvrtc";

    private static readonly Lock Gate = new();
    private static nint _handle;

    /// <summary>The file that was loaded; null as long as none is.</summary>
    public static string? File { get; private set; }

    /// <summary>The compiler's version, as part of what a compiled kernel depends on.</summary>
    internal static string Version
    {
        get
        {
            Check(nvrtcVersion(out var major, out var minor), "tell its version");
            return string.Create(CultureInfo.InvariantCulture, $"{major}.{minor}");
        }
    }

    /// <summary>The file that NVRTC is loaded from; null if it is nowhere.</summary>
    public static string? Find()
    {
        try
        {
            Load();
            return File;
        }
        catch (CudaException)
        {
            return null;
        }
    }

    /// <summary>Loads NVRTC, once.</summary>
    /// <exception cref="CudaException">It is nowhere; the message lists what was tried.</exception>
    internal static nint Load()
    {
        lock (Gate)
        {
            if (_handle != 0)
            {
                return _handle;
            }

            var tried = new StringBuilder();
            foreach (var candidate in Candidates())
            {
                if (NativeLibrary.TryLoad(candidate, out _handle))
                {
                    File = candidate;
                    return _handle;
                }

                tried.Append(CultureInfo.InvariantCulture, $"{Environment.NewLine}  {candidate}");
            }

            throw new CudaException(
                $"NVRTC, which compiles the CUDA kernels, was not found. Tried:{tried}{Environment.NewLine}"
                + $"Set {FileVariable} to the file, such as libnvrtc.so.13 of a CUDA toolkit or of a PyTorch installed by pip.");
        }
    }

    /// <summary>Compiles a source of CUDA C++ to machine code.</summary>
    /// <param name="source">The source, which includes nothing.</param>
    /// <param name="name">What messages call it.</param>
    /// <param name="options">The compiler's options.</param>
    /// <exception cref="CudaException">The compiler refuses the source; the message has its log.</exception>
    internal static byte[] Compile(string source, string name, IReadOnlyList<string> options)
    {
        Check(nvrtcCreateProgram(out var program, source, name, 0, 0, 0), "take a source");
        try
        {
            var code = nvrtcCompileProgram(program, options.Count, [.. options]);
            if (code != 0)
            {
                throw new CudaException($"NVRTC {Version} does not compile {name}:{Environment.NewLine}{Log(program)}");
            }

            Check(nvrtcGetCUBINSize(program, out var size), "tell a size");
            var image = new byte[size];
            fixed (byte* start = image)
            {
                Check(nvrtcGetCUBIN(program, start), "give its result");
            }

            return image;
        }
        finally
        {
            _ = nvrtcDestroyProgram(ref program);
        }
    }

    /// <summary>Where NVRTC may be, best first: the user's choice, PyTorch's own, a toolkit's, the system's.</summary>
    internal static IEnumerable<string> Candidates()
    {
        if (Environment.GetEnvironmentVariable(FileVariable) is { Length: > 0 } chosen)
        {
            // A file named by the user is meant: falling back would hide a typing error.
            return [chosen];
        }

        return Folders().Where(Directory.Exists).SelectMany(Compilers).Concat(Enumerable.Range(12, 3).Reverse().Select(SystemName));
    }

    /// <summary>
    /// Where libraries of CUDA may lie that the system's loader does not know of, best first: with libtorch, in PyTorch's packages, in a
    /// toolkit.
    /// </summary>
    internal static IEnumerable<string> Folders()
    {
        var torch = NativeTorch.Folder;
        var packages = Path.GetFullPath(Path.Combine(torch, "..", "..", "nvidia"));
        string?[] toolkits =
            [Environment.GetEnvironmentVariable("CUDA_PATH"), Environment.GetEnvironmentVariable("CUDA_HOME"), "/usr/local/cuda"];
        return
        [
            torch,
            .. Directory.Exists(packages) ? Directory.EnumerateDirectories(packages).Order(StringComparer.Ordinal).SelectMany(Inside) : [],
            .. toolkits.OfType<string>().SelectMany(Inside),
        ];
    }

    private static IEnumerable<string> Inside(string folder) =>
    [
        Path.Combine(folder, "lib"),
        Path.Combine(folder, "lib64"),
        Path.Combine(folder, "bin"),
        Path.Combine(folder, "bin", "x64"),
        Path.Combine(folder, "extras", "CUPTI", "lib64"),
    ];

    private static IEnumerable<string> Compilers(string folder) =>
        Directory.EnumerateFiles(folder, OperatingSystem.IsWindows() ? "nvrtc64_*.dll" : "libnvrtc*.so*")
            .Where(file => !file.Contains("builtins", StringComparison.Ordinal) && !file.Contains(".alt.", StringComparison.Ordinal))
            .OrderDescending(StringComparer.Ordinal);

    private static string SystemName(int major) => OperatingSystem.IsWindows()
        ? string.Create(CultureInfo.InvariantCulture, $"nvrtc64_{major}0_0.dll")
        : string.Create(CultureInfo.InvariantCulture, $"libnvrtc.so.{major}");

    private static string Log(nint program)
    {
        if (nvrtcGetProgramLogSize(program, out var size) != 0 || size == 0)
        {
            return "it gives no reason";
        }

        var log = new byte[size];
        fixed (byte* start = log)
        {
            return nvrtcGetProgramLog(program, start) == 0 ? Encoding.UTF8.GetString(log).TrimEnd('\0', '\n') : "it gives no reason";
        }
    }

    private static void Check(int code, string action)
    {
        if (code != 0)
        {
            throw new CudaException(string.Create(CultureInfo.InvariantCulture, $"NVRTC could not {action}: error {code}."));
        }
    }

    [LibraryImport(Library)]
    private static partial int nvrtcVersion(out int major, out int minor);

    [LibraryImport(Library, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int nvrtcCreateProgram(
        out nint program, string source, string name, int headers, nint headerTexts, nint headerNames);

    [LibraryImport(Library, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int nvrtcCompileProgram(nint program, int count, string[] options);

    [LibraryImport(Library)]
    private static partial int nvrtcDestroyProgram(ref nint program);

    [LibraryImport(Library)]
    private static partial int nvrtcGetCUBINSize(nint program, out nuint size);

    [LibraryImport(Library)]
    private static partial int nvrtcGetCUBIN(nint program, byte* image);

    [LibraryImport(Library)]
    private static partial int nvrtcGetProgramLogSize(nint program, out nuint size);

    [LibraryImport(Library)]
    private static partial int nvrtcGetProgramLog(nint program, byte* log);
}
