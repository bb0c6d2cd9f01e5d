using XlstmLab.Experiments;
using XlstmLab.Inference;
using XlstmLab.Models;
using XlstmLab.Text;
using XlstmLab.Training;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Training;

/// <summary>torch's global generator, which all threads share, decides nothing in the library and is left as it was.</summary>
[Collection(nameof(AloneCollection))]
public sealed class OwnGeneratorTests
{
    private static readonly XlstmConfig Model = new()
    {
        VocabularySize = 257,
        EmbeddingDim = 16,
        BlockCount = 2,
        HeadCount = 2,
        FeedForwardRoundUpTo = 8,
        Dropout = 0.3,
    };

    private static readonly TrainingConfig Config = new()
    {
        Steps = 6,
        BatchSize = 2,
        ContextLength = 8,
        Schedule = new() { WarmupSteps = 1 },
        CheckpointEvery = 100,
        TensorBoard = false,
    };

    public static TheoryData<string> Architectures { get; } =
    [
        "xlstm", "first xlstm", "pre-up xlstm", "llama", "mamba", "mamba2", "gla", "lstm",
    ];

    [Fact]
    public async Task Run_TwoTrainersInTwoThreads_EachGivesTheLossesOfItsOwn()
    {
        using var folder = new TempFolder();
        foreach (var seed in new[] { 1, 2 })
        {
            await InThread(seed, $"alone-{seed}", () => { });
        }

        // Each step of one stands beside a step of the other.
        using var meeting = new Barrier(2);
        void Meet() => Assert.True(meeting.SignalAndWait(TimeSpan.FromMinutes(1)));
        await Task.WhenAll(InThread(1, "together-1", Meet), InThread(2, "together-2", Meet));
        foreach (var seed in new[] { 1, 2 })
        {
            TrainerTests.AssertSameMetrics(folder[$"alone-{seed}"], folder[$"together-{seed}"]);
        }

        Assert.NotEqual(Losses(folder["alone-1"]), Losses(folder["alone-2"]));

        Task InThread(int seed, string name, Action everyStep) => Task.Factory.StartNew(
            () =>
            {
                set_num_threads(1);
                Train(seed, folder[name], everyStep).Dispose();
            },
            CancellationToken.None,
            TaskCreationOptions.LongRunning,
            TaskScheduler.Default);
    }

    [Fact]
    public void Run_WhateverTheGlobalGeneratorIs_GivesTheSameLosses()
    {
        using var folder = new TempFolder();
        random.manual_seed(1).Dispose();
        Train(3, folder["a"], () => { }).Dispose();
        random.manual_seed(2).Dispose();
        Train(3, folder["b"], () => rand(3).Dispose()).Dispose();
        TrainerTests.AssertSameMetrics(folder["a"], folder["b"]);
    }

    [Theory]
    [MemberData(nameof(Architectures))]
    public void CreateModel_OfEveryArchitecture_NeitherReadsNorMovesTheGlobalGenerator(string architecture)
    {
        var config = Architecture(architecture);
        random.manual_seed(11).Dispose();
        var before = get_rng_state().bytes.ToArray();
        using var first = config.CreateModel(5);
        Assert.Equal(before, get_rng_state().bytes.ToArray());
        random.manual_seed(12).Dispose();
        using var second = config.CreateModel(5);
        var weights = second.state_dict();
        Assert.All(first.state_dict(), entry => Assert.True(entry.Value.equal(weights[entry.Key]).all().item<bool>(), entry.Key));
        Assert.All(first.parameters(), parameter => Assert.True(parameter.requires_grad));
    }

    [Fact]
    public void Library_TrainingGeneratingAndSynthetic_LeavesTheUsersNumbersAsTheyAre()
    {
        using var scope = NewDisposeScope();
        using var folder = new TempFolder();
        random.manual_seed(7).Dispose();
        var expected = rand(8);
        random.manual_seed(7).Dispose();
        using (var model = Train(4, folder["run"], () => { }))
        {
            model.eval();
            new TextGenerator(model, new ByteTokenizer()).Generate(
                "ab", new() { MaxNewTokens = 5, Temperature = 1, Seed = 3 }, TestContext.Current.CancellationToken);
        }

        var recipe = SyntheticRecipes.For(SyntheticRecipes.Task("parity"));
        var experiment = SyntheticExperiment.Of(recipe, Model with { VocabularySize = recipe.Task.VocabularySize }) with
        {
            Training = Config with { Steps = 2 },
            TestLengths = [],
            TestRows = 4,
            ValidationRows = 4,
        };
        experiment.Run(folder["synthetic"], [1], cancellationToken: TestContext.Current.CancellationToken);
        new NearestNeighborExperiment { Model = Model, Task = new(), Training = Config with { Steps = 2 }, TestRows = 4 }
            .Run(folder["nearest"], [1], cancellationToken: TestContext.Current.CancellationToken);
        Assert.True(expected.equal(rand(8)).all().item<bool>());
    }

    private static XlstmLanguageModel Train(int seed, string folder, Action everyStep)
    {
        var model = Model.CreateModel(seed);
        new Trainer(
            model, Config with { Seed = seed }, TinyText.Packed(1), [], folder, new ImmediateProgress<TrainingMetrics>(_ => everyStep()))
            .Run(CancellationToken.None);
        return model;
    }

    private static double[] Losses(string run) => [.. RunFolder.ReadMetrics(run).Select(m => m.Loss)];

    private static LanguageModelConfig Architecture(string name) => name switch
    {
        "xlstm" => Model,
        "first xlstm" => Model with { SLstmAt = [0] },
        "pre-up xlstm" => Model with { BlockStyle = BlockStyle.PreUp, SLstmAt = [0] },
        "llama" =>
            new LlamaConfig
            {
                VocabularySize = 17,
                EmbeddingDim = 16,
                BlockCount = 2,
                HeadCount = 4,
                KeyValueHeads = 2,
                FeedForwardDim = 24,
            },
        "mamba" => new MambaConfig { VocabularySize = 17, EmbeddingDim = 32, BlockCount = 2 },
        "mamba2" =>
            new Mamba2Config
            {
                VocabularySize = 17,
                EmbeddingDim = 128,
                BlockCount = 1,
                HeadDim = 32,
                HeadCount = 8,
                StateSize = 32,
                GroupCount = 1,
            },
        "gla" => GlaPresets.All.Values.First() with { VocabularySize = 17, BlockCount = 1 },
        "lstm" => LstmPresets.All.Values.First() with { VocabularySize = 17, BlockCount = 1 },
        _ => throw new ArgumentException(name, nameof(name)),
    };
}
