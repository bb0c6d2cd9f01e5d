using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>What a sum of losses is divided by: a number, or one in memory that a recorded graph reads anew at each start.</summary>
/// <param name="Value">The number, where none is kept.</param>
/// <param name="Kept">[1] int64 on the losses' device, or null.</param>
internal readonly record struct LossDivisor(long Value, Tensor? Kept = null)
{
    /// <summary>A number.</summary>
    public static implicit operator LossDivisor(long value) => new(value);
}
