using System.Text.Json.Nodes;
using XlstmLab.Checkpoints;
using XlstmLab.Models;
using XlstmLab.Operations;
using XlstmLab.Text;
using XlstmLab.Training;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Training;

/// <summary>Tests that set torch's global seed or count all live tensors: nothing else runs beside them.</summary>
[CollectionDefinition(nameof(AloneCollection), DisableParallelization = true)]
#pragma warning disable CA1711 // What xunit calls it.
public sealed class AloneCollection;
#pragma warning restore CA1711

[Collection(nameof(AloneCollection))]
public sealed class TrainerTests
{
    private static readonly TrainingConfig Config = TinyText.Training with
    {
        Steps = 30,
        ValidateEvery = 10,
        CheckpointEvery = 10,
        StatisticsEvery = 10,
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

    private static readonly TokenBatch[] Validation = [.. TinyText.Packed(2, 2).Sequential(6)];

    [Fact]
    public void Run_LearnableSequence_LowersTrainingAndValidationLoss()
    {
        using var folder = new TempFolder();
        using var model = new TinyModel();
        var result = Train(model, Config with { Steps = 200, ValidateEvery = 50 }, folder.Path);
        var metrics = RunFolder.ReadMetrics(folder.Path);
        Assert.Equal(TrainingStatus.Completed, result.Status);
        Assert.Equal(200 * 4 * 8, result.Tokens);
        Assert.Equal(200, metrics.Count);
        Assert.InRange(metrics[0].Loss, 2.5, 3.5);
        Assert.InRange(metrics.TakeLast(20).Average(m => m.Loss), 0.2, 1.6);
        Assert.InRange(result.Validation!.ValidationLoss!.Value, 0.2, 1.6);
    }

    [Fact]
    public void Run_StatedMeasurements_AreInTheMetrics()
    {
        using var folder = new TempFolder();
        using var model = new TinyModel();
        var reported = new List<TrainingMetrics>();
        Train(
            model,
            Config with { BatchRamp = [new(0, 2), new(5, 4)], GradientClip = 0.3, EmaDecay = 0.9, LogEvery = 3, ValidationTokens = 10 },
            folder.Path,
            progress: new ImmediateProgress<TrainingMetrics>(reported.Add),
            tokenizer: new TwoByteTokenizer());
        var metrics = RunFolder.ReadMetrics(folder.Path);
        Assert.Equal(Enumerable.Range(1, 30), reported.Select(m => m.Step));
        Assert.Equal([3, 6, 9, 10, 12, 15, 18, 20, 21, 24, 27, 30], metrics.Select(m => m.Step));
        Assert.Equal([16, 32, 48, 64, 80, 112], reported.Take(6).Select(m => m.Tokens));
        Assert.Equal(Config.LearningRate(9), metrics[2].LearningRate);
        Assert.Contains(reported, m => m.GradientNorm > 0.3);
        Assert.InRange(metrics[^1].ClippedShare, 0.01, 1);

        var validated = metrics[3];
        Assert.Equal(6 * 8, validated.ValidationTokens);
        Assert.Equal(Math.Exp(validated.ValidationLoss!.Value), validated.ValidationPerplexity);
        Assert.Equal(validated.ValidationLoss.Value / Math.Log(2) / 2, validated.ValidationBitsPerByte!.Value, 1e-9);
        Assert.NotEqual(validated.ValidationLoss, validated.EmaValidationLoss);
        Assert.Equal(["fgate_preact", "igate_preact"], validated.Gates!.Select(g => g.Name));
        Assert.All(validated.Gates!, g => Assert.True(g.Minimum < g.Mean && g.Mean < g.Maximum));
        Assert.InRange(validated.ParameterNorm!.Value, 1, 100);
        Assert.Null(metrics[0].Gates);
        Assert.Null(model.Observer);
    }

    [Fact]
    public void Run_MicroBatches_GiveTheSameUpdates()
    {
        using var folder = new TempFolder();
        var losses = new[] { (int?)null, 1, 3 }.Select(micro =>
        {
            using var model = new TinyModel();
            var run = Path.Combine(folder.Path, $"{micro}");
            Train(model, Config with { MicroBatchSize = micro }, run);
            return RunFolder.ReadMetrics(run).Select(m => m.Loss).ToArray();
        }).ToArray();
        Assert.All(losses[0].Zip(losses[1]), pair => Assert.Equal(pair.First, pair.Second, 1e-4));
        Assert.All(losses[0].Zip(losses[2]), pair => Assert.Equal(pair.First, pair.Second, 1e-4));
    }

    [Fact]
    public void Run_BfloatCompute_ReachesTheModelAndKeepsFloat32Weights()
    {
        using var folder = new TempFolder();
        using var model = new TinyModel();
        Train(model, Config with { ComputeType = ScalarType.BFloat16 }, folder.Path);
        Assert.All(model.ComputeTypesSeen, type => Assert.Equal(ScalarType.BFloat16, type));
        Assert.Null(model.ComputeType);
        Assert.All(model.parameters(), p => Assert.Equal(ScalarType.Float32, p.dtype));
        Assert.InRange(RunFolder.ReadMetrics(folder.Path)[^1].Loss, 0.2, 2.6);
    }

    [Fact]
    public void Run_GradientNotFinite_SkipsTheUpdateAndExplains()
    {
        using var folder = new TempFolder();
        using var model = new TinyModel { Disturb = (pass, logits) => pass == 5 ? logits * float.NaN : logits };
        var result = Train(model, Config with { ValidateEvery = 100, StatisticsEvery = 0 }, folder.Path);
        var skipped = Assert.Single(RunFolder.ReadMetrics(folder.Path), m => m.Skipped is not null);
        Assert.Equal(5, skipped.Step);
        Assert.True(double.IsNaN(skipped.Loss));
        Assert.Contains("embeddings.weight", skipped.Skipped, StringComparison.Ordinal);
        Assert.Contains("Step 5: the loss is NaN", File.ReadAllText(Path.Combine(folder.Path, "log.txt")), StringComparison.Ordinal);
        Assert.True(double.IsFinite(result.Last!.Loss));
    }

    [Fact]
    public void Run_TooManyBadSteps_StopsWithAdvice()
    {
        using var folder = new TempFolder();
        using var model = new TinyModel { Disturb = (pass, logits) => pass > 12 ? logits / 0 : logits };
        var error = Assert.Throws<TrainingDivergedException>(
            () => Train(model, Config with { MaxBadSteps = 3, StatisticsEvery = 0, ValidateEvery = 100 }, folder.Path));
        Assert.Contains("3 updates in a row", error.Message, StringComparison.Ordinal);
        Assert.Contains("step-000010", error.Message, StringComparison.Ordinal);
        var meta = RunFolder.ReadMetadata(folder.Path);
        Assert.Equal((TrainingStatus.Failed, 15, error.Message), (meta.Status, meta.Step, meta.Error));
        Assert.True(model.training);
    }

    [Fact]
    public void Run_EndsInNaN_ThrowsAndKeepsTheLastGoodCheckpoint()
    {
        using var folder = new TempFolder();
        using var model = new TinyModel { Disturb = (pass, logits) => pass > 12 ? logits * float.NaN : logits };
        var error = Assert.Throws<TrainingDivergedException>(
            () => Train(
                model, Config with
                {
                    StatisticsEvery = 0,
                    ValidateEvery = 100,
                    CheckpointEvery = 5,
                    KeepCheckpoints = 1,
                    MaxBadSteps = 100,
                }, folder.Path));
        Assert.Contains("since step 13", error.Message, StringComparison.Ordinal);
        Assert.Contains("step-000010", error.Message, StringComparison.Ordinal);
        Assert.Contains("lower learning rate", error.Message, StringComparison.Ordinal);
        Assert.Equal(["step-000010"], Directory.GetDirectories(Path.Combine(folder.Path, "checkpoints")).Select(Path.GetFileName));
        Assert.Contains("Step 15: no checkpoint", File.ReadAllText(Path.Combine(folder.Path, "log.txt")), StringComparison.Ordinal);
        Assert.Equal((TrainingStatus.Failed, 30), (RunFolder.ReadMetadata(folder.Path).Status, RunFolder.ReadMetadata(folder.Path).Step));
    }

    [Fact]
    public void Run_WeightsNotFinite_AreNeverWritten()
    {
        using var folder = new TempFolder();
        using var model = new TinyModel();
        var error = Assert.Throws<TrainingDivergedException>(() => Train(
            model, Config with { StatisticsEvery = 0, ValidateEvery = 100, Steps = 12 }, folder.Path,
            progress: new ImmediateProgress<TrainingMetrics>(m =>
            {
                if (m.Step == 12)
                {
                    using var noGrad = no_grad();
                    model.parameters().First().fill_(float.NaN);
                }
            })));
        Assert.Contains("After step 12 the weights are not finite in 1 of ", error.Message, StringComparison.Ordinal);
        Assert.Equal(["step-000010"], Directory.GetDirectories(Path.Combine(folder.Path, "checkpoints")).Select(Path.GetFileName));
    }

    [Fact]
    public void Run_ValidationThatFails_LeavesWeightsAndModesAsTheyWere()
    {
        using var folder = new TempFolder();
        var passes = 0;
        var config = Config with { StatisticsEvery = 0, ValidateEvery = 2, Schedule = new() { Kind = DecayKind.Constant } };
        using (var counted = new TinyModel())
        {
            Train(counted, config with { Steps = 2 }, Path.Combine(folder.Path, "counted"));
            passes = counted.ForwardCount;
        }

        using var model = new TinyModel { Disturb = (pass, logits) => pass > passes ? throw new IOException("the disk is gone") : logits };
        model.train();
        model.children().First().eval();
        var modes = Models.EvaluationModeTests.Modes(model);
        Assert.Throws<IOException>(() => Train(model, config with { EmaDecay = 0.5 }, Path.Combine(folder.Path, "run")));
        Assert.Equal(modes, Models.EvaluationModeTests.Modes(model));

        // The validation of the averages failed: the weights are those of the second update, as of a run that ends with it.
        using var straight = new TinyModel();
        Train(straight, config with { EmaDecay = 0.5, Steps = 2 }, Path.Combine(folder.Path, "straight"));
        Assert.Equal(ModelIdentity.Of(straight).Weights, ModelIdentity.Of(model).Weights);
    }

    [Fact]
    public void Run_DamagedLineOfMetrics_IsLeftOutAndSaidAndAnalysesSayHow()
    {
        using var folder = new TempFolder();
        using var model = new TinyModel();
        Train(model, Config with { Steps = 20, Schedule = new() { Kind = DecayKind.Constant } }, folder.Path);
        var path = Path.Combine(folder.Path, "metrics.jsonl");
        var lines = File.ReadAllLines(path);
        lines[6] = lines[6][..20];
        File.WriteAllLines(path, lines);
        Assert.Contains(
            "Line 7", Assert.Throws<InvalidDataException>(() => RunFolder.ReadMetrics(folder.Path)).Message, StringComparison.Ordinal);
        Assert.Contains(
            "line 7", Assert.Throws<InvalidDataException>(() => XlstmLab.Analysis.MetricsTable.Read(folder.Path)).Message,
            StringComparison.Ordinal);
        var damaged = new List<string>();
        Assert.Equal(19, RunFolder.ReadMetrics(folder.Path, damaged).Count);
        Assert.Equal(19, XlstmLab.Analysis.MetricsTable.Read(folder.Path, damaged).RowCount);
        Assert.Equal(2, damaged.Count);

        Assert.Equal(30, Train(model, Config with { Schedule = new() { Kind = DecayKind.Constant } }, folder.Path).Step);
        Assert.Equal(29, RunFolder.ReadMetrics(folder.Path).Count);
        Assert.Matches(
            "Warning: Line 7 of .* is not a line of metrics.*; it is left out", File.ReadAllText(Path.Combine(folder.Path, "log.txt")));
    }

    [Theory]
    [InlineData("model.safetensors", "weights")]
    [InlineData("optimizer.safetensors", "moments")]
    public void Run_FileOfAnotherCheckpoint_IsRefused(string file, string what)
    {
        using var folder = new TempFolder();
        var (one, other) = (Path.Combine(folder.Path, "one"), Path.Combine(folder.Path, "other"));
        using var model = new TinyModel();
        var mine = Train(model, Config, one).Checkpoint!;
        using var second = new TinyModel(seed: 2);
        File.Copy(Path.Combine(Train(second, Config, other).Checkpoint!, file), Path.Combine(mine, file), overwrite: true);
        var error = Assert.Throws<CheckpointException>(() => Train(model, Config, one));
        Assert.Contains(what, error.Message, StringComparison.Ordinal);
        Assert.Contains("another checkpoint's", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Run_Attachments_AreThereBeforeTheConfigurationAndGoWithStartingOver()
    {
        using var folder = new TempFolder();
        using var model = new TinyModel();
        var config = Config with { Steps = 2, Schedule = new() { Kind = DecayKind.Constant } };
        var first = new Trainer(model, config, TinyText.Packed(1), [], folder.Path)
        {
            Attachments = new Dictionary<string, byte[]?> { ["text.json"] = [1, 2], ["t.json"] = [3] },
        };

        // As a kill between the two leaves it.
        File.WriteAllBytes(Path.Combine(folder.Path, "text.json"), [1]);
        first.Run(TestContext.Current.CancellationToken);
        Assert.Equal([1, 2], File.ReadAllBytes(Path.Combine(folder.Path, "text.json")));
        new Trainer(model, config with { Steps = 3 }, TinyText.Packed(1), [], folder.Path)
        {
            StartOver = true,
            Attachments = new Dictionary<string, byte[]?> { ["text.json"] = [4], ["t.json"] = null },
        }.Run(TestContext.Current.CancellationToken);
        Assert.Equal([4], File.ReadAllBytes(Path.Combine(folder.Path, "text.json")));
        Assert.False(File.Exists(Path.Combine(folder.Path, "t.json")));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Run_SpikingGradient_IsLoggedAndSkippedOnlyIfAsked(bool skip)
    {
        using var folder = new TempFolder();
        using var model = new TinyModel { Disturb = (pass, logits) => pass == 20 ? logits * 100 : logits };
        var rule = new SpikeRule { Window = 16, SkipUpdate = skip };
        Train(model, Config with { ValidateEvery = 100, StatisticsEvery = 0, Spikes = rule }, folder.Path);
        Assert.Equal(skip ? [20] : [], RunFolder.ReadMetrics(folder.Path).Where(m => m.Skipped is not null).Select(m => m.Step));
        Assert.Matches("Step 20: the gradient norm .* times the running median", File.ReadAllText(Path.Combine(folder.Path, "log.txt")));
    }

    [Theory]
    [InlineData(1)]
    [InlineData(7)]
    [InlineData(10)]
    public void Run_StoppedAndResumed_EqualsTheUninterruptedRunBitForBit(int stopAfter)
    {
        using var folder = new TempFolder();
        var config = Config with { EmaDecay = 0.95, MicroBatchSize = 3, Spikes = new() { Window = 8, SkipUpdate = true } };
        var (straight, broken) = (Path.Combine(folder.Path, "straight"), Path.Combine(folder.Path, "broken"));
        using var first = new TinyModel(dropout: 0.2);
        Train(first, config, straight);
        using (var second = new TinyModel(dropout: 0.2))
        {
            using var cancellation = new CancellationTokenSource();
            var cancel = new ImmediateProgress<TrainingMetrics>(m => Cancel(m, stopAfter, cancellation));
            var stopped = Train(second, config, broken, progress: cancel, cancellation: cancellation);
            Assert.Equal((TrainingStatus.Stopped, stopAfter), (stopped.Status, stopped.Step));
            Assert.Equal(TrainingStatus.Stopped, RunFolder.ReadMetadata(broken).Status);
        }

        // Another initialisation and another random state: all that counts comes from the checkpoint.
        using var third = new TinyModel(seed: 99, dropout: 0.2);
        using var noise = rand(7);
        var result = Train(third, config, broken);
        Assert.Equal(TrainingStatus.Completed, result.Status);
        AssertSameMetrics(straight, broken);
        Assert.All(first.parameters().Zip(third.parameters()), pair => Assert.True(pair.First.equal(pair.Second).all().item<bool>()));
    }

    [Fact]
    public void Run_DiedBetweenCheckpoints_RepeatsFromTheLastOneBitForBit()
    {
        using var folder = new TempFolder();
        var (straight, broken) = (Path.Combine(folder.Path, "straight"), Path.Combine(folder.Path, "broken"));
        using (var model = new TinyModel())
        {
            Train(model, Config, straight);
        }

        using (var model = new TinyModel { Disturb = (pass, logits) => pass > 17 ? throw new IOException("the disk is gone") : logits })
        {
            Assert.Throws<IOException>(() => Train(model, Config with { ValidateEvery = 10 }, broken));
        }

        Assert.Equal(TrainingStatus.Failed, RunFolder.ReadMetadata(broken).Status);
        File.AppendAllText(Path.Combine(broken, "metrics.jsonl"), "{\"step\":16,\"lo");
        using (var model = new TinyModel(seed: 5))
        {
            Train(model, Config, broken);
        }

        AssertSameMetrics(straight, broken);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(0.1)]
    public void Run_XlstmStoppedAndResumed_EqualsTheUninterruptedRunBitForBit(double dropout)
    {
        using var folder = new TempFolder();
        var config = Config with { Steps = 12, ContextLength = 24, CheckpointEvery = 5, StatisticsEvery = 6 };
        var (straight, broken) = (Path.Combine(folder.Path, "straight"), Path.Combine(folder.Path, "broken"));
        TrainingResult Train(int seed, string run, CancellationToken token, IProgress<TrainingMetrics>? progress = null)
        {
            using var model = new XlstmLanguageModel(Xlstm with { Dropout = dropout }, seed);
            return new Trainer(model, config, TinyText.Packed(1, contextLength: 24), [], run, progress).Run(token);
        }

        var result = Train(1, straight, TestContext.Current.CancellationToken);
        using (var cancellation = new CancellationTokenSource())
        {
            Train(1, broken, cancellation.Token, new ImmediateProgress<TrainingMetrics>(m => Cancel(m, 7, cancellation)));
        }

        Train(2, broken, TestContext.Current.CancellationToken);
        AssertSameMetrics(straight, broken);
        Assert.Equal(
            [(0, "fgate_preact"), (0, "igate_preact"), (1, "fgate_preact"), (1, "igate_preact")],
            RunFolder.ReadMetrics(straight)[5].Gates!.Select(g => (g.Block, g.Name)));

        // A checkpoint is a folder that other programs read as a model.
        using var published = HuggingFaceFolder.Open(result.Checkpoint!);
        Assert.Equal(Xlstm.EmbeddingDim, published.Config.EmbeddingDim);
    }

    [Fact]
    public void Run_XlstmInBfloat16_LearnsAsInFloat32()
    {
        using var folder = new TempFolder();
        var losses = new[] { ScalarType.Float32, ScalarType.BFloat16 }.Select(type =>
        {
            using var model = new XlstmLanguageModel(Xlstm, 1);
            // A high rate would amplify rounding until the two runs have nothing in common.
            var config = Config with { ContextLength = 24, ComputeType = type, PeakLearningRate = 0.002 };
            var run = Path.Combine(folder.Path, $"{type}");
            new Trainer(model, config, TinyText.Packed(1, contextLength: 24), [], run).Run(TestContext.Current.CancellationToken);
            return RunFolder.ReadMetrics(run).Select(m => m.Loss).ToArray();
        }).ToArray();
        Assert.True(losses[0][^1] < 0.95 * losses[0][0], $"{losses[0][0]} to {losses[0][^1]}");
        Assert.NotEqual(losses[0][0], losses[1][0]);
        Assert.All(losses[0].Zip(losses[1]), pair => Assert.Equal(pair.First, pair.Second, 0.02 * pair.First));
    }

    [Fact]
    public void Run_Completed_ReturnsAtOnceWithItsResult()
    {
        using var folder = new TempFolder();
        using var model = new TinyModel();
        var first = Train(model, Config, folder.Path);
        var lines = File.ReadAllText(Path.Combine(folder.Path, "metrics.jsonl"));
        using var other = new TinyModel(seed: 3);
        var second = Train(other, Config, folder.Path);
        Assert.Equal((first.Status, first.Step, first.Tokens), (second.Status, second.Step, second.Tokens));
        Assert.Equal(first.Checkpoint, second.Checkpoint);
        Assert.Equal(first.Validation!.ValidationLoss, second.Validation!.ValidationLoss);
        Assert.Equal(lines, File.ReadAllText(Path.Combine(folder.Path, "metrics.jsonl")));
        Assert.Equal(0, other.ForwardCount);
    }

    [Fact]
    public void Run_ChangedConfig_IsRefusedWithTheDifferences()
    {
        using var folder = new TempFolder();
        using var model = new TinyModel();
        Train(model, Config, folder.Path);
        var changed = Config with { BatchSize = 5, GradientClip = null, LogEvery = 2 };
        var error = Assert.Throws<InvalidOperationException>(() => Train(model, changed, folder.Path));
        Assert.Contains("training.batch_size: 4 before, 5 now", error.Message, StringComparison.Ordinal);
        Assert.Contains("training.gradient_clip: 0.5 before, null now", error.Message, StringComparison.Ordinal);
        Assert.DoesNotContain("log_every", error.Message, StringComparison.Ordinal);

        var data = Assert.Throws<InvalidOperationException>(() => Train(model, Config, folder.Path, data: "other text"));
        Assert.Contains("data.description: \"tiny\" before, \"other text\" now", data.Message, StringComparison.Ordinal);

        var steps = Assert.Throws<InvalidOperationException>(() => Train(model, Config with { Steps = 40 }, folder.Path));
        Assert.Contains("learning rates of the 30 steps done", steps.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Run_ModelComputedInAnotherWay_IsRefused()
    {
        using var folder = new TempFolder();
        using var model = new XlstmLanguageModel(Xlstm);
        void Run(LanguageModel given) =>
            new Trainer(given, Config with { Steps = 4 }, TinyText.Packed(1), [], folder.Path).Run(TestContext.Current.CancellationToken);
        Run(model);
        using var other = new XlstmLanguageModel(
            Xlstm with { Form = MLstmForm.Parallel, NormalizerGradient = NormalizerGradient.Constant });
        var error = Assert.Throws<InvalidOperationException>(() => Run(other));
        Assert.Contains("model.mlstm_form", error.Message, StringComparison.Ordinal);
        Assert.Contains("model.normalizer_gradient", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Run_SettingThatTheOldFileLacks_CountsAsItsDefault()
    {
        using var folder = new TempFolder();
        using var model = new TinyModel();
        Train(model, Config, folder.Path);
        var path = Path.Combine(folder.Path, "config.json");
        var old = JsonNode.Parse(File.ReadAllText(path))!;
        old["training"]!.AsObject().Remove("weight_decay");
        File.WriteAllText(path, old.ToJsonString());
        Assert.Equal(30, Train(model, Config, folder.Path).Step);
        var error = Assert.Throws<InvalidOperationException>(() => Train(model, Config with { WeightDecay = 0 }, folder.Path));
        Assert.Contains("training.weight_decay: 0.1 before, 0 now", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Run_MoreStepsUnderTheSameRates_GoesOn()
    {
        using var folder = new TempFolder();
        using var model = new TinyModel();
        var config = Config with { Schedule = new() { Kind = DecayKind.Constant } };
        Train(model, config, folder.Path);
        var result = Train(model, config with { Steps = 35, LogEvery = 1, KeepCheckpoints = 1 }, folder.Path);
        Assert.Equal(35, result.Step);
        Assert.Equal(Enumerable.Range(1, 35), RunFolder.ReadMetrics(folder.Path).Select(m => m.Step));
        Assert.Equal(35, RunFolder.ReadTrainingConfig(folder.Path).Steps);
    }

    [Fact]
    public void Run_StartOver_DeletesTheOldRunAndNothingElse()
    {
        using var folder = new TempFolder();
        using var model = new TinyModel();
        Train(model, Config, folder.Path);
        var note = Path.Combine(folder.Path, "notes.md");
        File.WriteAllText(note, "mine");
        var result = Train(model, Config with { Steps = 4 }, folder.Path, startOver: true);
        Assert.Equal(4, result.Step);
        Assert.Equal(4, RunFolder.ReadMetrics(folder.Path).Count);
        Assert.Equal("step-000004", Path.GetFileName(Assert.Single(Directory.GetDirectories(Path.Combine(folder.Path, "checkpoints")))));
        Assert.True(File.Exists(note));
    }

    [Fact]
    public void Run_ForeignFolder_IsLeftAlone()
    {
        using var folder = new TempFolder();
        using var model = new TinyModel();
        File.WriteAllText(Path.Combine(folder.Path, "thesis.tex"), "");
        var error = Assert.Throws<InvalidOperationException>(() => Train(model, Config, folder.Path, startOver: true));
        Assert.Contains("thesis.tex", error.Message, StringComparison.Ordinal);
        Assert.Equal(["thesis.tex"], Directory.GetFileSystemEntries(folder.Path).Select(Path.GetFileName));
    }

    [Fact]
    public void Run_FolderInUse_IsRefused()
    {
        using var folder = new TempFolder();
        using var model = new TinyModel();
        Exception? error = null;
        Train(model, Config, folder.Path, progress: new ImmediateProgress<TrainingMetrics>(m =>
        {
            if (m.Step == 2)
            {
                error = Assert.Throws<InvalidOperationException>(() => RunFolder.Open(folder.Path, Config, model.Config, "tiny", false));
            }
        }));
        Assert.Contains("Another process trains in", error!.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Run_TextCutForAnotherLength_IsRefused()
    {
        using var folder = new TempFolder();
        using var model = new TinyModel();
        var error = Assert.Throws<ArgumentException>(() => Train(model, Config with { ContextLength = 16 }, folder.Path));
        Assert.Contains("a context of 8 tokens, the configuration's is 16", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Run_Checkpoints_AreCompleteAndOnlyTheLatestAreKept()
    {
        using var folder = new TempFolder();
        using var model = new TinyModel();
        var checkpoints = Path.Combine(folder.Path, "checkpoints");
        var standing = new List<int>();
        var result = Train(model, Config with { CheckpointEvery = 5 }, folder.Path, written: path =>
        {
            if (path.EndsWith("trainer.json", StringComparison.Ordinal))
            {
                standing.Add(Directory.GetDirectories(checkpoints).Count(name => !name.Contains(".tmp-", StringComparison.Ordinal)));
            }
        });
        Assert.Equal([0, 1, 2, 2, 2, 2], standing);
        Assert.Equal(["step-000025", "step-000030"], Directory.GetDirectories(checkpoints).Select(Path.GetFileName).Order());
        Assert.Equal(
            ["config.json", "model.safetensors", "optimizer.safetensors", "trainer.json"],
            Directory.GetFiles(result.Checkpoint!).Select(Path.GetFileName).Order());
    }

    [Theory]
    [InlineData("model.safetensors")]
    [InlineData("optimizer.safetensors")]
    [InlineData("trainer.json")]
    public void Run_DamagedCheckpoint_SaysWhichToRemove(string file)
    {
        using var folder = new TempFolder();
        using var model = new TinyModel();
        var result = Train(model, Config, folder.Path);
        var path = Path.Combine(result.Checkpoint!, file);
        File.WriteAllBytes(path, File.ReadAllBytes(path)[..^20]);
        var error = Assert.Throws<CheckpointException>(() => Train(model, Config, folder.Path));
        Assert.Contains("step-000030", error.Message, StringComparison.Ordinal);
        Assert.Contains("Remove that folder", error.Message, StringComparison.Ordinal);
        Assert.Equal(30, RunFolder.ReadMetadata(folder.Path).Step);
        Directory.Delete(result.Checkpoint!, recursive: true);
        Assert.Equal(30, Train(model, Config, folder.Path).Step);
    }

    [Fact]
    public void Run_MetadataAndConfig_DescribeTheRun()
    {
        using var folder = new TempFolder();
        using var model = new TinyModel();
        Train(model, Config, folder.Path);
        var meta = RunFolder.ReadMetadata(folder.Path);
        Assert.Equal((TrainingStatus.Completed, 30, 30L * 4 * 8, get_num_threads()), (meta.Status, meta.Step, meta.Tokens, meta.Threads));
        Assert.Equal(model.parameters().Sum(p => p.NumberOfElements), meta.Parameters);
        Assert.Equal("cpu", meta.Device);
        Assert.StartsWith("0.107.0", meta.TorchSharpVersion, StringComparison.Ordinal);
        Assert.True(meta.GitCommit is null || meta.GitCommit.Length >= 40);
        var config = JsonNode.Parse(File.ReadAllText(Path.Combine(folder.Path, "config.json")))!;
        Assert.Equal("tiny", (string?)config["data"]!["description"]);
        Assert.Equal(16, (int?)config["model"]!["embedding_dim"]);
        Assert.Equal(Config.Schedule, RunFolder.ReadTrainingConfig(folder.Path).Schedule);
    }

    [Fact]
    public void Run_SeveralHundredSteps_LeavesNoTensorsAndNoMemory()
    {
        using var folder = new TempFolder();
        using var model = new TinyModel();
        var counts = new List<(long Tensors, long Bytes)>();
        var config = Config with
        {
            Steps = 400,
            EmaDecay = 0.9,
            MicroBatchSize = 2,
            StatisticsEvery = 1,
            ValidateEvery = 20,
            CheckpointEvery = 100,
            TensorBoard = true,
        };
        GC.Collect();
        GC.WaitForPendingFinalizers();
        var before = Tensor.TotalCount;
        Train(model, config, folder.Path, progress: new ImmediateProgress<TrainingMetrics>(m =>
        {
            if (m.Step % 50 == 0)
            {
                counts.Add((Tensor.TotalCount, Environment.WorkingSet));
            }
        }));
        Assert.All(counts, c => Assert.Equal(counts[0].Tensors, c.Tensors));
        Assert.InRange(counts[^1].Bytes, 0, counts[1].Bytes * 1.05);
        Assert.InRange(Tensor.TotalCount, 0, before); // what other tests left may go meanwhile
    }

    internal static TrainingConfig KillConfig { get; } = Config with { EmaDecay = 0.9 };

    internal static TrainingResult Train(
        TinyModel model,
        TrainingConfig config,
        string folder,
        IProgress<TrainingMetrics>? progress = null,
        ITokenizer? tokenizer = null,
        string? data = null,
        bool startOver = false,
        Action<string>? written = null,
        CancellationTokenSource? cancellation = null) =>
        new Trainer(model, config, TinyText.Packed(1), Validation, folder, progress)
        {
            DataDescription = data ?? "tiny",
            Tokenizer = tokenizer,
            StartOver = startOver,
            CheckpointWritten = written,
        }.Run(cancellation?.Token ?? TestContext.Current.CancellationToken);

    /// <summary>Compares every number of two runs but the times.</summary>
    internal static void AssertSameMetrics(string expected, string actual)
    {
        static IEnumerable<string> Lines(string folder) => RunFolder.ReadMetrics(folder)
            .Select(m => System.Text.Json.JsonSerializer.Serialize(m with { Seconds = 0, TokensPerSecond = 0 }, RunJson.Line));

        Assert.NotEmpty(Lines(expected));
        Assert.Equal(Lines(expected), Lines(actual));
    }

    private static void Cancel(TrainingMetrics metrics, int after, CancellationTokenSource cancellation)
    {
        if (metrics.Step == after)
        {
            cancellation.Cancel();
        }
    }

    /// <summary>Every token spells two bytes.</summary>
    private sealed class TwoByteTokenizer : ITokenizer
    {
        public int VocabularySize => 16;

        public int EndOfDocument => 0;

        public int[] Encode(string text) => throw new NotSupportedException();

        public string Decode(IEnumerable<int> ids) => throw new NotSupportedException();

        public ReadOnlySpan<byte> Bytes(int id) => "ab"u8;
    }
}
