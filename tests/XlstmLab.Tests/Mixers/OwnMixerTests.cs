using System.Numerics;
using XlstmLab.Checkpoints;
using XlstmLab.Evaluation;
using XlstmLab.Inference;
using XlstmLab.Mixers;
using XlstmLab.Models;
using XlstmLab.Tests.Training;
using XlstmLab.Text;
using XlstmLab.Training;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Mixers;

/// <summary>A mixer that a user wrote, from its training to the command line.</summary>
[Collection(nameof(AloneCollection))]
public sealed class OwnMixerTests
{
    private static readonly XlstmConfig Config = new()
    {
        VocabularySize = 257,
        EmbeddingDim = 16,
        BlockCount = 2,
        HeadCount = 2,
        FeedForwardRoundUpTo = 8,
        Mixers = ["mlstm", new MovingAverageMixerConfig { Decay = 0.6 }],
    };

    [Fact]
    public void Train_ByTheOrdinaryTrainer_EvaluatesGeneratesAndIsReadAgain()
    {
        using var scope = NewDisposeScope();
        using var folder = new TempFolder();
        MixerConfig.Know<MovingAverageMixerConfig>();
        using var model = Config.CreateModel(seed: 1);
        var training = new TrainingConfig
        {
            Steps = 30,
            BatchSize = 4,
            ContextLength = 8,
            PeakLearningRate = 0.02,
            Schedule = new() { WarmupSteps = 3 },
            TensorBoard = false,
        };
        new Trainer(model, training, TinyText.Packed(1), [], folder.Path).Run(TestContext.Current.CancellationToken);
        var metrics = RunFolder.ReadMetrics(folder.Path);
        Assert.InRange(metrics[^1].Loss, 0, metrics[0].Loss - 1);

        Assert.Equal(Config, RunFolder.ReadModelConfig(folder.Path));
        using var checkpoint = HuggingFaceFolder.Open(RunFolder.LatestCheckpoint(folder.Path)!);
        using var read = checkpoint.Config.CreateModel();
        checkpoint.LoadInto(read);
        var tokens = new ByteTokenizer();
        var options = new GenerationOptions { Temperature = 0, MaxNewTokens = 5 };
        Assert.Equal(
            new TextGenerator(model, tokens).Generate("ab", options).Tokens,
            new TextGenerator(read, tokens).Generate("ab", options).Tokens);
        var evaluated = PerplexityEvaluator.Evaluate(
            read, [[tokens.EndOfDocument, 1, 3, 7, 0, 1, 3, 7]], tokens, cancellationToken: TestContext.Current.CancellationToken);
        Assert.InRange(evaluated.Loss, 0.1, 5.6);

        var seen = new HashSet<string>();
        read.Observer = (block, name, value) => seen.Add($"{block}.{name}");
        read.Forward(tensor(new long[,] { { 1, 2, 3 } }));
        Assert.Contains("1.h", seen);
        Assert.Contains("0.igate_preact", seen);
    }

    [Fact]
    public void Counts_WithoutAFormula_AreThoseOfTheMixerMade()
    {
        MixerConfig mixer = new MovingAverageMixerConfig();
        var site = new MixerSite(16);
        Assert.Equal(new BigInteger(16 + 256), mixer.CountParameters(site));
        Assert.Equal(512, mixer.ForwardFlopsPerToken(site, 100));
        Assert.Equal(new BigInteger(64), mixer.StateBytes(site, 100));
        Assert.Equal("moving_average", mixer.Kind);
    }

    [Fact]
    public async Task Plugin_WithAMixer_OpensItsModels()
    {
        using var folder = new TempFolder();
        var config = Config with { Mixers = new PluggedMixerConfig() };
        using (var model = config.CreateModel(seed: 1))
        {
            HuggingFaceFolder.Save(folder["model"], config, model.state_dict());
        }

        string[] generate = ["generate", folder["model"], "--prompt", "ab", "--max-tokens", "3", "--tokenizer", "bytes", "--threads", "1"];
        var without = await CommandLine.RunAsync(generate);
        Assert.NotEqual(0, without.Code);
        Assert.Contains("There is no mixer 'plugged'", without.Error, StringComparison.Ordinal);
        Assert.Contains("--plugin its.dll", without.Error, StringComparison.Ordinal);
        var missing = await CommandLine.RunAsync([.. generate, "--plugin", folder["none.dll"]]);
        Assert.Contains("there is no such file", missing.Error, StringComparison.Ordinal);
        var with = await CommandLine.RunAsync([.. generate, "--plugin", typeof(OwnMixerTests).Assembly.Location]);
        Assert.Equal((0, ""), (with.Code, with.Code == 0 ? "" : with.Error));
    }
}

/// <summary>Known by the plugin of its test alone.</summary>
public sealed record PluggedMixerConfig : MixerConfig
{
    public override Mixer Create(MixerSite site) => new MovingAverageMixer(new(), site.Width);
}
