using TorchSharp;
using TorchSharp.Modules;
using XlstmLab.Layers;
using XlstmLab.Mixers;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Models;

/// <summary>Shown a tensor as a layer computes it, while <see cref="LanguageModel.Observer"/> is set.</summary>
/// <param name="block">The index of the block, from 0.</param>
/// <param name="name">What it is, in the names of the state dict: <c>igate_preact</c>, <c>q</c>, ...</param>
/// <param name="value">The tensor; valid during the call only.</param>
public delegate void ActivationObserver(int block, string name, Tensor value);

/// <summary>What a model makes of a batch of tokens.</summary>
/// <param name="Logits">[B, S, V] float32, of the token after each position; [N, V] where N positions were asked for.</param>
/// <param name="State">The state after the last token, if it was asked for; the caller owns it.</param>
public sealed record ModelOutput(Tensor Logits, ModelState? State);

/// <summary>A causal language model: tokens and a state in, logits and a state out.</summary>
/// <remarks>
/// Trainer, evaluators and generator know models by this contract only. A new model is in training mode, like every new module of torch:
/// it drops what its configuration says. Whatever evaluates, generates or analyses enters <see cref="EvaluationMode"/> of its own accord;
/// before calling <see cref="Forward"/> yourself to evaluate, call <c>eval()</c>.
/// </remarks>
/// <param name="name">The model's name.</param>
/// <param name="config">The architecture.</param>
public abstract class LanguageModel(string name, LanguageModelConfig config) : nn.Module(name)
{
    private bool _isDisposed;

    /// <summary>The architecture.</summary>
    public LanguageModelConfig Config { get; } = config;

    /// <summary>The number of token ids the logits cover, V.</summary>
    public int VocabularySize => Config.VocabularySize;

    /// <summary>The number of blocks, L.</summary>
    public int BlockCount => Config.BlockCount;

    /// <summary>
    /// The type of the activations; null is the weights' own. With bfloat16 the weights stay as they are, float32 masters, and
    /// gates, norms' sums, states and logits stay float32.
    /// </summary>
    public ScalarType? ComputeType { get; set; }

    /// <summary>The device of the weights.</summary>
    internal Device WeightsDevice
    {
        get
        {
            ThrowIfDisposed();
            return parameters().FirstOrDefault()?.device ?? CPU;
        }
    }

    /// <summary>Sees gates and other activations of every forward pass while it is set; null costs nothing.</summary>
    public ActivationObserver? Observer { get; set; }

    /// <summary>
    /// What dropout draws from, the model's own: a fresh model begins with the draws of its weights' seed, a training with those of its
    /// own.
    /// </summary>
    internal DropoutDraws Dropout { get; } = new();

    /// <summary>Reads the tokens, starting from the state.</summary>
    /// <param name="tokens">[B, S] int64, S at least 1.</param>
    /// <param name="state">The state to start from, left as it is; null is the empty state.</param>
    /// <param name="layout">Document starts and padding.</param>
    /// <param name="returnState">Whether the state after the last token is wanted.</param>
    /// <param name="positions">
    /// [N] int64, the positions b S + s whose logits are wanted; null for all. Where the vocabulary is large and few positions count,
    /// it saves most of the work.
    /// </param>
    /// <returns>Logits in the caller's dispose scope, and the state outside of every scope.</returns>
    /// <exception cref="ArgumentException">The tokens are no [B, S] of int64, or the positions no [N] of int64.</exception>
    /// <exception cref="ArgumentOutOfRangeException">A token id is none of the model's.</exception>
    /// <exception cref="ObjectDisposedException">The model or the state was disposed.</exception>
    public ModelOutput Forward(
        Tensor tokens, ModelState? state = null, SequenceLayout? layout = null, bool returnState = false, Tensor? positions = null)
    {
        CheckTokens(tokens);
        if (positions is not null && (positions.dim() != 1 || positions.dtype != ScalarType.Int64))
        {
            throw new ArgumentException(
                $"Expected positions of shape [N] and type int64, got [{string.Join(", ", positions.shape)}] {positions.dtype}.",
                nameof(positions));
        }

        using var scope = NewDisposeScope();
        var (hidden, last) = ForwardHidden(Computed(Embed(tokens)), state, layout, returnState); // (B, S, d)
        if (positions is not null)
        {
            hidden = hidden.flatten(0, 1).index_select(0, positions); // (N, d)
        }

        return new(Logits(hidden).MoveToOuterDisposeScope(), last);
    }

    /// <summary>Reads the tokens without a thought for what comes next: no logits are computed.</summary>
    /// <inheritdoc cref="Forward" path="/param"/>
    /// <returns>The state after the last token, outside of every scope.</returns>
    internal ModelState Read(Tensor tokens, ModelState? state, SequenceLayout? layout = null)
    {
        CheckTokens(tokens);
        using var scope = NewDisposeScope();
        return ForwardHidden(Computed(Embed(tokens)), state, layout, returnState: true).State!;
    }

    /// <summary>The embedding: [B, S] int64 to [B, S, d], in the weights' type, or already in that of the activations.</summary>
    public abstract Tensor Embed(Tensor tokens);

    /// <summary>All blocks and the last norm.</summary>
    /// <param name="embedded">[B, S, d], S at least 1: embedded tokens, or anything else that a model is to read.</param>
    /// <param name="state">The state to start from, left as it is; null is the empty state.</param>
    /// <param name="layout">Document starts and padding.</param>
    /// <param name="returnState">Whether the state after the last position is wanted.</param>
    /// <returns>
    /// [B, S, d] in the type of <paramref name="embedded"/> and the caller's dispose scope, and the state outside of every scope.
    /// </returns>
    public abstract (Tensor Hidden, ModelState? State) ForwardHidden(
        Tensor embedded, ModelState? state = null, SequenceLayout? layout = null, bool returnState = false);

    /// <summary>
    /// What makes logits of the last block's output, where that is one matrix: losses then need not have all logits at once.
    /// </summary>
    public virtual LanguageHead? Head => null;

    /// <summary>A head of its own, or the embedding where the two are tied.</summary>
    private protected static LanguageHead HeadOf(Dense? head, Embedding embedding, double? softCap = null) =>
        new(head?.Weight ?? embedding.weight!, head?.Bias, softCap);

    /// <summary>The head: [..., d] to [..., V] float32, or wider where the weights are.</summary>
    public abstract Tensor Logits(Tensor hidden);

    /// <summary>One state of all the sequences of several states, in their order.</summary>
    /// <param name="states">States of this model, left as they are; at least one.</param>
    /// <returns>Outside of every scope.</returns>
    public virtual ModelState JoinStates(IReadOnlyList<ModelState> states)
    {
        ArgumentNullException.ThrowIfNull(states);
        return new(states[0].Tensors.Keys.Select(name => KeyValuePair.Create(name, cat([.. states.Select(s => s[name])], 0))));
    }

    /// <summary>The mixers of the blocks, by their indices; none where a model is not made of such.</summary>
    internal virtual IEnumerable<Mixer> Mixers => [];

    /// <summary>A pass through the mixer of a block.</summary>
    /// <param name="block">The block's index.</param>
    /// <param name="work">What all blocks need of the layout.</param>
    /// <param name="before">The state to start from, or null.</param>
    /// <param name="after">Is given the state after the last token; null if it is not wanted.</param>
    private protected MixerPass PassThrough(int block, LayoutWork work, ModelState? before, Dictionary<string, Tensor>? after) =>
        new(work, block, before?.Tensors, after, Observer is { } observer ? (name, value) => observer(block, name, value) : null);

    /// <summary>One state of all the sequences of several, joined by the mixers of the blocks as each has to.</summary>
    private protected static ModelState JoinStates(IReadOnlyList<ModelState> states, IEnumerable<Mixer> mixers)
    {
        ArgumentNullException.ThrowIfNull(states);
        using var scope = NewDisposeScope();
        var joined = new Dictionary<string, Tensor>();
        foreach (var (block, mixer) in mixers.Index())
        {
            var prefix = FormattableString.Invariant($"blocks.{block}.");
            foreach (var (name, tensor) in mixer.JoinStates([.. states.Select(state => OfBlock(state, prefix, mixer.SharesState))]))
            {
                _ = joined.TryAdd(MixerPass.SharedNames.Contains(name) ? name : prefix + name, tensor);
            }
        }

        return new(joined);

        static Dictionary<string, Tensor> OfBlock(ModelState state, string prefix, bool withShared) => state.Tensors
            .Where(
                pair => pair.Key.StartsWith(prefix, StringComparison.Ordinal) || (withShared && MixerPass.SharedNames.Contains(pair.Key)))
            .ToDictionary(
                pair => pair.Key.StartsWith(prefix, StringComparison.Ordinal) ? pair.Key[prefix.Length..] : pair.Key, pair => pair.Value);
    }

    /// <summary>Refuses a model that was disposed: it has no weights left.</summary>
    internal void ThrowIfDisposed() => ObjectDisposedException.ThrowIf(_isDisposed, this);

    /// <summary>Whether <see cref="Loss"/> can be taken: on a GPU in bfloat16.</summary>
    internal bool HasLossKernel => HeadLossKernel.Serves(Head, ComputeType);

    /// <summary>The cross-entropy in nats, summed over the targets and divided, without the logits of all positions at once.</summary>
    /// <param name="tokens">[B, S] int64.</param>
    /// <param name="targets">[B, S] int64; <see cref="CrossEntropyKernel.Ignored"/> does not count.</param>
    /// <param name="divisor">Such as the number of targets.</param>
    /// <param name="layout">Document starts and padding.</param>
    /// <returns>[] float64, in the caller's dispose scope.</returns>
    internal Tensor Loss(Tensor tokens, Tensor targets, LossDivisor divisor, SequenceLayout? layout)
    {
        CheckTokens(tokens);
        using var scope = NewDisposeScope();
        var (hidden, _) = ForwardHidden(Computed(Embed(tokens)), null, layout); // (B, S, d)
        return HeadLossKernel.Forward(hidden.flatten(0, 1), Head!, targets.flatten(), divisor).MoveToOuterDisposeScope();
    }

    /// <summary>
    /// In training x / (1 - share) with a share of its elements set to 0, otherwise x itself. A model that drops by this repeats its
    /// training bit for bit, whatever other threads draw, and goes on where a checkpoint left it; torch's own dropout draws from what all
    /// threads share.
    /// </summary>
    /// <param name="x">[...] floating point.</param>
    /// <param name="share">From 0 to below 1.</param>
    protected Tensor Drop(Tensor x, double share) => training ? Dropout.Apply(x, share) : x;

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        _isDisposed = true;
        if (disposing)
        {
            Dropout.Dispose();
        }

        base.Dispose(disposing);
    }

    /// <summary>The rows of a table, in one pass with their conversion where there is a kernel for it.</summary>
    private protected Tensor Embed(Embedding embedding, Tensor tokens) =>
        ComputeType == ScalarType.BFloat16 && is_grad_enabled() && EmbeddingKernel.Serves(embedding.weight!)
            ? EmbeddingKernel.Forward(embedding.weight!, tokens)
            : embedding.call(tokens);

    private Tensor Computed(Tensor embedded) => ComputeType is { } type ? embedded.to(type) : embedded;

    private void CheckTokens(Tensor tokens)
    {
        ThrowIfDisposed();
        if (tokens.dim() != 2 || tokens.shape[1] < 1 || tokens.dtype != ScalarType.Int64)
        {
            throw new ArgumentException(
                "Expected tokens of shape [B, S] with S at least 1 and type int64, got "
                + $"[{string.Join(", ", tokens.shape)}] {tokens.dtype}.", nameof(tokens));
        }

        // On a device the look would wait for it.
        if (tokens.device_type == DeviceType.CPU && tokens.NumberOfElements > 0)
        {
            using var scope = NewDisposeScope();
            var (least, greatest) = (tokens.min().item<long>(), tokens.max().item<long>());
            if (least < 0 || greatest >= VocabularySize)
            {
                throw new ArgumentOutOfRangeException(
                    nameof(tokens),
                    $"Expected token ids from 0 to {VocabularySize - 1}, got {(least < 0 ? least : greatest)}: "
                    + "the tokenizer is another model's.");
            }
        }
    }
}
