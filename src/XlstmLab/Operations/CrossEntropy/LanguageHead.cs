using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>The last step of a language model, from the stream to logits: cap tanh((W x + b) / cap).</summary>
/// <param name="Weight">W, [V, d].</param>
/// <param name="Bias">b, [V], or null.</param>
/// <param name="LogitSoftCap">The cap; null for none.</param>
public sealed record LanguageHead(Tensor Weight, Tensor? Bias = null, double? LogitSoftCap = null)
{
    /// <summary>[..., d] to [..., V], float32 or wider.</summary>
    public Tensor Logits(Tensor hidden) =>
        SoftCap.Apply(nn.functional.linear(hidden, Weight.to(hidden.dtype), Bias?.to(hidden.dtype)).Widened(), LogitSoftCap);
}
