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
        using (var state = new ModelState([KeyValuePair.Create("blocks.0.c", randn(2, 4, 3, 5)), KeyValuePair.Create("blocks.0.m", randn(2, 4, 1, dtype: ScalarType.Float64))]))
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
    public void Load_OtherFiles_AreRefused()
    {
        Assert.Contains("no model's state", Assert.Throws<CheckpointException>(
            () => ModelStateFile.Load(TestSetup.Golden("hf_xlstm_io.safetensors"))).Message, StringComparison.Ordinal);

        using var scope = NewDisposeScope();
        KeyValuePair<string, string>[] format = [KeyValuePair.Create("format", "xlstm-lab-state"), KeyValuePair.Create("tokens", "-1")];
        Safetensors.Write(_temp["s"], new Dictionary<string, Tensor> { ["a"] = ones(2, 1), ["b"] = ones(3, 1) }, format);
        Assert.Contains("first dimension", Assert.Throws<CheckpointException>(() => ModelStateFile.Load(_temp["s"])).Message, StringComparison.Ordinal);
        Safetensors.Write(_temp["s"], new Dictionary<string, Tensor> { ["a"] = ones(2, 1) }, format);
        Assert.Contains("number of tokens", Assert.Throws<CheckpointException>(() => ModelStateFile.ReadTokenCount(_temp["s"])).Message, StringComparison.Ordinal);
    }
}
