using System.Runtime.InteropServices;

namespace XlstmLab.Native.Cuda;

/// <summary>
/// libtorch's own functions for streams and graphs, which TorchSharp does not offer, by the names that its compiler gave them.
/// </summary>
/// <remarks>
/// Every one is looked up before anything is called. Two structures of 16 bytes, <c>c10::cuda::CUDAStream</c> and <c>MempoolId_t</c>, go by
/// value in two registers, as C++ on Linux passes them, on x64 and arm64; other systems have other names, which are not found.
/// A C++ exception that left one of these functions would end the process: what could make them throw is looked at before they are called.
/// </remarks>
internal static unsafe class TorchCuda
{
    private static readonly Dictionary<string, string> StreamNames = new()
    {
        [nameof(CurrentStream)] = "_ZN3c104cuda20getCurrentCUDAStreamEa",
        [nameof(SetCurrentStream)] = "_ZN3c104cuda20setCurrentCUDAStreamENS0_10CUDAStreamE",
        [nameof(StreamFromPool)] = "_ZN3c104cuda17getStreamFromPoolEba",
        [nameof(StreamHandle)] = "_ZNK3c104cuda10CUDAStream6streamEv",
    };

    private static readonly Dictionary<string, string> GraphNames = new()
    {
        [nameof(NewPool)] = "_ZN2at4cuda17graph_pool_handleEv",
        [nameof(NewGraph)] = "_ZN2at4cuda9CUDAGraphC1Eb",
        [nameof(DeleteGraph)] = "_ZN2at4cuda9CUDAGraphD1Ev",
        [nameof(BeginCapture)] = "_ZN2at4cuda9CUDAGraph13capture_beginESt4pairIyyE21cudaStreamCaptureMode",
        [nameof(EndCapture)] = "_ZN2at4cuda9CUDAGraph11capture_endEv",
        [nameof(Replay)] = "_ZN2at4cuda9CUDAGraph6replayEv",
    };

    private static readonly Lazy<(Dictionary<string, nint> Found, string? Absence)> Streams = new(() => Find("c10_cuda", StreamNames));
    private static readonly Lazy<(Dictionary<string, nint> Found, string? Absence)> Graphs = new(() => Find("torch_cuda", GraphNames));

    /// <summary>Why libtorch's streams cannot be reached; null where they can.</summary>
    public static string? StreamAbsence => Streams.Value.Absence;

    /// <summary>Why libtorch's graphs cannot be reached; null where they can.</summary>
    public static string? GraphAbsence => StreamAbsence ?? Graphs.Value.Absence;

    /// <summary>The calling thread's stream on a device; -1 is the current one.</summary>
    public static Pair CurrentStream(int device) =>
        ((delegate* unmanaged<sbyte, Pair>)Streams.Value.Found[nameof(CurrentStream)])((sbyte)device);

    /// <summary>Makes a stream the calling thread's.</summary>
    public static void SetCurrentStream(Pair stream) =>
        ((delegate* unmanaged<Pair, void>)Streams.Value.Found[nameof(SetCurrentStream)])(stream);

    /// <summary>One of the device's streams beside its default one, another at each call.</summary>
    public static Pair StreamFromPool(int device, bool goesFirst) =>
        ((delegate* unmanaged<byte, sbyte, Pair>)Streams.Value.Found[nameof(StreamFromPool)])(goesFirst ? (byte)1 : (byte)0, (sbyte)device);

    /// <summary>The driver's handle of a stream.</summary>
    public static nint StreamHandle(Pair stream) => ((delegate* unmanaged<Pair*, nint>)Streams.Value.Found[nameof(StreamHandle)])(&stream);

    /// <summary>The name of memory that graphs share.</summary>
    public static Pair NewPool() => ((delegate* unmanaged<Pair>)Graphs.Value.Found[nameof(NewPool)])();

    /// <summary>Makes an <c>at::cuda::CUDAGraph</c> in memory of the caller's.</summary>
    public static void NewGraph(nint graph) => ((delegate* unmanaged<nint, byte, void>)Graphs.Value.Found[nameof(NewGraph)])(graph, 0);

    /// <summary>Its destructor: the pool's memory is free when no graph is left that has it.</summary>
    public static void DeleteGraph(nint graph) => ((delegate* unmanaged<nint, void>)Graphs.Value.Found[nameof(DeleteGraph)])(graph);

    /// <summary>What the current stream is given from now on is recorded, and what is allocated on it comes from the pool.</summary>
    public static void BeginCapture(nint graph, Pair pool, int mode) =>
        ((delegate* unmanaged<nint, Pair, int, void>)Graphs.Value.Found[nameof(BeginCapture)])(graph, pool, mode);

    /// <summary>Ends that.</summary>
    public static void EndCapture(nint graph) => ((delegate* unmanaged<nint, void>)Graphs.Value.Found[nameof(EndCapture)])(graph);

    /// <summary>Moves libtorch's random numbers on and starts the graph.</summary>
    public static void Replay(nint graph) => ((delegate* unmanaged<nint, void>)Graphs.Value.Found[nameof(Replay)])(graph);

    private static (Dictionary<string, nint> Found, string? Absence) Find(string library, Dictionary<string, string> names)
    {
        var found = new Dictionary<string, nint>();
        if (!NativeTorch.IsCudaAvailable)
        {
            return (found, "libtorch sees no CUDA device");
        }

        foreach (var (name, symbol) in names)
        {
            var (address, absence) = NativeTorch.Function(library, symbol);
            if (absence is not null)
            {
                return (found, absence);
            }

            found[name] = address;
        }

        return (found, null);
    }

    /// <summary>A structure of two words: <c>c10::Stream</c>, or <c>MempoolId_t</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal readonly struct Pair
    {
        private readonly long _first;
        private readonly long _second;
    }
}
