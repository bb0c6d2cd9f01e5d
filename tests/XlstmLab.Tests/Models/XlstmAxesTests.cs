using TorchSharp;
using XlstmLab.Layers;
using XlstmLab.Mixers;
using XlstmLab.Models;
using XlstmLab.Operations;
using XlstmLab.Tests.Operations;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Models;

/// <summary>Each axis of the configuration changes what it says, and nothing else.</summary>
public sealed class XlstmAxesTests
{
    private static readonly XlstmConfig Small = new()
    {
        VocabularySize = 11,
        EmbeddingDim = 16,
        HeadCount = 2,
        BlockCount = 1,
        FeedForwardFactor = 1.5,
        FeedForwardRoundUpTo = 8,
        ChunkSize = 4,
    };

    /// <summary>Configurations of one axis or a few, by a name, with what they take from and add to the default's state dict.</summary>
    private static readonly Dictionary<string, (XlstmConfig Config, string[] Gone, string[] New)> Axes = new()
    {
        ["sigmoid input gate"] = (Small with { InputGate = InputGate.Sigmoid }, [], []),
        ["exponential forget gate"] =
            (Small with { ForgetGate = ForgetGate.Exponential, ForgetGateBiasFirst = -1, ForgetGateBiasLast = 0 }, [], []),
        ["no input gate"] = (Small with { InputGate = InputGate.None }, ["igate_preact.bias [2]", "igate_preact.weight [2, 16]"], []),
        ["no forget gate"] = (Small with { ForgetGate = ForgetGate.None }, ["fgate_preact.bias [2]", "fgate_preact.weight [2, 16]"], []),
        ["input bias only"] = (Small with { InputGatePreactivation = GatePreactivation.BiasOnly }, ["igate_preact.weight [2, 16]"], []),
        ["forget bias only"] = (Small with { ForgetGatePreactivation = GatePreactivation.BiasOnly }, ["fgate_preact.weight [2, 16]"], []),
        ["fixed input gate"] = (Small with { InputGatePreactivation = GatePreactivation.Fixed }, ["igate_preact.weight [2, 16]"], []),
        ["fixed forget gate"] = (Small with { ForgetGatePreactivation = GatePreactivation.Fixed }, ["fgate_preact.weight [2, 16]"], []),
        ["no output gate"] = (Small with { OutputGate = false }, ["ogate_preact.weight [16, 16]"], []),
        ["gates from q k v"] = (
            Small with { GateSource = GateSource.Qkv },
            ["fgate_preact.weight [2, 16]", "igate_preact.weight [2, 16]"],
            ["fgate_preact.weight [2, 32]", "igate_preact.weight [2, 32]"]),
        ["no gate soft cap"] = (Small with { GateSoftCap = null }, [], []),
        ["narrow soft caps"] = (Small with { GateSoftCap = 0.7, OutputLogitSoftCap = 0.2 }, [], []),
        ["no logit soft cap"] = (Small with { OutputLogitSoftCap = null }, [], []),
        ["no normaliser"] = (Small with { Normalize = false }, [], []),
        ["q-k norm"] = (Small with { QkNorm = true }, [], ["k_norm.weight [8]", "q_norm.weight [8]"]),
        ["q-k norm and gates from q k v"] = (
            Small with { QkNorm = true, GateSource = GateSource.Qkv },
            ["fgate_preact.weight [2, 16]", "igate_preact.weight [2, 16]"],
            ["fgate_preact.weight [2, 32]", "igate_preact.weight [2, 32]", "k_norm.weight [8]", "q_norm.weight [8]"]),
        ["pre-norm layer"] = (Small with { PreNorm = NormKind.Layer }, [], []),
        ["pre-norm none"] = (Small with { PreNorm = NormKind.None },
            ["norm_ffn.weight [16]", "norm_mlstm.weight [16]", "out_norm.weight [16]"], []),
        ["sandwich"] = (Small with { PostNorm = NormKind.Rms }, [], ["norm_ffn_post.weight [16]", "norm_mlstm_post.weight [16]"]),
        ["sandwich of layer norms"] = (
            Small with { PreNorm = NormKind.Layer, PostNorm = NormKind.Layer }, [],
            ["norm_ffn_post.weight [16]", "norm_mlstm_post.weight [16]"]),
        ["no out norm"] = (Small with { AddOutNorm = false }, ["out_norm.weight [16]"], []),
        ["head norm RMS"] = (Small with { HeadNorm = HeadNormKind.Rms }, [], []),
        ["head norm of four groups"] = (Small with { HeadNorm = HeadNormKind.Group, HeadNormGroups = 4 }, [], []),
        ["head norm over all heads"] = (Small with { HeadNorm = HeadNormKind.Group, HeadNormGroups = 1 }, [], []),
        ["no head norm"] = (Small with { HeadNorm = HeadNormKind.None }, ["multihead_norm.weight [16]"], []),
        ["head norm epsilon"] = (Small with { HeadNormEpsilon = 0.3 }, [], []),
        ["GeGLU"] = (Small with { FeedForward = FeedForwardKind.GeGlu }, [], []),
        ["MLP"] = (Small with { FeedForward = FeedForwardKind.Mlp }, ["proj_up_gate.weight [24, 16]"], []),
        ["squared ReLU"] = (Small with { FeedForward = FeedForwardKind.ReluSquared }, ["proj_up_gate.weight [24, 16]"], []),
        ["no feed-forward layer"] = (
            Small with { FeedForward = FeedForwardKind.None },
            ["norm_ffn.weight [16]", "proj_down.weight [16, 24]", "proj_up.weight [24, 16]", "proj_up_gate.weight [24, 16]"],
            []),
        ["tied"] = (Small with { TieWordEmbeddings = true }, ["lm_head.weight [11, 16]"], []),
        ["dropout"] = (Small with { Dropout = 0.3 }, [], []),
        ["widths"] = (
            Small with { HeadCount = 4, QkDimFactor = 1, VDimFactor = 2 },
            [
                "fgate_preact.bias [2]", "fgate_preact.weight [2, 16]", "igate_preact.bias [2]", "igate_preact.weight [2, 16]",
                "k.weight [8, 16]",
                "multihead_norm.weight [16]", "ogate_preact.weight [16, 16]", "out_proj.weight [16, 16]", "q.weight [8, 16]",
                "v.weight [16, 16]",
            ],
            [
                "fgate_preact.bias [4]", "fgate_preact.weight [4, 16]", "igate_preact.bias [4]", "igate_preact.weight [4, 16]",
                "k.weight [16, 16]",
                "multihead_norm.weight [32]", "ogate_preact.weight [32, 16]", "out_proj.weight [16, 32]", "q.weight [16, 16]",
                "v.weight [32, 16]",
            ]),
    };

    public static TheoryData<string> AxisNames() => [.. Axes.Keys];

    [Theory]
    [MemberData(nameof(AxisNames))]
    public void StateDict_OneAxis_ChangesTheseNamesAndShapesOnly(string axis)
    {
        var (config, gone, added) = Axes[axis];
        using var standard = new XlstmLanguageModel(Small);
        using var model = new XlstmLanguageModel(config);
        var (before, after) = (Shapes(standard), Shapes(model));

        Assert.Equal(gone, before.Except(after).Order(StringComparer.Ordinal));
        Assert.Equal(added, after.Except(before).Order(StringComparer.Ordinal));
    }

    /// <summary>A model of one block against its equations, written out once more for all axes, with random weights everywhere.</summary>
    [Theory]
    [MemberData(nameof(AxisNames))]
    public void Forward_OneAxis_EqualsTheEquations(string axis)
    {
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        var config = Axes[axis].Config;
        using var model = new XlstmLanguageModel(config);
        model.to(ScalarType.Float64);
        model.eval();
        Randomize(model);
        var tokens = randint(0, 11, [2, 9], dtype: ScalarType.Int64, generator: new Generator(5, CPU));

        var logits = model.Forward(tokens).Logits;

        MLstmTests.Near(Reference(config, model.state_dict(), tokens), logits, 1e-10, axis);
    }

    /// <summary>Each axis has an effect: with the same weights, where the names allow it, the default gives other logits.</summary>
    [Theory]
    [MemberData(nameof(AxisNames))]
    public void Forward_OneAxis_DiffersFromTheDefault(string axis)
    {
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        using var standard = new XlstmLanguageModel(Small);
        using var model = new XlstmLanguageModel(Axes[axis].Config);
        Randomize(standard);
        Randomize(model);
        var weights = standard.state_dict();
        foreach (var (name, value) in model.state_dict())
        {
            if (weights.TryGetValue(name, out var same) && same.shape.SequenceEqual(value.shape))
            {
                value.copy_(same);
            }
        }

        var tokens = randint(0, 11, [2, 9], dtype: ScalarType.Int64, generator: new Generator(5, CPU));
        var difference = (standard.Forward(tokens).Logits - model.Forward(tokens).Logits).abs().max().item<float>();

        // A scale-invariant norm follows the normaliser: what is left of it is epsilon's.
        Assert.InRange(difference, axis is "no normaliser" or "no gate soft cap" or "no logit soft cap" ? 1e-6f : 1e-3f, float.MaxValue);
    }

    [Theory]
    [InlineData("igate_preact.bias")]
    [InlineData("fgate_preact.bias")]
    public void FixedGate_Backward_HasNoGradientButIsSaved(string name)
    {
        using var scope = NewDisposeScope();
        using var model = new XlstmLanguageModel(
            Small with { InputGatePreactivation = GatePreactivation.Fixed, ForgetGatePreactivation = GatePreactivation.Fixed });
        name = "backbone.blocks.0.mlstm_layer." + name;
        model.Forward(zeros(1, 5, dtype: ScalarType.Int64)).Logits.square().sum().backward();

        Assert.DoesNotContain(name, model.named_parameters().Select(p => p.name));
        Assert.False(model.state_dict()[name].requires_grad);
        Assert.All(model.named_parameters(), p => Assert.NotNull(p.parameter.grad));
    }

    [Theory]
    [InlineData(WeightMode.Single)]
    [InlineData(WeightMode.Fused)]
    public void BiasOnlyGate_Backward_HasAGradient(WeightMode mode)
    {
        using var scope = NewDisposeScope();
        using var model = new XlstmLanguageModel(
            Small with
            {
                WeightMode = mode,
                InputGatePreactivation = GatePreactivation.BiasOnly,
                ForgetGatePreactivation = GatePreactivation.BiasOnly,
            });
        Randomize(model);
        model.Forward(arange(9).unsqueeze(0)).Logits.square().sum().backward();

        var biases = model.named_parameters().Where(p => p.name.Contains("gate_preact.bias", StringComparison.Ordinal)).ToArray();
        Assert.Equal(mode == WeightMode.Single ? 2 : 1, biases.Length);
        Assert.All(biases, p => Assert.All(p.parameter.grad!.data<float>().ToArray(), gradient => Assert.NotEqual(0, gradient)));
    }

    [Fact]
    public void GatesAtTheStart_OfAllKinds_AreOneFunction()
    {
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        var tokens = randint(0, 11, [2, 9], dtype: ScalarType.Int64, generator: new Generator(5, CPU));
        var logits = Enum.GetValues<GatePreactivation>().Select(kind =>
        {
            using var model = new XlstmLanguageModel(
                Small with { InputGatePreactivation = kind, ForgetGatePreactivation = kind, InputGateBiasStd = 0.5 }, seed: 4);
            return model.Forward(tokens).Logits;
        }).ToArray();

        // The learned weights are zero, so that the bias alone speaks.
        Assert.True(logits[0].allclose(logits[1], 0, 1e-6));
        Assert.True(logits[0].allclose(logits[2], 0, 1e-6));
    }

    [Fact]
    public void NoGates_EqualFixedSigmoidGatesThatAreFullyOpen()
    {
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        var open = Small with
        {
            InputGate = InputGate.Sigmoid,
            InputGatePreactivation = GatePreactivation.Fixed,
            ForgetGatePreactivation = GatePreactivation.Fixed,
            GateSoftCap = null,
            InputGateBias = 200,
            ForgetGateBiasFirst = 200,
            ForgetGateBiasLast = 200,
        };
        var none = Small with { InputGate = InputGate.None, ForgetGate = ForgetGate.None };
        AssertSameLogits(open, none, 0);
    }

    [Fact]
    public void SoftCaps_VeryWide_EqualNone() =>
        AssertSameLogits(
            Small with { GateSoftCap = 1e4, OutputLogitSoftCap = 1e4 }, Small with { GateSoftCap = null, OutputLogitSoftCap = null }, 1e-5);

    [Fact]
    public void HeadNorm_OneGroupAHead_EqualsLayer()
    {
        AssertSameLogits(Small with { HeadNorm = HeadNormKind.Group }, Small, 0);
        AssertSameLogits(Small with { HeadNorm = HeadNormKind.Group, HeadNormGroups = 2 }, Small, 0);
        AssertSameLogits(Small with { HeadNormEpsilon = Small.NormEpsilon }, Small, 0);
    }

    /// <summary>What the fused model has as one matrix, the other has as several.</summary>
    [Theory]
    [InlineData("sigmoid input gate", 1)]
    [InlineData("no output gate", 1)]
    [InlineData("no input gate", 0)]
    [InlineData("no forget gate", 0)]
    [InlineData("input bias only", 0)]
    [InlineData("fixed forget gate", 0)]
    [InlineData("gates from q k v", 1)]
    [InlineData("q-k norm", 1)]
    [InlineData("GeGLU", 1)]
    [InlineData("MLP", 1)]
    [InlineData("no feed-forward layer", 1)]
    public void Fused_EveryCombination_EqualsSingle(string axis, int fusedGates)
    {
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        var config = Axes[axis].Config;
        using var single = new XlstmLanguageModel(config);
        using var fused = new XlstmLanguageModel(config with { WeightMode = WeightMode.Fused });
        Randomize(single);
        CopyIntoFused(single, fused);

        var tokens = randint(0, 11, [2, 9], dtype: ScalarType.Int64, generator: new Generator(5, CPU));
        Assert.Equal(fusedGates == 1, fused.state_dict().ContainsKey("backbone.blocks.0.mlstm_layer.ifgate_preact.bias"));
        Assert.Equal(single.parameters().Sum(p => p.NumberOfElements), fused.parameters().Sum(p => p.NumberOfElements));
        Assert.True(single.Forward(tokens).Logits.allclose(fused.Forward(tokens).Logits, 1e-4, 1e-5));
    }

    /// <summary>Gives a model of fused weights those of one that has the same apart.</summary>
    internal static void CopyIntoFused(XlstmLanguageModel single, XlstmLanguageModel fused)
    {
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        var parts = single.state_dict();
        foreach (var (name, value) in fused.state_dict())
        {
            string[] sources = name.Split('.')[^2] switch
            {
                "qkv_opreact" => ((XlstmConfig)single.Config).OutputGate ? ["q", "k", "v", "ogate_preact"] : ["q", "k", "v"],
                "ifgate_preact" => ["igate_preact", "fgate_preact"],
                "proj_up_gate_z" => ["proj_up_gate", "proj_up"],
                var own => [own],
            };
            value.copy_(cat([.. sources.Select(source => parts[name.Replace(name.Split('.')[^2], source, StringComparison.Ordinal)])], 0));
        }
    }

    [Fact]
    public void Fused_GatesOfOneKind_AreOneBias()
    {
        using var model = new XlstmLanguageModel(
            Small with
            {
                WeightMode = WeightMode.Fused,
                InputGatePreactivation = GatePreactivation.BiasOnly,
                ForgetGatePreactivation = GatePreactivation.BiasOnly,
            });
        Assert.Equal(["ifgate_preact.bias [4]"], Shapes(model).Where(s => s.Contains("gate_preact", StringComparison.Ordinal)));
        Assert.Equal([-10f, -10f, 3f, 6f], model.state_dict()["backbone.blocks.0.mlstm_layer.ifgate_preact.bias"].data<float>().ToArray());
    }

    /// <summary>What a layer writes into the stream is dropped or divided by what is kept; in evaluation it is as it is.</summary>
    [Fact]
    public void Dropout_InTraining_DropsThatShareOfWhatIsWritten()
    {
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        using var model = new XlstmLanguageModel(Small with { Dropout = 0.25, FeedForward = FeedForwardKind.None, AddOutNorm = false });
        Randomize(model);
        var embedded = randn(8, 64, 16);
        model.eval();
        var written = model.ForwardHidden(embedded).Hidden - embedded;
        Assert.True(written.equal(model.ForwardHidden(embedded).Hidden - embedded).all().item<bool>());

        model.train();
        var kept = model.ForwardHidden(embedded).Hidden - embedded;

        var dropped = kept.eq(0);
        Assert.Equal(0.25, dropped.to(ScalarType.Float32).mean().item<float>(), 0.03);
        Assert.True(kept.allclose((written / 0.75).masked_fill(dropped, 0.0), 1e-3, 1e-4));
    }

    [Fact]
    public void Dropout_InTraining_ActsOnTheFeedForwardLayerToo()
    {
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        using var model = new XlstmLanguageModel(Small with { Dropout = 0.5, AddOutNorm = false });
        Randomize(model);
        foreach (var (name, value) in model.named_parameters())
        {
            if (name.EndsWith("out_proj.weight", StringComparison.Ordinal))
            {
                value.zero_();
            }
        }

        var embedded = randn(8, 64, 16);
        var unchanged = (model.ForwardHidden(embedded).Hidden - embedded).eq(0);

        Assert.Equal(0.5, unchanged.to(ScalarType.Float32).mean().item<float>(), 0.05);
    }

    [Fact]
    public void Initialisations_HaveTheirDeviations()
    {
        var config = Small with { VocabularySize = 500, EmbeddingDim = 64, BlockCount = 3, FeedForwardFactor = 4 };
        AssertDeviations(config, Math.Sqrt(2.0 / 5 / 64), 2.0 / 3 / 8);
        AssertDeviations(config with { InputInit = WeightInit.Wang2, OutputInit = WeightInit.Small }, 1.0 / 3 / 8, Math.Sqrt(2.0 / 5 / 64));
        AssertDeviations(config with { InputInit = WeightInit.Normal, OutputInit = WeightInit.Normal, InitStd = 0.3 }, 0.3, 0.3);

        static void AssertDeviations(XlstmConfig config, double input, double output)
        {
            using var scope = NewDisposeScope();
            using var grad = no_grad();
            using var model = new XlstmLanguageModel(config);
            foreach (var (name, value) in model.named_parameters().Where(
                p => p.parameter.dim() == 2 && !p.name.Contains("gate_preact", StringComparison.Ordinal)))
            {
                var writes = name.Contains("out_proj", StringComparison.Ordinal) || name.Contains("proj_down", StringComparison.Ordinal);
                var expected = writes ? output : input;
                Assert.Equal(1, value.std().item<float>() / expected, 0.1);
                Assert.Equal(0, value.mean().item<float>() / expected, 0.1);
            }

            Assert.All(
                model.named_parameters().Where(p => p.name.Contains("gate_preact.weight", StringComparison.Ordinal)),
                p => Assert.Equal(0, p.parameter.abs().max().item<float>()));
        }
    }

    [Fact]
    public void GateBiases_StartWhereTheConfigSays()
    {
        using var scope = NewDisposeScope();
        var config = Small with { HeadCount = 4, InputGateBias = -2.5, ForgetGateBiasFirst = 1, ForgetGateBiasLast = 7 };
        using var model = new XlstmLanguageModel(config);
        Assert.Equal([-2.5f, -2.5f, -2.5f, -2.5f], Bias(model, "igate_preact"));
        Assert.Equal([1f, 3f, 5f, 7f], Bias(model, "fgate_preact"));

        using var spread = new XlstmLanguageModel(config with { HeadCount = 8, InputGateBiasStd = 0.1 }, seed: 6);
        using var again = new XlstmLanguageModel(config with { HeadCount = 8, InputGateBiasStd = 0.1 }, seed: 6);
        var biases = Bias(spread, "igate_preact");
        Assert.Equal(biases, Bias(again, "igate_preact"));
        Assert.Equal(8, biases.Distinct().Count());
        Assert.All(biases, bias => Assert.InRange(bias, -3f, -2f));

        static float[] Bias(XlstmLanguageModel model, string gate) =>
            model.state_dict()[$"backbone.blocks.0.mlstm_layer.{gate}.bias"].data<float>().ToArray();
    }

    [Fact]
    public void TiedModel_Backward_GivesOneMatrixBothGradients()
    {
        using var scope = NewDisposeScope();
        using var model = new XlstmLanguageModel(Small with { TieWordEmbeddings = true });
        model.Forward(zeros(1, 5, dtype: ScalarType.Int64)).Logits.square().sum().backward();
        var gradient = model.named_parameters().Single(p => p.name == "backbone.embeddings.weight").parameter.grad!;

        // Token 0 alone was read, but all rows were asked for their logits.
        Assert.All(Enumerable.Range(0, 11), token => Assert.NotEqual(0, gradient[token].abs().sum().item<float>()));
    }

    [Theory]
    [InlineData("fixed input gate")]
    [InlineData("q-k norm and gates from q k v")]
    [InlineData("sandwich of layer norms")]
    [InlineData("head norm over all heads")]
    [InlineData("exponential forget gate")]
    public void BFloat16_OneAxis_KeepsGatesWideAndStaysNear(string axis)
    {
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        using var model = new XlstmLanguageModel(Axes[axis].Config, seed: 2);
        var tokens = randint(0, 11, [2, 30], dtype: ScalarType.Int64, generator: new Generator(5, CPU));
        var wide = model.Forward(tokens).Logits;
        var types = new Dictionary<string, ScalarType>();
        model.ComputeType = ScalarType.BFloat16;
        model.Observer = (_, name, value) => types[name] = value.dtype;

        var narrow = model.Forward(tokens).Logits;

        MLstmTests.Near(wide, narrow, 5e-2, axis);
        Assert.Equal(
            (ScalarType.Float32, ScalarType.Float32, ScalarType.BFloat16), (types["igate_preact"], types["fgate_preact"], types["q"]));
    }

    private static void AssertSameLogits(XlstmConfig one, XlstmConfig other, double tolerance)
    {
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        using var first = new XlstmLanguageModel(one, seed: 3);
        using var second = new XlstmLanguageModel(other, seed: 3);
        var tokens = randint(0, 11, [2, 9], dtype: ScalarType.Int64, generator: new Generator(5, CPU));
        var (expected, actual) = (first.Forward(tokens).Logits, second.Forward(tokens).Logits);
        Assert.InRange((expected - actual).abs().max().item<float>(), 0, tolerance);
    }

    private static List<string> Shapes(XlstmLanguageModel model) =>
    [
        .. model.state_dict().Select(pair =>
        {
            var parts = pair.Key.Split('.');
            return $"{string.Join('.', parts[^Math.Min(2, parts.Length)..])} [{string.Join(", ", pair.Value.shape)}]";
        }),
    ];

    private static void Randomize(XlstmLanguageModel model)
    {
        using var grad = no_grad();
        using var generator = new Generator(8, CPU);
        foreach (var (name, value) in model.state_dict())
        {
            value.normal_(name.Contains("norm", StringComparison.Ordinal) ? 1 : 0, 0.5, generator);
        }
    }

    private static Tensor Reference(XlstmConfig config, Dictionary<string, Tensor> weights, Tensor tokens)
    {
        const string Block = "backbone.blocks.0.";
        Tensor W(string name, Tensor x) => x.matmul(weights[name + ".weight"].t());
        Tensor Cap(Tensor x, double? cap) => cap is null ? x : cap.Value * tanh(x / cap.Value);
        Tensor Heads(Tensor x, int heads) => x.reshape(x.shape[0], x.shape[1], heads, -1);

        Tensor Rms(Tensor x, double eps) => x / (x * x).mean([-1L], keepdim: true).add(eps).sqrt();
        Tensor Centred(Tensor x, double eps) => Rms(x - x.mean([-1L], keepdim: true), eps);
        Tensor Norm(NormKind kind, string name, Tensor x) => kind switch
        {
            NormKind.Rms => Rms(x, config.NormEpsilon) * weights[name + ".weight"],
            NormKind.Layer => Centred(x, config.NormEpsilon) * weights[name + ".weight"],
            _ => x,
        };

        var stream = weights["backbone.embeddings.weight"][tokens]; // (B, S, d)
        var x = Norm(config.PreNorm, Block + "norm_mlstm", stream);
        const string Layer = Block + "mlstm_layer.";
        var (q, k, v) = (W(Layer + "q", x), W(Layer + "k", x), W(Layer + "v", x));
        if (config.QkNorm)
        {
            q = Rms(Heads(q, config.HeadCount), config.NormEpsilon).reshape(q.shape) * weights[Layer + "q_norm.weight"];
            k = Rms(Heads(k, config.HeadCount), config.NormEpsilon).reshape(k.shape) * weights[Layer + "k_norm.weight"];
        }

        var seen = config.GateSource == GateSource.Qkv ? cat([q, k, v], 2) : x;
        Tensor Gate(string name, bool has, GatePreactivation kind)
        {
            if (!has)
            {
                return full([2, 9, config.HeadCount], double.NaN, dtype: ScalarType.Float64);
            }

            var bias = weights[$"{Layer}{name}.bias"].expand(2, 9, config.HeadCount);
            return Cap(kind == GatePreactivation.Learned ? W(Layer + name, seen) + bias : bias, config.GateSoftCap);
        }

        var i = Gate("igate_preact", config.InputGate != InputGate.None, config.InputGatePreactivation).transpose(1, 2);
        var f = Gate("fgate_preact", config.ForgetGate != ForgetGate.None, config.ForgetGatePreactivation).transpose(1, 2);
        var options = new MLstmOptions
        {
            InputGate = config.InputGate,
            ForgetGate = config.ForgetGate,
            Normalize = config.Normalize,
            Form = MLstmForm.Recurrent,
        };
        var (h, _) = MLstmCell.Forward(
            Heads(q, config.HeadCount).transpose(1, 2), Heads(k, config.HeadCount).transpose(1, 2),
            Heads(v, config.HeadCount).transpose(1, 2), i, f, options: options);
        h = h.transpose(1, 2).reshape(v.shape);
        var epsilon = config.HeadNormEpsilon ?? config.NormEpsilon;
        h = config.HeadNorm switch
        {
            HeadNormKind.Layer => Centred(Heads(h, config.HeadCount), epsilon).reshape(h.shape) * weights[Layer + "multihead_norm.weight"],
            HeadNormKind.Rms => Rms(Heads(h, config.HeadCount), epsilon).reshape(h.shape) * weights[Layer + "multihead_norm.weight"],
            HeadNormKind.Group =>
                Centred(Heads(h, config.HeadNormGroups!.Value), epsilon).reshape(h.shape) * weights[Layer + "multihead_norm.weight"],
            _ => h,
        };
        h = config.OutputGate ? h / (1 + exp(-W(Layer + "ogate_preact", x))) : h;
        stream += Norm(config.PostNorm, Block + "norm_mlstm_post", W(Layer + "out_proj", h));

        if (config.FeedForward != FeedForwardKind.None)
        {
            x = Norm(config.PreNorm, Block + "norm_ffn", stream);
            Tensor Gelu(Tensor z) => 0.5 * z * (1 + erf(z / Math.Sqrt(2)));
            var up = W(Block + "ffn.proj_up", x);
            var inner = config.FeedForward switch
            {
                FeedForwardKind.Mlp => Gelu(up),
                FeedForwardKind.ReluSquared => up.clamp(min: 0).pow(2),
                FeedForwardKind.GeGlu => Gelu(W(Block + "ffn.proj_up_gate", x)) * up,
                _ => W(Block + "ffn.proj_up_gate", x) * sigmoid(W(Block + "ffn.proj_up_gate", x)) * up,
            };
            stream += Norm(config.PostNorm, Block + "norm_ffn_post", W(Block + "ffn.proj_down", inner));
        }

        stream = config.AddOutNorm ? Norm(config.PreNorm, "backbone.out_norm", stream) : stream;
        return Cap(W(config.TieWordEmbeddings ? "backbone.embeddings" : "lm_head", stream), config.OutputLogitSoftCap);
    }
}
