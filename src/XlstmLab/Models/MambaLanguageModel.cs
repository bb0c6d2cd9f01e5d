using TorchSharp.Utils;
using XlstmLab.Layers;
using XlstmLab.Native;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Models;

/// <summary>Mamba (Gu and Dao 2023): embedding, blocks with a selective scan, norm, head.</summary>
/// <remarks>
/// The state dict has the names and shapes of transformers' <c>MambaForCausalLM</c>. The state is <c>blocks.N.conv</c>, the convolution's
/// last inputs [B, K - 1, E d], and <c>blocks.N.ssm</c>, [B, E d, N]. An observer sees rows with their padding last.
/// </remarks>
public sealed class MambaLanguageModel : LanguageModel
{
    [ComponentName(Name = "backbone")]
    private readonly StateSpaceBackbone _backbone;

    [ComponentName(Name = "lm_head")]
    private readonly Dense? _head;

    /// <summary>A model with fresh weights.</summary>
    /// <param name="config">The architecture.</param>
    /// <param name="seed">Two models of one configuration and seed are equal.</param>
    /// <exception cref="ConfigException">The configuration cannot be.</exception>
    public MambaLanguageModel(MambaConfig config, int seed = 0)
        : base(nameof(MambaLanguageModel), config)
    {
        config.ValidateToBuild();
        NativeTorch.EnsureLoaded();
        _backbone = new(config, config.NormEpsilon, config.Mixer, config.Site);
        _head = config.TieWordEmbeddings ? null : new(config.EmbeddingDim, config.VocabularySize);
        RegisterComponents();
        if (Parameters.ToBeLoaded is not null)
        {
            return;
        }

        using var grad = no_grad();
        using var generator = new Generator((ulong)seed, CPU);
        _backbone.Initialize(config.InitStd, generator);
        _head?.Weight.normal_(0, config.InitStd, generator);
    }

    /// <inheritdoc/>
    public override Tensor Embed(Tensor tokens) => Embed(_backbone.Embedding, tokens);

    /// <inheritdoc/>
    public override (Tensor Hidden, ModelState? State) ForwardHidden(
        Tensor embedded, ModelState? state = null, SequenceLayout? layout = null, bool returnState = false) =>
        _backbone.Forward(embedded, layout, returnState, (block, work, last) => PassThrough(block, work, state, last));

    /// <inheritdoc/>
    public override LanguageHead Head => HeadOf(_head, _backbone.Embedding);

    /// <inheritdoc/>
    public override Tensor Logits(Tensor hidden) => Head.Logits(hidden);
}
