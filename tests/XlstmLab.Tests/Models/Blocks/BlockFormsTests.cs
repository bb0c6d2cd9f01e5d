using TorchSharp;
using XlstmLab.Checkpoints;
using XlstmLab.Inference;
using XlstmLab.Models;
using XlstmLab.Operations;
using XlstmLab.Tests.Operations;
using XlstmLab.Text;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Models.Blocks;

public sealed class BlockFormsTests
{
    private const int Rows = 2;
    private const int Length = 13;

    public static TheoryData<string> Variants => [.. BlockVariants.All.Keys];

    [Theory]
    [MemberData(nameof(Variants))]
    public void Forward_PackedRowsInAnyPieces_EqualsDocumentsApartTokenByToken(string variant)
    {
        using var scope = NewDisposeScope();
        using var model = BlockVariants.Model(BlockVariants.All[variant] with { Epsilon = 0 });
        using var generator = new Generator(5, CPU);
        var tokens = randint(0, 11, [Rows, Length], ScalarType.Int64, generator: generator);
        var weights = randn([Rows, Length, 11], ScalarType.Float64, generator: generator);
        bool[,] starts = new bool[Rows, Length], padding = new bool[Rows, Length];
        (starts[0, 0], starts[0, 5], starts[0, 6], starts[1, 9]) = (true, true, true, true);
        (padding[0, 3], padding[0, 12], padding[1, 0], padding[1, 1], padding[1, 9], padding[1, 11]) = (true, true, true, true, true, true);
        var layout = new SequenceLayout(tensor(starts), tensor(padding));
        weights = weights.masked_fill(layout.Padding!.unsqueeze(-1), 0);

        var (expected, expectedGradients) = Apart(model, tokens, weights, starts, padding);
        int[][] some = [[Length], [1, 4, 3, 5]];
        foreach (var pieces in LongTests.Cases(all: [.. some, [.. Enumerable.Repeat(1, Length)]], few: some))
        {
            var loss = zeros([], ScalarType.Float64);
            var parts = new List<Tensor>();
            var states = new List<ModelState?> { null };
            var first = 0;
            foreach (var length in pieces)
            {
                var (part, state) = model.Forward(
                    tokens.narrow(1, first, length), states[^1], layout.Narrow(first, length), returnState: true);
                parts.Add(part);
                states.Add(state);
                first += length;
            }

            var logits = cat(parts, 1).masked_fill(layout.Padding!.unsqueeze(-1), 0);
            MLstmTests.Near(expected, logits, 1e-11, $"{variant}, {pieces.Length} pieces");
            var gradients = Gradients(model, (logits * weights).sum());
            foreach (var (name, gradient) in expectedGradients)
            {
                MLstmTests.Near(gradient, gradients[name], 1e-8, $"{variant}, {pieces.Length} pieces, gradient of {name}", floor: 1e-9);
            }

            states.ForEach(state => state?.Dispose());
        }
    }

    [Theory]
    [MemberData(nameof(Variants))]
    public void ForwardAndBackward_Repeated_LeaveNoTensors(string variant)
    {
        using var outer = NewDisposeScope();
        using var model = new XlstmLanguageModel(BlockVariants.All[variant], seed: 1);
        var tokens = zeros(2, 6, ScalarType.Int64);
        var layout = new SequenceLayout(
            tensor(new[,] { { true, false, false, true, false, false }, { true, false, false, false, false, false } }));
        void Step()
        {
            using var scope = NewDisposeScope();
            model.Forward(tokens, null, layout).Logits.sum().backward();
            using var grad = no_grad();
            using var state = model.Forward(tokens, null, layout, returnState: true).State;
            using var next = model.Forward(tokens.narrow(1, 0, 1), state, returnState: true).State;
        }

        Step();
        Step();
        var before = DisposeScopeManager.Statistics.ThreadTotalLiveCount;
        Step();
        Step();
        Assert.Equal(before, DisposeScopeManager.Statistics.ThreadTotalLiveCount);
    }

    [Theory]
    [MemberData(nameof(Variants))]
    public void Checkpoint_OfAnyVariant_RoundTrips(string variant)
    {
        using var scope = NewDisposeScope();
        using var temp = new TempFolder();
        using var model = new XlstmLanguageModel(BlockVariants.All[variant], seed: 4);
        HuggingFaceFolder.Save(temp["m"], model.Config, model.state_dict());
        using var folder = HuggingFaceFolder.Open(temp["m"]);
        Assert.Equal(model.Config with { }, ((XlstmConfig)folder.Config) with { ChunkSize = ((XlstmConfig)model.Config).ChunkSize });
        using var loaded = folder.Config.CreateModel(seed: 5);
        folder.LoadInto(loaded);
        var tokens = tensor(new long[,] { { 1, 2, 3, 4, 5 } });
        var (logits, state) = model.Forward(tokens, returnState: true);
        Assert.True(logits.equal(loaded.Forward(tokens).Logits).all().item<bool>());

        ModelStateFile.Save(state!, temp["s"]);
        using var read = ModelStateFile.Load(temp["s"]);
        var next = tensor(new long[,] { { 6 } });
        Assert.True(model.Forward(next, state).Logits.equal(loaded.Forward(next, read).Logits).all().item<bool>());
        state!.Dispose();
    }

    [Theory]
    [MemberData(nameof(Variants))]
    public void State_SelectedRows_GoOnAsThoseRows(string variant)
    {
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        using var model = BlockVariants.Model(BlockVariants.All[variant]);
        var tokens = tensor(new long[,] { { 1, 2, 3, 4, 5 }, { 6, 7, 8, 9, 10 } });
        var state = model.Forward(tokens.narrow(1, 0, 3), returnState: true).State!;
        using var forked = state.SelectRows(1, 1, 0);
        var expected = model.Forward(tokens).Logits.narrow(1, 3, 2);
        var next = tokens.narrow(1, 3, 2);
        var logits = model.Forward(cat([next[1..2], next[1..2], next[0..1]], 0), forked).Logits;
        MLstmTests.Near(cat([expected[1..2], expected[1..2], expected[0..1]], 0), logits, 1e-11, variant);
        state.Dispose();
    }

    [Theory]
    [MemberData(nameof(Variants))]
    public void Generate_Greedily_EqualsWholeSequencesReadAgain(string variant)
    {
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        using var model = BlockVariants.Model(BlockVariants.All[variant] with { VocabularySize = 257 });
        var generated = new TextGenerator(model, new ByteTokenizer()).Generate(
            "ab", new GenerationOptions { Temperature = 0, MaxNewTokens = 8, StopAtEndOfDocument = false });
        var bytes = new ByteTokenizer();
        long[] ids = [bytes.EndOfDocument, .. bytes.Encode("ab").Select(id => (long)id)];
        foreach (var token in generated.Tokens)
        {
            Assert.Equal(model.Forward(tensor(ids).unsqueeze(0)).Logits[0, -1].argmax().item<long>(), (long)token);
            ids = [.. ids, token];
        }

        Assert.Equal(8, generated.Tokens.Length);
    }

    /// <summary>Each document by itself, from the empty state, token by token: logits, zero under padding, and all gradients.</summary>
    private static (Tensor Logits, Dictionary<string, Tensor> Gradients) Apart(
        XlstmLanguageModel model, Tensor tokens, Tensor weights, bool[,] starts, bool[,] padding)
    {
        var rows = new List<Tensor>();
        var states = new List<ModelState?>();
        for (var row = 0; row < Rows; row++)
        {
            ModelState? state = null;
            var parts = new List<Tensor>();
            for (var t = 0; t < Length; t++)
            {
                state = starts[row, t] ? null : state;
                if (padding[row, t])
                {
                    parts.Add(zeros(1, 1, 11, ScalarType.Float64));
                    continue;
                }

                (var part, state) = model.Forward(tokens.narrow(0, row, 1).narrow(1, t, 1), state, returnState: true);
                parts.Add(part);
                states.Add(state);
            }

            rows.Add(cat(parts, 1));
        }

        var logits = cat(rows, 0);
        var gradients = Gradients(model, (logits * weights).sum());
        states.ForEach(state => state?.Dispose());
        return (logits.detach(), gradients);
    }

    private static Dictionary<string, Tensor> Gradients(XlstmLanguageModel model, Tensor loss)
    {
        model.zero_grad();
        loss.backward();
        return model.named_parameters().ToDictionary(p => p.name, p => p.parameter.grad!.clone());
    }
}
