using System.Runtime.InteropServices;
using TorchSharp;

namespace XlstmLab.Native.Cuda;

/// <summary>
/// Records graphs of one thread, on a stream of its own. They have their memory in common, because no two of them run at once.
/// </summary>
internal sealed class CudaGraphRecorder : IWorkRecorder
{
    /// <summary>The bytes of pools without a graph, which libtorch keeps and nobody can have.</summary>
    private static long _unused;

    /// <summary>The bytes that were taken after the last recording of any thread.</summary>
    private static long _used;

    private readonly int _device;
    private readonly CudaStream _stream;
    private readonly CudaStream.Scope _scope;
    private TorchCuda.Pair _pool;
    private long _poolBytes;
    private int _graphs;

    /// <summary>Makes a stream the calling thread's, until this is disposed.</summary>
    /// <param name="device">The device's index.</param>
    /// <exception cref="CudaException">There is no stream left, or a kernel failed before.</exception>
    public CudaGraphRecorder(int device)
    {
        (_device, _stream) = (device, CudaStream.FromPool(device));
        try
        {
            _scope = _stream.Enter();
        }
        catch
        {
            _stream.Dispose();
            throw;
        }
    }

    /// <inheritdoc/>
    public IRecordedWork Record(Action work)
    {
        FreeUnused();
        if (_graphs == 0)
        {
            // With the last graph that had it, libtorch takes a pool's name back.
            (_pool, _poolBytes) = (TorchCuda.NewPool(), 0);
        }

        _graphs++;
        var before = Used();
        var graph = CudaGraph.Record(_device, _pool, work, Leave);
        var after = Used();
        _poolBytes += Math.Max(0, after - before);
        Interlocked.Exchange(ref _used, after);
        return graph;
    }

    /// <summary>Goes back to the thread's stream before.</summary>
    public void Dispose()
    {
        _scope.Dispose();
        _stream.Dispose();
    }

    /// <summary>
    /// Gives back to the GPU what libtorch keeps of memory that no tensor has: a graph's pool cannot have it, and what the host computed
    /// before needed as much as the graph will.
    /// </summary>
    /// <remarks>
    /// libtorch does so before it says that there is no memory left: it is asked for more than any GPU has. It takes half a second to say
    /// that, in which nobody else is given memory, and so is left alone where half of the memory is free, a twentieth of it at most was
    /// taken since the last recording, and as much lies in pools that nobody has.
    /// </remarks>
    private void FreeUnused()
    {
        var (free, total) = Gpu.Memory(_device);
        var most = total / 20;
        if (Interlocked.Read(ref _unused) < most && total - free - Interlocked.Read(ref _used) < most && free > total / 2)
        {
            return;
        }

        Interlocked.Exchange(ref _unused, 0);
        const long bytes = 1L << 46;
        try
        {
            torch.empty(bytes, torch.ScalarType.Byte, new torch.Device(DeviceType.CUDA, _device)).Dispose();
        }
        catch (ExternalException)
        {
            // As expected.
        }
    }

    private void Leave()
    {
        if (--_graphs == 0)
        {
            Interlocked.Add(ref _unused, _poolBytes);
        }
    }

    /// <summary>The bytes of the GPU's memory that are taken, by whomever.</summary>
    private long Used()
    {
        var (free, total) = Gpu.Memory(_device);
        return total - free;
    }
}

/// <summary>
/// Work of a GPU that was recorded once and is started again as a whole, without the host's time for each of its kernels.
/// </summary>
/// <remarks>
/// The driver records and starts it, since it tells of failures where libtorch would end the process; libtorch's <c>at::cuda::CUDAGraph</c>
/// lends its part, a pool for what is allocated meanwhile, and random numbers that differ at each start. Nothing that is recorded may wait
/// for the GPU, read from it, or copy from the host.
/// </remarks>
internal sealed unsafe class CudaGraph : IRecordedWork
{
    /// <summary>The environment variable that turns graphs off when it is <c>off</c>.</summary>
    public const string Variable = "XLSTM_GRAPHS";

    private const int Relaxed = 2; // CU_STREAM_CAPTURE_MODE_RELAXED: the autograd engine's threads take part
    private const int Active = 1; // CU_STREAM_CAPTURE_STATUS_ACTIVE
    private const int ObjectBytes = 1 << 14; // at::cuda::CUDAGraph has some hundred bytes; how many is its compiler's business
    private const string Capturing = "record a graph";

    // libtorch's random numbers can be in one recording at a time.
    private static readonly Lock Recording = new();

    private readonly int _device;
    private readonly Action _disposed;
    private nint _torch;
    private nint _executable;
    private nint _marker;

    private CudaGraph(int device, Action disposed)
    {
        (_device, _disposed) = (device, disposed);
        _torch = (nint)NativeMemory.AllocZeroed(ObjectBytes);
        TorchCuda.NewGraph(_torch);
    }

    /// <summary>Why there are no graphs here; null where there are.</summary>
    public static string? Absence =>
        Environment.GetEnvironmentVariable(Variable) == "off" ? $"{Variable} is off" : TorchCuda.GraphAbsence;

    /// <summary>The kernels and copies in it.</summary>
    public long Nodes { get; private set; }

    /// <summary>Records what is given to the calling thread's stream, which is not the default one, without running it.</summary>
    /// <param name="device">The device's index.</param>
    /// <param name="pool">Where its memory comes from.</param>
    /// <param name="work">The work; it was done before, so that nothing has to be compiled or looked up.</param>
    /// <param name="disposed">Called when the graph gives its part of the pool back.</param>
    /// <exception cref="CudaException">
    /// The driver cannot record it; the stream is as before, and what <paramref name="work"/> threw is the inner exception.
    /// </exception>
    public static CudaGraph Record(int device, TorchCuda.Pair pool, Action work, Action disposed)
    {
        CudaDriver.UseDevice(device);
        var stream = CudaStream.CurrentHandle(device);
        CudaDriver.Check(CudaDriver.cuStreamSynchronize(stream), Capturing);
        var graph = new CudaGraph(device, disposed);
        try
        {
            lock (Recording)
            {
                graph.Record(stream, pool, work);
            }

            return graph;
        }
        catch
        {
            graph.Dispose();
            throw;
        }
    }

    /// <summary>Starts it on the calling thread's stream, and does not wait for it.</summary>
    /// <exception cref="CudaException">The driver cannot start it, or a kernel failed before.</exception>
    public void Start()
    {
        ObjectDisposedException.ThrowIf(_torch == 0, this);
        CudaDriver.UseDevice(_device);
        var stream = CudaStream.CurrentHandle(_device);
        const int notReady = 600; // CUDA_ERROR_NOT_READY: work is under way
        var state = CudaDriver.cuStreamQuery(stream);
        CudaDriver.Check(state == notReady ? 0 : state, "start a graph: a kernel failed before");
        TorchCuda.Replay(_torch);
        CudaDriver.Check(CudaDriver.cuGraphLaunch(_executable, stream), "start a graph");
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        if (_torch == 0)
        {
            return;
        }

        if (_executable != 0)
        {
            _ = CudaDriver.cuGraphExecDestroy(_executable);
        }

        TorchCuda.DeleteGraph(_torch);
        NativeMemory.Free((void*)_torch);
        if (_marker != 0)
        {
            _ = CudaDriver.cuMemFree(_marker);
        }

        (_torch, _executable, _marker) = (0, 0, 0);
        _disposed();
    }

    private void Record(nint stream, TorchCuda.Pair pool, Action work)
    {
        CudaDriver.Check(CudaDriver.cuMemAlloc(out _marker, sizeof(int)), Capturing);
        TorchCuda.BeginCapture(_torch, pool, Relaxed);
        Exception? fault = null;
        try
        {
            work();
        }
        catch (Exception e)
        {
            fault = e;
        }

        var code = CudaDriver.cuStreamIsCapturing(stream, out var status);
        var ended = CudaDriver.cuStreamEndCapture(stream, out var recorded);
        try
        {
            EndForTorch(stream);
            if (fault is not null)
            {
                throw new CudaException($"The work cannot be recorded: {fault.Message.Split('\n')[0]}", fault);
            }

            CudaDriver.Check(code, Capturing);
            CudaDriver.Check(ended, Capturing);
            if (status != Active || recorded == 0)
            {
                throw new CudaException(
                    "CUDA could not record a graph: something waited for the GPU, read from it or copied from the host.");
            }

            nuint count = 0;
            CudaDriver.Check(CudaDriver.cuGraphGetNodes(recorded, null, &count), Capturing);
            Nodes = (long)count;
            CudaDriver.Check(CudaDriver.cuGraphInstantiate(out _executable, recorded, 0), "prepare a graph");
        }
        finally
        {
            if (recorded != 0)
            {
                _ = CudaDriver.cuGraphDestroy(recorded);
            }
        }
    }

    /// <summary>
    /// Lets libtorch end its part, which it only does with a capture of its own that succeeds, whatever became of the one before: it is
    /// given one that fills four bytes.
    /// </summary>
    private void EndForTorch(nint stream)
    {
        CudaDriver.Check(CudaDriver.cuStreamBeginCapture(stream, Relaxed), Capturing);
        _ = CudaDriver.cuMemsetD32Async(_marker, 0, 1, stream);
        TorchCuda.EndCapture(_torch);
    }
}
