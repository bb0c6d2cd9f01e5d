using XlstmLab.Checkpoints;
using XlstmLab.Evaluation;
using XlstmLab.Inference;
using XlstmLab.Models;
using XlstmLab.Tests.Training;
using XlstmLab.Text;
using XlstmLab.Training;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Models;

/// <summary>What is used after it was disposed says so by its name.</summary>
public sealed class DisposedTests
{
    [Fact]
    public void State_AfterDispose_IsRefusedEverywhere()
    {
        using var temp = new TempFolder();
        var state = new ModelState([KeyValuePair.Create("blocks.0.c", ones(1, 2))]);
        state.Dispose();
        state.Dispose();
        Action[] uses =
        [
            () => state.Clone(), () => state.Detach(), () => state.SelectRows(0), () => _ = state["blocks.0.c"], () => _ = state.BatchSize,
            () => _ = state.SizeInBytes, () => _ = state.Tensors, () => ModelStateFile.Save(state, temp["s"]),
        ];
        Assert.All(uses, use => Refuses(nameof(ModelState), use));
        Assert.Empty(temp.Entries);
    }

    [Fact]
    public void Model_AfterDispose_IsRefusedEverywhere()
    {
        using var temp = new TempFolder();
        var model = new XlstmConfig { VocabularySize = 257, EmbeddingDim = 8, BlockCount = 1, HeadCount = 2 }.CreateModel();
        var generator = new TextGenerator(model, new ByteTokenizer());
        model.Dispose();
        using var tokens = zeros(1, 2, dtype: ScalarType.Int64);
        Action[] uses =
        [
            () => model.Forward(tokens), () => generator.Generate("a"), () => generator.Read([1]), () => PerplexityEvaluator.Evaluate(
                model, [[256, 1]], new ByteTokenizer()),
            () => XlstmLab.Analysis.GateCapture.Run(model, [1, 2]), () => ModelIdentity.Of(model),
            () => new Trainer(model, new() { Steps = 1, ContextLength = 8, BatchSize = 1 }, TinyText.Packed(1), [], temp["run"])
                .Run(TestContext.Current.CancellationToken),
        ];
        Assert.All(uses, use => Refuses(nameof(XlstmLanguageModel), use));
        Assert.Empty(temp.Entries);
    }

    [Fact]
    public void OptimizerAverageAndFile_AfterDispose_AreRefused()
    {
        using var temp = new TempFolder();
        using var model = new TinyModel();
        var optimizer = new AdamW(model.named_parameters());
        optimizer.Dispose();
        Refuses(nameof(AdamW), () => optimizer.Step(0.1));
        Refuses(nameof(AdamW), () => optimizer.StateDict());
        Refuses(nameof(AdamW), () => _ = optimizer.Steps);
        var average = new WeightAverage(model.named_parameters(), 0.9);
        average.Dispose();
        Refuses(nameof(WeightAverage), average.Update);
        Refuses(nameof(WeightAverage), average.Swap);
        Refuses(nameof(WeightAverage), () => average.StateDict());
        Safetensors.Write(temp["f"], model.state_dict());
        var file = SafetensorsFile.Open(temp["f"]);
        file.Dispose();
        Refuses(nameof(SafetensorsFile), () => file.Read("lm_head.weight"));
    }

    private static void Refuses(string name, Action use) =>
        Assert.EndsWith(name, Assert.Throws<ObjectDisposedException>(use).ObjectName, StringComparison.Ordinal);
}
