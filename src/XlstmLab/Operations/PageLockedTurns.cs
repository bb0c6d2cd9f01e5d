using XlstmLab.Native.Cuda;

namespace XlstmLab.Operations;

/// <summary>
/// Pieces of page-locked memory that copies from or to a GPU take in turns, each with an event that tells when its copy is done.
/// </summary>
internal sealed class PageLockedTurns : IDisposable
{
    private readonly nint[] _memory;
    private readonly nint[] _copied;

    /// <summary>Locks the memory.</summary>
    /// <param name="turns">How many pieces.</param>
    /// <param name="bytes">The bytes of each.</param>
    /// <param name="device">The GPU's index.</param>
    /// <exception cref="CudaException">There is no page-locked memory left.</exception>
    public PageLockedTurns(int turns, nuint bytes, int device)
    {
        (_memory, _copied) = (new nint[turns], new nint[turns]);
        CudaDriver.UseDevice(device);
        for (var turn = 0; turn < turns; turn++)
        {
            CudaDriver.Check(CudaDriver.cuMemHostAlloc(out _memory[turn], bytes, 0), $"lock {bytes} bytes of the host's memory");
            CudaDriver.Check(CudaDriver.cuEventCreate(out _copied[turn], CudaDriver.EventWithoutTiming), "make an event");
        }
    }

    /// <summary>A piece's address.</summary>
    public nint this[int turn] => _memory[turn];

    /// <summary>Notes that a piece's copy was given to a stream.</summary>
    /// <exception cref="CudaException">A kernel failed before.</exception>
    public void Record(int turn, nint stream) => CudaDriver.Check(CudaDriver.cuEventRecord(_copied[turn], stream), "record an event");

    /// <summary>Waits for a piece's copy.</summary>
    /// <param name="turn">The piece.</param>
    /// <param name="action">What fails if it does, for the message.</param>
    /// <exception cref="CudaException">A kernel failed.</exception>
    public void Wait(int turn, string action) => CudaDriver.Check(CudaDriver.cuEventSynchronize(_copied[turn]), action);

    /// <inheritdoc/>
    public void Dispose()
    {
        for (var turn = 0; turn < _memory.Length; turn++)
        {
            if (_copied[turn] != 0)
            {
                _ = CudaDriver.cuEventSynchronize(_copied[turn]);
                _ = CudaDriver.cuEventDestroy(_copied[turn]);
            }

            if (_memory[turn] != 0)
            {
                _ = CudaDriver.cuMemFreeHost(_memory[turn]);
            }

            (_copied[turn], _memory[turn]) = (0, 0);
        }
    }
}
