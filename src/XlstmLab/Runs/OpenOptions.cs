using XlstmLab.Text;
using static TorchSharp.torch;

namespace XlstmLab.Runs;

/// <summary>What a run is opened with, where it is not what its folder says.</summary>
public sealed record OpenOptions
{
    /// <summary>The tokenizer; null for the run's own.</summary>
    public ITokenizer? Tokenizer { get; init; }

    /// <summary>The token of a <c>tokenizer.json</c> beside a model that opens documents; null for the usual one.</summary>
    public string? EndOfDocument { get; init; }

    /// <summary>The type that matrix products are computed in; null for that of the weights.</summary>
    public ScalarType? ComputeType { get; init; }

    /// <summary>
    /// The type that projections and tables are held in, float32 or bfloat16. Null is bfloat16 where they are stored in it and products are
    /// computed in it, which takes half the memory and changes no number, and otherwise float32.
    /// </summary>
    public ScalarType? WeightType { get; init; }

    /// <summary>Whether a model without a tokenizer is refused before its weights are read.</summary>
    public bool RequiresTokenizer { get; init; }
}
