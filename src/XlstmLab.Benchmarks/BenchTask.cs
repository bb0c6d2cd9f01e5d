using System.Text.Json.Serialization;

namespace XlstmLab.Benchmarks;

/// <summary>One measurement, which a process of its own makes: its memory is then its own too, and its end ends nothing else.</summary>
[JsonPolymorphic(TypeDiscriminatorPropertyName = "kind")]
[JsonDerivedType(typeof(MatrixProductTask), "matrix-product")]
[JsonDerivedType(typeof(MLstmTask), "mlstm")]
[JsonDerivedType(typeof(SLstmTask), "slstm")]
[JsonDerivedType(typeof(WorkTask), "work")]
[JsonDerivedType(typeof(GenerationTask), "generation")]
[JsonDerivedType(typeof(LoadTask), "load")]
public abstract record BenchTask
{
    /// <summary>libtorch's threads.</summary>
    public required int Threads { get; init; }

    /// <summary>The seconds to measure for, at least.</summary>
    public required double MinSeconds { get; init; }

    /// <summary>The repetitions to measure, at least.</summary>
    public required int Repetitions { get; init; }
}

/// <summary>The product of two float32 matrices of 1024 x 1024: the rate that others are held against.</summary>
public sealed record MatrixProductTask : BenchTask;

/// <summary>An mLSTM cell.</summary>
public sealed record MLstmTask : BenchTask
{
    /// <summary>Chunkwise, recurrent or parallel.</summary>
    public required string Form { get; init; }

    /// <summary>Tokens of a chunk.</summary>
    public required int ChunkSize { get; init; }

    /// <summary>S.</summary>
    public required int Length { get; init; }

    /// <summary>B.</summary>
    public required int Batch { get; init; }

    /// <summary>NH.</summary>
    public required int Heads { get; init; }

    /// <summary>DK.</summary>
    public required int QkHeadDim { get; init; }

    /// <summary>DV.</summary>
    public required int VHeadDim { get; init; }
}

/// <summary>An sLSTM cell.</summary>
public sealed record SLstmTask : BenchTask
{
    /// <summary>Whether it is the fused operation; otherwise a chain of libtorch's.</summary>
    public required bool Fused { get; init; }

    /// <summary>S.</summary>
    public required int Length { get; init; }

    /// <summary>B.</summary>
    public required int Batch { get; init; }

    /// <summary>NH.</summary>
    public required int Heads { get; init; }

    /// <summary>D.</summary>
    public required int HeadDim { get; init; }
}

/// <summary>Work that others' implementations are compared by.</summary>
public sealed record WorkTask : BenchTask
{
    /// <summary>The work.</summary>
    public required Workload Work { get; init; }

    /// <summary>Where to compute.</summary>
    public required string Device { get; init; }

    /// <summary>The type of the activations: bf16 or float32.</summary>
    public required string ComputeType { get; init; }

    /// <summary>
    /// Whether a few more steps, prompts or tokens tell where their time goes, after those that are measured: of a model on a GPU.
    /// </summary>
    public bool Profiles { get; init; }
}

/// <summary>Sequences generated from an empty state, each token the likeliest, with random weights.</summary>
public sealed record GenerationTask : BenchTask
{
    /// <summary>The model, by <see cref="BenchModels"/>' names.</summary>
    public required string Preset { get; init; }

    /// <summary>Tokens of the prompt that is read first.</summary>
    public required int Prompt { get; init; }

    /// <summary>The numbers of generated tokens to tell the time at, in rising order.</summary>
    public required IReadOnlyList<int> Marks { get; init; }

    /// <summary>Generations before those that are measured; of a long one, its first <see cref="WarmUpTokens"/> tokens.</summary>
    public required int WarmUps { get; init; }

    /// <summary>Where to compute.</summary>
    public required string Device { get; init; }

    /// <summary>The type of the activations: bf16 or float32.</summary>
    public required string ComputeType { get; init; }

    /// <summary>The seconds after which it ends wherever it is, with what it has told until then; null for no end.</summary>
    public double? Seconds { get; init; }

    /// <summary>The tokens of a warm-up, at most.</summary>
    internal const int WarmUpTokens = 100;
}

/// <summary>What is done with a model's files.</summary>
public enum LoadWork
{
    /// <summary>They are written, with random weights.</summary>
    Write,

    /// <summary>Their bytes are read, and nothing is made of them.</summary>
    Read,

    /// <summary>The model is opened.</summary>
    Open,
}

/// <summary>A folder of a model's files, in the layout of the published ones.</summary>
public sealed record LoadTask : BenchTask
{
    /// <summary>What is done.</summary>
    public required LoadWork Work { get; init; }

    /// <summary>The model, by <see cref="BenchModels"/>' names.</summary>
    public required string Preset { get; init; }

    /// <summary>The folder.</summary>
    public required string Folder { get; init; }

    /// <summary>Where the model shall be.</summary>
    public required string Device { get; init; }
}

/// <summary>How far a generation is.</summary>
/// <param name="Tokens">Tokens generated.</param>
/// <param name="Seconds">Seconds since before the prompt was read, the mean of all repetitions.</param>
/// <param name="PeakBytes">Memory that weights and all work added so far at its peak, in bytes.</param>
public sealed record GenerationMark(int Tokens, double Seconds, long PeakBytes);

/// <summary>What a measurement came to. Absent numbers were not asked for.</summary>
public sealed record BenchResult
{
    /// <summary>
    /// The seconds of a forward pass, a matrix product, a prompt or a generated token: the median, but for tokens on a GPU.
    /// </summary>
    public double? ForwardSeconds { get; init; }

    /// <summary>The seconds of a forward and a backward pass, the median, or of a training step, the mean.</summary>
    public double? TrainingSeconds { get; init; }

    /// <summary>Memory that the first forward pass added at its peak, in bytes.</summary>
    public long? ForwardPeak { get; init; }

    /// <summary>Memory that forward and backward or, for models, weights and all their work added at their peak, in bytes.</summary>
    public long? TrainingPeak { get; init; }

    /// <summary>Repetitions measured of the slower of both.</summary>
    public int Repetitions { get; init; }

    /// <summary>Where a step's time goes, if that was asked for.</summary>
    public StepProfile? Profile { get; init; }

    /// <summary>How a generation went, as far as it got; null where none was asked for.</summary>
    public IReadOnlyList<GenerationMark>? Marks { get; init; }

    /// <summary>Why it got no further; null where it came to its end.</summary>
    public string? Remark { get; init; }

    /// <summary>What a generated token reads, where it was counted.</summary>
    public TokenBytes? TokenBytes { get; init; }

    /// <summary>What reading or opening a folder took; null where none was.</summary>
    public LoadResult? Load { get; init; }
}

/// <summary>What a token that is generated moves, and how fast this machine could.</summary>
/// <param name="Weights">The bytes of weights that it reads, once for all sequences.</param>
/// <param name="State">The bytes of its sequences' states, which it reads and writes.</param>
/// <param name="ReadRate">The bytes a second at which as many threads read as many bytes and do nothing else; null on a GPU.</param>
/// <param name="ProcessorSeconds">The time of all threads that a token takes, whatever else the machine does; null on a GPU.</param>
public sealed record TokenBytes(long Weights, long State, double? ReadRate = null, double? ProcessorSeconds = null);
