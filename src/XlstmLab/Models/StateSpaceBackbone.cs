using TorchSharp.Modules;
using TorchSharp.Utils;
using XlstmLab.Layers;
using XlstmLab.Mixers;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Models;

/// <summary>Embedding, blocks x + Mixer(norm(x)) and last norm, under the names that both Mambas have.</summary>
internal sealed class StateSpaceBackbone : nn.Module
{
    [ComponentName(Name = "embeddings")]
    private readonly Embedding _embeddings;

    [ComponentName(Name = "layers")]
    private readonly ModuleList<StateSpaceBlock> _blocks;

    [ComponentName(Name = "norm_f")]
    private readonly RmsNorm _norm;

    public StateSpaceBackbone(LanguageModelConfig config, double epsilon, MixerConfig mixer, MixerSite site)
        : base(nameof(StateSpaceBackbone))
    {
        _embeddings = Parameters.Embedding(config.VocabularySize, config.EmbeddingDim);
        _blocks = new(
            [.. Enumerable.Range(0, config.BlockCount).Select(_ => new StateSpaceBlock(config.EmbeddingDim, epsilon, mixer.Create(site)))]);
        _norm = new(config.EmbeddingDim, epsilon);
        RegisterComponents();
    }

    public Embedding Embedding => _embeddings;

    /// <summary>All blocks and the last norm, as <see cref="LanguageModel.ForwardHidden"/>.</summary>
    public (Tensor Hidden, ModelState? State) Forward(
        Tensor embedded, SequenceLayout? layout, bool returnState, Func<int, LayoutWork, Dictionary<string, Tensor>?, MixerPass> pass)
    {
        using var scope = NewDisposeScope();
        var tokens = PaddingLast.Of(embedded, layout);
        var x = tokens.X.dtype == ScalarType.BFloat16 ? tokens.X.to(ScalarType.Float32) : tokens.X; // (B, S, d), the stream in float32
        var last = returnState ? new Dictionary<string, Tensor>() : null;
        var (work, memory) = (LayoutWork.Of(tokens, scope), new BlockMemory(scope, last));
        Tensor? mixed = null;
        for (var b = 0; b < _blocks.Count; b++)
        {
            (x, mixed) = memory.Through(x, mixed, () =>
            {
                var (sum, normed) = _blocks[b].Norm.AddForward(x, mixed, embedded.dtype);
                return (sum, _blocks[b].Mixer.Forward(normed, normed, pass(b, work, last)));
            });
        }

        // Nothing reads the last sum but the norm: as an output of the kernel it would have no gradient, which TorchSharp never frees.
        var hidden = tokens.Restore(_norm.AddForward(mixed is null ? x : x + mixed, null, embedded.dtype).Y);
        return (hidden.MoveToOuterDisposeScope(), last is null ? null : new ModelState(last));
    }

    /// <summary>Draws fresh weights as Mamba's code does: a normal embedding, and mixers of their own.</summary>
    public void Initialize(double std, Generator generator)
    {
        using var grad = no_grad();
        _embeddings.weight!.normal_(0, std, generator);
        foreach (var block in _blocks)
        {
            block.Mixer.Initialize(std, std, generator);
        }
    }
}

/// <summary>A norm and a mixer.</summary>
internal sealed class StateSpaceBlock : nn.Module
{
    [ComponentName(Name = "norm")]
    private readonly RmsNorm _norm;

    [ComponentName(Name = "mixer")]
    private readonly Mixer _mixer;

    public StateSpaceBlock(int dim, double epsilon, Mixer mixer)
        : base(nameof(StateSpaceBlock))
    {
        _norm = new(dim, epsilon);
        _mixer = mixer;
        RegisterComponents();
    }

    public RmsNorm Norm => _norm;

    public Mixer Mixer => _mixer;
}
