using TorchSharp.Modules;
using XlstmLab.Layers;
using XlstmLab.Mixers;
using static TorchSharp.torch;

namespace XlstmLab.Models;

/// <summary>What a published model of pre-norm blocks calls their parts.</summary>
internal sealed record PreNormNames(string Embedding, string MixerNorm, string Mixer, string FeedForwardNorm);

/// <summary>Embedding, blocks and last norm of a model in the shape of Llama's.</summary>
internal sealed class PreNormBackbone : nn.Module
{
    public PreNormBackbone(PreNormNames names, Embedding embedding, IEnumerable<PreNormBlock> blocks, double epsilon)
        : base(nameof(PreNormBackbone))
    {
        Embedding = embedding;
        Blocks = new([.. blocks]);
        Norm = new(NormKind.Rms, (int)embedding.weight!.shape[1], epsilon);
        this.Register((names.Embedding, Embedding), ("layers", Blocks), ("norm", Norm));
    }

    public Embedding Embedding { get; }

    public ModuleList<PreNormBlock> Blocks { get; }

    public StreamNorm Norm { get; }

    /// <summary>[B, S, d] to [B, S, d], for the head.</summary>
    /// <param name="x">The embedded tokens.</param>
    /// <param name="memory">Frees what blocks leave behind.</param>
    /// <param name="pass">What a block's mixer works with.</param>
    public Tensor Forward(Tensor x, BlockMemory memory, Func<int, MixerPass> pass)
    {
        Tensor? written = null; // (B, S, d): what a block leaves to the next norm to add
        for (var b = 0; b < Blocks.Count; b++)
        {
            (x, written) = memory.Through(x, written, () => Blocks[b].Forward(x, written, pass(b))); // both (B, S, d)
        }

        return Norm.Forward(written is null ? x : x + written);
    }

    /// <summary>Normal weights, those that write into the stream scaled down by sqrt(2 L), the number of additions to it.</summary>
    public void Initialize(double std, Generator generator)
    {
        Embedding.weight!.normal_(0, std, generator);
        foreach (var block in Blocks)
        {
            block.Initialize(std, std / Math.Sqrt(2 * Blocks.Count), generator);
        }
    }

    /// <summary>Nothing is registered by its field's name.</summary>
    protected override void RegisterComponents()
    {
    }
}

/// <summary>x + mixer(norm(x)), then x + FFN(norm(x)).</summary>
internal sealed class PreNormBlock : nn.Module
{
    private readonly StreamNorm _mixerNorm;
    private readonly StreamNorm _feedForwardNorm;
    private readonly FeedForward _feedForward;

    public PreNormBlock(PreNormNames names, Mixer mixer, FeedForward feedForward, int dim, double epsilon)
        : base(nameof(PreNormBlock))
    {
        Mixer = mixer;
        _feedForward = feedForward;
        (_mixerNorm, _feedForwardNorm) = (new(NormKind.Rms, dim, epsilon), new(NormKind.Rms, dim, epsilon));
        this.Register((names.MixerNorm, _mixerNorm), (names.Mixer, mixer), (names.FeedForwardNorm, _feedForwardNorm), ("mlp", feedForward));
    }

    public Mixer Mixer { get; }

    /// <summary>Reads the stream; what the last layer writes into it is added by the next norm, in one pass with it.</summary>
    public (Tensor Stream, Tensor Written) Forward(Tensor stream, Tensor? written, MixerPass pass)
    {
        (stream, var normed) = _mixerNorm.AddForward(stream, written); // both (B, S, d)
        (stream, normed) = _feedForwardNorm.AddForward(stream, Mixer.Forward(normed, normed, pass)); // both (B, S, d)
        return (stream, _feedForward.Forward(normed)); // (B, S, d), within (B, S, F)
    }

    public void Initialize(double inputStd, double outputStd, Generator generator)
    {
        Mixer.Initialize(inputStd, outputStd, generator);
        _feedForward.Initialize(inputStd, outputStd, generator);
    }

    /// <summary>Nothing is registered by its field's name.</summary>
    protected override void RegisterComponents()
    {
    }
}
