using XlstmLab.Collectives;
using static TorchSharp.torch;

namespace XlstmLab.Training;

/// <summary>How one training is shared by several ranks: each computes the gradients of its own rows of every batch.</summary>
/// <remarks>
/// Every rank runs a trainer of the same settings on the same data. What they learn from is what one process would: each update takes the
/// next rows of the same order, of which a rank has those of its place, and losses and gradients are means over the targets of all ranks.
/// Only rank 0 writes files, and the others take its weights, moments and place in the data over when they begin.
/// </remarks>
public sealed record TrainingParallelism
{
    /// <summary>This rank's part in the group. The trainer does not dispose it.</summary>
    public required ICommunicator Communicator { get; init; }

    /// <summary>
    /// Whether each rank keeps the moments of a part of the weights only and updates those (Rajbhandari et al. 2020, ZeRO's first stage),
    /// which every other then is told. Checkpoints are the same. On a GPU updates are then made by the host, without graphs.
    /// </summary>
    public bool ShardsOptimizer { get; init; }

    /// <summary>The type in which gradients go from rank to rank: float32, or bfloat16 for half the bytes.</summary>
    public ScalarType GradientType { get; init; } = ScalarType.Float32;

    /// <summary>Whether gradients go while the backward pass still computes those of earlier blocks.</summary>
    public bool Overlaps { get; init; } = true;

    /// <summary>The bytes of gradients that go together, at least, while the backward pass goes on.</summary>
    public long BucketBytes { get; init; } = 25 << 20;

    /// <summary>What one of several ranks does of a training: its part of each batch.</summary>
    internal static TrainingConfig OfRank(TrainingConfig config, int world) => config with
    {
        BatchSize = Math.Max(1, config.BatchSize / world),
        BatchRamp = [.. config.BatchRamp.Select(stage => stage with { BatchSize = Math.Max(1, stage.BatchSize / world) })],
    };

    /// <summary>Refuses what cannot be meant.</summary>
    /// <exception cref="ArgumentException">The message says what.</exception>
    internal void Validate(TrainingConfig config)
    {
        if (GradientType is not (ScalarType.Float32 or ScalarType.BFloat16))
        {
            throw new ArgumentException($"{nameof(GradientType)} must be Float32 or BFloat16, it is {GradientType}.");
        }

        if (BucketBytes < 1)
        {
            throw new ArgumentException($"{nameof(BucketBytes)} must be at least 1, it is {BucketBytes}.");
        }

        var world = Communicator.World;
        foreach (var size in config.BatchRamp.Select(stage => stage.BatchSize).Append(config.BatchSize).Where(size => size % world != 0))
        {
            throw new ArgumentException(
                $"A batch of {size} sequences cannot be shared evenly by {world} ranks: choose a batch size that is a multiple of {world}, "
                + $"such as {(size + world - 1) / world * world}, or another number of ranks.");
        }
    }
}
