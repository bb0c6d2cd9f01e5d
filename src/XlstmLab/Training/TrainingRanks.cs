using System.Buffers.Binary;
using System.Security.Cryptography;
using System.Text.Json;
using XlstmLab.Collectives;
using XlstmLab.Text;
using static TorchSharp.torch;

namespace XlstmLab.Training;

/// <summary>The group that a training belongs to: of one rank, where nothing is shared.</summary>
/// <param name="parallelism">How it is shared; null for a training that is alone.</param>
internal sealed class TrainingRanks(TrainingParallelism? parallelism)
{
    private const int HashBytes = 16;

    /// <summary>How the training is shared; null where it is not.</summary>
    public TrainingParallelism? Parallelism { get; } = parallelism is { Communicator.World: > 1 } ? parallelism : null;

    public int Rank => Parallelism?.Communicator.Rank ?? 0;

    public int World => Parallelism?.Communicator.World ?? 1;

    /// <summary>Whether this rank writes the files.</summary>
    public bool Writes => Rank == 0;

    /// <summary>This rank's rows of a batch of all ranks.</summary>
    public TBatch Own<TBatch>(TBatch batch)
        where TBatch : IBatch<TBatch> => World == 1 ? batch : batch.Slice(batch.Rows / World * Rank, batch.Rows / World);

    /// <summary>
    /// Whether any rank wants to stop, decided alike on all. It is the ranks' meeting at each update, at which one that is gone, hangs or
    /// has sent other gradients than this one is found.
    /// </summary>
    /// <param name="stops">Whether this one does.</param>
    /// <param name="plan">A hash of which gradients were sent, in their order.</param>
    public bool AnyStops(bool stops, long plan)
    {
        if (Parallelism is null)
        {
            return stops;
        }

        Span<byte> own = stackalloc byte[9];
        own[0] = stops ? (byte)1 : (byte)0;
        BinaryPrimitives.WriteInt64LittleEndian(own[1..], plan);
        var all = Parallelism.Communicator.Gather(own);
        for (var rank = 0; rank < World; rank++)
        {
            if (!all[rank].AsSpan(1).SequenceEqual(all[0].AsSpan(1)))
            {
                throw new CollectiveException(
                    $"Rank {rank} of {World} has sent the gradients of other parameters, or in another order, than rank 0: "
                    + "all ranks need the same model and data.");
            }
        }

        return all.Any(said => said[0] != 0);
    }

    /// <summary>The sum of a number over the ranks, added in their order.</summary>
    public double Sum(double own)
    {
        if (Parallelism is null)
        {
            return own;
        }

        var bytes = new byte[sizeof(double)];
        BinaryPrimitives.WriteDoubleLittleEndian(bytes, own);
        return Parallelism.Communicator.Gather(bytes).Sum(said => BinaryPrimitives.ReadDoubleLittleEndian(said));
    }

    /// <summary>What rank 0 says.</summary>
    /// <param name="own">Asked for on rank 0 alone.</param>
    public T OfFirst<T>(Func<T> own)
    {
        if (Parallelism is null)
        {
            return own();
        }

        var said = Parallelism.Communicator.Gather(Rank == 0 ? JsonSerializer.SerializeToUtf8Bytes(own(), RunJson.Line) : []);
        return JsonSerializer.Deserialize<T>(said[0], RunJson.Line)!;
    }

    /// <summary>Waits for all ranks.</summary>
    public void Meet() => Parallelism?.Communicator.Gather([]);

    /// <summary>Gives tensors of all ranks the bits of rank 0's.</summary>
    public void Share(IEnumerable<Tensor> tensors)
    {
        foreach (var tensor in Parallelism is null ? [] : tensors)
        {
            Parallelism!.Communicator.Broadcast(tensor, 0);
        }
    }

    /// <summary>Waits for the device, and sees that the ranks whose work it waits for are still there.</summary>
    public T Await<T>(Func<T> wait) => Parallelism is null ? wait() : Parallelism.Communicator.Await(wait);

    /// <summary>Refuses tensors that are not equal on all ranks bit for bit.</summary>
    /// <param name="step">The update after which they are compared.</param>
    /// <param name="tensors">Names and tensors.</param>
    /// <exception cref="CollectiveException">One differs; the message names it and a rank that has another than rank 0.</exception>
    public void RequireEqual(int step, IEnumerable<(string Name, Tensor Tensor)> tensors)
    {
        if (Parallelism is null)
        {
            return;
        }

        var names = new List<string>();
        var hashes = new List<byte>();
        foreach (var (name, tensor) in tensors)
        {
            using var scope = NewDisposeScope();
            using var noGrad = no_grad();
            names.Add(name);
            hashes.AddRange(Hash(tensor.detach().cpu().contiguous()));
        }

        var all = Parallelism.Communicator.Gather(hashes.ToArray());
        for (var rank = 1; rank < World; rank++)
        {
            for (var k = 0; k < names.Count; k++)
            {
                var place = new Range(k * HashBytes, (k + 1) * HashBytes);
                if (all[rank].Length != all[0].Length || !all[rank].AsSpan(place).SequenceEqual(all[0].AsSpan(place)))
                {
                    throw new CollectiveException(
                        $"After step {step} '{names[k]}' on rank {rank} of {World} differs from rank 0's: "
                        + "the ranks no longer train one model, so nothing is saved. Go on from the last checkpoint, "
                        + "with the same kind of processor or GPU and as many threads on every rank.");
                }
            }
        }
    }

    private static ReadOnlySpan<byte> Hash(Tensor tensor)
    {
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        foreach (var piece in RawMemory.Of(tensor).Pieces(1 << 24))
        {
            hash.AppendData(piece.Span);
        }

        return hash.GetHashAndReset().AsSpan(0, HashBytes);
    }
}
