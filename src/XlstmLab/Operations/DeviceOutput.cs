using TorchSharp;
using XlstmLab.Native.Cuda;
using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>
/// A tensor that stays where it is, whose values the host takes later and in their order: on a GPU they come to page-locked memory while
/// both go on.
/// </summary>
/// <typeparam name="T">The type of an element.</typeparam>
internal sealed unsafe class DeviceOutput<T> : IDisposable
    where T : unmanaged
{
    private readonly int _turns;
    private readonly int _count;
    private readonly int _device;
    private readonly T[] _taken;
    private readonly T[][] _kept;
    private readonly PageLockedTurns? _locked;
    private int _next;

    /// <summary>A tensor of zeros.</summary>
    /// <param name="turns">How many values may be on their way at most.</param>
    /// <param name="type">The type, of T's size.</param>
    /// <param name="device">The device.</param>
    /// <param name="shape">The shape.</param>
    /// <exception cref="CudaException">There is no page-locked memory left.</exception>
    public DeviceOutput(int turns, ScalarType type, Device device, params long[] shape)
    {
        Values = zeros(shape, type, device).DetachFromDisposeScope();
        (_turns, _count) = (turns, checked((int)Values.NumberOfElements));
        _taken = new T[_count];
        _device = Math.Max(0, device.index);
        _locked = device.type == DeviceType.CUDA ? new(turns, Bytes, _device) : null;
        _kept = _locked is null ? [.. Enumerable.Range(0, turns).Select(_ => new T[_count])] : [];
    }

    /// <summary>The tensor.</summary>
    public Tensor Values { get; }

    /// <summary>How many values were sent and not taken.</summary>
    public int Pending { get; private set; }

    private nuint Bytes => (nuint)(_count * sizeof(T));

    /// <summary>Sends what the tensor has after all that was started so far.</summary>
    /// <exception cref="InvalidOperationException">As many are on their way as may be.</exception>
    /// <exception cref="CudaException">A kernel failed before.</exception>
    public void Send()
    {
        if (Pending == _turns)
        {
            throw new InvalidOperationException($"Expected at most {_turns} values on their way.");
        }

        var turn = (_next + Pending) % _turns;
        if (_locked is not null)
        {
            var stream = CudaStream.CurrentHandle(_device);
            CudaDriver.Check(CudaDriver.cuMemcpyDtoHAsync(_locked[turn], Kernel.Address(Values), Bytes, stream), "copy to the host");
            _locked.Record(turn, stream);
        }
        else
        {
            new ReadOnlySpan<T>((void*)Kernel.Address(Values), _count).CopyTo(_kept[turn]);
        }

        Pending++;
    }

    /// <summary>The first values that were sent and not taken; waits for them.</summary>
    /// <returns>Until the next call.</returns>
    /// <exception cref="InvalidOperationException">None was sent.</exception>
    /// <exception cref="CudaException">A kernel failed.</exception>
    public ReadOnlySpan<T> Take()
    {
        if (Pending == 0)
        {
            throw new InvalidOperationException("Nothing was sent that could be taken.");
        }

        if (_locked is not null)
        {
            _locked.Wait(_next, "finish its work: a kernel failed, or the device ran out of memory");
            new ReadOnlySpan<T>((void*)_locked[_next], _count).CopyTo(_taken);
        }
        else
        {
            _kept[_next].CopyTo(_taken, 0);
        }

        _next = (_next + 1) % _turns;
        Pending--;
        return _taken;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _locked?.Dispose();
        Values.Dispose();
    }
}
