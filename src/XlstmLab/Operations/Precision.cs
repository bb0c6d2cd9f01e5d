using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>Where a computation needs more digits than bfloat16 has: gates, norms' sums, states, logits.</summary>
internal static class Precision
{
    /// <summary>The tensor in float32 if it is bfloat16, else as it is.</summary>
    public static Tensor Widened(this Tensor x) => x.dtype == ScalarType.BFloat16 ? x.to(ScalarType.Float32) : x;
}
