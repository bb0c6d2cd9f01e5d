using System.Globalization;
using XlstmLab.Collectives;
using XlstmLab.Models;
using XlstmLab.Tests.Collectives;
using XlstmLab.Tests.Operations;
using XlstmLab.Text;
using XlstmLab.Training;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Training;

/// <summary>Trainings shared by several ranks, as threads of this process, against the training of one.</summary>
[Collection(nameof(AloneCollection))]
public sealed class ParallelTrainingTests
{
    private const int Context = 16;

    private static readonly XlstmConfig Architecture = new()
    {
        VocabularySize = 16,
        EmbeddingDim = 16,
        BlockCount = 3,
        HeadCount = 2,
        ChunkSize = 16,
        FeedForwardRoundUpTo = 8,
    };

    private static readonly TrainingConfig Config = TinyText.Training with
    {
        Steps = 12,
        BatchSize = 8,
        ContextLength = Context,
        PeakLearningRate = 0.005,
        ValidateEvery = 6,
        CheckpointEvery = 6,
        StatisticsEvery = 5,
        EmaDecay = 0.9,
    };

    private static readonly TokenBatch[] Validation = [.. TinyText.Packed(2, 4, Context).Sequential(6)];

    [Fact]
    public void Run_TwoRanks_HasTheLossesOfOneToRoundingAndEqualWeights()
    {
        using var folder = new TempFolder();
        var config = Config with { Steps = 200, ValidateEvery = 50, BatchSize = 16, StatisticsEvery = 0 };
        var alone = Train(config, Path.Combine(folder.Path, "one"), null);
        var shared = TrainOn(2, config, Path.Combine(folder.Path, "two"));
        var (losses, others) = (Losses(folder, "one"), Losses(folder, "two"));
        Assert.Equal(200, others.Length);
        TestContext.Current.TestOutputHelper?.WriteLine(string.Create(
            CultureInfo.InvariantCulture,
            $"losses differ by {Difference(losses[..20], others[..20]):E1} in 20 steps, by {Difference(losses, others):E1} in 200"));
        Assert.True(losses[^1] < 0.8 * losses[0]);
        Assert.InRange(Difference(losses, others), 0, 2e-3); // the goal for 200 steps
        Assert.InRange(Difference(losses[..20], others[..20]), 0, 1e-6);
        Assert.InRange(Difference(Validations(folder, "one"), Validations(folder, "two")), 0, 2e-3);
        Assert.Equal(alone.Tokens, shared[0].Tokens);
        Assert.Equal(alone.Tokens, shared[1].Tokens);
        Assert.Contains("2, by loopback", RunFolder.ReadMetadata(Path.Combine(folder.Path, "two")).Ranks, StringComparison.Ordinal);
        Assert.Null(RunFolder.ReadMetadata(Path.Combine(folder.Path, "one")).Ranks);
        Assert.Null(shared[1].Checkpoint);
    }

    [Theory]
    [InlineData(true, false, OptimizerKind.AdamW)]
    [InlineData(false, false, OptimizerKind.AdamW)]
    [InlineData(true, true, OptimizerKind.AdamW)]
    [InlineData(true, true, OptimizerKind.Muon)]
    public void Run_OverlappedOrShardedOrNot_TrainsTheSameWeightsBitForBit(bool overlaps, bool shards, OptimizerKind optimizer)
    {
        using var folder = new TempFolder();
        var config = Config with { Optimizer = optimizer, MicroBatchSize = 2 };
        TrainOn(2, config, Path.Combine(folder.Path, "plain"), p => p with { Overlaps = false });
        TrainOn(
            2, config, Path.Combine(folder.Path, "other"),
            p => p with { Overlaps = overlaps, ShardsOptimizer = shards, BucketBytes = 512 });
        Assert.Equal(Losses(folder, "plain"), Losses(folder, "other"));
        AssertSameCheckpoints(folder, "plain", "other", 12);
    }

    [Fact]
    public void Run_ShardedWithKernels_TrainsTheSameWeightsBitForBitByTheHostAndRecorded()
    {
        using var run = KernelRun.Begin();
        Assert.SkipWhen(get_default_device().type == TorchSharp.DeviceType.CUDA, "Ranks have a GPU each.");
        using var folder = new TempFolder();
        var config = Config with
        {
            ComputeType = ScalarType.BFloat16,
            Steps = 6,
            BatchSize = 4,
            ValidateEvery = 3,
            CheckpointEvery = 6,
            StatisticsEvery = 0,
        };
        var architecture = XlstmPresets.ByName("bytes-1m") with { EmbeddingDim = 128, HeadCount = 2, BlockCount = 1, VocabularySize = 32 };
        void Both(string name, bool shards) => TrainOn(
            2, config, Path.Combine(folder.Path, name), p => p with { ShardsOptimizer = shards, BucketBytes = 512 },
            architecture: architecture);
        Both("plain", shards: false);
        Assert.DoesNotContain("adamw_adopt", run.Launched);
        Both("sharded", shards: true);
        Assert.Contains("adamw_adopt", run.Launched);
        var counts = run.Record();
        Both("recorded", shards: true);
        Assert.True(counts.Started > 4);
        foreach (var name in new[] { "sharded", "recorded" })
        {
            Assert.Equal(Losses(folder, "plain"), Losses(folder, name));
            Assert.Equal(Validations(folder, "plain"), Validations(folder, name));
            AssertSameCheckpoints(folder, "plain", name, 6);
        }
    }

    [Fact]
    public void Run_StoppedAndResumedByAnyNumberOfRanks_GoesOnInTheSameOrder()
    {
        using var folder = new TempFolder();
        var straight = Path.Combine(folder.Path, "straight");
        Train(Config, straight, null);
        foreach (var (first, second, shards) in new[] { (2, 1, true), (1, 2, false), (2, 4, true) })
        {
            var broken = Path.Combine(folder.Path, $"{first}-{second}");
            Resume(first, broken, shards, stopAfter: 6);
            Assert.Equal(6, RunFolder.ReadMetrics(broken).Count);
            Resume(second, broken, shards, stopAfter: null);
            Assert.InRange(Difference(Losses(folder, "straight"), Losses(folder, $"{first}-{second}")), 0, 1e-5);
        }
    }

    [Fact]
    public void Run_DropoutStoppedAndResumedByAsManyRanks_RepeatsBitForBit()
    {
        using var folder = new TempFolder();
        var (straight, broken) = (Path.Combine(folder.Path, "straight"), Path.Combine(folder.Path, "broken"));
        foreach (var (run, stops) in new (string, int?[])[] { (straight, [null]), (broken, [6, null]) })
        {
            foreach (var stop in stops)
            {
                Resume(2, run, shards: false, stop, dropout: 0.2);
            }
        }

        Assert.Equal(Losses(folder, "straight"), Losses(folder, "broken"));
        AssertSameCheckpoints(folder, "straight", "broken", 12);
    }

    [Fact]
    public void Run_RowsOfDifferentNumbersOfTargets_WeighsEveryTargetAlike()
    {
        using var folder = new TempFolder();
        Train(Config, Path.Combine(folder.Path, "one"), null, source: new Masked());
        TrainOn(2, Config, Path.Combine(folder.Path, "two"), source: () => new Masked());
        Assert.InRange(Difference(Losses(folder, "one"), Losses(folder, "two")), 0, 1e-5);
    }

    [Fact]
    public void Run_GradientsInBfloat16_LearnsAsInFloat32()
    {
        using var folder = new TempFolder();
        TrainOn(2, Config, Path.Combine(folder.Path, "single"));
        TrainOn(2, Config, Path.Combine(folder.Path, "half"), p => p with { GradientType = ScalarType.BFloat16, BucketBytes = 512 });
        Assert.InRange(Difference(Losses(folder, "single"), Losses(folder, "half")), 1e-9, 0.02);
    }

    [Fact]
    public void Run_BatchThatRanksCannotShare_IsRefusedWithWords()
    {
        var failures = Ranks.Failures(3, communicator => Train(Config with { BatchSize = 16 }, null, communicator));
        Assert.All(failures, failure => Assert.Contains(
            "A batch of 16 sequences cannot be shared evenly by 3 ranks: choose a batch size that is a multiple of 3, such as 18",
            failure!.Message, StringComparison.Ordinal));
    }

    [Fact]
    public void Run_WeightsThatDifferBetweenRanks_IsRefusedAtTheCheckpointWithTheirName()
    {
        using var folder = new TempFolder();
        var failures = Ranks.Failures(2, communicator => Train(
            Config, Path.Combine(folder.Path, "run"), communicator, hooks: (model, moment) =>
            {
                if (communicator.Rank == 1 && moment.Metrics.Step == 5)
                {
                    using var noGrad = no_grad();
                    model.named_parameters()
                        .First(p => p.name.Contains("blocks.1.", StringComparison.Ordinal)).parameter.flatten()[0].add_(1e-7);
                }
            }));
        Assert.All(failures, failure => Assert.Matches(
            "After step 6 '.*blocks\\.1\\..*' on rank 1 of 2 differs from rank 0's", Assert.IsType<CollectiveException>(failure).Message));
        Assert.Null(RunFolder.LatestCheckpoint(Path.Combine(folder.Path, "run")));
    }

    [Fact]
    public void Run_ARankThatFails_EndsTheOthersWithItsMessage()
    {
        using var folder = new TempFolder();
        var failures = Ranks.Failures(2, communicator => Train(
            Config, Path.Combine(folder.Path, "run"), communicator,
            hooks: (_, moment) =>
            {
                if (communicator.Rank == 1 && moment.Metrics.Step == 3)
                {
                    throw new IOException("the disk is gone");
                }
            }));
        Assert.Equal("Rank 1 of 2 has ended: the disk is gone", Assert.IsType<CollectiveException>(failures[0]).Message);
        Assert.Equal(TrainingStatus.Failed, RunFolder.ReadMetadata(Path.Combine(folder.Path, "run")).Status);
    }

    [Fact]
    public void Run_OneRankIsAskedToStop_StopsAllAfterTheSameUpdateWithOneCheckpoint()
    {
        using var folder = new TempFolder();
        var run = Path.Combine(folder.Path, "run");
        var results = Ranks.Run(2, communicator => Train(
            Config, run, communicator, hooks: (_, moment) =>
            {
                if (communicator.Rank == 1 && moment.Metrics.Step == 4)
                {
                    moment.Stop();
                }
            }));
        Assert.All(results, result => Assert.Equal((TrainingStatus.Stopped, 4), (result.Status, result.Step)));
        Assert.Equal("step-000004", Path.GetFileName(Assert.Single(Directory.GetDirectories(Path.Combine(run, "checkpoints")))));
    }

    [Theory]
    [InlineData(new long[] { 8, 4, 4, 1, 1 }, 2, new[] { 0, 1, 1, 0, 1 })]
    [InlineData(new long[] { 5 }, 3, new[] { 0 })]
    public void Owners_SizesOfParameters_AreSharedOutEvenly(long[] sizes, int world, int[] expected) =>
        Assert.Equal(expected, ShardedOptimizer.Owners(sizes, world));

    private static void Resume(int world, string run, bool shards, int? stopAfter, double dropout = 0)
    {
        void Stop(LanguageModel model, TrainingMoment moment)
        {
            if (moment.Metrics.Step == stopAfter)
            {
                moment.Stop();
            }
        }

        if (world == 1)
        {
            Train(Config, run, null, hooks: Stop, dropout: dropout, seed: stopAfter is null ? 3 : 1);
        }
        else
        {
            TrainOn(world, Config, run, p => p with { ShardsOptimizer = shards }, hooks: Stop, dropout: dropout);
        }
    }

    private static TrainingResult[] TrainOn(
        int world, TrainingConfig config, string? run, Func<TrainingParallelism, TrainingParallelism>? change = null,
        Action<LanguageModel, TrainingMoment>? hooks = null, double dropout = 0, Func<BatchSource<TokenBatch>>? source = null,
        XlstmConfig? architecture = null) =>
        Ranks.Run(world, communicator => Train(
            config, run, communicator, change, hooks, dropout, seed: 1, source: source?.Invoke(), architecture));

    private static TrainingResult Train(
        TrainingConfig config, string? run, ICommunicator? communicator, Func<TrainingParallelism, TrainingParallelism>? change = null,
        Action<LanguageModel, TrainingMoment>? hooks = null, double dropout = 0, int seed = 1, BatchSource<TokenBatch>? source = null,
        XlstmConfig? architecture = null)
    {
        set_num_threads(1);

        // A rank that begins with other weights takes over rank 0's.
        using var model = new XlstmLanguageModel(
            (architecture ?? Architecture) with { Dropout = dropout }, seed + (communicator?.Rank ?? 0));
        var parallelism = communicator is null ? null : new TrainingParallelism { Communicator = communicator };
        return new Trainer(model, config, source ?? TinyText.Packed(1, contextLength: Context), Validation, run)
        {
            Parallelism = parallelism is null ? null : change?.Invoke(parallelism) ?? parallelism,
            Hooks = new() { AfterStep = hooks is null ? null : moment => hooks(model, moment) },
        }.Run(TestContext.Current.CancellationToken);
    }

    private static double[] Losses(TempFolder folder, string run) =>
        [.. RunFolder.ReadMetrics(Path.Combine(folder.Path, run)).Select(m => m.Loss)];

    private static double[] Validations(TempFolder folder, string run) =>
        [.. RunFolder.ReadMetrics(Path.Combine(folder.Path, run)).Where(m => m.IsValidated).SelectMany(
            m => new[] { m.ValidationLoss!.Value, m.EmaValidationLoss!.Value })];

    private static double Difference(double[] expected, double[] actual)
    {
        Assert.Equal(expected.Length, actual.Length);
        return expected.Zip(actual, (a, b) => Math.Abs(a - b) / Math.Abs(a)).Max();
    }

    private static void AssertSameCheckpoints(TempFolder folder, string first, string second, int step)
    {
        foreach (var file in new[] { "model.safetensors", "optimizer.safetensors" })
        {
            var (expected, actual) = (Tensors(first), Tensors(second));
            Assert.Equal(expected.Keys.Order(StringComparer.Ordinal), actual.Keys.Order(StringComparer.Ordinal));
            Assert.All(expected.Keys, name => Assert.True(expected[name].AsSpan().SequenceEqual(actual[name]), name));

            Dictionary<string, byte[]> Tensors(string run)
            {
                using var scope = NewDisposeScope();
                using var read = XlstmLab.Checkpoints.SafetensorsFile.Open(
                    Path.Combine(folder.Path, run, "checkpoints", string.Create(CultureInfo.InvariantCulture, $"step-{step:D6}"), file));
                return read.Names.ToDictionary(name => name, name => read.Read(name).bytes.ToArray());
            }
        }
    }

    /// <summary>Rows of which every second one of a batch has hardly a target, and the last none.</summary>
    private sealed class Masked : BatchSource<TokenBatch>
    {
        private readonly PackedTokens _all = TinyText.Packed(1, contextLength: Context);

        public override int ContextLength => Context;

        public override long Seed => _all.Seed;

        public override string Fingerprint => _all.Fingerprint;

        public override long? TokenCount => _all.TokenCount;

        public override BatchPosition Position => _all.Position;

        public override TokenBatch Next(int rows)
        {
            var batch = _all.Next(rows);
            var targets = batch.Targets.ToArray();
            for (var row = rows / 2; row < rows; row++)
            {
                targets.AsSpan(row * Context, row == rows - 1 ? Context : Context - 1).Fill(TokenBatch.Ignored);
            }

            return batch with { Targets = targets };
        }

        public override void Resume(BatchPosition position) => _all.Resume(position);
    }
}
