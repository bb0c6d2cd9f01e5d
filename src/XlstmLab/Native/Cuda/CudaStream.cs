namespace XlstmLab.Native.Cuda;

/// <summary>
/// An order of work on a GPU: libtorch's operations and the library's kernels both go to the calling thread's current one.
/// </summary>
/// <remarks>
/// A thread begins on the default stream. Work of two streams may run at once and in any order: whoever changes streams waits for what was
/// given to the one before (<see cref="Enter"/> does).
/// </remarks>
internal sealed class CudaStream : IDisposable
{
    private static readonly StreamPool Pool = new();

    private readonly TorchCuda.Pair _stream;
    private readonly int _device;
    private bool _isTaken;

    private CudaStream(TorchCuda.Pair stream, int device)
    {
        (_stream, _device) = (stream, device);
        Handle = TorchCuda.StreamHandle(stream);
    }

    /// <summary>The driver's handle; 0 is the default stream.</summary>
    public nint Handle { get; }

    /// <summary>The driver's handle of the calling thread's stream; 0, the default one, where libtorch's cannot be reached.</summary>
    /// <param name="device">The device's index.</param>
    public static nint CurrentHandle(int device) =>
        TorchCuda.StreamAbsence is null ? TorchCuda.StreamHandle(TorchCuda.CurrentStream(device)) : 0;

    /// <summary>The calling thread's stream.</summary>
    /// <param name="device">The device's index.</param>
    public static CudaStream Current(int device) => new(TorchCuda.CurrentStream(device), device);

    /// <summary>One of libtorch's 32 streams beside the default one, which nobody else is given until it is disposed.</summary>
    /// <param name="device">The device's index.</param>
    /// <param name="goesFirst">Whether its kernels take places that become free before those of other streams do.</param>
    /// <exception cref="CudaException">All are taken.</exception>
    public static CudaStream FromPool(int device, bool goesFirst = false)
    {
        var stream = Pool.Take(() => new CudaStream(TorchCuda.StreamFromPool(device, goesFirst), device), stream => stream.Handle);
        stream._isTaken = true;
        return stream;
    }

    /// <summary>
    /// Makes this the calling thread's stream until the result is disposed, by the same thread. Both times it waits for what is under way.
    /// </summary>
    /// <exception cref="CudaException">A kernel failed before.</exception>
    public Scope Enter()
    {
        var before = Current(_device);
        before.Wait();
        TorchCuda.SetCurrentStream(_stream);
        return new(this, before);
    }

    /// <summary>Waits until all that was given to this stream is done.</summary>
    /// <exception cref="CudaException">A kernel failed.</exception>
    public void Wait()
    {
        CudaDriver.UseDevice(_device);
        CudaDriver.Check(CudaDriver.cuStreamSynchronize(Handle), "finish its work: a kernel failed, or the device ran out of memory");
    }

    /// <summary>Gives it back to the pool, if it was taken from there.</summary>
    public void Dispose()
    {
        if (Interlocked.Exchange(ref _isTaken, false))
        {
            Pool.Return(Handle);
        }
    }

    /// <summary>The time that a thread spends on another stream than before.</summary>
    public readonly struct Scope(CudaStream during, CudaStream before) : IDisposable
    {
        /// <summary>Waits for the stream, as far as it still can, and goes back to the one before.</summary>
        public void Dispose()
        {
            // What failed there was told by whoever asked for its result: here it must not hide that.
            _ = CudaDriver.cuStreamSynchronize(during.Handle);
            TorchCuda.SetCurrentStream(before._stream);
        }
    }
}

/// <summary>
/// Which of libtorch's streams are taken: it gives each again after 32 others, whether or not it is in use, and what two trainings give to
/// one stream would be recorded together.
/// </summary>
internal sealed class StreamPool
{
    /// <summary>How many there are of a device and priority.</summary>
    public const int Count = 32;

    private readonly Lock _gate = new();
    private readonly HashSet<nint> _taken = [];

    /// <summary>The first drawn that is not taken.</summary>
    /// <param name="draw">Gives each of the streams in turn.</param>
    /// <param name="handle">A stream's handle.</param>
    /// <exception cref="CudaException">All are taken.</exception>
    public T Take<T>(Func<T> draw, Func<T, nint> handle)
    {
        lock (_gate)
        {
            for (var k = 0; k < Count; k++)
            {
                var stream = draw();
                if (_taken.Add(handle(stream)))
                {
                    return stream;
                }
            }
        }

        throw new CudaException(
            $"All {Count} streams of the GPU are in use: fewer trainings and generations can go on at once in one process.");
    }

    /// <summary>Lets others take it.</summary>
    public void Return(nint handle)
    {
        lock (_gate)
        {
            _taken.Remove(handle);
        }
    }
}
