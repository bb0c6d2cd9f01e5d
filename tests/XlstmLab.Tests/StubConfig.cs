using XlstmLab.Models;

namespace XlstmLab.Tests;

/// <summary>The sizes of a model that is made for tests.</summary>
internal sealed record StubConfig : LanguageModelConfig
{
    public override string ModelType => "stub";

    public override int VocabularySize { get; init; }

    public override int EmbeddingDim { get; init; } = 1;

    public override int BlockCount { get; init; } = 1;

    public override bool TieWordEmbeddings { get; init; }

    public override void Validate()
    {
    }

    public override LanguageModel CreateModel(int seed = 0) => throw new NotSupportedException();

    public override long CountParameters() => throw new NotSupportedException();

    public override double ForwardFlopsPerToken(long length) => throw new NotSupportedException();

    public override long StateBytes(long length) => throw new NotSupportedException();
}
