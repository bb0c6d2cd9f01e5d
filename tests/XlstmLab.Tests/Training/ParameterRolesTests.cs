using TorchSharp.Modules;
using TorchSharp.Utils;
using XlstmLab.Layers;
using XlstmLab.Models;
using XlstmLab.Training;
using Xunit;
using static TorchSharp.torch;
using AdamW = XlstmLab.Training.AdamW;

namespace XlstmLab.Tests.Training;

public sealed class ParameterRolesTests
{
    private static readonly XlstmConfig PostUp =
        new() { VocabularySize = 11, EmbeddingDim = 16, HeadCount = 2, BlockCount = 2, FeedForwardRoundUpTo = 8 };

    private static readonly XlstmConfig PreUp = XlstmPresets.FirstPaper(16, 2) with { VocabularySize = 11, HeadCount = 2 };

    public static TheoryData<string> EveryPreset => [.. Presets.All.Keys];

    public static TheoryData<string> EveryMixer =>
    [
        "mlstm", "slstm", "attention", "sliding_window", "mlstm_window", "gla", "delta", "gated_delta", "mamba", "mamba2", "mamba3", "lstm",
        "gru",
    ];

    [Theory]
    [MemberData(nameof(EveryPreset))]
    public void Of_Preset_DecaysWhatNamesTell(string name)
    {
        // Those that stay as wide as they are take seconds.
        LongTests.SkipUnless(Presets.All[name] is XlstmConfig or LlamaConfig || name.Contains("bytes", StringComparison.Ordinal));

        // Not as wide nor as deep, but with each kind of block.
        LanguageModelConfig config = Presets.All[name] switch
        {
            XlstmConfig xlstm => xlstm with
            {
                EmbeddingDim = 128,
                HeadCount = 2,
                BlockCount = 2,
                VocabularySize = 32,
                SLstmAt = xlstm.SLstmAt.Count > 0 ? [1] : [],
            },
            LlamaConfig llama => llama with
            {
                EmbeddingDim = 128,
                HeadCount = 2,
                KeyValueHeads = null,
                HeadWidth = null,
                BlockCount = 1,
                VocabularySize = 32,
            },
            var other => other with { BlockCount = 1, VocabularySize = 32 },
        };
        using var model = config.CreateModel();
        AssertAsNamed(model);
    }

    [Theory]
    [MemberData(nameof(EveryMixer))]
    public void Of_Mixer_DecaysWhatNamesTell(string mixer)
    {
        foreach (var config in new[] { PostUp with { ConvKernelSize = 3, UseBias = true }, PreUp })
        {
            using var model = (config with { Mixers = mixer }).CreateModel();
            AssertAsNamed(model);
        }
    }

    [Fact]
    public void Of_EachKindOfModule_IsItsRole()
    {
        using var model = new XlstmLanguageModel(PreUp with { SLstmAt = [1] });
        var roles = ParameterRoles.Of(model);
        Assert.Equal(ParameterRole.Embedding, roles["backbone.embeddings.weight"]);
        Assert.Equal(ParameterRole.Head, roles["lm_head.weight"]);
        Assert.Equal(ParameterRole.Weight, roles["backbone.blocks.0.xlstm.conv1d.conv.weight"]);
        Assert.Equal(ParameterRole.Weight, roles["backbone.blocks.0.xlstm.q_proj.weight"]);
        Assert.Equal(ParameterRole.Weight, roles["backbone.blocks.0.xlstm.mlstm_cell.igate.weight"]);
        Assert.Equal(ParameterRole.HiddenMatrix, roles["backbone.blocks.0.xlstm.proj_up.weight"]);
        Assert.Equal(ParameterRole.Weight, roles["backbone.blocks.1.xlstm.slstm_cell._recurrent_kernel_"]);
        Assert.Equal(ParameterRole.Vector, roles["backbone.blocks.1.xlstm.slstm_cell._bias_"]);
        Assert.Equal(ParameterRole.Vector, roles["backbone.blocks.0.xlstm_norm.weight"]);
    }

    [Fact]
    public void Of_ProjectionWithANormInItsName_IsAWeightAllTheSame()
    {
        using var model = new Own();
        var roles = ParameterRoles.Of(model);
        Assert.Equal(ParameterRole.HiddenMatrix, roles["parts.0.weight"]);
        Assert.Equal(ParameterRole.Head, roles["to_normal.weight"]);
        Assert.Equal(ParameterRole.Vector, roles["to_normal.bias"]);
        Assert.Equal(ParameterRole.Vector, roles["own_bias"]);
        Assert.Equal(ParameterRole.Weight, roles["own"]);
    }

    [Fact]
    public void Of_DeclaredField_IsWhatItSaysWhateverItsNameAndShape()
    {
        using var model = new Declaring();
        var roles = ParameterRoles.Of(model);
        Assert.Equal(ParameterRole.Weight, roles["parts.0.bias"]);
        Assert.Equal(ParameterRole.Vector, roles["parts.0.rates"]);
        Assert.Equal(ParameterRole.HiddenMatrix, roles["parts.0.w"]);
    }

    private static void AssertAsNamed(LanguageModel model)
    {
        var roles = ParameterRoles.Of(model);
        Assert.Equal(model.named_parameters().Select(p => p.name), roles.Keys);
        Assert.All(model.named_parameters(), p => Assert.True(AdamW.Decays(p.name, p.parameter.shape) == roles[p.name].Decays(), p.name));

        // As before roles were declared; and nothing of the library is left to its name.
        var modules = model.named_modules().ToDictionary(m => m.name, m => m.module);
        Assert.All(model.named_parameters(), p =>
        {
            var dot = p.name.LastIndexOf('.');
            var holder = modules[p.name[..dot]];
            Assert.True(Before(p.name, p.parameter.shape, holder) == roles[p.name], p.name);
            Assert.True(
                holder is Embedding or LSTM or GRU || ParameterRoles.Declared(holder, p.name[(dot + 1)..]) is not null, p.name);
        });
    }

    /// <summary>What told roles before fields declared them.</summary>
    private static ParameterRole Before(string name, long[] shape, nn.Module holder) =>
        shape.Length < 2 ? ParameterRole.Vector : holder switch
        {
            Embedding => ParameterRole.Embedding,
            Dense or Linear or LSTM or GRU => name.Contains(".blocks.") || name.Contains(".layers.") ? ParameterRole.HiddenMatrix
                : ParameterRole.Head,
            HeadwiseDense or CausalConvolution => ParameterRole.Weight,
            _ when holder.GetType().Name == "GateProjection" => ParameterRole.Weight,
            _ => AdamW.Decays(name, shape) ? ParameterRole.Weight : ParameterRole.Vector,
        };

    private sealed class Declaring : nn.Module
    {
#pragma warning disable IDE1006, IDE0052 // Names of the state dict.
        private readonly ModuleList<Part> parts = new(new Part());
#pragma warning restore IDE1006, IDE0052

        public Declaring()
            : base(nameof(Declaring)) => RegisterComponents();
    }

    private sealed class Part : nn.Module
    {
        [ComponentName(Name = "bias")]
        [Role(ParameterRole.Weight)]
        private readonly Parameter _bias = new(zeros(2));

        [ComponentName(Name = "rates")]
        [Role(ParameterRole.Vector)]
        private readonly Parameter _rates = new(zeros(2, 2));

        [ComponentName(Name = "w")]
        [Role(ParameterRole.HiddenMatrix)]
        private readonly Parameter _matrix = new(zeros(2, 2));

        public Part()
            : base(nameof(Part)) => RegisterComponents();
    }

    private sealed class Own : nn.Module
    {
#pragma warning disable IDE1006, IDE0052 // Names of the state dict.
        private readonly ModuleList<Dense> parts = new(new Dense(3, 2));
        private readonly Dense to_normal = new(2, 2, bias: true);
        private readonly Parameter own_bias = new(zeros(2, 2));
        private readonly Parameter own = new(zeros(2, 2));
#pragma warning restore IDE1006, IDE0052

        public Own()
            : base(nameof(Own)) => RegisterComponents();
    }
}
