using XlstmLab.Mixers;
using XlstmLab.Models;

namespace XlstmLab.Tests.Models;

/// <summary>Four mixers in one model: what each of them remembers goes side by side.</summary>
public sealed class HybridLanguageModelTests : LanguageModelContract
{
    protected override LanguageModelConfig Config { get; } = new XlstmConfig
    {
        VocabularySize = 257,
        EmbeddingDim = 32,
        BlockCount = 4,
        HeadCount = 2,
        FeedForwardRoundUpTo = 8,
        InputGateBias = -2,
        Epsilon = 0,
        Mixers = ["mlstm", "attention", new SlidingWindowMixerConfig { Window = 5, SinkTokens = 1 },
            new Mamba2MixerConfig { StateSize = 8 }],
    };
}
