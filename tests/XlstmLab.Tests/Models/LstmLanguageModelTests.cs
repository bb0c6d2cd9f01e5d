using TorchSharp;
using XlstmLab.Checkpoints;
using XlstmLab.Mixers;
using XlstmLab.Models;
using XlstmLab.Operations;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Models;

public sealed class LstmLanguageModelTests : LanguageModelContract
{
    private static readonly LstmConfig Small = new() { VocabularySize = 257, EmbeddingDim = 32, BlockCount = 2 };

    protected override LanguageModelConfig Config => Small;

    [Theory]
    [InlineData(true, FeedForwardKind.Mlp)]
    [InlineData(true, FeedForwardKind.None)]
    [InlineData(false, FeedForwardKind.None)]
    public void Forward_LogitsAndGradients_EqualTheRecurrenceWrittenOut(bool residual, FeedForwardKind feedForward)
    {
        using var scope = NewDisposeScope();
        var config = Small with { Residual = residual, FeedForward = feedForward };
        using var model = config.CreateModel(seed: 2);
        model.to(ScalarType.Float64);
        var tokens = Tokens(2, 13);
        var starts = zeros(2, 13, dtype: ScalarType.Bool);
        starts[0, 4] = true;
        starts[0, 5] = true;
        starts[1, 0] = true;
        var weights = model.named_parameters().ToDictionary(p => p.name, p => (Tensor)p.parameter);
        var target = randn(2, 13, 257, dtype: ScalarType.Float64);
        var logits = model.Forward(tokens, layout: new(starts)).Logits;
        (logits * target).sum().backward();
        var gradients = weights.ToDictionary(p => p.Key, p => p.Value.grad!.clone());
        model.zero_grad();

        var expected = ByHand(config, weights, tokens, starts);
        (expected * target).sum().backward();
        Near(expected, logits);
        Assert.All(weights, p => Near(p.Value.grad!, gradients[p.Key], p.Key));
    }

    [Fact]
    public void CountParameters_FirstPapersTable2_Match()
    {
        foreach (var (config, millions) in new (LstmConfig, double)[]
        {
            (LstmPresets.Vanilla600M, 607.8), (LstmPresets.Residual500M, 506.1), (LstmPresets.UpProjection500M, 505.9),
        })
        {
            Assert.Equal(millions, Math.Round(config.CountParameters() / 1e6, 1));
        }

        Assert.InRange(LstmPresets.Bytes1M.CountParameters(), 800_000, 1_000_000);
        Assert.All(LstmPresets.All, p => Assert.Same(p.Value, Presets.ByName(p.Key)));
        Assert.All(LstmPresets.All.Values, config => config.Validate());
    }

    [Fact]
    public void ForwardFlopsPerToken_AnyLength_IsTwiceTheWeights()
    {
        double weights = 2 * (8 * 32 * 32 + 8 * 32 * 32) + 32 * 257;
        Assert.Equal(2 * weights, Small.ForwardFlopsPerToken(10));
        Assert.Equal(2 * weights, Small.ForwardFlopsPerToken(10_000));
    }

    [Fact]
    public void CreateModel_EveryChoice_HasItsParametersAndState()
    {
        using var scope = NewDisposeScope();
        foreach (var config in new[]
        {
            Small with { Residual = false, FeedForward = FeedForwardKind.None },
            Small with { FeedForward = FeedForwardKind.None, TieWordEmbeddings = true },
            Small with { FeedForward = FeedForwardKind.GeGlu }, Small with { FeedForwardWidth = 40, ForgetGateBias = 2 },
        })
        {
            using var model = config.CreateModel();
            Assert.Equal(config.CountParameters(), model.parameters().Sum(p => p.NumberOfElements));
            using var state = model.Forward(Tokens(1, 3), returnState: true).State!;
            Assert.Equal(config.StateBytes(3), state.SizeInBytes);
            Assert.Equal(config, ModelConfigJson.Parse(ModelConfigJson.Text(config)));
        }
    }

    [Fact]
    public void Initialize_Layer_HasTorchsScaleAndAForgetBiasOfOne()
    {
        using var scope = NewDisposeScope();
        using var model = (Small with { EmbeddingDim = 64 }).CreateModel(seed: 3);
        var weights = model.named_parameters().ToDictionary(p => p.name, p => p.parameter);
        foreach (var name in new[] { "weight_ih_l0", "weight_hh_l0" })
        {
            var weight = weights["model.layers.1.lstm." + name];
            Assert.InRange(weight.abs().max().item<float>(), 0.124, 0.125);
            Assert.Equal(0.125 / Math.Sqrt(3), weight.std().item<float>(), 2e-3);
        }

        var bias = weights["model.layers.1.lstm.bias_ih_l0"] + weights["model.layers.1.lstm.bias_hh_l0"];
        Assert.Equal(1, bias.narrow(0, 64, 64).min().item<float>());
        Assert.Equal(64, bias.sum().item<float>());
        Assert.Equal(Math.Sqrt(2.0 / (5 * 64)), weights["model.embeddings.weight"].std().item<float>(), 2e-3);
    }

    [Fact]
    public void Cut_DocumentsAndPadding_CutsWhereEitherChanges()
    {
        using var scope = NewDisposeScope();
        var starts = zeros(2, 9, dtype: ScalarType.Bool);
        starts[1, 3] = true;
        var padding = zeros(2, 9, dtype: ScalarType.Bool);
        padding[0, 5] = true;
        padding[0, 6] = true;
        var pieces = LstmPiece.Cut(new SequenceLayout(starts, padding), 9);
        Assert.Equal([(0L, 3L), (3L, 2L), (5L, 2L), (7L, 2L)], pieces.Select(p => (p.Start, p.Length)));
        Assert.Equal([false, true, false, false], pieces.Select(p => p.Starts is not null));
        Assert.Equal([false, false, true, false], pieces.Select(p => p.Absent is not null));
        Assert.Equal([(0L, 9L)], LstmPiece.Cut(null, 9).Select(p => (p.Start, p.Length)));
    }

    [Theory]
    [InlineData("\"residual\":false", "residual is false and feed_forward is Mlp")]
    [InlineData("\"feed_forward\":\"big\"", "expected one of swi_glu, ge_glu, mlp, relu_squared, none")]
    [InlineData("\"intermediate_size\":0", "intermediate_size is 0; expected at least 1")]
    [InlineData("\"hidden_size\":0", "hidden_size is 0; expected at least 1")]
    public void Parse_ImpossibleValue_SaysWhatWasExpected(string field, string reason)
    {
        var error = Assert.Throws<ConfigException>(() => ModelConfigJson.Parse($$"""{"model_type":"lstm",{{field}}}"""));
        Assert.Contains(reason, error.Message, StringComparison.Ordinal);
    }

    /// <summary>The model token by token, as its equations are written, for automatic differentiation.</summary>
    private static Tensor ByHand(LstmConfig config, Dictionary<string, Tensor> weights, Tensor tokens, Tensor starts)
    {
        Tensor Norm(Tensor x, string name) =>
            (x - x.mean([-1L], keepdim: true)) / (x.var(-1, unbiased: false, keepdim: true) + config.NormEpsilon).sqrt()
            * weights[name + ".weight"];
        Tensor Project(Tensor x, string name) => x.matmul(weights[name + ".weight"].t());
        var x = weights["model.embeddings.weight"][tokens]; // (B, S, d)
        for (var b = 0; b < config.BlockCount; b++)
        {
            var at = $"model.layers.{b}.";
            var read = config.Residual ? Norm(x, at + "lstm_norm") : x;
            var (h, c) = (zeros_like(x.select(1, 0)), zeros_like(x.select(1, 0)));
            var outputs = new List<Tensor>();
            for (long t = 0; t < tokens.shape[1]; t++)
            {
                var keep = starts.narrow(1, t, 1).logical_not();
                (h, c) = (h * keep, c * keep);
                var gates = (read.select(1, t).matmul(weights[at + "lstm.weight_ih_l0"].t()) + weights[at + "lstm.bias_ih_l0"]
                    + h.matmul(weights[at + "lstm.weight_hh_l0"].t()) + weights[at + "lstm.bias_hh_l0"]).chunk(4, 1);
                c = sigmoid(gates[1]) * c + sigmoid(gates[0]) * tanh(gates[2]);
                h = sigmoid(gates[3]) * tanh(c);
                outputs.Add(h);
            }

            var all = stack(outputs, 1);
            x = config.Residual ? x + all : all;
            if (config.FeedForward == FeedForwardKind.Mlp)
            {
                var inner = Project(Norm(x, at + "ffn_norm"), at + "ffn.proj_up");
                x = x + Project(inner * (1 + erf(inner / Math.Sqrt(2))) / 2, at + "ffn.proj_down");
            }
        }

        return Project(config.Residual ? Norm(x, "model.norm") : x, "lm_head");
    }
}
