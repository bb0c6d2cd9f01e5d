using System.Globalization;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Text.RegularExpressions;
using XlstmLab.Native.Cuda;

namespace XlstmLab.Benchmarks;

/// <summary>What one kernel takes of a step.</summary>
/// <param name="Name">The kernel, or what moves or sets memory.</param>
/// <param name="Launches">How often it runs in a step.</param>
/// <param name="Seconds">How long it takes in a step: the time in which, of all that runs, it is the first to end.</param>
public sealed record KernelTime(string Name, double Launches, double Seconds);

/// <summary>Where a step's time goes on a GPU.</summary>
/// <param name="StepSeconds">A step while it was looked at.</param>
/// <param name="BusySeconds">What of it the device did something in.</param>
/// <param name="Kernels">What it did, the longest first.</param>
public sealed record StepProfile(double StepSeconds, double BusySeconds, IReadOnlyList<KernelTime> Kernels);

/// <summary>Times of every kernel of the process, whoever launched it, by NVIDIA's CUPTI, which comes with CUDA and with PyTorch.</summary>
/// <remarks>Events of the driver cannot be had of libtorch's launches, nor of those inside a graph.</remarks>
internal sealed unsafe partial class Cupti
{
    private const int MemoryCopy = 1;
    private const int MemorySet = 2;
    private const int ConcurrentKernel = 10;
    private const int MaxLimitReached = 12;
    private const nuint BufferBytes = 4 << 20;

    private static readonly int[] Kinds = [MemoryCopy, MemorySet, ConcurrentKernel];
    private static readonly Lock Gate = new();
    private static readonly List<(string Name, ulong Start, ulong End)> Records = [];
    private static readonly Dictionary<nint, string> Names = [];

    private readonly delegate* unmanaged<nint, nint, int> _register;
    private readonly delegate* unmanaged<int, int> _enable;
    private readonly delegate* unmanaged<int, int> _disable;
    private readonly delegate* unmanaged<uint, int> _flush;
    private static delegate* unmanaged<byte*, nuint, byte**, int> _next;

    private Cupti(nint library)
    {
        nint Function(string name) => NativeLibrary.GetExport(library, name);
        _register = (delegate* unmanaged<nint, nint, int>)Function("cuptiActivityRegisterCallbacks");
        _enable = (delegate* unmanaged<int, int>)Function("cuptiActivityEnable");
        _disable = (delegate* unmanaged<int, int>)Function("cuptiActivityDisable");
        _flush = (delegate* unmanaged<uint, int>)Function("cuptiActivityFlushAll");
        _next = (delegate* unmanaged<byte*, nuint, byte**, int>)Function("cuptiActivityGetNextRecord");
    }

    /// <summary>Begins to note what the device does, which has nothing to do now.</summary>
    /// <exception cref="CudaException">CUPTI is nowhere, or refuses.</exception>
    public static Cupti Begin()
    {
        var cupti = new Cupti(Load());
        Check(
            cupti._register(
                (nint)(delegate* unmanaged[Cdecl]<byte**, nuint*, nuint*, void>)&GiveBuffer,
                (nint)(delegate* unmanaged[Cdecl]<nint, uint, byte*, nuint, nuint, void>)&TakeBuffer),
            "take a program's buffers");
        foreach (var kind in Kinds)
        {
            Check(cupti._enable(kind), "watch the device");
        }

        return cupti;
    }

    /// <summary>Ends it, and tells what the device did, which has nothing to do now.</summary>
    /// <param name="seconds">How long it took.</param>
    /// <param name="steps">The steps that it did.</param>
    /// <exception cref="CudaException">CUPTI refuses.</exception>
    public StepProfile End(double seconds, int steps)
    {
        const uint all = 1;
        Check(_flush(all), "give what it noted");
        foreach (var kind in Kinds)
        {
            Check(_disable(kind), "let the device be");
        }

        lock (Gate)
        {
            var kernels = Shares(Records)
                .Select(k => k with { Launches = k.Launches / steps, Seconds = k.Seconds / steps })
                .OrderByDescending(k => k.Seconds).ToArray();
            Records.Clear();
            return new(seconds / steps, kernels.Sum(k => k.Seconds), kernels);
        }
    }

    /// <summary>
    /// The time in which something goes on, each moment of it given to what ends first of all that goes on then: a kernel that is started
    /// early, while the one in front of it runs, only counts from that one's end.
    /// </summary>
    /// <param name="spans">Names, and nanoseconds.</param>
    internal static IEnumerable<KernelTime> Shares(IEnumerable<(string Name, ulong Start, ulong End)> spans)
    {
        var sums = new Dictionary<string, (int Count, ulong Nanoseconds)>();
        var given = new Stack<(ulong Start, ulong End)>(); // disjoint, the last on top
        foreach (var (name, start, end) in spans.OrderBy(s => s.End))
        {
            var (first, left) = (start, end - start);
            while (given.TryPeek(out var last) && last.End > start)
            {
                left -= last.End - Math.Max(last.Start, start);
                first = Math.Min(first, given.Pop().Start);
            }

            given.Push((first, end));
            var (count, sum) = sums.GetValueOrDefault(name);
            sums[name] = (count + 1, sum + left);
        }

        return sums.Select(s => new KernelTime(s.Key, s.Value.Count, 1e-9 * s.Value.Nanoseconds));
    }

    /// <summary>A kernel's name without what all of libtorch's have.</summary>
    internal static string Short(string name)
    {
        const int limit = 90;
        var cut = Noise().Replace(name, "");
        var depth = 0;
        for (var i = 0; i < cut.Length; i++)
        {
            depth += cut[i] switch { '<' => 1, '>' => -1, _ => 0 };
            if (cut[i] == '(' && depth == 0 && i > 0)
            {
                cut = cut[..i];
            }
        }

        return cut.Length > limit ? cut[..limit] + "..." : cut;
    }

    [GeneratedRegex(@"^void |at::native::|at::cuda::|c10::|\(anonymous namespace\)::|cutlass::|std::")]
    private static partial Regex Noise();

    [UnmanagedCallersOnly(CallConvs = [typeof(CallConvCdecl)])]
    private static void GiveBuffer(byte** buffer, nuint* size, nuint* mostRecords)
    {
        *buffer = (byte*)NativeMemory.AlignedAlloc(BufferBytes, 8);
        *size = BufferBytes;
        *mostRecords = 0;
    }

    [UnmanagedCallersOnly(CallConvs = [typeof(CallConvCdecl)])]
    private static void TakeBuffer(nint context, uint stream, byte* buffer, nuint size, nuint valid)
    {
        lock (Gate)
        {
            // The three kinds of record have their times in the same place; a kernel's has the address of its name behind grid, block and
            // memory.
            byte* record = null;
            while (valid > 0 && _next(buffer, valid, &record) == 0)
            {
                var name = *(int*)record switch
                {
                    MemoryCopy => "(copy of memory)",
                    MemorySet => "(memory set)",
                    _ => NameAt(*(nint*)(record + 104)),
                };
                Records.Add((name, *(ulong*)(record + 16), *(ulong*)(record + 24)));
            }
        }

        NativeMemory.AlignedFree(buffer);
    }

    private static string NameAt(nint address)
    {
        if (!Names.TryGetValue(address, out var name))
        {
            Names[address] = name = Short(Demangled(address));
        }

        return name;
    }

    private static string Demangled(nint mangled)
    {
        var text = Marshal.PtrToStringUTF8(mangled) ?? "?";
        if (!OperatingSystem.IsLinux() || !NativeLibrary.TryLoad("libstdc++.so.6", out var library)
            || !NativeLibrary.TryGetExport(library, "__cxa_demangle", out var function))
        {
            return text;
        }

        int status;
        var plain = ((delegate* unmanaged<nint, nint, nint, int*, byte*>)function)(mangled, 0, 0, &status);
        var result = status == 0 ? Marshal.PtrToStringUTF8((nint)plain) : null;
        NativeMemory.Free(plain);
        return result ?? text;
    }

    /// <summary>libtorch's own CUPTI, which is loaded already, or one that lies where NVRTC may lie.</summary>
    private static nint Load()
    {
        string[] names = OperatingSystem.IsWindows() ? [] : ["libcupti.so.13", "libcupti.so.12", "libcupti.so"];
        var files = Nvrtc.Folders().Where(Directory.Exists)
            .SelectMany(folder => Directory.EnumerateFiles(folder, OperatingSystem.IsWindows() ? "cupti64_*.dll" : "libcupti.so*"))
            .OrderDescending(StringComparer.Ordinal);
        foreach (var candidate in names.Concat(files))
        {
            if (NativeLibrary.TryLoad(candidate, out var library))
            {
                return library;
            }
        }

        throw new CudaException(
            "CUPTI, which notes what a GPU does, was not found; it comes with CUDA's toolkit (libcupti.so) and with a PyTorch of pip.");
    }

    private static void Check(int code, string action)
    {
        if (code is not (0 or MaxLimitReached))
        {
            throw new CudaException(string.Create(CultureInfo.InvariantCulture, $"CUPTI could not {action}: error {code}."));
        }
    }
}
