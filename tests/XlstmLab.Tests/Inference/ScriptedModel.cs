using TorchSharp.Modules;
using XlstmLab.Cells;
using XlstmLab.Models;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Inference;

/// <summary>Says a script of ids, whatever it reads: after n tokens in all, the likeliest id is the n-th of the script, and the last from there on.</summary>
internal sealed class ScriptedModel : LanguageModel
{
    private readonly Parameter _weight = new(zeros(1));
    private readonly int[] _script;

    public ScriptedModel(int vocabularySize, params int[] script)
        : base(nameof(ScriptedModel))
    {
        (VocabularySize, _script) = (vocabularySize, script);
        _weight.DetachFromDisposeScope();
        RegisterComponents();
    }

    public override int VocabularySize { get; }

    public override int BlockCount => 1;

    public override ModelOutput Forward(Tensor tokens, ModelState? state = null, SequenceLayout? layout = null, bool returnState = false)
    {
        using var scope = NewDisposeScope();
        var read = (layout?.Padding?.logical_not() ?? ones_like(tokens, dtype: ScalarType.Bool)).to(ScalarType.Int64).cumsum(1) + (state?["read"] ?? zeros(1)); // (B, S)
        var says = tensor(_script.Select(id => (long)id).ToArray()).take((read - 1).clamp(0, _script.Length - 1).to(ScalarType.Int64));
        var logits = nn.functional.one_hot(says, VocabularySize).to(ScalarType.Float32) * 50;
        return new(
            logits.MoveToOuterDisposeScope(),
            returnState ? new([KeyValuePair.Create("read", read.narrow(1, tokens.shape[1] - 1, 1).clone())]) : null);
    }
}
