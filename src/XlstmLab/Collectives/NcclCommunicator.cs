using System.Globalization;
using System.Text;
using TorchSharp;
using XlstmLab.Native.Cuda;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Collectives;

/// <summary>
/// Sums over ranks on NVIDIA's GPUs, one a rank, by NCCL: on a stream of their own, beside what the caller's stream does.
/// </summary>
/// <remarks>
/// Ranks meet, and find out who is gone, by TCP (<see cref="RankLinks"/>): NCCL itself would wait for a rank that is gone without end, and
/// is made to give up.
/// </remarks>
public sealed class NcclCommunicator : ICommunicator
{
    private static readonly TimeSpan LookEvery = TimeSpan.FromSeconds(1);

    private readonly RankLinks _links;
    private readonly Nccl _nccl;
    private readonly int _device;
    private readonly CudaStream? _stream;
    private readonly Timer _look;
    private readonly Lock _gate = new();
    private nint _group;
    private nint _ready;
    private nint _done;
    private long _waitingSince;
    private string? _fault;
    private bool _isUnderWay;

    private NcclCommunicator(RankLinks links, Nccl nccl, int device)
    {
        (_links, _nccl, _device) = (links, nccl, device);
        CudaDriver.UseDevice(device);
        CudaDriver.Check(CudaDriver.cuEventCreate(out _ready, CudaDriver.EventWithoutTiming), "make an event");
        CudaDriver.Check(CudaDriver.cuEventCreate(out _done, CudaDriver.EventWithoutTiming), "make an event");

        // A block of NCCL's needs most of a multiprocessor: the backward pass, whose next kernels wait for every place, would never leave
        // it one.
        _stream = TorchCuda.StreamAbsence is null ? CudaStream.FromPool(device, goesFirst: true) : null;
        links.Lost = () => GiveUp("another rank is gone");
        _look = new(_ => Look(), null, LookEvery, LookEvery);
    }

    /// <inheritdoc/>
    public int Rank => _links.Rank;

    /// <inheritdoc/>
    public int World => _links.World;

    /// <inheritdoc/>
    public string Name => $"NCCL {_nccl.Version}";

    /// <summary>Has the ranks meet, and their GPUs connect.</summary>
    /// <param name="place">Which this is, with port and secret.</param>
    /// <param name="device">This rank's GPU; those of one host have one each.</param>
    /// <param name="cancellationToken">Gives up.</param>
    /// <exception cref="CudaException">There is no NCCL here.</exception>
    /// <exception cref="CollectiveException">Some did not come in time, or their GPUs cannot be connected.</exception>
    public static NcclCommunicator Open(RankPlace place, Device device, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(place);
        ArgumentNullException.ThrowIfNull(device);
        return Open(place, device, null, cancellationToken);
    }

    /// <summary>The same with a socket that rank 0 listens on already.</summary>
    internal static NcclCommunicator Open(
        RankPlace place, Device device, System.Net.Sockets.Socket? listener, CancellationToken cancellationToken)
    {
        var links = RankLinks.Open(place, listener, cancellationToken);
        NcclCommunicator? communicator = null;
        try
        {
            var nccl = Nccl.Instance;
            communicator = new(links, nccl, Math.Max(0, device.index));
            var versions = links.Gather(Encoding.UTF8.GetBytes(nccl.Version)).Select(Encoding.UTF8.GetString).ToArray();
            if (Array.FindIndex(versions, version => version != versions[0]) is > 0 and var other)
            {
                throw new CollectiveException(
                    $"Rank {other} of {place.World} has NCCL {versions[other]}, rank 0 has {versions[0]}: "
                    + "install one version on all hosts.");
            }

            var name = links.Gather(place.Rank == 0 ? nccl.NewId() : [])[0];
            communicator._group = nccl.Join(name, place.World, place.Rank);
            return communicator;
        }
        catch (Exception e)
        {
            var told = $"Rank {place.Rank} of {place.World} on {device}: {e.Message}";
            links.Fail(e.Message);
            communicator?.Dispose();
            links.Dispose();
            throw e is CollectiveException ? e : new CollectiveException(told, e);
        }
    }

    /// <inheritdoc/>
    public void BeginAllReduce(IReadOnlyList<Tensor> values)
    {
        ArgumentNullException.ThrowIfNull(values);
        Enqueue("sum over the ranks", stream => Together(() =>
        {
            foreach (var tensor in values)
            {
                if (tensor.device_type != DeviceType.CUDA || !tensor.is_contiguous())
                {
                    throw new ArgumentException($"NCCL sums contiguous tensors of the rank's GPU; this one is on {tensor.device}.");
                }

                _nccl.AllReduce(Kernel.Address(tensor), tensor.NumberOfElements, TypeOf(tensor.dtype), _group, stream);
            }
        }));
    }

    /// <inheritdoc/>
    public void Finish()
    {
        if (_isUnderWay && _stream is not null)
        {
            CudaDriver.UseDevice(_device);
            CudaDriver.Check(CudaDriver.cuEventRecord(_done, _stream.Handle), "record an event");
            CudaDriver.Check(CudaDriver.cuStreamWaitEvent(CudaStream.CurrentHandle(_device), _done, 0), "wait for an event");
        }

        _isUnderWay = false;
    }

    /// <inheritdoc/>
    public void Broadcast(Tensor values, int root)
    {
        ArgumentNullException.ThrowIfNull(values);
        if (values.device_type == DeviceType.CPU)
        {
            Linked(() => _links.Broadcast(RawMemory.Of(values), root));
            return;
        }

        Broadcast([(values, root)]);
    }

    /// <inheritdoc/>
    public void Broadcast(IReadOnlyList<(Tensor Values, int Root)> values)
    {
        ArgumentNullException.ThrowIfNull(values);
        if (values.FirstOrDefault(p => p.Values.device_type != DeviceType.CUDA || !p.Values.is_contiguous()) is { Values: { } other })
        {
            throw new ArgumentException($"NCCL copies contiguous tensors of the rank's GPU; this one is on {other.device}.");
        }

        Enqueue("copy to the ranks", stream => Together(() =>
        {
            foreach (var (tensor, root) in values)
            {
                _nccl.Broadcast(Kernel.Address(tensor), tensor.NumberOfElements * tensor.element_size(), root, _group, stream);
            }
        }));
        Finish();
    }

    /// <inheritdoc/>
    public IReadOnlyList<byte[]> Gather(ReadOnlySpan<byte> own)
    {
        var said = own.ToArray();
        byte[][] all = [];
        Linked(() => all = _links.Gather(said));
        return all;
    }

    /// <inheritdoc/>
    public T Await<T>(Func<T> wait)
    {
        ArgumentNullException.ThrowIfNull(wait);
        Interlocked.Exchange(ref _waitingSince, Environment.TickCount64);
        T result;
        try
        {
            result = wait();
        }
        finally
        {
            Interlocked.Exchange(ref _waitingSince, 0);
        }

        ThrowIfBroken();
        return result;
    }

    /// <inheritdoc/>
    public void Fail(string reason)
    {
        _links.Fail(reason);
        GiveUp(reason);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _look.Dispose();
        nint group;
        lock (_gate)
        {
            (group, _group) = (_group, 0);
        }

        if (group != 0)
        {
            _nccl.Leave(group);
        }

        foreach (var handle in new[] { _ready, _done })
        {
            if (handle != 0)
            {
                _ = CudaDriver.cuEventDestroy(handle);
            }
        }

        (_ready, _done) = (0, 0);
        _stream?.Dispose();
        _links.Dispose();
    }

    private static Nccl.DataType TypeOf(ScalarType type) => type switch
    {
        ScalarType.Float32 => Nccl.DataType.Float32,
        ScalarType.Float64 => Nccl.DataType.Float64,
        ScalarType.BFloat16 => Nccl.DataType.BFloat16,
        _ => throw new ArgumentException($"Sums over ranks are of float32, float64 or bfloat16; this tensor is {type}."),
    };

    /// <summary>Calls that NCCL makes as one.</summary>
    private void Together(Action calls)
    {
        _nccl.BeginTogether();
        try
        {
            calls();
        }
        finally
        {
            _nccl.EndTogether();
        }
    }

    /// <summary>Gives work to the communicator's stream, behind what the caller's stream was given.</summary>
    private void Enqueue(string action, Action<nint> work)
    {
        ThrowIfBroken();
        CudaDriver.UseDevice(_device);
        var current = CudaStream.CurrentHandle(_device);
        try
        {
            if (_stream is not null)
            {
                CudaDriver.Check(CudaDriver.cuEventRecord(_ready, current), "record an event");
                CudaDriver.Check(CudaDriver.cuStreamWaitEvent(_stream.Handle, _ready, 0), "wait for an event");
            }

            work(_stream?.Handle ?? current);
            _isUnderWay = true;
        }
        catch (CudaException e)
        {
            throw new CollectiveException($"Rank {Rank} of {World} could not {action}: {e.Message}", e);
        }
    }

    /// <summary>What the ranks say by TCP: where that fails, the GPUs are not to wait for each other any more.</summary>
    private void Linked(Action work)
    {
        try
        {
            work();
        }
        catch (CollectiveException e)
        {
            GiveUp(e.Message);
            throw;
        }
    }

    private void ThrowIfBroken()
    {
        _links.ThrowIfLost();
        if (_fault is { } fault)
        {
            throw new CollectiveException(fault);
        }
    }

    /// <summary>Looks whether the GPUs still get on with each other.</summary>
    private void Look()
    {
        var since = Interlocked.Read(ref _waitingSince);
        if (since != 0 && Environment.TickCount64 - since > _links.Place.Timeout.TotalMilliseconds)
        {
            GiveUp(
                string.Create(
                    CultureInfo.InvariantCulture,
                    $"Rank {Rank} of {World} has waited longer than {_links.Place.Timeout.TotalSeconds:F0} s for a sum over the ranks: "
                    + $"the GPU of another hangs, or ")
                + $"takes longer than it may. {RankPlace.TimeoutVariable} sets another limit, in seconds.");
            return;
        }

        string? fault;
        lock (_gate)
        {
            fault = _group == 0 ? null : _nccl.Fault(_group);
        }

        if (fault is not null)
        {
            GiveUp($"Rank {Rank} of {World}: {fault}");
        }
    }

    private void GiveUp(string reason)
    {
        nint group;
        lock (_gate)
        {
            (group, _group) = (_group, 0);
            _fault ??= reason;
        }

        if (group != 0)
        {
            _nccl.Abort(group);
        }
    }
}
