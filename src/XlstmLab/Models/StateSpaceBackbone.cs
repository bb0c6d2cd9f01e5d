using TorchSharp.Modules;
using TorchSharp.Utils;
using XlstmLab.Cells;
using XlstmLab.Layers;
using static TorchSharp.torch;

namespace XlstmLab.Models;

/// <summary>What a state-space layer remembers of a sequence.</summary>
/// <param name="Conv">[B, K - 1, C], the convolution's inputs of the last tokens.</param>
/// <param name="Ssm">[B, ...], the state space.</param>
internal sealed record StateSpaceState(Tensor Conv, Tensor Ssm);

/// <summary>The layer of a Mamba model that mixes tokens.</summary>
internal abstract class StateSpaceMixer(string name) : nn.Module(name)
{
    /// <summary>Reads a piece of tokens, whose padding comes last.</summary>
    /// <param name="x">[B, S, d].</param>
    /// <param name="before">The state, or null for the empty one.</param>
    /// <param name="starts">[B, S] bool, true where a document begins; or null.</param>
    /// <param name="real">[B, S] bool, true for tokens; or null.</param>
    /// <param name="observe">Shown the layer's activations, or null.</param>
    /// <param name="returnState">Whether the state behind the last token is wanted.</param>
    /// <returns>[B, S, d] in the type of x, and the state behind the last token.</returns>
    public abstract (Tensor Y, StateSpaceState? Last) Forward(
        Tensor x, StateSpaceState? before, Tensor? starts, Tensor? real, Action<string, Tensor>? observe, bool returnState);

    /// <summary>Draws fresh weights.</summary>
    /// <param name="outputScale">What the weights that write into the stream are multiplied by.</param>
    /// <param name="generator">Where numbers come from.</param>
    public abstract void Initialize(double outputScale, Generator generator);

    /// <summary>
    /// Weights uniform between plus and minus 1 / sqrt(fan-in), torch's own for linear layers, and biases zero as in Mamba's code.
    /// </summary>
    protected static void DrawUniform(Dense dense, Generator generator)
    {
        var bound = Math.Pow(dense.Weight.shape[1], -0.5);
        dense.Weight.uniform_(-bound, bound, generator);
        dense.Bias?.zero_();
    }

    /// <summary>Biases b with softplus(b) log-uniform between two step sizes (Gu and Dao 2023, section 3.6).</summary>
    protected static void DrawStepBias(Tensor bias, double min, double max, double floor, Generator generator)
    {
        using var scope = NewDisposeScope();
        var steps = exp(rand(bias.shape, generator: generator) * (Math.Log(max) - Math.Log(min)) + Math.Log(min)).clamp_min(floor);
        bias.copy_(steps + log(-expm1(-steps)));
    }

    /// <summary>In float32 or wider.</summary>
    protected static Tensor Widen(Tensor x) => x.Widened();
}

/// <summary>Embedding, blocks x + Mixer(norm(x)) and last norm, under the names that both Mambas have.</summary>
internal sealed class StateSpaceBackbone : nn.Module
{
    [ComponentName(Name = "embeddings")]
    private readonly Embedding _embeddings;

    [ComponentName(Name = "layers")]
    private readonly ModuleList<StateSpaceBlock> _blocks;

    [ComponentName(Name = "norm_f")]
    private readonly RmsNorm _norm;

    public StateSpaceBackbone(LanguageModelConfig config, double epsilon, Func<StateSpaceMixer> mixer)
        : base(nameof(StateSpaceBackbone))
    {
        _embeddings = Parameters.Embedding(config.VocabularySize, config.EmbeddingDim);
        _blocks = new([.. Enumerable.Range(0, config.BlockCount).Select(_ => new StateSpaceBlock(config.EmbeddingDim, epsilon, mixer()))]);
        _norm = new(config.EmbeddingDim, epsilon);
        RegisterComponents();
    }

    public Embedding Embedding => _embeddings;

    /// <inheritdoc cref="LanguageModel.ForwardHidden"/>
    public (Tensor Hidden, ModelState? State) Forward(
        Tensor embedded, ModelState? state, SequenceLayout? layout, bool returnState, ActivationObserver? observer)
    {
        using var scope = NewDisposeScope();
        var tokens = PaddingLast.Of(embedded, layout);
        var x = tokens.X.dtype == ScalarType.BFloat16 ? tokens.X.to(ScalarType.Float32) : tokens.X; // (B, S, d), the stream in float32
        var last = new Dictionary<string, Tensor>();
        Tensor? mixed = null;
        for (var b = 0; b < _blocks.Count; b++)
        {
            var before = state is null ? null : new StateSpaceState(state[$"blocks.{b}.conv"], state[$"blocks.{b}.ssm"]);
            var block = b;
            Action<string, Tensor>? observe = observer is null ? null : (name, value) => observer(block, name, value);
            (x, var normed) = _blocks[b].Norm.AddForward(x, mixed, embedded.dtype);
            (mixed, var after) = _blocks[b].Mixer.Forward(normed, before, tokens.DocumentStarts, tokens.Real, observe, returnState);
            if (after is not null)
            {
                last.Add($"blocks.{b}.conv", after.Conv);
                last.Add($"blocks.{b}.ssm", after.Ssm);
            }
        }

        // Nothing reads the last sum but the norm: as an output of the kernel it would have no gradient, which TorchSharp never frees.
        var hidden = tokens.Restore(_norm.AddForward(mixed is null ? x : x + mixed, null, embedded.dtype).Y);
        return (hidden.MoveToOuterDisposeScope(), returnState ? new ModelState(last) : null);
    }

    /// <summary>
    /// Draws fresh weights as Mamba's code does: a normal embedding, mixers of their own, and their outputs divided by sqrt(L).
    /// </summary>
    public void Initialize(double std, bool rescaleOutput, Generator generator)
    {
        using var grad = no_grad();
        _embeddings.weight!.normal_(0, std, generator);
        foreach (var block in _blocks)
        {
            block.Mixer.Initialize(rescaleOutput ? Math.Pow(_blocks.Count, -0.5) : 1, generator);
        }
    }
}

/// <summary>A norm and a mixer.</summary>
internal sealed class StateSpaceBlock : nn.Module
{
    [ComponentName(Name = "norm")]
    private readonly RmsNorm _norm;

    [ComponentName(Name = "mixer")]
    private readonly StateSpaceMixer _mixer;

    public StateSpaceBlock(int dim, double epsilon, StateSpaceMixer mixer)
        : base(nameof(StateSpaceBlock))
    {
        _norm = new(dim, epsilon);
        _mixer = mixer;
        RegisterComponents();
    }

    public RmsNorm Norm => _norm;

    public StateSpaceMixer Mixer => _mixer;
}
