using TorchSharp;
using XlstmLab.Models;
using XlstmLab.Operations;
using XlstmLab.Tests.Operations;
using XlstmLab.Tests.Training;
using XlstmLab.Training;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Models;

[Collection(nameof(AloneCollection))]
public sealed class KernelCoverageTests
{
    private static readonly XlstmConfig Tiny = XlstmPresets.Bytes1M with { BlockCount = 3, VocabularySize = 32 };

    [Theory]
    [InlineData("bytes-1m")]
    [InlineData("bytes-3m")]
    [InlineData("bytes-10m")]
    [InlineData("shakespeare-10m")]
    [InlineData("xlstm-160m")]
    [InlineData("xlstm-400m")]
    [InlineData("xlstm-7b")]
    [InlineData("parity-1-1")]
    public void Gaps_Preset_None(string preset) => Assert.Empty(KernelCoverage.Gaps(XlstmPresets.ByName(preset)));

    [Fact]
    public void Gaps_HeadsOfOddWidth_AreNamedOnceForAllBlocks() => Assert.Equal(
        ["blocks 0-2: queries of 20 a head: the mLSTM kernels serve multiples of 8"],
        KernelCoverage.Gaps(Tiny with { EmbeddingDim = 160, HeadCount = 4 }));

    [Fact]
    public void Gaps_MixedBlocks_NamesThoseThatLack() => Assert.Equal(
        [
            "block 1: heads of 40 units: the sLSTM kernel serves multiples of 16 whose weights fit the registers of a cluster",
            "block 2: delta: there is no kernel of it",
        ],
        KernelCoverage.Gaps(Tiny with { EmbeddingDim = 160, QkDimFactor = 0.6, SLstmHeadCount = 4, Mixers = ["mlstm", "slstm", "delta"] }));

    [Fact]
    public void Gaps_WidthsAndForm_AreNamed() => Assert.Equal(
        [
            "block 0: mlstm_form parallel: the mLSTM kernels compute the chunkwise form",
            "block 0: gates that look at a width of 100 channels: the kernels serve multiples of 8",
            "a stream of 100 channels: the kernels serve multiples of 8",
        ],
        KernelCoverage.Gaps(Tiny with { EmbeddingDim = 100, BlockCount = 1, Form = MLstmForm.Parallel, FeedForwardRoundUpTo = 64 }));

    [Fact]
    public void Gaps_FirstPaper_NamesItsWideHeads() => Assert.Equal(
        ["blocks 0-23: queries of 384 a head: the mLSTM kernels serve up to 256"], KernelCoverage.Gaps(XlstmPresets.First125M));

    [Fact]
    public void Gaps_OtherArchitectures_AreLookedAt()
    {
        Assert.Empty(KernelCoverage.Gaps(LlamaPresets.Bytes1M));
        Assert.Empty(KernelCoverage.Gaps(MambaPresets.Bytes1M));
        Assert.Contains(KernelCoverage.Gaps(MambaPresets.Bytes1M with { StateSize = 8 }), gap => gap.Contains(
            "8 states a channel", StringComparison.Ordinal));
        Assert.Empty(KernelCoverage.Gaps(Mamba2Presets.Bytes1M));
        Assert.Contains(KernelCoverage.Gaps(Mamba2Presets.Bytes1M with { StateSize = 20 }), gap => gap.Contains(
            "states of 20 a head", StringComparison.Ordinal));
    }

    [Theory]
    [InlineData(ScalarType.BFloat16, true)]
    [InlineData(ScalarType.Float32, false)]
    public void Trainer_GapsInTheComputationsType_AreInTheLogOnce(ScalarType type, bool expected)
    {
        using var run = KernelRun.Begin();
        using var folder = new TempFolder();
        var config = new TrainingConfig { Steps = 1, BatchSize = 1, ContextLength = 8, ComputeType = type, TensorBoard = false };
        using var model = KernelRun.Model(Tiny with { BlockCount = 1, EmbeddingDim = 80, HeadCount = 2 });
        new Trainer(model, config, TinyText.Packed(1), [], folder.Path).Run(TestContext.Current.CancellationToken);
        var lines = File.ReadAllLines(Path.Combine(folder.Path, "log.txt"))
            .Where(line => line.Contains("no kernel", StringComparison.Ordinal)).ToArray();
        Assert.Equal(expected ? 1 : 0, lines.Length);
        Assert.All(lines, line => Assert.EndsWith(
            "some operations have no kernel: block 0: queries of 20 a head: the mLSTM kernels serve multiples of 8.", line,
            StringComparison.Ordinal));
    }

    /// <summary>Norms and gates have kernels that read float32: bfloat16 in its place would be half as many bytes as they take.</summary>
    [Theory]
    [InlineData("post-up")]
    [InlineData("pre-up with an sLSTM")]
    [InlineData("llama")]
    [InlineData("mamba")]
    [InlineData("mamba2")]
    public void Forward_ModelMovedToBFloat16AsAWhole_IsThatOfItsRoundedWeights(string kind)
    {
        using var run = KernelRun.Begin();
        LanguageModelConfig config = kind switch
        {
            "post-up" => Tiny with { BlockCount = 1, EmbeddingDim = 64, HeadCount = 2 },
            "pre-up with an sLSTM" => XlstmPresets.ByName("parity-1-1") with { VocabularySize = 32 },
            "llama" => LlamaPresets.Bytes1M with { BlockCount = 1, VocabularySize = 32 },
            "mamba" => MambaPresets.Bytes1M with { BlockCount = 1, VocabularySize = 32 },
            _ => Mamba2Presets.Bytes1M with { BlockCount = 1, VocabularySize = 32 },
        };
        using var scope = NewDisposeScope();
        using var model = KernelRun.Model(config);
        using var grad = no_grad();
        foreach (var parameter in model.parameters())
        {
            parameter.copy_(parameter.to(ScalarType.BFloat16));
        }

        model.eval();
        model.ComputeType = ScalarType.BFloat16;
        var tokens = randint(0, 32, [2, 20], ScalarType.Int64);
        var expected = model.Forward(tokens).Logits.to(ScalarType.Float32);
        model.to(ScalarType.BFloat16);
        Assert.InRange(KernelRun.Error(model.Forward(tokens).Logits.to(ScalarType.Float32), expected), 0, 0.02);
    }
}
