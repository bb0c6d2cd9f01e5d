using TorchSharp.Modules;
using XlstmLab.Cells;
using static TorchSharp.torch;

namespace XlstmLab.Layers;

/// <summary>The last step of every language model, from the stream to logits.</summary>
internal static class LanguageHead
{
    /// <summary>[..., d] to [..., V], float32 or wider.</summary>
    /// <param name="hidden">[..., d].</param>
    /// <param name="head">The head; null where it is tied to the embedding.</param>
    /// <param name="embedding">The embedding.</param>
    public static Tensor Logits(Tensor hidden, Dense? head, Embedding embedding) =>
        (head?.Forward(hidden) ?? nn.functional.linear(hidden, embedding.weight!.to(hidden.dtype))).Widened();
}
