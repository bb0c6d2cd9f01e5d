using System.Text.Json.Nodes;
using XlstmLab.Models;
using XlstmLab.Tests.Operations;
using XlstmLab.Text;
using XlstmLab.Training;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Training;

/// <summary>
/// On a GPU these are graphs; elsewhere the emulator does what would be recorded again at each start, so that all around the graphs is
/// tried: the memory that batches, keys and numbers are written into.
/// </summary>
[Collection(nameof(AloneCollection))]
public sealed class TrainingGraphsTests
{
    private static readonly TrainingConfig Config = TinyText.Training with
    {
        Steps = 16,
        GradientClip = 0.5,
        ValidateEvery = 8,
        CheckpointEvery = 8,
        StatisticsEvery = 5,
    };

    private static readonly TrainingConfig Narrow =
        Config with { ComputeType = ScalarType.BFloat16, Steps = 6, BatchSize = 2, ContextLength = 16, StatisticsEvery = 0 };

    private static readonly XlstmConfig Architecture =
        XlstmPresets.ByName("bytes-1m") with { EmbeddingDim = 128, HeadCount = 2, BlockCount = 1, VocabularySize = 32 };

    private static readonly TokenBatch[] Validation = [.. TinyText.Packed(2, 2).Sequential(4)];

    [Fact]
    public void Run_Recorded_IsThatOfTheHostBitForBit()
    {
        using var run = KernelRun.Begin();
        var config = Config with { BatchRamp = [new(0, 2), new(6, 5)], MicroBatchSize = 2, EmaDecay = 0.9 };
        var byHost = Train(() => new TinyModel(dropout: 0.2), config);
        var counts = run.Record();
        var recorded = Train(() => new TinyModel(dropout: 0.2), config);
        AssertEqual(byHost, recorded);

        // Two numbers of rows for updates, one for the parts of a validation.
        Assert.Equal(3, counts.Recorded);
        Assert.True(counts.Started > 12);
    }

    [Theory]
    [InlineData(OptimizerKind.AdamW)]
    [InlineData(OptimizerKind.Muon)]
    public void Run_ModelWithKernels_IsThatOfTheHostBitForBit(OptimizerKind optimizer)
    {
        LongTests.SkipUnless(optimizer == OptimizerKind.AdamW);
        using var run = KernelRun.Begin();
        var architecture = Architecture with { Dropout = 0.1 };
        var config = Narrow with { Optimizer = optimizer, EmaDecay = 0.9 };
        LanguageModel Model() => architecture.CreateModel(seed: 1);
        var byHost = Train(Model, config);
        var counts = run.Record();
        var recorded = Train(Model, config);
        AssertEqual(byHost, recorded);
        Assert.True(counts.Started > 0);

        // All kernels are compiled beside each other before the first update, but Muon's own.
        Assert.DoesNotContain(run.Unprepared, source => !source.StartsWith("Muon", StringComparison.Ordinal));
    }

    [Fact]
    public void Run_BatchesWithOtherNumbersOfTargets_DividesByTheirOwn()
    {
        LongTests.Skip();
        using var run = KernelRun.Begin();
        Outcome Of(bool records)
        {
            using var model = KernelRun.Model(Architecture);
            return Run(model, Narrow, new Partial(TinyText.Packed(1, contextLength: 16)));
        }

        var byHost = Of(records: false);
        run.Record();
        AssertEqual(byHost, Of(records: true));
    }

    [Theory]
    [InlineData(0)]
    [InlineData(2)]
    public void Run_WorkThatCannotBeRecordedToItsEnd_GoesOnByTheHostAndSaysWhyOnce(int launches)
    {
        using var run = KernelRun.Begin();
        var byHost = Train(() => new TinyModel(dropout: 0.2), Config);
        var counts = run.Record();
        (counts.Fault, counts.FaultAfter) = ("a synchronisation", launches);
        using var folder = new TempFolder();
        var recorded = Train(() => new TinyModel(dropout: 0.2), Config, folder.Path);
        AssertEqual(byHost, recorded);
        var remarks = File.ReadLines(Path.Combine(folder.Path, "log.txt")).Where(
            line => line.Contains("a synchronisation", StringComparison.Ordinal));
        Assert.Single(remarks);
        Assert.Equal("off: The work cannot be recorded: a synchronisation", GraphsIn(folder));
        Assert.Equal(1, counts.Interrupted);
    }

    [Fact]
    public void Run_StoppedAndResumed_GoesOnAsIfItHadNot()
    {
        using var run = KernelRun.Begin();
        var counts = run.Record();
        var whole = Train(() => new TinyModel(dropout: 0.2), Config);
        using var folder = new TempFolder();
        using (var first = KernelRun.Model(() => new TinyModel(dropout: 0.2)))
        {
            Run(first, Config, TinyText.Packed(1), folder.Path, stopAfter: 9);
        }

        Assert.True(counts.Started > 0);
        Assert.Equal(whole.Weights, Train(() => new TinyModel(dropout: 0.2), Config, folder.Path).Weights);
        Assert.Equal(whole.Losses, RunFolder.ReadMetrics(folder.Path).Select(m => m.Loss));
    }

    [Fact]
    public void Run_WeightsThatAHookReplaced_AreTrained()
    {
        using var run = KernelRun.Begin();
        void Replace(LanguageModel model, int step)
        {
            if (step == 8)
            {
                using var noGrad = no_grad();
                foreach (var parameter in model.parameters())
                {
                    using var moved = parameter.detach().clone();
                    parameter.set_(moved);
                }
            }
        }

        var byHost = Train(() => new TinyModel(), Config, afterStep: Replace);
        var counts = run.Record();
        AssertEqual(byHost, Train(() => new TinyModel(), Config, afterStep: Replace));
        Assert.True(counts.Recorded > 2);
    }

    [Fact]
    public void Run_OwnLoss_IsLeftToTheHost()
    {
        using var run = KernelRun.Begin();
        var counts = run.Record();
        using var model = KernelRun.Model(() => new TinyModel());
        using var folder = new TempFolder();
        Tensor Twice(LanguageModel m, TokenBatch batch, long divisor) => NextTokenLoss.Of(m, batch, divisor) * 2;
        new Trainer(model, Config, TinyText.Packed(1), Validation, folder.Path, loss: Twice).Run();
        Assert.Equal(0, counts.Recorded);
        Assert.Equal("off: the training has a loss of its own", GraphsIn(folder));
    }

    /// <summary>Passes give weights their gradients by themselves, but not under a loss that may ask the engine for them.</summary>
    [Fact]
    public void Run_OwnLossThatAsksForGradients_FindsThem()
    {
        using var run = KernelRun.Begin();
        using var model = KernelRun.Model(Architecture);
        var asked = 0;
        Tensor Asking(LanguageModel m, TokenBatch batch, long divisor)
        {
            var loss = NextTokenLoss.Of(m, batch, divisor);
            if (loss.requires_grad)
            {
                var gradients = autograd.grad([loss], [.. m.parameters()], retain_graph: true);
                Assert.All(gradients, g => Assert.False(g.IsInvalid));
                asked++;
            }

            return loss;
        }

        new Trainer(model, Narrow, TinyText.Packed(1, contextLength: 16), [], runFolder: null, loss: Asking).Run();
        Assert.Equal(Narrow.Steps, asked);
    }

    /// <summary>Products read bfloat16 copies, which the optimiser writes: one that was changed by another is made anew.</summary>
    [Fact]
    public void Run_WeightsThatAHookChanged_AreWhatThePassesRead()
    {
        using var run = KernelRun.Begin();
        void Grow(LanguageModel model, int step)
        {
            if (step == 3)
            {
                using var noGrad = no_grad();
                foreach (var parameter in model.parameters().Where(p => p.dim() == 2))
                {
                    parameter.mul_(1.5f);
                }
            }
        }

        LanguageModel Model() => Architecture.CreateModel(seed: 1);
        var plain = Train(Model, Narrow, afterStep: Grow, loss: NextTokenLoss.Of);
        var unchanged = Train(Model, Narrow);
        run.Record();
        var recorded = Train(Model, Narrow, afterStep: Grow);
        Assert.Equal(unchanged.Losses.Length, recorded.Losses.Length);
        Assert.Contains(unchanged.Losses.Zip(recorded.Losses), pair => Math.Abs(pair.First - pair.Second) > 0.1);
        Assert.All(plain.Losses.Zip(recorded.Losses), pair => Assert.Equal(pair.First, pair.Second, 2e-2));
    }

    private static string GraphsIn(TempFolder folder) =>
        JsonNode.Parse(File.ReadAllText(Path.Combine(folder.Path, "meta.json")))!["graphs"]!.GetValue<string>();

    private static Outcome Train(
        Func<LanguageModel> create, TrainingConfig config, string? folder = null, Action<LanguageModel, int>? afterStep = null,
        Func<LanguageModel, TokenBatch, long, Tensor>? loss = null)
    {
        using var model = KernelRun.Model(create);
        return Run(model, config, TinyText.Packed(1, contextLength: config.ContextLength), folder, afterStep: afterStep, loss: loss);
    }

    private static Outcome Run(
        LanguageModel model, TrainingConfig config, BatchSource<TokenBatch> source, string? folder = null, int? stopAfter = null,
        Action<LanguageModel, int>? afterStep = null, Func<LanguageModel, TokenBatch, long, Tensor>? loss = null)
    {
        var metrics = new List<TrainingMetrics>();
        TokenBatch[] validation = [.. TinyText.Packed(2, 2, config.ContextLength).Sequential(4)];
        var trainer = new Trainer(
            model, config, source, validation, folder, new ImmediateProgress<TrainingMetrics>(metrics.Add),
            loss: loss is null ? null : new(loss))
        {
            Hooks = new()
            {
                AfterStep = at =>
                {
                    afterStep?.Invoke(model, at.Metrics.Step);
                    if (at.Metrics.Step == stopAfter)
                    {
                        at.Stop();
                    }
                },
            },
        };
        trainer.Run();
        using var scope = NewDisposeScope();
        var weights = cat([.. model.parameters().Select(p => p.detach().flatten())]).to(CPU).data<float>().ToArray();
        return new(
            [.. metrics.Select(m => m.Loss)], [.. metrics.Select(m => m.ValidationLoss)], [.. metrics.Select(m => m.EmaValidationLoss)],
            weights);
    }

    private static void AssertEqual(Outcome expected, Outcome actual)
    {
        Assert.Equal(expected.Losses, actual.Losses);
        Assert.Equal(expected.Validation, actual.Validation);
        Assert.Equal(expected.OfAverage, actual.OfAverage);
        Assert.Equal(expected.Weights, actual.Weights);
    }

    private sealed record Outcome(double[] Losses, double?[] Validation, double?[] OfAverage, float[] Weights);

    /// <summary>Text of which every batch leaves out other targets.</summary>
    private sealed class Partial(BatchSource<TokenBatch> text) : BatchSource
    {
        private int _batches;

        public override int ContextLength => text.ContextLength;

        public override long Seed => text.Seed;

        public override string Fingerprint => text.Fingerprint;

        public override long? TokenCount => text.TokenCount;

        public override BatchPosition Position => text.Position;

        public override TokenBatch Next(int rows)
        {
            var batch = text.Next(rows);
            _batches++;
            return batch with { Targets = [.. batch.Targets.Select((t, k) => k % 7 < _batches % 5 ? TokenBatch.Ignored : t)] };
        }

        public override void Resume(BatchPosition position) => text.Resume(position);
    }
}
