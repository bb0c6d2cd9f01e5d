using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>Keeps pre-activations and logits inside (-cap, cap) without a hard edge.</summary>
public static class SoftCap
{
    /// <summary>cap tanh(x / cap), or x where there is no cap (xLSTM 7B, section 3.2).</summary>
    public static Tensor Apply(Tensor x, double? cap) => cap is { } a ? tanh(x / a) * a : x;
}
