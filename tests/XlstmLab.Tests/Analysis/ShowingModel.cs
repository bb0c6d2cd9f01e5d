using XlstmLab.Cells;
using XlstmLab.Models;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Analysis;

/// <summary>A model that computes nothing, but shows activations to its observer.</summary>
internal abstract class ShowingModel(string name, int vocabularySize) : LanguageModel(name)
{
    public override int VocabularySize => vocabularySize;

    public override int BlockCount => 1;

    public override ModelOutput Forward(Tensor tokens, ModelState? state = null, SequenceLayout? layout = null, bool returnState = false)
    {
        using var scope = NewDisposeScope();
        Show(tokens);
        return new(zeros(tokens.shape[0], tokens.shape[1], vocabularySize).MoveToOuterDisposeScope(), null);
    }

    protected abstract void Show(Tensor tokens);
}
