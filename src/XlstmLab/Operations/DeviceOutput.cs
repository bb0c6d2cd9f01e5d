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
    private readonly int _count;
    private readonly int _device;
    private readonly bool _isRemote;
    private readonly T[] _taken;
    private readonly T[][] _kept;
    private readonly nint[] _locked;
    private readonly nint[] _arrivals;
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
        _count = checked((int)Values.NumberOfElements);
        _taken = new T[_count];
        (_locked, _arrivals) = (new nint[turns], new nint[turns]);
        _isRemote = device.type == DeviceType.CUDA;
        _kept = _isRemote ? [] : [.. Enumerable.Range(0, turns).Select(_ => new T[_count])];
        _device = Math.Max(0, device.index);
        if (!_isRemote)
        {
            return;
        }

        CudaDriver.UseDevice(_device);
        for (var turn = 0; turn < turns; turn++)
        {
            CudaDriver.Check(CudaDriver.cuMemHostAlloc(out _locked[turn], Bytes, 0), $"lock {Bytes} bytes of the host's memory");
            CudaDriver.Check(CudaDriver.cuEventCreate(out _arrivals[turn], CudaDriver.EventWithoutTiming), "make an event");
        }
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
        if (Pending == _locked.Length)
        {
            throw new InvalidOperationException($"Expected at most {_locked.Length} values on their way.");
        }

        var turn = (_next + Pending) % _locked.Length;
        if (_isRemote)
        {
            var stream = CudaStream.CurrentHandle(_device);
            CudaDriver.Check(CudaDriver.cuMemcpyDtoHAsync(_locked[turn], Kernel.Address(Values), Bytes, stream), "copy to the host");
            CudaDriver.Check(CudaDriver.cuEventRecord(_arrivals[turn], stream), "record an event");
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

        if (_isRemote)
        {
            CudaDriver.Check(
                CudaDriver.cuEventSynchronize(_arrivals[_next]), "finish its work: a kernel failed, or the device ran out of memory");
            new ReadOnlySpan<T>((void*)_locked[_next], _count).CopyTo(_taken);
        }
        else
        {
            _kept[_next].CopyTo(_taken, 0);
        }

        _next = (_next + 1) % _locked.Length;
        Pending--;
        return _taken;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        for (var turn = 0; turn < _locked.Length; turn++)
        {
            if (_arrivals[turn] != 0)
            {
                _ = CudaDriver.cuEventSynchronize(_arrivals[turn]);
                _ = CudaDriver.cuEventDestroy(_arrivals[turn]);
            }

            if (_locked[turn] != 0)
            {
                _ = CudaDriver.cuMemFreeHost(_locked[turn]);
            }

            (_arrivals[turn], _locked[turn]) = (0, 0);
        }

        Values.Dispose();
    }
}
