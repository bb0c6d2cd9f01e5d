using TorchSharp;
using XlstmLab.Native.Cuda;
using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>
/// A tensor that stays where it is, for what is read again and again, and is given new values from the host: on a GPU from page-locked
/// memory, in the order of its work, while the host goes on.
/// </summary>
/// <typeparam name="T">The type of an element.</typeparam>
internal sealed unsafe class DeviceInput<T> : IDisposable
    where T : unmanaged
{
    private const int Turns = 2; // values may still be on their way when the next are made

    private readonly int _count;
    private readonly int _device;
    private readonly PageLockedTurns? _locked;
    private int _turn;

    /// <summary>A tensor of zeros.</summary>
    /// <param name="type">The type, of T's size.</param>
    /// <param name="device">The device.</param>
    /// <param name="shape">The shape.</param>
    /// <exception cref="CudaException">There is no page-locked memory left.</exception>
    public DeviceInput(ScalarType type, Device device, params long[] shape)
    {
        Values = zeros(shape, type, device).DetachFromDisposeScope();
        _count = checked((int)Values.NumberOfElements);
        _device = Math.Max(0, device.index);
        _locked = device.type == DeviceType.CUDA ? new(Turns, Bytes, _device) : null;
    }

    /// <summary>The tensor.</summary>
    public Tensor Values { get; }

    private nuint Bytes => (nuint)(_count * sizeof(T));

    /// <summary>Where the next values are to be written, all of them; then <see cref="Send"/> takes them over.</summary>
    /// <exception cref="CudaException">A kernel failed.</exception>
    public Span<T> Next()
    {
        if (_locked is null)
        {
            return new((void*)Kernel.Address(Values), _count);
        }

        _locked.Wait(_turn, "copy from the host: a kernel failed");
        return new((void*)_locked[_turn], _count);
    }

    /// <summary>The tensor has what <see cref="Next"/> was filled with for all that is started from now on.</summary>
    /// <exception cref="CudaException">A kernel failed before.</exception>
    public void Send()
    {
        if (_locked is null)
        {
            return;
        }

        var stream = CudaStream.CurrentHandle(_device);
        CudaDriver.Check(CudaDriver.cuMemcpyHtoDAsync(Kernel.Address(Values), _locked[_turn], Bytes, stream), "copy from the host");
        _locked.Record(_turn, stream);
        _turn = (_turn + 1) % Turns;
    }

    /// <summary>Gives the tensor these values.</summary>
    /// <param name="values">As many as it has elements.</param>
    /// <exception cref="CudaException">A kernel failed.</exception>
    public void Write(ReadOnlySpan<T> values)
    {
        values.CopyTo(Next());
        Send();
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _locked?.Dispose();
        Values.Dispose();
    }
}
