using XlstmLab.Models;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Analysis;

/// <summary>A model that computes nothing, but shows activations to its observer.</summary>
internal abstract class ShowingModel(string name, int vocabularySize)
    : LanguageModel(name, new StubConfig { VocabularySize = vocabularySize })
{
    public override Tensor Embed(Tensor tokens) => tokens.to(ScalarType.Float32).unsqueeze(-1);

    public override (Tensor Hidden, ModelState? State) ForwardHidden(
        Tensor embedded, ModelState? state = null, SequenceLayout? layout = null, bool returnState = false)
    {
        using var scope = NewDisposeScope();
        Show(embedded.squeeze(-1).to(ScalarType.Int64));
        return (zeros_like(embedded).MoveToOuterDisposeScope(), null);
    }

    public override Tensor Logits(Tensor hidden) => zeros([.. hidden.shape[..^1], VocabularySize]);

    /// <summary>Shows what there is to be seen of tokens [B, S] int64.</summary>
    protected abstract void Show(Tensor tokens);
}
