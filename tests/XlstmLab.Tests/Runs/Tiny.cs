using XlstmLab.Models;
using XlstmLab.Text;
using XlstmLab.Training;

namespace XlstmLab.Tests.Runs;

/// <summary>A model, a recipe and a text that make a run within a test.</summary>
internal static class Tiny
{
    public static XlstmConfig Config { get; } = new()
    {
        VocabularySize = 257,
        EmbeddingDim = 16,
        BlockCount = 1,
        HeadCount = 2,
        ChunkSize = 16,
    };

    public static TrainingConfig Recipe { get; } = new()
    {
        Steps = 3,
        BatchSize = 2,
        ContextLength = 16,
        ValidateEvery = 3,
        ValidationTokens = 64,
        TensorBoard = false,
        Schedule = new() { Kind = DecayKind.Constant },
    };

    public static Corpus Corpus() =>
        new("tiny", Enumerable.Range(0, 60).Select(
            k => new Document($"d{k}", string.Join('\n', Enumerable.Range(0, 6).Select(i => $"line {i} of {k * 37 % 101}")))));
}
