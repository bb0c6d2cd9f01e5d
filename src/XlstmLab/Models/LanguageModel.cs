using XlstmLab.Cells;
using static TorchSharp.torch;

namespace XlstmLab.Models;

/// <summary>Shown a tensor as a layer computes it, while <see cref="LanguageModel.Observer"/> is set.</summary>
/// <param name="block">The index of the block, from 0.</param>
/// <param name="name">What it is, in the names of the state dict: <c>igate_preact</c>, <c>q</c>, ...</param>
/// <param name="value">The tensor; valid during the call only.</param>
public delegate void ActivationObserver(int block, string name, Tensor value);

/// <summary>What a model makes of a batch of tokens.</summary>
/// <param name="Logits">[B, S, V] float32, of the token after each position.</param>
/// <param name="State">The state after the last token, if it was asked for; the caller owns it.</param>
public sealed record ModelOutput(Tensor Logits, ModelState? State);

/// <summary>A causal language model: tokens and a state in, logits and a state out.</summary>
/// <remarks>Trainer, evaluators and generator know models by this contract only.</remarks>
public abstract class LanguageModel(string name) : nn.Module(name)
{
    /// <summary>The number of token ids the logits cover, V.</summary>
    public abstract int VocabularySize { get; }

    /// <summary>The number of blocks, L.</summary>
    public abstract int BlockCount { get; }

    /// <summary>
    /// The type of the activations; null is the weights' own. With bfloat16 the weights stay as they are, float32 masters, and
    /// gates, norms' sums, states and logits stay float32.
    /// </summary>
    public ScalarType? ComputeType { get; set; }

    /// <summary>Sees gates and other activations of every forward pass while it is set; null costs nothing.</summary>
    public ActivationObserver? Observer { get; set; }

    /// <summary>Reads the tokens, starting from the state.</summary>
    /// <param name="tokens">[B, S] int64, S at least 1.</param>
    /// <param name="state">The state to start from, left as it is; null is the empty state.</param>
    /// <param name="layout">Document starts and padding.</param>
    /// <param name="returnState">Whether the state after the last token is wanted.</param>
    /// <returns>Logits in the caller's dispose scope, and the state outside of every scope.</returns>
    public abstract ModelOutput Forward(Tensor tokens, ModelState? state = null, SequenceLayout? layout = null, bool returnState = false);
}
