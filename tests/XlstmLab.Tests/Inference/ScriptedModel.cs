using TorchSharp.Modules;
using XlstmLab.Models;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Inference;

/// <summary>
/// Says a script of ids, whatever it reads: after n tokens in all, the likeliest id is the n-th of the script, and the last from there on.
/// For -1 its logits are no numbers.
/// </summary>
internal sealed class ScriptedModel : LanguageModel
{
    private readonly Parameter _weight = new(zeros(1));
    private readonly int[] _script;

    public ScriptedModel(int vocabularySize, params int[] script)
        : base(nameof(ScriptedModel), new StubConfig { VocabularySize = vocabularySize })
    {
        _script = script;
        _weight.DetachFromDisposeScope();
        RegisterComponents();
    }

    public override Tensor Embed(Tensor tokens) => tokens.to(ScalarType.Float32).unsqueeze(-1);

    public override (Tensor Hidden, ModelState? State) ForwardHidden(
        Tensor embedded, ModelState? state = null, SequenceLayout? layout = null, bool returnState = false)
    {
        using var scope = NewDisposeScope();
        var real = layout?.Padding?.logical_not() ?? ones(embedded.shape[0], embedded.shape[1], dtype: ScalarType.Bool);
        var read = real.to(ScalarType.Int64).cumsum(1) + (state?["read"] ?? zeros(1)); // (B, S)
        var says = tensor(_script.Select(id => (long)id).ToArray()).take((read - 1).clamp(0, _script.Length - 1).to(ScalarType.Int64));
        return (
            says.unsqueeze(-1).MoveToOuterDisposeScope(),
            returnState ? new([KeyValuePair.Create("read", read.narrow(1, embedded.shape[1] - 1, 1).clone())]) : null);
    }

    /// <summary>The most positions whose logits were asked for at once.</summary>
    public long MostLogits { get; private set; }

    public override Tensor Logits(Tensor hidden)
    {
        MostLogits = Math.Max(MostLogits, hidden.NumberOfElements);
        using var scope = NewDisposeScope();
        var likeliest = nn.functional.one_hot(hidden.squeeze(-1).clamp_min(0), VocabularySize).to(ScalarType.Float32) * 50;
        return likeliest.masked_fill(hidden < 0, double.NaN).MoveToOuterDisposeScope();
    }
}
