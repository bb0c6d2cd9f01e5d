using System.Collections.Concurrent;
using System.Net.Sockets;
using System.Runtime.ExceptionServices;
using static TorchSharp.torch;

namespace XlstmLab.Collectives;

/// <summary>
/// Sums over ranks on CPUs, by TCP: it stands in for NCCL where there are no GPUs, to try and test what is done by several ranks. It is not
/// fast: rank 0 adds what all others send it.
/// </summary>
public sealed class LoopbackCommunicator : ICommunicator
{
    private readonly RankLinks _links;
    private readonly BlockingCollection<RawMemory[]> _begun = [];
    private readonly Thread _worker;
    private readonly object _gate = new(); // a monitor: who finishes waits for the worker
    private int _pending;
    private Exception? _failure;

    private LoopbackCommunicator(RankLinks links)
    {
        _links = links;
        _worker = new(Work) { IsBackground = true, Name = "loopback collective" };
        _worker.Start();
    }

    /// <inheritdoc/>
    public int Rank => _links.Rank;

    /// <inheritdoc/>
    public int World => _links.World;

    /// <inheritdoc/>
    public string Name => "loopback (TCP between CPUs, in NCCL's place)";

    /// <summary>Has the ranks meet.</summary>
    /// <param name="place">Which this is, with port and secret.</param>
    /// <param name="cancellationToken">Gives up.</param>
    /// <exception cref="CollectiveException">Some did not come in time, or are not those that were meant.</exception>
    public static LoopbackCommunicator Open(RankPlace place, CancellationToken cancellationToken = default) =>
        Open(place, null, cancellationToken);

    /// <summary>The same with a socket that rank 0 listens on already.</summary>
    internal static LoopbackCommunicator Open(RankPlace place, Socket? listener, CancellationToken cancellationToken)
    {
        ArgumentNullException.ThrowIfNull(place);
        return new(RankLinks.Open(place, listener, cancellationToken));
    }

    /// <inheritdoc/>
    public void BeginAllReduce(IReadOnlyList<Tensor> values)
    {
        ArgumentNullException.ThrowIfNull(values);
        _links.ThrowIfLost();
        RawMemory[] memory = [.. values.Select(RawMemory.Of)];
        lock (_gate)
        {
            _pending++;
        }

        _begun.Add(memory);
    }

    /// <inheritdoc/>
    public void Finish()
    {
        lock (_gate)
        {
            while (_pending > 0)
            {
                Monitor.Wait(_gate);
            }

            if (_failure is not null)
            {
                ExceptionDispatchInfo.Throw(_failure);
            }
        }
    }

    /// <inheritdoc/>
    public void Broadcast(Tensor values, int root)
    {
        Finish();
        _links.Broadcast(RawMemory.Of(values), root);
    }

    /// <inheritdoc/>
    public IReadOnlyList<byte[]> Gather(ReadOnlySpan<byte> own)
    {
        Finish();
        return _links.Gather(own);
    }

    /// <inheritdoc/>
    public T Await<T>(Func<T> wait)
    {
        ArgumentNullException.ThrowIfNull(wait);
        return wait();
    }

    /// <inheritdoc/>
    public void Fail(string reason) => _links.Fail(reason);

    /// <inheritdoc/>
    public void Dispose()
    {
        _begun.CompleteAdding();
        _links.Dispose();
        _worker.Join();
        _begun.Dispose();
    }

    /// <summary>Adds up what was begun, in its order; after a failure nothing more.</summary>
    private void Work()
    {
        foreach (var memory in _begun.GetConsumingEnumerable())
        {
            Exception? failure = null;
            try
            {
                if (_failure is null)
                {
                    _links.AllReduce(memory);
                }
            }
#pragma warning disable CA1031 // Whatever it is, it reaches who asks for the sums.
            catch (Exception e)
            {
                failure = e;
            }
#pragma warning restore CA1031

            lock (_gate)
            {
                _failure ??= failure;
                _pending--;
                Monitor.PulseAll(_gate);
            }
        }
    }
}
