using System.Globalization;
using System.Runtime.InteropServices;

namespace XlstmLab.Native.Cuda;

/// <summary>
/// The functions of NCCL that the library calls, by its published C interface, each looked up before any is called: of the
/// <c>libnccl.so.2</c> that a PyTorch installed by pip brings, or the system's.
/// </summary>
internal sealed unsafe class Nccl
{
    /// <summary>The environment variable that names another file.</summary>
    public const string Variable = "XLSTM_NCCL";

    /// <summary>The bytes of <c>ncclUniqueId</c>.</summary>
    public const int IdBytes = 128;

    private const string FileName = "libnccl.so.2";
    private const int LeastVersion = 21000; // 2.10, the first with bfloat16
    private const int InProgress = 7; // ncclInProgress

    private static readonly string[] Names =
    [
        "ncclGetVersion", "ncclGetErrorString", "ncclGetUniqueId", "ncclCommInitRank", "ncclCommAbort", "ncclCommDestroy",
        "ncclCommGetAsyncError",
        "ncclAllReduce", "ncclBroadcast", "ncclGroupStart", "ncclGroupEnd",
    ];

    private static readonly Lazy<(Nccl? Found, string? Absence)> Loaded = new(
        () => Load(Candidates(Environment.GetEnvironmentVariable(Variable), NativeTorch.Folder)));

    private readonly Dictionary<string, nint> _functions;

    private Nccl(Dictionary<string, nint> functions, string file)
    {
        (_functions, File) = (functions, file);
        var version = 0;
        Check(((delegate* unmanaged<int*, int>)functions["ncclGetVersion"])(&version), "tell its version");
        Number = version;
    }

    /// <summary>Number codes of <c>ncclDataType_t</c>.</summary>
    public enum DataType
    {
        Bytes = 1,
        Float32 = 7,
        Float64 = 8,
        BFloat16 = 9,
    }

    /// <summary>Why there is no NCCL; null where there is.</summary>
    public static string? Absence => Loaded.Value.Absence;

    /// <summary>NCCL.</summary>
    /// <exception cref="CudaException">There is none; the message says where it was looked for.</exception>
    public static Nccl Instance => Loaded.Value.Found ?? throw new CudaException(Absence!);

    /// <summary>The file it was loaded from.</summary>
    public string File { get; }

    /// <summary>The version as NCCL numbers it: 22809 is 2.28.9.</summary>
    public int Number { get; }

    /// <summary>The version for reading.</summary>
    public string Version => string.Create(CultureInfo.InvariantCulture, $"{Number / 10000}.{Number / 100 % 100}.{Number % 100}");

    /// <summary>Passes on what a call returned.</summary>
    /// <exception cref="CudaException">The call failed; the message has NCCL's word for the reason.</exception>
    public void Check(int code, string action)
    {
        if (code is not (0 or InProgress))
        {
            var reason = Marshal.PtrToStringUTF8(((delegate* unmanaged<int, nint>)_functions["ncclGetErrorString"])(code));
            throw new CudaException(string.Create(
                CultureInfo.InvariantCulture,
                $"NCCL could not {action}: {reason} ({code}). With NCCL_DEBUG=WARN in the environment it tells more."));
        }
    }

    /// <summary>A name for a new group of ranks, to be told to all of them.</summary>
    public byte[] NewId()
    {
        Id id;
        Check(((delegate* unmanaged<Id*, int>)_functions["ncclGetUniqueId"])(&id), "begin a group of ranks");
        return new Span<byte>(&id, IdBytes).ToArray();
    }

    /// <summary>Joins a group, of which every rank's thread has its own device current: waits for all of them.</summary>
    public nint Join(ReadOnlySpan<byte> name, int world, int rank)
    {
        Id id;
        name[..IdBytes].CopyTo(new Span<byte>(&id, IdBytes));
        nint group = 0;
        Check(((delegate* unmanaged<nint*, int, Id, int, int>)_functions["ncclCommInitRank"])(&group, world, id, rank), "connect the GPUs");
        return group;
    }

    /// <summary>Sums on a stream, in place; several between <see cref="BeginTogether"/> and <see cref="EndTogether"/> go as one.</summary>
    public void AllReduce(nint memory, long count, DataType type, nint group, nint stream)
    {
        const int sum = 0; // ncclSum
        Check(
            ((delegate* unmanaged<nint, nint, nuint, int, int, nint, nint, int>)_functions["ncclAllReduce"])(
                memory, memory, (nuint)count, (int)type, sum, group, stream),
            "begin a sum over the ranks");
    }

    /// <summary>Copies from one rank to all on a stream, in place.</summary>
    public void Broadcast(nint memory, long bytes, int root, nint group, nint stream) => Check(
        ((delegate* unmanaged<nint, nint, nuint, int, int, nint, nint, int>)_functions["ncclBroadcast"])(
            memory, memory, (nuint)bytes, (int)DataType.Bytes, root, group, stream),
        "begin a copy to the ranks");

    /// <summary>What is begun from here on goes together.</summary>
    public void BeginTogether() => Check(((delegate* unmanaged<int>)_functions["ncclGroupStart"])(), "begin a group of calls");

    /// <summary>It is begun.</summary>
    public void EndTogether() => Check(((delegate* unmanaged<int>)_functions["ncclGroupEnd"])(), "begin what ranks do together");

    /// <summary>What went wrong in a group since it was joined; null while nothing has.</summary>
    public string? Fault(nint group)
    {
        var code = 0;
        try
        {
            Check(((delegate* unmanaged<nint, int*, int>)_functions["ncclCommGetAsyncError"])(group, &code), "tell its state");
            Check(code, "go on");
            return null;
        }
        catch (CudaException e)
        {
            return e.Message;
        }
    }

    /// <summary>Gives up what is under way in a group, and leaves it.</summary>
    public void Abort(nint group) => _ = ((delegate* unmanaged<nint, int>)_functions["ncclCommAbort"])(group);

    /// <summary>Leaves a group in which nothing is under way.</summary>
    public void Leave(nint group) => _ = ((delegate* unmanaged<nint, int>)_functions["ncclCommDestroy"])(group);

    /// <summary>The files that may be it, best first.</summary>
    /// <param name="chosen">What the variable names.</param>
    /// <param name="torch">The folder of the libtorch in use.</param>
    internal static IReadOnlyList<string> Candidates(string? chosen, string torch) => chosen is { Length: > 0 }
        ? [chosen]
        : [Path.GetFullPath(Path.Combine(torch, "..", "..", "nvidia", "nccl", "lib", FileName)), Path.Combine(torch, FileName), FileName];

    /// <summary>The first of some files that can be loaded; or why there is none.</summary>
    internal static (Nccl? Found, string? Absence) Load(IReadOnlyList<string> candidates)
    {
        foreach (var file in candidates)
        {
            if (!NativeLibrary.TryLoad(file, out var handle))
            {
                continue;
            }

            var functions = new Dictionary<string, nint>();
            foreach (var name in Names)
            {
                if (!NativeLibrary.TryGetExport(handle, name, out var address))
                {
                    return (null, $"{file} has no {name}: it is no NCCL 2.10 or newer");
                }

                functions.Add(name, address);
            }

            var nccl = new Nccl(functions, file);
            return nccl.Number >= LeastVersion ? (nccl, null) : (null, $"{file} is NCCL {nccl.Version}; 2.10 or newer is needed");
        }

        return (null, $"There is no NCCL: none of {string.Join(", ", candidates)} could be loaded. A PyTorch with CUDA installed by pip "
            + $"brings it; {Variable} names another file.");
    }

    /// <summary><c>ncclUniqueId</c>, which goes by value.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private struct Id
    {
        public fixed byte Bytes[IdBytes];
    }
}
