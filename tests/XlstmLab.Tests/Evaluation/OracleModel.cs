using TorchSharp.Modules;
using XlstmLab.Models;
using XlstmLab.Operations;
using XlstmLab.Tests.Tasks.Ruler;
using XlstmLab.Text;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Evaluation;

/// <summary>Reads bytes, and answers RULER's questions from the last characters it remembers; its state is all that it has read.</summary>
internal sealed class OracleModel : LanguageModel
{
    private static readonly ByteTokenizer Bytes = new();
    private readonly Parameter _weight = new(zeros(1));
    private readonly int _memory;

    public OracleModel(int memory = int.MaxValue)
        : base(nameof(OracleModel), new StubConfig { VocabularySize = 257 })
    {
        _memory = memory;
        _weight.DetachFromDisposeScope();
        RegisterComponents();
    }

    public override Tensor Embed(Tensor tokens) => tokens.to(ScalarType.Float32).unsqueeze(-1);

    public override (Tensor Hidden, ModelState? State) ForwardHidden(
        Tensor embedded, ModelState? state = null, SequenceLayout? layout = null, bool returnState = false)
    {
        Assert.False(training);
        using var scope = NewDisposeScope();
        var (batch, length) = ((int)embedded.shape[0], (int)embedded.shape[1]);
        var (ids, padding) = (embedded.to(ScalarType.Int64).data<long>().ToArray(), layout?.Padding?.data<bool>().ToArray());
        var read = new List<long>[batch];
        var says = new long[batch * length];
        for (var r = 0; r < batch; r++)
        {
            read[r] = state is null ? [] : [.. state["tokens"][r].data<long>().ToArray().Where(id => id >= 0)];
            var last = -1;
            for (var t = 0; t < length; t++)
            {
                if (padding is null || !padding[r * length + t])
                {
                    read[r].Add(ids[r * length + t]);
                    last = t;
                }
            }

            if (last >= 0)
            {
                says[r * length + last] = Next(read[r]);
            }
        }

        var longest = read.Max(row => row.Count);
        var kept = tensor(read.SelectMany(row => row.Concat(Enumerable.Repeat(-1L, longest - row.Count))).ToArray(), [batch, longest]);
        return (
            tensor(says, [batch, length, 1]).MoveToOuterDisposeScope(),
            returnState ? new([KeyValuePair.Create("tokens", kept.clone())]) : null);
    }

    public override Tensor Logits(Tensor hidden) => nn.functional.one_hot(hidden.squeeze(-1), VocabularySize).to(ScalarType.Float32) * 50;

    private long Next(List<long> read)
    {
        var text = Bytes.Decode(read.Select(id => (int)id));
        if (RulerOracle.Said(text) is not { } said)
        {
            return 0;
        }

        var prompt = text[..^said.Length];
        var question = prompt.LastIndexOf("\nQuestion: ", StringComparison.Ordinal);
        var remembered = Math.Max(0, question - Math.Min(question, _memory));
        var reply = " " + RulerOracle.Solve(prompt[remembered..]);
        return said.Length < reply.Length ? reply[said.Length] : Bytes.EndOfDocument;
    }
}
