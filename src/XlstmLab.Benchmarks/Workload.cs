using System.Globalization;
using System.Text.Json.Serialization;
using XlstmLab.Inference;
using XlstmLab.Operations;

namespace XlstmLab.Benchmarks;

/// <summary>Work that this library does and that others can do too: what a row of a comparison is about.</summary>
[JsonPolymorphic(TypeDiscriminatorPropertyName = "kind")]
[JsonDerivedType(typeof(MLstmWork), "mlstm")]
[JsonDerivedType(typeof(SLstmWork), "slstm")]
[JsonDerivedType(typeof(TrainingWork), "training")]
[JsonDerivedType(typeof(PrefillWork), "prefill")]
[JsonDerivedType(typeof(DecodeWork), "decode")]
public abstract record Workload
{
    /// <summary>Whether others are not asked for it: it compares ways of this library.</summary>
    [JsonIgnore]
    public virtual bool IsOwnOnly => false;
}

/// <summary>One mLSTM cell over a batch of sequences.</summary>
/// <param name="Gate">The input gate: exponential or sigmoid.</param>
/// <param name="Batch">B.</param>
/// <param name="Heads">NH.</param>
/// <param name="Length">S.</param>
/// <param name="QkHeadDim">DK.</param>
/// <param name="VHeadDim">DV.</param>
public sealed record MLstmWork(string Gate, int Batch, int Heads, int Length, int QkHeadDim, int VHeadDim) : Workload
{
    /// <summary>The tokens of a chunk that operations are counted with.</summary>
    private const int Chunk = 64;

    private double Rows => (double)Batch * Heads * Length;

    /// <summary>
    /// Operations forward: in a chunk the scores and what they weigh, between chunks the memory read and written. Backward takes twice as
    /// many.
    /// </summary>
    public double ForwardFlops => Rows * (2.0 * Chunk * (QkHeadDim + VHeadDim) + 4.0 * QkHeadDim * VHeadDim);

    /// <summary>Bytes that a pass cannot do without: q, k, v and h in bfloat16. Backward moves twice as many.</summary>
    public double ForwardBytes => Rows * 2 * (2.0 * QkHeadDim + 2.0 * VHeadDim);
}

/// <summary>One sLSTM cell over a batch of sequences.</summary>
/// <param name="Batch">B.</param>
/// <param name="Length">S.</param>
/// <param name="Heads">NH.</param>
/// <param name="HeadDim">D.</param>
public sealed record SLstmWork(int Batch, int Length, int Heads, int HeadDim) : Workload
{
    /// <summary>Operations of the product with the recurrent weights. Backward takes twice as many.</summary>
    public double ForwardFlops => 8.0 * Batch * Length * Heads * HeadDim * HeadDim;

    /// <summary>Bytes of four gates read and h written, in bfloat16. Backward moves twice as many.</summary>
    public double ForwardBytes => 10.0 * Batch * Length * Heads * HeadDim;
}

/// <summary>Training steps of a preset.</summary>
/// <param name="Preset">The preset, by <see cref="BenchModels"/>' names.</param>
/// <param name="Batch">B.</param>
/// <param name="Context">S.</param>
public sealed record TrainingWork(string Preset, int Batch, int Context) : Workload
{
    /// <summary>Runs side by side in one process, of so many tokens each.</summary>
    public int Runs { get; init; } = 1;

    /// <summary>Whether the host starts every kernel by itself, where a GPU could have a graph.</summary>
    public bool ByHost { get; init; }

    /// <inheritdoc/>
    public override bool IsOwnOnly => Runs > 1 || ByHost;
}

/// <summary>Reading prompts from an empty state.</summary>
/// <param name="Preset">The preset.</param>
/// <param name="Batch">Prompts, B.</param>
/// <param name="Length">Tokens of each, S.</param>
public sealed record PrefillWork(string Preset, int Batch, int Length) : Workload;

/// <summary>Generating token by token from a state.</summary>
/// <param name="Preset">The preset.</param>
/// <param name="Batch">Sequences side by side, B.</param>
public sealed record DecodeWork(string Preset, int Batch) : Workload
{
    /// <summary>What an xLSTM's projections are kept as; null for the type of the activations.</summary>
    public WeightFormat? Weights { get; init; }

    /// <summary>What an xLSTM's memories are kept as; null for float32.</summary>
    public StateFormat? States { get; init; }

    /// <inheritdoc/>
    public override bool IsOwnOnly => Weights is not (null or WeightFormat.Float32) || States is not null;
}

/// <summary>What a device can do at most.</summary>
/// <param name="BytesPerSecond">Bytes read or written.</param>
/// <param name="FlopsPerSecond">Operations of bfloat16 matrix products.</param>
public sealed record DeviceLimit(double BytesPerSecond, double FlopsPerSecond)
{
    /// <summary>
    /// The limit of the device of that name, measured by copies and by products of the sizes that models have; null where none is known.
    /// </summary>
    public static DeviceLimit? Of(string device) =>
        device.Contains("H100", StringComparison.Ordinal) ? new(3.0e12, 600e12) : null;

    /// <summary>The seconds that no implementation can go below.</summary>
    public double Seconds(double bytes, double flops) => Math.Max(bytes / BytesPerSecond, flops / FlopsPerSecond);

    /// <inheritdoc/>
    public override string ToString() => string.Create(
        CultureInfo.InvariantCulture, $"{BytesPerSecond / 1e12:0.0} TB/s and {FlopsPerSecond / 1e12:0} TFLOP/s in bfloat16");
}
