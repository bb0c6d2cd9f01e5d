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
        HuggingFaceFolder.Save(
            _temp["m"], Tiny, new Dictionary<string, Tensor> { ["a"] = ones(1), ["b"] = ones(2), ["c"] = ones(3), ["d"] = ones(4) });
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
        HuggingFaceFolder.Save(
            _temp["m"], Tiny with { VocabularySize = 2_000_000_000 },
            new Dictionary<string, Tensor> { ["backbone.embeddings.weight"] = ones(11, 8) });
        var e = Assert.Throws<CheckpointException>(() => HuggingFaceFolder.Open(_temp["m"]));
        Assert.Contains("[11, 8]", e.Message, StringComparison.Ordinal);
        Assert.Contains("[2000000000, 8]", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Open_NoFolderOrNoConfig_SaysSo()
    {
        Assert.Contains(
            "no such folder", Assert.Throws<CheckpointException>(() => HuggingFaceFolder.Open(_temp["none"])).Message,
            StringComparison.Ordinal);
        Assert.Contains(
            "config.json", Assert.Throws<CheckpointException>(() => HuggingFaceFolder.Open(_temp["."])).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Save_Cancelled_LeavesTheFolderAsItWas()
    {
        var state = new Dictionary<string, Tensor> { ["a"] = ones(1), ["b"] = ones(2) };
        using var source = new CancellationTokenSource();
        var progress = new ImmediateProgress<ByteProgress>(_ => source.Cancel());
        Assert.Throws<OperationCanceledException>(
            () => HuggingFaceFolder.Save(_temp["m"], Tiny, state, progress: progress, cancellationToken: source.Token));
        Assert.Empty(_temp.Entries);

        HuggingFaceFolder.Save(_temp["m"], Tiny, state);
        Assert.Throws<OperationCanceledException>(() => HuggingFaceFolder.Save(
            _temp["m"], Tiny with { VocabularySize = 5 }, state, progress: progress, cancellationToken: source.Token));
        Assert.Equal(["m"], _temp.Entries);
        using var folder = HuggingFaceFolder.Open(_temp["m"]);
        Assert.Equal(11, folder.Config.VocabularySize);
    }

    [Fact]
    public void Save_FolderWithOtherFiles_IsRefused()
    {
        File.WriteAllText(_temp["thesis.tex"], "years of work");
        var e = Assert.Throws<CheckpointException>(
            () => HuggingFaceFolder.Save(_temp["."], Tiny, new Dictionary<string, Tensor> { ["a"] = ones(1) }));
        Assert.Contains("thesis.tex", e.Message, StringComparison.Ordinal);
        Assert.Equal(["thesis.tex"], _temp.Entries);
    }

    [Fact]
    public void Save_ImpossibleConfig_IsRefused()
    {
        Assert.Throws<ConfigException>(
            () => HuggingFaceFolder.Save(_temp["m"], Tiny with { HeadCount = 3 }, new Dictionary<string, Tensor>()));
        Assert.Empty(_temp.Entries);
    }

    /// <summary>Names and buffers as published files have them.</summary>
    public static TheoryData<string, string> Published => new()
    {
        { "llama", "inv_freq" }, { "llama", "inv_freq bf16" }, { "llama", "caches" }, { "llama", "masks" },
        { "llama", "bare" }, { "llama", "wrapped" },
        { "llama tied", "both" }, { "llama tied", "head only" }, { "llama tied", "bare" }, { "llama tied", "bare head only" },
        { "xlstm", "original" }, { "xlstm", "bare" }, { "xlstm tied", "head only" }, { "mamba", "head only" },
        { "mamba", "both" }, { "mamba", "singular" }, { "mamba2", "singular" },
        { "mamba2", "bare" }, { "mamba2 tied", "head only" }, { "gla tied", "head only" }, { "gla", "bare" },
        { "lstm tied", "head only" }, { "lstm", "bare" },
    };

    [Theory]
    [MemberData(nameof(Published))]
    public void LoadInto_PublishedSpellings_GiveTheSameModel(string kind, string spelling)
    {
        var config = Kind(kind);
        using var model = config.CreateModel(5);
        var embedding = config.EmbeddingName;
        var body = embedding[..(embedding.IndexOf('.', StringComparison.Ordinal) + 1)];
        var state = model.state_dict().ToDictionary();
        foreach (var part in spelling.Split(' '))
        {
            switch (part)
            {
                case "inv_freq":
                    var frequencies = tensor([1.0f, 0.1f, 0.01f, 0.001f]);
                    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = spelling.EndsWith("bf16", StringComparison.Ordinal)
                        ? frequencies.bfloat16() : frequencies;
                    state["model.rotary_emb.inv_freq"] = frequencies;
                    break;
                case "caches":
                    var angles = outer(arange(6, dtype: ScalarType.Float32), tensor([1.0f, 0.1f, 0.01f, 0.001f]));
                    state["model.layers.0.self_attn.rotary_emb.cos_cached"] = cat([angles, angles], 1).cos().view(1, 1, 6, 8);
                    state["model.layers.0.self_attn.rotary_emb.sin_cached"] = cat([angles, angles], 1).sin();
                    break;
                case "masks":
                    state["model.layers.0.self_attn.bias"] = ones(1, 1, 4, 4, dtype: ScalarType.Bool).tril();
                    state["model.layers.0.self_attn.masked_bias"] = tensor(-1e4f);
                    state["model.layers.0.norm.num_batches_tracked"] = tensor(7L);
                    break;
                case "both":
                    state["lm_head.weight"] = state[embedding];
                    break;
                case "head" or "only" or "bf16":
                    break;
                case "bare":
                    state = state.ToDictionary(
                        p => p.Key.StartsWith(body, StringComparison.Ordinal) ? p.Key[body.Length..] : p.Key, p => p.Value);
                    break;
                case "wrapped":
                    state = state.ToDictionary(p => $"module._orig_mod.{p.Key}", p => p.Value);
                    break;
                case "original":
                    Rename("embedding.weight");
                    break;
                case "singular":
                    Rename("backbone.embedding.weight");
                    break;
                default:
                    throw new ArgumentException(part);
            }
        }

        if (spelling.Contains("head only", StringComparison.Ordinal))
        {
            var stored = state.ContainsKey(embedding) ? embedding : embedding[body.Length..];
            state.Remove(stored, out var table);
            state["lm_head.weight"] = table!;
        }

        // Not by Save, which would store a tied matrix once.
        Directory.CreateDirectory(_temp["m"]);
        File.WriteAllText(_temp["m", "config.json"], ModelConfigJson.Text(config));
        Safetensors.Write(_temp["m", "model.safetensors"], state, [KeyValuePair.Create("format", "pt")]);
        using var folder = HuggingFaceFolder.Open(_temp["m"]);
        using var loaded = folder.Config.CreateModel(6);
        folder.LoadInto(loaded);
        Assert.Equal(ModelIdentity.Of(model), ModelIdentity.Of(loaded));

        void Rename(string name)
        {
            state.Remove(embedding, out var value);
            state[name] = value!;
        }
    }

    [Fact]
    public void LoadInto_WhatDoesNotFollowFromTheConfig_IsRefused()
    {
        var config = (LlamaConfig)Kind("llama");
        using var model = config.CreateModel(5);
        var state = model.state_dict().ToDictionary();
        state["model.rotary_emb.inv_freq"] = tensor([1.0f, 0.5f, 0.25f, 0.125f]);
        Assert.Contains("other rotary frequencies", Refused(config), StringComparison.Ordinal);
        state["model.rotary_emb.inv_freq"] = tensor([1.0f, 0.1f]);
        Assert.Contains("other rotary frequencies", Refused(config), StringComparison.Ordinal);
        state.Remove("model.rotary_emb.inv_freq");
        state["model.layers.0.self_attn.q_proj.bias"] = ones(16);
        Assert.Contains("q_proj.bias", Refused(config), StringComparison.Ordinal);
        state.Remove("model.layers.0.self_attn.q_proj.bias");
        Assert.Contains("ties the head", Refused(config with { TieWordEmbeddings = true }), StringComparison.Ordinal);
        state.Remove("lm_head.weight");
        Assert.Contains("lm_head.weight", Refused(config), StringComparison.Ordinal);

        string Refused(LlamaConfig written)
        {
            File.WriteAllText(_temp["config.json"], ModelConfigJson.Text(written));
            Safetensors.Write(_temp["model.safetensors"], state);
            using var folder = HuggingFaceFolder.Open(_temp["."]);
            using var target = written.CreateModel();
            return Assert.Throws<CheckpointException>(() => folder.LoadInto(target)).Message;
        }
    }

    [Fact]
    public void Open_OtherFormatsOnly_NamesThemAndSaysToConvert()
    {
        File.WriteAllText(_temp["config.json"], ModelConfigJson.Text(Tiny));
        File.WriteAllText(_temp["pytorch_model.bin"], "");
        File.WriteAllText(_temp["consolidated.safetensors"], "");
        var error = Assert.Throws<CheckpointException>(() => HuggingFaceFolder.Open(_temp["."]));
        Assert.Contains("'consolidated.safetensors', 'pytorch_model.bin'", error.Message, StringComparison.Ordinal);
        Assert.Contains("converted", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Parse_NormBeforeGate_IsPassedOverAsTransformersDoes() =>
        Assert.Equal(
            ModelConfigJson.Parse("{\"model_type\":\"mamba2\"}"),
            ModelConfigJson.Parse("{\"model_type\":\"mamba2\",\"norm_before_gate\":true,\"rms_norm\":true}"));

    private static LanguageModelConfig Kind(string name)
    {
        var tied = name.EndsWith(" tied", StringComparison.Ordinal);
        return name.Split(' ')[0] switch
        {
            "llama" => new LlamaConfig
            {
                VocabularySize = 11,
                EmbeddingDim = 16,
                BlockCount = 1,
                HeadCount = 2,
                FeedForwardDim = 16,
                TieWordEmbeddings = tied,
            },
            "xlstm" => Tiny with { TieWordEmbeddings = tied },
            "mamba" => new MambaConfig { VocabularySize = 11, EmbeddingDim = 8, BlockCount = 1 },
            "mamba2" => new Mamba2Config
            {
                VocabularySize = 11,
                EmbeddingDim = 16,
                BlockCount = 1,
                HeadCount = 4,
                HeadDim = 8,
                GroupCount = 1,
                TieWordEmbeddings = tied,
            },
            "gla" => new GlaConfig { VocabularySize = 11, EmbeddingDim = 16, BlockCount = 1, HeadCount = 2, TieWordEmbeddings = tied },
            _ => new LstmConfig { VocabularySize = 11, EmbeddingDim = 8, BlockCount = 1, TieWordEmbeddings = tied },
        };
    }

    private sealed class TinyModule : nn.Module
    {
        private readonly TorchSharp.Modules.Linear _first = nn.Linear(3, 5);
        private readonly TorchSharp.Modules.Linear _second = nn.Linear(5, 2, hasBias: false);

        public TinyModule() : base(nameof(TinyModule)) => RegisterComponents();
    }
}
