using System.Numerics;
using XlstmLab.Layers;
using XlstmLab.Models;
using XlstmLab.Operations;
using Xunit;

namespace XlstmLab.Tests.Models;

/// <summary>Counts of configurations far beyond any machine: the number, or a refusal, never another number.</summary>
public sealed class CountsTests
{
    private const int Largest = int.MaxValue;

    private static readonly Dictionary<string, LanguageModelConfig> Configs = new(StringComparer.Ordinal)
    {
        ["xlstm"] = new XlstmConfig { EmbeddingDim = 256, HeadCount = 4, BlockCount = 4 },
        ["xlstm pre-up"] = XlstmPresets.FirstPaper(256, 4) with { SLstmAt = [1] },
        ["llama"] = new LlamaConfig { EmbeddingDim = 256, HeadCount = 4, BlockCount = 4 },
        ["gla"] = new GlaConfig { EmbeddingDim = 256, BlockCount = 4 },
        ["lstm"] = new LstmConfig { EmbeddingDim = 256, BlockCount = 4 },
        ["mamba"] = new MambaConfig { EmbeddingDim = 256, BlockCount = 4 },
        ["mamba2"] = new Mamba2Config { EmbeddingDim = 256, BlockCount = 4, HeadCount = 8 },
    };

    public static TheoryData<string, bool> Kinds()
    {
        var data = new TheoryData<string, bool>();
        foreach (var name in Configs.Keys)
        {
            data.Add(name, false);
            data.Add(name, true);
        }

        return data;
    }

    [Theory]
    [MemberData(nameof(Kinds))]
    public void CountParameters_LargestVocabulary_GrowsByItsRows(string kind, bool tied)
    {
        var config = Configs[kind] with { TieWordEmbeddings = tied };
        var one = (config with { VocabularySize = 1 }).CountParameters();
        var all = config with { VocabularySize = Largest };

        Assert.Equal(one + (Largest - 1L) * 256 * (tied ? 1 : 2), all.CountParameters());
        Assert.True(all.ForwardFlopsPerToken(64) > 2.0 * 256 * Largest);
    }

    [Theory]
    [MemberData(nameof(Kinds))]
    public void Counts_LargestNumberOfBlocks_GrowByBlocks(string kind, bool tied)
    {
        var config = Configs[kind] with { TieWordEmbeddings = tied };
        BigInteger Extrapolated(Func<LanguageModelConfig, BigInteger> count)
        {
            var (few, more) = (count(config with { BlockCount = 4 }), count(config with { BlockCount = 5 }));
            return few + (more - few) * (Largest - 4);
        }

        var all = config with { BlockCount = Largest };
        Assert.Equal(Extrapolated(c => c.CountParameters()), all.CountParameters());
        Assert.Equal(Extrapolated(c => c.StateBytes(1000)), all.StateBytes(1000));
        Assert.Equal(1, all.ForwardFlopsPerToken(64) / (double)Extrapolated(c => (BigInteger)c.ForwardFlopsPerToken(64)), 1e-6);
        Assert.True(all.ForwardFlopsPerToken(1L << 40) > 0);
    }

    [Theory]
    [MemberData(nameof(Kinds))]
    public void Counts_LargestWidth_AreRightOrRefused(string kind, bool tied)
    {
        var config = Configs[kind] with { TieWordEmbeddings = tied, EmbeddingDim = Largest, VocabularySize = 2 };
        foreach (var blocks in new[] { 4, Largest })
        {
            foreach (var count in new Func<LanguageModelConfig, double>[]
            {
                c => c.CountParameters(), c => c.StateBytes(1L << 40), c => c.ForwardFlopsPerToken(64),
            })
            {
                try
                {
                    Assert.InRange(count(config with { BlockCount = blocks }), (double)Largest * blocks, double.MaxValue);
                }
                catch (ConfigException refusal)
                {
                    Assert.Contains("expected", refusal.Message, StringComparison.Ordinal);
                }
            }
        }
    }

    [Fact]
    public void Counts_ByHand_AreEqual()
    {
        var llama = new LlamaConfig { EmbeddingDim = 256, HeadCount = 4, BlockCount = Largest };
        Assert.Equal(8L * Largest * 256 * 1000, llama.StateBytes(1000));
        Assert.Contains("2^63", Assert.Throws<ConfigException>(() => llama.StateBytes(1L << 50)).Message, StringComparison.Ordinal);
        Assert.Equal(8L * Largest * 256, new LstmConfig { EmbeddingDim = 256, BlockCount = Largest }.StateBytes(1));

        // Two layers of 8 d (d + 1), and a row for the only token.
        var wide = new LstmConfig
        {
            EmbeddingDim = 1 << 20,
            BlockCount = 2,
            VocabularySize = 1,
            Residual = false,
            FeedForward = FeedForwardKind.None,
            TieWordEmbeddings = true,
        };
        Assert.Equal(16L * (1 << 20) * ((1 << 20) + 1) + (1 << 20), wide.CountParameters());
    }

    [Fact]
    public void Widths_BeyondInt_AreTheLargestIntAndRefused()
    {
        Assert.Equal(Largest, FeedForward.InnerDim(Largest, 2.667, 64));
        Assert.Equal(Largest, new MambaConfig { EmbeddingDim = 1 << 30, Expand = 4 }.InnerDim);
        Assert.Equal(Largest, new Mamba2Config { EmbeddingDim = 1 << 30, Expand = 4 }.ConvDim);
        Assert.Equal(Largest, new GlaConfig { EmbeddingDim = 1 << 30 }.FeedForwardDim);
        Assert.Equal(Largest, new LstmConfig { EmbeddingDim = 1 << 30 }.FeedForwardDim);
        foreach (var config in new LanguageModelConfig[]
        {
            new MambaConfig { EmbeddingDim = 1 << 30, Expand = 4 },
            new Mamba2Config { EmbeddingDim = 1 << 30, Expand = 4, HeadCount = 1 << 30, HeadDim = 4 },
            new GlaConfig { EmbeddingDim = 1 << 30 }, new LstmConfig { EmbeddingDim = 1 << 30 }, new XlstmConfig { EmbeddingDim = 1 << 30 },
        })
        {
            Assert.Contains("expected", Assert.Throws<ConfigException>(config.Validate).Message, StringComparison.Ordinal);
        }
    }
}
