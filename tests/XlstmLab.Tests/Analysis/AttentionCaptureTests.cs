using CsCheck;
using TorchSharp;
using XlstmLab.Analysis;
using XlstmLab.Models;
using XlstmLab.Operations;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Analysis;

public sealed class AttentionCaptureTests
{
    [Fact]
    public void EffectiveAttention_TimesValues_IsTheCellsOutput() =>
        Gen.Select(Gen.Int[1, 21], Gen.Bool, Gen.Bool, Gen.Bool, Gen.Enum<MLstmForm>(), Gen.Int[0, 999]).Sample(
            (length, sigmoid, normalize, packed, form, seed) =>
            {
                using var scope = NewDisposeScope();
                using var generator = new Generator((ulong)seed, CPU);
                Tensor Random(params long[] shape) => randn(shape, dtype: ScalarType.Float64, generator: generator);
                var (q, k, v) = (Random(2, 3, length, 4), Random(2, 3, length, 4), Random(2, 3, length, 5));
                var (i, f) = (3 * Random(2, 3, length), 2 + 2 * Random(2, 3, length));
                var layout = packed ? new SequenceLayout(Random(2, length).gt(1), null) : null;
                var cell = new MLstmOptions
                {
                    InputGate = sigmoid ? InputGate.Sigmoid : InputGate.Exponential,
                    Normalize = normalize,
                    Form = form,
                    ChunkSize = 4,
                };
                var h = MLstmCell.ForwardOutput(q, k, v, i, f, null, layout, cell);

                var attention = AttentionCapture.EffectiveAttention(q, k, i, f, layout, cell);

                Assert.Equal([2, 3, length, length], attention.shape);
                var worst = (attention.matmul(v) - h).abs().max().item<double>();
                Assert.True(worst <= 1e-6 * (1 + h.abs().max().item<double>()), $"off by {worst}");
                Assert.Equal(0, attention.triu(1).abs().sum().item<double>());
            },
            iter: 40);

    [Fact]
    public void EffectiveAttention_ByHand_FollowsTheFormula()
    {
        using var scope = NewDisposeScope();
        var q = tensor(new[] { 1.0, 2.0 }, [1, 1, 2, 1]);
        var k = tensor(new[] { 0.5, -1.0 }, [1, 1, 2, 1]);
        var zero = zeros(1, 1, 2, dtype: ScalarType.Float64);

        var attention = AttentionCapture.EffectiveAttention(q, k, zero, zero, cell: new() { Epsilon = 0 });

        // i = 1, f = 1/2: rows 1/2 over max(1/2, 1), and (2 * 1/2 * 1/2, 2 * -1) = (1/2, -2) over max(|-3/2|, 1).
        Assert.Equal([0.5, 0, 1.0 / 3, -4.0 / 3], attention.data<double>().ToArray(), (a, b) => Math.Abs(a - b) < 1e-12);
    }

    [Theory]
    [InlineData(InputGate.Exponential, true)]
    [InlineData(InputGate.Sigmoid, false)]
    public void Run_Model_ReproducesItsHeadsOutputs(InputGate gate, bool normalize)
    {
        using var scope = NewDisposeScope();
        using var model = GateCaptureTests.Lively(new()
        {
            VocabularySize = 17,
            EmbeddingDim = 16,
            HeadCount = 2,
            BlockCount = 2,
            FeedForwardRoundUpTo = 8,
            InputGate = gate,
            Normalize = normalize,
        });
        var tokens = tensor(Enumerable.Range(0, 18).Select(t => (long)(t * 7 % 17)).ToArray(), [2, 9]);
        var starts = zeros(2, 9, dtype: ScalarType.Bool);
        starts[0, 4] = tensor(true);
        var seen = new Dictionary<(int, string), Tensor>();
        model.Observer = (block, name, value) => seen[(block, name)] = value.detach().clone().MoveToOtherDisposeScope(scope);
        using (no_grad())
        {
            model.Forward(tokens, layout: new(starts));
        }

        var recording = AttentionCapture.Run(model, tokens, new(starts));

        Assert.Equal([0, 1], recording.Layers.Select(l => l.Layer));
        for (var layer = 0; layer < 2; layer++)
        {
            var attention = tensor(recording.Layer(layer).Weights, [2, 2, 9, 9]);
            var off = (attention.matmul(seen[(layer, "v")]) - seen[(layer, "h")]).abs().max().item<float>();
            Assert.InRange(off, 0, 1e-4f * (1 + seen[(layer, "h")].abs().max().item<float>()));
            Assert.Equal(attention[1, 1, 7, 3].item<float>(), recording.Row(layer, 1, 7, 1)[3]);
        }

        Assert.Equal(0, recording.Row(0, 0, 6)[3]);
        Assert.Equal(2 * 2 * (15 + 10 + 45), recording.Rows().Count());
        Assert.Equal(recording.Rows().Count(), recording.ToDataFrame().Rows.Count);
        Assert.Equal([1], AttentionCapture.Run(model, tokens, layers: [1]).Layers.Select(l => l.Layer));
    }

    [Fact]
    public void Run_ModelThatShowsAttention_TakesItAndMeasuresWhereItReads()
    {
        using var model = new AttentionModel();

        var recording = AttentionCapture.Run(model, [0, 0, 0, 0]);
        var range = Assert.Single(recording.ReadingRanges());

        // Every token reads all up to itself alike: ages 0, 1/2, 1, 3/2.
        Assert.Equal(0.75, range.MeanAge, 1e-6);
        Assert.Equal((1 + 1 / 2.0 + 1 / 3.0 + 1 / 4.0) / 4, range.OwnShare, 1e-6);
        Assert.Equal(2.5, range.EffectiveTokens, 1e-6);
        Assert.Equal(0, range.NegativeShare);
        Assert.Equal([0.5f, 0.5f, 0, 0], recording.Row(0, 0, 1).ToArray());
        Assert.Throws<ArgumentOutOfRangeException>(() => recording.Row(0, 1, 0));
        Assert.Throws<ArgumentOutOfRangeException>(() => recording.Layer(1));
    }

    [Fact]
    public void Run_Llama_RowsAddUpToOne()
    {
        var config = new LlamaConfig
        {
            VocabularySize = 17,
            EmbeddingDim = 16,
            BlockCount = 2,
            HeadCount = 4,
            KeyValueHeads = 2,
            FeedForwardDim = 24,
        };
        using var model = config.CreateModel(1);

        var recording = AttentionCapture.Run(model, [1, 2, 3, 4, 5]);

        Assert.Equal([(0, 4), (1, 4)], recording.Layers.Select(l => (l.Layer, l.HeadCount)));
        Assert.Equal(2 * 4 * 15, recording.Rows().Count());
        Assert.All(recording.Rows().GroupBy(r => (r.Layer, r.Head, r.Query)), row => Assert.Equal(1, row.Sum(w => w.Weight), 1e-5));
    }

    [Fact]
    public void ReadingRanges_PaddingAndDeafTokens_AreLeftOut()
    {
        var recording = new AttentionRecording(
            1, 3, [false, false, true], [new(0, 1, [0, 0, 0, -1, 3, 0, float.NaN, float.NaN, float.NaN])]);

        var range = Assert.Single(recording.ReadingRanges());

        Assert.Equal((0.25, 0.75, 0.25), (range.MeanAge, range.OwnShare, range.NegativeShare));
        Assert.Equal(2, recording.Rows().Count());
    }

    [Fact]
    public void Run_Twice_LeavesNoTensorAndRestoresObserver()
    {
        using var model = GateCaptureTests.Lively(new() { VocabularySize = 9, EmbeddingDim = 16, HeadCount = 2, BlockCount = 1 });
        AttentionCapture.Run(model, [1, 2, 3]);
        var before = DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount;

        AttentionCapture.Run(model, [1, 2, 3]);
        var error = Assert.Throws<InvalidOperationException>(() => AttentionCapture.Run(model, [1], layers: [5]));

        Assert.Contains("blocks 5", error.Message, StringComparison.Ordinal);
        Assert.Null(model.Observer);
        Assert.Equal(before, DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount);
    }

    private sealed class AttentionModel() : ShowingModel(nameof(AttentionModel), 1)
    {
        protected override void Show(Tensor tokens)
        {
            var attention = ones(tokens.shape[1], tokens.shape[1]).tril();
            Observer?.Invoke(0, "q", attention);
            Observer?.Invoke(0, "attention", (attention / attention.sum(1, keepdim: true)).reshape(1, 1, tokens.shape[1], tokens.shape[1]));
        }
    }
}
