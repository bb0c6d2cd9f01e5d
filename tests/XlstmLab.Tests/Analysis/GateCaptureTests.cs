using TorchSharp;
using XlstmLab.Analysis;
using XlstmLab.Models;
using XlstmLab.Operations;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Analysis;

public sealed class GateCaptureTests
{
    private static readonly XlstmConfig Small = new()
    {
        VocabularySize = 17,
        EmbeddingDim = 16,
        HeadCount = 2,
        BlockCount = 2,
        FeedForwardRoundUpTo = 8,
        ChunkSize = 4,
    };

    [Theory]
    [InlineData(InputGate.Exponential, ForgetGate.Sigmoid, true, false)]
    [InlineData(InputGate.Exponential, ForgetGate.Sigmoid, true, true)]
    [InlineData(InputGate.Sigmoid, ForgetGate.Sigmoid, false, false)]
    [InlineData(InputGate.Sigmoid, ForgetGate.Sigmoid, true, true)]
    [InlineData(InputGate.Sigmoid, ForgetGate.Exponential, true, true)]
    [InlineData(InputGate.None, ForgetGate.Sigmoid, false, true)]
    [InlineData(InputGate.Exponential, ForgetGate.None, true, false)]
    public void Run_SmallModel_EqualsRecurrentStatesTokenByToken(InputGate gate, ForgetGate forget, bool normalize, bool packed)
    {
        using var scope = NewDisposeScope();
        using var model = Lively(Small with { InputGate = gate, ForgetGate = forget, Normalize = normalize });
        var tokens = Tokens(2, 7);
        var layout = packed ? Packed(2, 7) : null;
        var seen = new Dictionary<(int, string), Tensor>();
        model.Observer = (block, name, value) => seen[(block, name)] = value.detach().clone().MoveToOtherDisposeScope(scope);
        using (no_grad())
        {
            model.Forward(tokens, layout: layout);
        }

        var recording = GateCapture.Run(model, tokens, layout);

        Assert.Equal([0, 1], recording.Layers.Select(l => l.Layer));
        for (var layer = 0; layer < 2; layer++)
        {
            var (q, k, v) = (seen[(layer, "q")], seen[(layer, "k")], seen[(layer, "v")]);
            var (i, f, h) = (seen[(layer, "igate_preact")], seen[(layer, "fgate_preact")], seen[(layer, "h")]);
            MLstmState? state = null;
            for (var t = 0; t < 7; t++)
            {
                (_, state) = MLstmCell.Forward(
                    At(q, t), At(k, t), At(v, t), At(i, t), At(f, t), state, layout?.Narrow(t, 1), ((XlstmConfig)model.Config).Cell);
                for (var b = 0; b < 2; b++)
                {
                    for (var head = 0; head < 2; head++)
                    {
                        if (packed && b == 1 && t == 6)
                        {
                            Assert.All(
                                Enum.GetValues<GateQuantity>(), x => Assert.True(float.IsNaN(recording.Values(x, layer, head, b)[t])));
                            continue;
                        }

                        var (c, n, m) = (state.C[b, head], state.N[b, head], state.M[b, head, 0].item<float>());
                        var product = (q[b, head, t] * n).sum().item<float>() / MathF.Sqrt(q.shape[3]);
                        var (it, ft) = (i[b, head, t].item<float>(), f[b, head, t].item<float>());
                        Expect(it, GateQuantity.InputPreactivation);
                        Expect(ft, GateQuantity.ForgetPreactivation);
                        Expect(
                            gate == InputGate.None ? 1 : gate == InputGate.Exponential ? MathF.Exp(it) : 1 / (1 + MathF.Exp(-it)),
                            GateQuantity.InputGate);
                        Expect(
                            forget == ForgetGate.None ? 1 : forget == ForgetGate.Exponential ? MathF.Exp(ft) : 1 / (1 + MathF.Exp(-ft)),
                            GateQuantity.ForgetGate);
                        Expect(
                            gate == InputGate.None ? 0 : gate == InputGate.Exponential ? it : -MathF.Log(1 + MathF.Exp(-it)),
                            GateQuantity.LogInputGate);
                        Expect(
                            forget == ForgetGate.None ? 0 : forget == ForgetGate.Exponential ? ft : -MathF.Log(1 + MathF.Exp(-ft)),
                            GateQuantity.LogForgetGate);
                        Expect(m, GateQuantity.Stabilizer);
                        Expect(product, GateQuantity.NormalizerProduct);
                        Expect(normalize ? MathF.Max(MathF.Abs(product), MathF.Exp(-m)) + 1e-6f : 1, GateQuantity.Denominator);
                        Expect(c.norm().item<float>(), GateQuantity.StabilizedMemoryNorm);
                        Expect(MathF.Exp(m) * c.norm().item<float>(), GateQuantity.MemoryNorm);
                        Expect(h[b, head, t].norm().item<float>(), GateQuantity.OutputNorm);
                        var o = seen[(layer, "ogate_preact")][b, t].reshape(2, -1)[head];
                        Expect(sigmoid(o).mean().item<float>(), GateQuantity.OutputGate);

                        void Expect(float expected, GateQuantity quantity) =>
                            Assert.True(
                                Math.Abs(expected - recording.Values(quantity, layer, head, b)[t]) <= 1e-5 * (1 + Math.Abs(expected)),
                                $"{quantity}, block {layer}, head {head}, token {t}: "
                                + $"{expected} and {recording.Values(quantity, layer, head, b)[t]}");
                    }
                }
            }
        }

        static Tensor At(Tensor x, int t) => x.narrow(2, t, 1);
    }

    [Fact]
    public void Run_NoOutputGate_RecordsNoNumber()
    {
        using var model = Lively(Small with { OutputGate = false });

        var recording = GateCapture.Run(model, [1, 2, 3]);

        Assert.Equal([0, 1], recording.Layers.Select(l => l.Layer));
        Assert.All(recording.Rows(), row => Assert.True(float.IsNaN(row.OutputGate)));
    }

    [Fact]
    public void Run_HandWrittenStep_HasItsNumbers()
    {
        // q = k = (1, 0), v = (3, 4), i~ = 0, f~ = 0 twice: m = 0, then max(log 1/2 + 0, 0) = 0; C = k v', then 1/2 k v' + k v'.
        using var model = new TwoTokenModel();

        var recording = GateCapture.Run(model, [0, 1]);

        Assert.Equal([5f, 7.5f], recording.Values(GateQuantity.MemoryNorm, 0, 0).ToArray());
        Assert.Equal([0f, 0f], recording.Values(GateQuantity.Stabilizer, 0, 0).ToArray());
        Assert.Equal(1 / MathF.Sqrt(2), recording.Values(GateQuantity.NormalizerProduct, 0, 0)[0], 1e-6f);
        Assert.Equal(1.5f / MathF.Sqrt(2), recording.Values(GateQuantity.Denominator, 0, 0)[1], 1e-5f);
        Assert.Equal([0.5f, 0.5f], recording.Values(GateQuantity.ForgetGate, 0, 0).ToArray());
        Assert.Equal([0.5f, 0.5f], recording.Values(GateQuantity.OutputGate, 0, 0).ToArray());
    }

    [Fact]
    public void Run_BFloat16_RecordsFiniteValues()
    {
        using var model = Lively(Small);
        model.ComputeType = ScalarType.BFloat16;

        var recording = GateCapture.Run(model, [1, 2, 3]);

        Assert.All(recording.Rows(), row => Assert.True(float.IsFinite(row.MemoryNorm) && float.IsFinite(row.OutputNorm)));
    }

    [Fact]
    public void Run_Twice_LeavesNoTensorAndRestoresObserver()
    {
        using var model = Lively(Small);
        var calls = 0;
        ActivationObserver mine = (_, _, _) => calls++;
        model.Observer = mine;
        GateCapture.Run(model, [1, 2, 3]);
        var before = DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount;

        GateCapture.Run(model, [1, 2, 3]);

        Assert.Equal(before, DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount);
        Assert.Same(mine, model.Observer);
        Assert.Equal(0, calls);
    }

    [Fact]
    public void Run_BadTokens_ThrowsLeavingNothingBehind()
    {
        using var model = Lively(Small);
        GateCapture.Run(model, [1]);
        var before = DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount;

        Assert.Throws<ArgumentOutOfRangeException>(() => GateCapture.Run(model, [99]));
        Assert.Throws<ArgumentException>(() => GateCapture.Run(model, []));
        using (var flat = zeros(3, int64))
        {
            Assert.Throws<ArgumentException>(() => GateCapture.Run(model, flat));
        }

        Assert.Null(model.Observer);
        Assert.Equal(before, DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount);
    }

    [Fact]
    public void Run_ModelWithoutMLstm_SaysSo()
    {
        using var model = new TwoTokenModel { Silent = true };

        var error = Assert.Throws<InvalidOperationException>(() => GateCapture.Run(model, [0, 1]));

        Assert.Contains("no mLSTM", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Values_NoSuchHead_NamesTheRange()
    {
        using var model = Lively(Small);
        var recording = GateCapture.Run(model, [1]);

        var head = Assert.Throws<ArgumentOutOfRangeException>(() => recording.Values(GateQuantity.InputGate, 0, 2));
        var layer = Assert.Throws<ArgumentOutOfRangeException>(() => recording.Layer(2));

        Assert.Contains("0 to 1", head.Message, StringComparison.Ordinal);
        Assert.Contains("0, 1", layer.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Summarize_ConstantGates_FollowTheFormulas()
    {
        using var model = new XlstmLanguageModel(Small with { GateSoftCap = null, BlockCount = 1 });
        using (no_grad())
        {
            SetBias(model, "fgate_preact", Math.Log(9)); // f = 0.9
            SetBias(model, "igate_preact", -1);
        }

        var tokens = Enumerable.Repeat(1, 400).ToArray();
        var recording = GateCapture.Run(model, tokens);
        var summary = recording.Summarize(0.3)[0];
        var lengths = Enumerable.Range(1, 400).Select(t => (1 - Math.Pow(0.9, t)) / 0.1).ToArray();

        Assert.Equal(2, recording.Summarize().Count);
        Assert.Equal(Math.Log(2) / -Math.Log(0.9), summary.HalfLife, 1e-4);
        Assert.Equal(summary.HalfLife, summary.MeanRateHalfLife, 1e-4);
        Assert.Equal(0.9, summary.MeanForgetGate, 1e-5);
        Assert.Equal(Math.Exp(-1), summary.MeanInputGate, 1e-5);
        Assert.Equal(1, summary.OpenInputShare);
        Assert.Equal(0, recording.Summarize(0.4)[0].OpenInputShare);
        Assert.Equal(lengths.Average(), summary.MemoryLength, 1e-3);

        // (1 - f^t)^2 / (1 - f)^2 over (1 - f^2t) / (1 - f^2).
        var expected = Enumerable.Range(1, 400).Average(t => Math.Pow(lengths[t - 1], 2) * (1 - 0.81) / (1 - Math.Pow(0.9, 2 * t)));
        Assert.Equal(expected, summary.EffectiveTokens, 1e-3);
    }

    [Fact]
    public void Summarize_GatesThatAnswerToTheText_HaveTheHalfLifeOfTheirLifetimes()
    {
        using var model = Lively(Small);
        var recording = GateCapture.Run(model, [.. Enumerable.Range(0, 600).Select(t => t * 5 % 9)]);
        var lifetimes = recording.HeadLifetimes();

        Assert.All(recording.Summarize(), s =>
        {
            Assert.Equal(lifetimes.Single(h => (h.Layer, h.Head) == (s.Layer, s.Head)).Median, s.HalfLife);
            var meanLog = recording.Values(GateQuantity.LogForgetGate, s.Layer, s.Head).ToArray().Average(v => (double)v);
            Assert.Equal(Math.Log(2) / -meanLog, s.MeanRateHalfLife, 1e-6 * s.MeanRateHalfLife);
        });
    }

    [Fact]
    public void Summarize_DocumentStarts_ForgetWhatWasBefore()
    {
        using var scope = NewDisposeScope();
        using var model = Lively(Small);
        var every = ones(1, 6, dtype: ScalarType.Bool);

        var recording = GateCapture.Run(model, Tokens(1, 6), new(DocumentStarts: every));

        Assert.All(recording.Summarize(), s => Assert.Equal((1.0, 1.0), (s.MemoryLength, Math.Round(s.EffectiveTokens, 9))));
    }

    internal static XlstmLanguageModel Lively(XlstmConfig config)
    {
        var model = new XlstmLanguageModel(config, seed: 3);
        using var grad = no_grad();
        using var scope = NewDisposeScope();
        using var generator = new Generator(7, CPU);
        foreach (var (name, parameter) in model.named_parameters())
        {
            if (name.Contains("gate_preact.weight", StringComparison.Ordinal))
            {
                parameter.normal_(0, 1, generator);
            }
        }

        SetBias(model, "igate_preact", -0.5);
        SetBias(model, "fgate_preact", 0.5);
        return model;
    }

    internal static void SetBias(XlstmLanguageModel model, string gate, double value)
    {
        using var grad = no_grad();
        using var scope = NewDisposeScope();
        foreach (var (name, parameter) in model.named_parameters())
        {
            if (name.EndsWith(gate + ".bias", StringComparison.Ordinal))
            {
                parameter.fill_(value);
            }
        }
    }

    private static Tensor Tokens(int rows, int columns) =>
        tensor(Enumerable.Range(0, rows * columns).Select(t => (long)(t * 7 % 17)).ToArray(), [rows, columns]);

    /// <summary>A document that starts in the middle, and a last position that is padding, in row 1.</summary>
    private static SequenceLayout Packed(int rows, int columns)
    {
        var starts = zeros(rows, columns, dtype: ScalarType.Bool);
        var padding = zeros(rows, columns, dtype: ScalarType.Bool);
        starts[1, 3] = tensor(true);
        padding[1, columns - 1] = tensor(true);
        return new(starts, padding);
    }

    /// <summary>Shows fixed activations, as a model of other layers may.</summary>
    private sealed class TwoTokenModel() : LanguageModel(nameof(TwoTokenModel), new StubConfig { VocabularySize = 2 })
    {
        public bool Silent { get; init; }

        public override Tensor Embed(Tensor tokens) => tokens.to(ScalarType.Float32).unsqueeze(-1);

        public override (Tensor Hidden, ModelState? State) ForwardHidden(
            Tensor embedded, ModelState? state = null, SequenceLayout? layout = null, bool returnState = false)
        {
            if (!Silent)
            {
                var key = tensor(new float[] { 1, 0, 1, 0 }, [1, 1, 2, 2]);
                Observer?.Invoke(0, "q", key);
                Observer?.Invoke(0, "k", key);
                Observer?.Invoke(0, "v", tensor(new float[] { 3, 4, 3, 4 }, [1, 1, 2, 2]));
                Observer?.Invoke(0, "igate_preact", zeros(1, 1, 2));
                Observer?.Invoke(0, "fgate_preact", zeros(1, 1, 2));
                Observer?.Invoke(0, "ogate_preact", zeros(1, 2, 2));
                Observer?.Invoke(0, "h", zeros(1, 1, 2, 2));
            }

            return (zeros_like(embedded), null);
        }

        public override Tensor Logits(Tensor hidden) => zeros([.. hidden.shape[..^1], 2]);
    }
}
