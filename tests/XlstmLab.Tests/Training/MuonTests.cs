using System.Text.Json;
using TorchSharp.Modules;
using XlstmLab.Checkpoints;
using XlstmLab.Models;
using XlstmLab.Training;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Training;

[Collection(nameof(AloneCollection))]
public sealed class MuonTests
{
    private static readonly TrainingConfig Config = new()
    {
        Steps = 12,
        BatchSize = 4,
        ContextLength = 24,
        PeakLearningRate = 0.01,
        Optimizer = OptimizerKind.Muon,
        Schedule = new() { WarmupSteps = 3 },
        ValidateEvery = 10,
        CheckpointEvery = 5,
        TensorBoard = false,
    };

    private static readonly XlstmConfig Xlstm = new()
    {
        VocabularySize = 16,
        EmbeddingDim = 32,
        BlockCount = 2,
        HeadCount = 2,
        ChunkSize = 16,
        FeedForwardRoundUpTo = 8,
    };

    [Theory]
    [InlineData("muon_a")]
    [InlineData("muon_b")]
    [InlineData("muon_c")]
    public void Step_GoldenCase_EqualsTorchsMuon(string name)
    {
        using var scope = NewDisposeScope();
        var golden = GoldenTensors.Read(TestSetup.Golden($"{name}.safetensors"));
        var about = GoldenTensors.About(TestSetup.Golden($"{name}.safetensors"));
        var scale = (string)about["adjust_lr_fn"]! == "original" ? MuonScale.Original : MuonScale.MatchRmsAdamW;
        using var weight = new Parameter(golden["w0"].clone());
        using var muon = new Muon([("w", weight)], new() { Scale = scale }, (double)about["weight_decay"]!);
        for (var step = 0; step < 5; step++)
        {
            weight.grad = golden[$"grad.{step}"];
            muon.Step((double)about["lr"]!);
            Operations.MLstmTests.Near(golden[$"w.{step + 1}"] - golden["w0"], weight.detach() - golden["w0"], 1e-2, $"step {step + 1}");
        }
    }

    [Theory]
    [InlineData(64, 64, 1)]
    [InlineData(16, 48, 1e-6)]
    [InlineData(48, 16, 1e6)]
    [InlineData(1, 30, 1)]
    [InlineData(30, 1, 1)]
    public void Orthogonalize_AnyShapeAndScale_HasSingularValuesNearOne(int rows, int columns, double scale)
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(3, CPU);
        var matrix = randn([rows, columns], generator: generator) * scale;

        var orthogonal = Muon.Orthogonalize(matrix);

        Assert.Equal([rows, columns], orthogonal.shape);
        var values = linalg.svdvals(orthogonal).data<float>().ToArray();
        Assert.All(values, value => Assert.InRange(value, rows == columns ? 0.01f : 0.6f, 1.25f));
        Assert.InRange(values.Average(), 0.7f, 1.15f);

        // It turns as the matrix does: the nearest orthogonal matrix has the same singular vectors.
        var (u, _, v) = linalg.svd(matrix, fullMatrices: false);
        Assert.True((orthogonal * u.mm(v)).sum().item<float>() > 0.7 * Math.Min(rows, columns));
        Assert.Equal(0, Muon.Orthogonalize(zeros(rows, columns)).abs().max().item<float>());
    }

    [Fact]
    public void Step_ScaledGradient_MovesTheMeanOfGradients()
    {
        using var scope = NewDisposeScope();
        var (scaled, multiplied) = (Matrix(1), Matrix(1));
        using var first = new Muon([("w", scaled)]);
        using var second = new Muon([("w", multiplied)]);
        scaled.grad = randn(6, 4);
        multiplied.grad = scaled.grad * 0.25;

        first.Step(0.1, 0.25);
        second.Step(0.1);

        Assert.True(scaled.equal(multiplied).all().item<bool>());
        Assert.True(first.StateDict()["momentum_buffer.w"].equal(second.StateDict()["momentum_buffer.w"]).all().item<bool>());
    }

    [Fact]
    public void Step_WithoutGradient_LeavesTheMatrix()
    {
        using var scope = NewDisposeScope();
        var (idle, moved) = (Matrix(1), Matrix(2));
        var before = idle.detach().clone();
        using var muon = new Muon([("idle", idle), ("moved", moved)]);
        moved.grad = ones_like(moved);
        muon.Step(0.1);
        Assert.True(idle.equal(before).all().item<bool>());
    }

    [Fact]
    public void StateDict_Loaded_ContinuesBitForBit()
    {
        using var scope = NewDisposeScope();
        var straight = Matrix(4);
        using var muon = new Muon([("w", straight)]);
        straight.grad = randn(6, 4);
        muon.Step(0.1);
        var resumed = new Parameter(straight.detach().clone());
        using var second = new Muon([("w", resumed)]);
        second.LoadStateDict(muon.StateDict());
        straight.grad = resumed.grad = randn(6, 4);
        muon.Step(0.1);
        second.Step(0.1);
        Assert.True(straight.equal(resumed).all().item<bool>());
    }

    [Fact]
    public void LoadStateDict_OfAdamW_SaysWhatIsMissing()
    {
        using var scope = NewDisposeScope();
        var weight = Matrix(5);
        using var muon = new Muon([("w", weight)]);
        using var adamW = new XlstmLab.Training.AdamW([("w", weight)]);
        var error = Assert.Throws<ArgumentException>(() => muon.LoadStateDict(adamW.StateDict()));
        Assert.Contains("no 'momentum_buffer.w'", error.Message, StringComparison.Ordinal);
        Assert.Contains("another optimiser", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Constructor_NoMatrix_IsRefused()
    {
        using var scope = NewDisposeScope();
        Assert.Contains(
            "AdamW", Assert.Throws<ArgumentException>(() => new Muon([("b", new Parameter(zeros(3)))])).Message, StringComparison.Ordinal);
        Assert.Contains(
            "[2, 2, 3]", Assert.Throws<ArgumentException>(() => new Muon([("c", new Parameter(zeros(2, 2, 3)))])).Message,
            StringComparison.Ordinal);
    }

    [Fact]
    public void Step_Repeated_LeavesNoTensors()
    {
        using var weight = Matrix(6);
        weight.grad = ones(6, 4);
        using var muon = new Muon([("w", weight)]);
        muon.Step(0.1);
        var before = TorchSharp.DisposeScopeManager.Statistics.ThreadTotalLiveCount;
        muon.Step(0.1);
        muon.Step(0.1);
        Assert.Equal(before, TorchSharp.DisposeScopeManager.Statistics.ThreadTotalLiveCount);
    }

    /// <summary>Every parameter of every kind of model has one role, and a hidden matrix is a projection in a block.</summary>
    [Theory]
    [InlineData("bytes-1m")]
    [InlineData("llama-bytes-1m")]
    [InlineData("mamba-bytes-1m")]
    [InlineData("mamba2-bytes-1m")]
    [InlineData("gla-bytes-1m")]
    [InlineData("lstm-bytes-1m")]
    public void HiddenMatrices_EachModel_AreItsBlocksProjections(string preset)
    {
        using var model = Presets.All[preset].CreateModel();

        var hidden = MuonWithAdamW.HiddenMatrices(model);

        var expected = model.named_parameters()
            .Where(p => p.name.Contains(".blocks.", StringComparison.Ordinal) || p.name.Contains(".layers.", StringComparison.Ordinal))
            .Where(p => !p.name.Contains("mlstm_layer.igate_preact", StringComparison.Ordinal) && !p.name.Contains(
                "mlstm_layer.fgate_preact", StringComparison.Ordinal))
            .Where(p => p.parameter.dim() == 2 && !p.name.EndsWith("A_log", StringComparison.Ordinal)
                && !p.name.Contains("norm", StringComparison.Ordinal))
            .Select(p => p.name);
        Assert.NotEmpty(hidden);
        Assert.Equal(expected.Order(StringComparer.Ordinal), hidden.Order(StringComparer.Ordinal));
    }

    [Fact]
    public void Run_StoppedAndResumed_EqualsTheUninterruptedRunBitForBit()
    {
        using var folder = new TempFolder();
        var (straight, broken) = (folder["straight"], folder["broken"]);
        TrainingResult Train(int seed, string run, CancellationToken token, IProgress<TrainingMetrics>? progress = null)
        {
            using var model = new XlstmLanguageModel(Xlstm with { Dropout = 0.1 }, seed);
            return new Trainer(model, Config with { EmaDecay = 0.9 }, TinyText.Packed(1, contextLength: 24), [], run, progress).Run(token);
        }

        var result = Train(1, straight, TestContext.Current.CancellationToken);
        using (var cancellation = new CancellationTokenSource())
        {
            Train(1, broken, cancellation.Token, new ImmediateProgress<TrainingMetrics>(m =>
            {
                if (m.Step == 7)
                {
                    cancellation.Cancel();
                }
            }));
        }

        var resumed = Train(2, broken, TestContext.Current.CancellationToken);

        Assert.Equal(
            RunFolder.ReadMetrics(straight).Select(m => (m.Step, m.Loss, m.GradientNorm)),
            RunFolder.ReadMetrics(broken).Select(m => (m.Step, m.Loss, m.GradientNorm)));
        foreach (var file in new[] { "model.safetensors", "optimizer.safetensors" })
        {
            Assert.Equal(
                File.ReadAllBytes(Path.Combine(result.Checkpoint!, file)), File.ReadAllBytes(Path.Combine(resumed.Checkpoint!, file)));
        }

        using var state = SafetensorsFile.Open(Path.Combine(result.Checkpoint!, "optimizer.safetensors"));
        Assert.Contains("momentum_buffer.backbone.blocks.0.mlstm_layer.q.weight", state.Names);
        Assert.Contains("exp_avg.backbone.embeddings.weight", state.Names);
        Assert.DoesNotContain("exp_avg.backbone.blocks.0.mlstm_layer.q.weight", state.Names);
    }

    [Theory]
    [InlineData(OptimizerKind.AdamW, OptimizerKind.Muon, "training.optimizer: \"adamw\" before, \"muon\" now")]
    [InlineData(OptimizerKind.Muon, OptimizerKind.AdamW, "training.optimizer: \"muon\" before, \"adamw\" now")]
    public void Run_WithTheOtherOptimizer_IsRefused(OptimizerKind before, OptimizerKind now, string expected)
    {
        using var folder = new TempFolder();
        using var model = new XlstmLanguageModel(Xlstm);
        void Run(OptimizerKind kind) =>
            new Trainer(model, Config with { Steps = 4, Optimizer = kind }, TinyText.Packed(1, contextLength: 24), [], folder.Path)
                .Run(TestContext.Current.CancellationToken);
        Run(before);
        Assert.Contains(expected, Assert.Throws<InvalidOperationException>(() => Run(now)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Run_ModelWithoutBlocks_SaysWhyMuonCannot()
    {
        using var folder = new TempFolder();
        using var model = new TinyModel();
        var trainer = new Trainer(model, Config, TinyText.Packed(1, contextLength: 24), [], folder.Path);
        var error = Assert.Throws<ArgumentException>(() => trainer.Run(TestContext.Current.CancellationToken));
        Assert.Contains("no hidden matrices", error.Message, StringComparison.Ordinal);
    }

    /// <summary>Each at the best of a few rates of its own, Muon is at least as far as AdamW after as many steps.</summary>
    [Fact]
    public void Run_SmallModel_LearnsAtLeastAsFastAsAdamW()
    {
        LongTests.Skip();
        using var folder = new TempFolder();
        double Best(OptimizerKind kind, params double[] rates) => rates.Min(rate =>
        {
            using var model = new XlstmLanguageModel(Xlstm, 1);
            var run = folder[FormattableString.Invariant($"{kind}{rate}")];
            var config = Config with { Steps = 40, PeakLearningRate = rate, Optimizer = kind, CheckpointEvery = 1000, StatisticsEvery = 0 };
            new Trainer(model, config, TinyText.Packed(1, contextLength: 24), [], run).Run(TestContext.Current.CancellationToken);
            return RunFolder.ReadMetrics(run).TakeLast(5).Average(m => m.Loss);
        });
        var (muon, adamW) = (Best(OptimizerKind.Muon, 0.01, 0.03), Best(OptimizerKind.AdamW, 0.003, 0.01, 0.03));
        Assert.True(muon <= adamW * 1.02, FormattableString.Invariant($"Muon {muon:F4}, AdamW {adamW:F4}"));
    }

    [Fact]
    public void Settings_Json_AreReadStrictlyAndByTheirNames()
    {
        var json = JsonSerializer.Serialize(Config with { Muon = new() { Scale = MuonScale.Original } }, RunJson.Indented);
        Assert.Contains("\"optimizer\": \"muon\"", json, StringComparison.Ordinal);
        Assert.Contains("\"scale\": \"original\"", json, StringComparison.Ordinal);
        Assert.Contains("\"newton_schulz_steps\": 5", json, StringComparison.Ordinal);
        Assert.Contains("\"adamw\"", JsonSerializer.Serialize(new TrainingConfig(), RunJson.Indented), StringComparison.Ordinal);

        using var folder = new TempFolder();
        string Refused(string text)
        {
            File.WriteAllText(folder["training.json"], text);
            return Assert.Throws<InvalidDataException>(() => TrainingConfig.Read(folder["training.json"])).Message;
        }

        Assert.Contains("optimizer", Refused("""{"optimizer": "moun"}"""), StringComparison.Ordinal);
        Assert.Contains("muon", Refused("""{"muon": null}"""), StringComparison.Ordinal);
        Assert.Contains("momentums", Refused("""{"muon": {"momentums": 0.9}}"""), StringComparison.Ordinal);
        var faults = Assert.Throws<ArgumentException>(
            (Config with { Muon = new() { Momentum = 1, NewtonSchulzSteps = 0, PeakLearningRate = 0, WeightDecay = -1 } }).Validate);
        Assert.All(
            ["Muon.Momentum", "Muon.NewtonSchulzSteps", "Muon.PeakLearningRate", "Muon.WeightDecay"],
            name => Assert.Contains(name, faults.Message, StringComparison.Ordinal));
    }

    private static Parameter Matrix(int seed)
    {
        using var generator = new Generator((ulong)seed, CPU);
        return new(randn([6, 4], generator: generator));
    }
}
