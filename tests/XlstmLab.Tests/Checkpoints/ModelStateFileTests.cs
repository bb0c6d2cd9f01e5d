using TorchSharp;
using XlstmLab.Checkpoints;
using XlstmLab.Models;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Checkpoints;

public sealed class ModelStateFileTests : IDisposable
{
    private readonly TempFolder _temp = new();

    public void Dispose() => _temp.Dispose();

    [Fact]
    public void Load_SavedState_IsTheSameAndOwned()
    {
        var before = DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount;
        using (var state = new ModelState([KeyValuePair.Create("blocks.0.c", randn(2, 4, 3, 5)), KeyValuePair.Create(
            "blocks.0.m", randn(2, 4, 1, dtype: ScalarType.Float64))]))
        {
            ModelStateFile.Save(state, _temp["s"], 123);
            ModelState loaded;
            using (NewDisposeScope())
            {
                loaded = ModelStateFile.Load(_temp["s"]);
            }

            using (loaded)
            {
                using var scope = NewDisposeScope();
                Assert.Equal(state.Tensors.Keys, loaded.Tensors.Keys);
                Assert.Equal(2, loaded.BatchSize);
                foreach (var (name, tensor) in state.Tensors)
                {
                    SafetensorsFileTests.AssertSame(tensor, loaded[name]);
                }
            }
        }

        Assert.Equal(123, ModelStateFile.ReadTokenCount(_temp["s"]));
        Assert.Equal(before, DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount);
    }

    [Fact]
    public void Save_EmptyStateWithoutCount_RoundTrips()
    {
        using var state = new ModelState([]);
        ModelStateFile.Save(state, _temp["s"]);
        using var loaded = ModelStateFile.Load(_temp["s"]);
        Assert.Empty(loaded.Tensors);
        Assert.Null(ModelStateFile.ReadTokenCount(_temp["s"]));
    }

    [Fact]
    public void ReadNotes_AllThatWasNoted_RoundTrips()
    {
        using var state = new ModelState([]);
        var notes = new ModelStateNotes
        {
            TokenCount = 7,
            Model = new("c0", "ff"),
            NextToken = 3,
            Seed = -5,
            Draws = 6,
            TokensSeen = [1, 3, 256],
            OpenBytes = [0xE2, 0x98],
        };
        ModelStateFile.Save(state, _temp["s"], notes);
        var read = ModelStateFile.ReadNotes(_temp["s"]);
        Assert.Equal(notes with { TokensSeen = [], OpenBytes = [] }, read with { TokensSeen = [], OpenBytes = [] });
        Assert.Equal((IReadOnlyList<int>)[1, 3, 256], read.TokensSeen);
        Assert.Equal((IReadOnlyList<byte>)[0xE2, 0x98], read.OpenBytes);
        Safetensors.Write(
            _temp["s"], [], [KeyValuePair.Create("format", "xlstm-lab-state"), KeyValuePair.Create("next_token", "99999999999")]);
        Assert.Contains(
            "damaged", Assert.Throws<CheckpointException>(() => ModelStateFile.ReadNotes(_temp["s"])).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void RequireModel_AnotherModelOfEqualShapes_IsRefusedAndWhyIsSaid()
    {
        var config = new XlstmConfig { VocabularySize = 11, EmbeddingDim = 8, BlockCount = 1, HeadCount = 2 };
        using var model = config.CreateModel(1);
        using var same = config.CreateModel(1);
        using var other = config.CreateModel(2);
        using var variant = (config with { GateSoftCap = 9 }).CreateModel(1);
        var notes = new ModelStateNotes { Model = ModelIdentity.Of(model) };
        notes.RequireModel(ModelIdentity.Of(same), "s");
        Assert.Contains("the weights differ", Refused(notes, other), StringComparison.Ordinal);
        Assert.Contains("the configuration differs", Refused(notes, variant), StringComparison.Ordinal);
        Assert.Contains("does not say", Refused(new(), model), StringComparison.Ordinal);
        using (no_grad())
        {
            // A single number among all is enough.
            same.parameters().Last().view(-1)[0].add_(1e-3f);
        }

        Assert.Contains("the weights differ", Refused(notes, same), StringComparison.Ordinal);

        static string Refused(ModelStateNotes notes, LanguageModel model) =>
            Assert.Throws<CheckpointException>(() => notes.RequireModel(ModelIdentity.Of(model), "s")).Message;
    }

    [Fact]
    public void Load_OtherFiles_AreRefused()
    {
        Assert.Contains("no model's state", Assert.Throws<CheckpointException>(
            () => ModelStateFile.Load(TestSetup.Golden("hf_xlstm_io.safetensors"))).Message, StringComparison.Ordinal);

        using var scope = NewDisposeScope();
        KeyValuePair<string, string>[] format = [KeyValuePair.Create("format", "xlstm-lab-state"), KeyValuePair.Create("tokens", "-1")];
        Safetensors.Write(_temp["s"], new Dictionary<string, Tensor> { ["a"] = ones(2, 1), ["b"] = ones(3, 1) }, format);
        Assert.Contains(
            "first dimension", Assert.Throws<CheckpointException>(() => ModelStateFile.Load(_temp["s"])).Message, StringComparison.Ordinal);
        Safetensors.Write(_temp["s"], new Dictionary<string, Tensor> { ["a"] = ones(2, 1) }, format);
        Assert.Contains(
            "number of tokens", Assert.Throws<CheckpointException>(() => ModelStateFile.ReadTokenCount(_temp["s"])).Message,
            StringComparison.Ordinal);
    }
}
