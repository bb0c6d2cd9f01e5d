using TorchSharp;
using XlstmLab.Checkpoints;
using XlstmLab.Models;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Checkpoints;

public sealed class HuggingFaceFolderTests : IDisposable
{
    private static readonly XlstmConfig Tiny = new() { VocabularySize = 11, EmbeddingDim = 8, BlockCount = 1, HeadCount = 2 };

    private readonly TempFolder _temp = new();
    private readonly DisposeScope _scope = NewDisposeScope();

    public void Dispose()
    {
        _scope.Dispose();
        _temp.Dispose();
    }

    [Fact]
    public void Open_GoldenFolder_LoadsEveryTensor()
    {
        using var folder = HuggingFaceFolder.Open(TestSetup.Golden("hf_xlstm"));
        Assert.Equal(2, folder.Config.BlockCount);
        Assert.Equal(2 * 15 + 3, folder.Names.Count);
        var parameters = folder.Names.ToDictionary(name => name, name => zeros(folder.Info(name).Shape, ScalarType.Float64));
        var last = default(ByteProgress);
        folder.Load(parameters, new ImmediateProgress<ByteProgress>(p => last = p));
        Assert.Equal(new ByteProgress(477504, 477504), last);
        foreach (var (name, tensor) in parameters)
        {
            SafetensorsFileTests.AssertSame(folder.Read(name, dtype: ScalarType.Float64), tensor);
            Assert.True(tensor.abs().sum().item<double>() > 0 || name.EndsWith("igate_preact.weight", StringComparison.Ordinal));
        }
    }

    [Theory]
    [InlineData(5_000_000_000)]
    [InlineData(100_000)]
    public void Save_GoldenModel_OpensAsTheSame(long maxShardBytes)
    {
        using var golden = HuggingFaceFolder.Open(TestSetup.Golden("hf_xlstm"));
        var state = golden.Names.ToDictionary(name => name, name => golden.Read(name));
        HuggingFaceFolder.Save(_temp["m"], golden.Config, state, maxShardBytes: maxShardBytes);
        Assert.Equal(["m"], _temp.Entries);
        using (var folder = HuggingFaceFolder.Open(_temp["m"]))
        {
            Assert.Equal(golden.Config, folder.Config);
            Assert.Equal(golden.Names, folder.Names);
            Assert.All(folder.Names, name => SafetensorsFileTests.AssertSame(state[name], folder.Read(name)));
        }

        // A second time in its place, as another number of files.
        HuggingFaceFolder.Save(_temp["m"], golden.Config, state, ScalarType.BFloat16, maxShardBytes: 200_000);
        Assert.Equal(["m"], _temp.Entries);
        using var cast = HuggingFaceFolder.Open(_temp["m"]);
        Assert.All(cast.Names, name => SafetensorsFileTests.AssertSame(state[name].to(ScalarType.BFloat16), cast.Read(name)));
    }

    [Fact]
    public void LoadInto_Module_FillsItsParameters()
    {
        using var model = new TinyModule();
        using var other = new TinyModule();
        HuggingFaceFolder.Save(_temp["m"], Tiny, model.state_dict());
        using var folder = HuggingFaceFolder.Open(_temp["m"]);
        var before = DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount;
        folder.LoadInto(other);
        Assert.Equal(before, DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount);
        var expected = model.state_dict();
        Assert.Equal(3, expected.Count);
        Assert.All(other.state_dict(), pair => SafetensorsFileTests.AssertSame(expected[pair.Key].detach(), pair.Value.detach()));
        Assert.All(other.parameters(), p => Assert.True(p.requires_grad));
    }

    [Fact]
    public void Load_NamesAndShapesDiffer_NamesAllAndLoadsNone()
    {
        HuggingFaceFolder.Save(_temp["m"], Tiny, new Dictionary<string, Tensor> { ["a"] = ones(1), ["b"] = ones(2), ["c"] = ones(3), ["d"] = ones(4) });
        using var folder = HuggingFaceFolder.Open(_temp["m"]);
        var target = new Dictionary<string, Tensor> { ["a"] = zeros(1), ["b"] = zeros(3), ["e"] = zeros(5), ["f"] = zeros(6) };
        var e = Assert.Throws<CheckpointException>(() => folder.Load(target));
        Assert.Contains("lacks: 'e', 'f'", e.Message, StringComparison.Ordinal);
        Assert.Contains("no: 'c', 'd'", e.Message, StringComparison.Ordinal);
        Assert.Contains("'b is [2] and the model's [3]'", e.Message, StringComparison.Ordinal);
        Assert.Equal(0f, target["a"].item<float>());
    }

    [Fact]
    public void Load_OriginalNameOfTheEmbedding_IsUnderstood()
    {
        var weight = randn(11, 8);
        HuggingFaceFolder.Save(_temp["m"], Tiny, new Dictionary<string, Tensor> { ["embedding.weight"] = weight });
        using var folder = HuggingFaceFolder.Open(_temp["m"]);
        Assert.Equal(["backbone.embeddings.weight"], folder.Names);
        var target = zeros(11, 8);
        folder.Load(new Dictionary<string, Tensor> { ["backbone.embeddings.weight"] = target });
        SafetensorsFileTests.AssertSame(weight, target);
        SafetensorsFileTests.AssertSame(weight, folder.Read("backbone.embeddings.weight"));
    }

    [Fact]
    public void Load_TiedHead_ComesFromTheEmbedding()
    {
        var weight = randn(11, 8);
        var state = new Dictionary<string, Tensor> { ["backbone.embeddings.weight"] = weight, ["lm_head.weight"] = weight };
        HuggingFaceFolder.Save(_temp["m"], Tiny with { TieWordEmbeddings = true }, state);
        using var folder = HuggingFaceFolder.Open(_temp["m"]);
        Assert.Equal(["backbone.embeddings.weight"], folder.Names);
        var target = new Dictionary<string, Tensor> { ["backbone.embeddings.weight"] = zeros(11, 8), ["lm_head.weight"] = zeros(11, 8) };
        folder.Load(target);
        SafetensorsFileTests.AssertSame(weight, target["lm_head.weight"]);
        folder.Load(new Dictionary<string, Tensor> { ["backbone.embeddings.weight"] = target["backbone.embeddings.weight"].zero_() });
        SafetensorsFileTests.AssertSame(weight, target["backbone.embeddings.weight"]);
    }

    [Fact]
    public void Open_ConfigLiesAboutSizes_IsRefused()
    {
        HuggingFaceFolder.Save(_temp["m"], Tiny with { VocabularySize = 2_000_000_000 }, new Dictionary<string, Tensor> { ["backbone.embeddings.weight"] = ones(11, 8) });
        var e = Assert.Throws<CheckpointException>(() => HuggingFaceFolder.Open(_temp["m"]));
        Assert.Contains("[11, 8]", e.Message, StringComparison.Ordinal);
        Assert.Contains("[2000000000, 8]", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Open_NoFolderOrNoConfig_SaysSo()
    {
        Assert.Contains("no such folder", Assert.Throws<CheckpointException>(() => HuggingFaceFolder.Open(_temp["none"])).Message, StringComparison.Ordinal);
        Assert.Contains("config.json", Assert.Throws<CheckpointException>(() => HuggingFaceFolder.Open(_temp["."])).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Save_Cancelled_LeavesTheFolderAsItWas()
    {
        var state = new Dictionary<string, Tensor> { ["a"] = ones(1), ["b"] = ones(2) };
        using var source = new CancellationTokenSource();
        var progress = new ImmediateProgress<ByteProgress>(_ => source.Cancel());
        Assert.Throws<OperationCanceledException>(() => HuggingFaceFolder.Save(_temp["m"], Tiny, state, progress: progress, cancellationToken: source.Token));
        Assert.Empty(_temp.Entries);

        HuggingFaceFolder.Save(_temp["m"], Tiny, state);
        Assert.Throws<OperationCanceledException>(() => HuggingFaceFolder.Save(_temp["m"], Tiny with { VocabularySize = 5 }, state, progress: progress, cancellationToken: source.Token));
        Assert.Equal(["m"], _temp.Entries);
        using var folder = HuggingFaceFolder.Open(_temp["m"]);
        Assert.Equal(11, folder.Config.VocabularySize);
    }

    [Fact]
    public void Save_FolderWithOtherFiles_IsRefused()
    {
        File.WriteAllText(_temp["thesis.tex"], "years of work");
        var e = Assert.Throws<CheckpointException>(() => HuggingFaceFolder.Save(_temp["."], Tiny, new Dictionary<string, Tensor> { ["a"] = ones(1) }));
        Assert.Contains("thesis.tex", e.Message, StringComparison.Ordinal);
        Assert.Equal(["thesis.tex"], _temp.Entries);
    }

    [Fact]
    public void Save_ImpossibleConfig_IsRefused()
    {
        Assert.Throws<ConfigException>(() => HuggingFaceFolder.Save(_temp["m"], Tiny with { HeadCount = 3 }, new Dictionary<string, Tensor>()));
        Assert.Empty(_temp.Entries);
    }

    private sealed class TinyModule : nn.Module
    {
        private readonly TorchSharp.Modules.Linear _first = nn.Linear(3, 5);
        private readonly TorchSharp.Modules.Linear _second = nn.Linear(5, 2, hasBias: false);

        public TinyModule() : base(nameof(TinyModule)) => RegisterComponents();
    }
}
