using TorchSharp;
using XlstmLab.Models;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Inference;

/// <summary>The model whose texts are compared whatever they are computed beside.</summary>
internal static class WritingModel
{
    /// <summary>A model of bytes, in float64 so that a neighbour's rounding decides nothing.</summary>
    public static LanguageModel Create()
    {
        var model = new XlstmConfig
        {
            VocabularySize = 257,
            EmbeddingDim = 16,
            HeadCount = 2,
            BlockCount = 1,
            ChunkSize = 4,
        }.CreateModel(seed: 2);
        model.to(ScalarType.Float64);
        return model;
    }
}
