using XlstmLab.Mixers;
using XlstmLab.Models;
using static TorchSharp.torch;

namespace XlstmLab.Inference;

/// <summary>
/// A state whose keys and values have room behind them, so that tokens change none of its shapes and a model writes them in place: what a
/// graph can be recorded of.
/// </summary>
/// <remarks>
/// Such a state has besides <c>end</c> [B], where the next token's key goes, and says by <c>visible</c> [B, R] what is filled; all rows
/// are filled alike. It is the caller's own, and no other of the library's functions takes it: they get <see cref="Leave"/>'s.
/// </remarks>
internal sealed class StateRoom
{
    /// <summary>Room is made of so many places, which suits the kernels of attention.</summary>
    private const long Step = 64;

    /// <summary>The least room: to record a step takes as long as some dozens of tokens.</summary>
    private const long Least = 256;

    private const long Most = 4096; // where it is not half of what is filled

    /// <summary>What the room may add to the bytes that a token reads of weights: what is masked is read too.</summary>
    private const double ShareOfWeights = 0.125;

    private static readonly string[] Names = [AttentionMixer.Visible, AttentionMixer.Position, AttentionMixer.End];

    private readonly HashSet<string> _growing;
    private readonly bool _hadVisible;
    private readonly long _length;

    private StateRoom(HashSet<string> growing, bool hadVisible, long length, long filled)
    {
        (_growing, _hadVisible, _length, Filled) = (growing, hadVisible, length, filled);
    }

    /// <summary>The places that are filled.</summary>
    public long Filled { get; set; }

    /// <summary>How many further tokens there is room for.</summary>
    public long Left => _length - Filled;

    /// <summary>Gives a state room; null for a model whose state holds no keys and values of all tokens.</summary>
    /// <param name="model">The model.</param>
    /// <param name="state">Its state of at least one token, disposed where there is a room.</param>
    /// <param name="wanted">How many tokens may come; fewer may get room.</param>
    public static (StateRoom Room, ModelState State)? Enter(LanguageModel model, ModelState state, long wanted)
    {
        HashSet<string> growing = [.. model.Mixers.Index().Where(pair => pair.Item.SharesState)
            .SelectMany(pair => AttentionMixer.Grows.Select(name => FormattableString.Invariant($"blocks.{pair.Index}.{name}")))];
        if (growing.Count == 0 || !growing.All(state.Tensors.ContainsKey))
        {
            return null;
        }

        using var scope = NewDisposeScope();
        var keys = state[growing.First()];
        var (batch, filled, device) = (keys.shape[0], keys.shape[2], keys.device);
        var bytes = growing.Sum(name => Bytes(state[name])) / filled;
        var cheap = Math.Clamp((long)(ShareOfWeights * model.parameters().Sum(Bytes) / bytes), Least, Most);
        var length = (filled + Math.Min(wanted, Math.Max(cheap, filled / 2)) + Step - 1) / Step * Step;
        var visible = state.Tensors.GetValueOrDefault(AttentionMixer.Visible);
        Dictionary<string, Tensor> own = new()
        {
            [AttentionMixer.Visible] = nn.functional.pad(
                visible ?? ones(batch, filled, dtype: ScalarType.Bool, device: device), [0, length - filled]),
            [AttentionMixer.Position] = state.Tensors.GetValueOrDefault(AttentionMixer.Position)?.alias()
                ?? full([batch], filled, dtype: ScalarType.Int64, device: device),
            [AttentionMixer.End] = full([batch], filled, dtype: ScalarType.Int64, device: device),
        };
        foreach (var (name, tensor) in state.Tensors.Where(pair => !own.ContainsKey(pair.Key)))
        {
            own[name] = growing.Contains(name) ? WithRoom(tensor, length) : tensor.alias();
            tensor.Dispose();
        }

        state.Dispose();
        return (new(growing, visible is not null, length, filled), new(own));
    }

    /// <summary>The state as everybody knows it.</summary>
    /// <param name="state">With its room, left as it is.</param>
    /// <returns>Parts of it.</returns>
    public ModelState Leave(ModelState state)
    {
        return new(state.Tensors
            .Where(pair => pair.Key != AttentionMixer.End && (_hadVisible || !Names.Contains(pair.Key)))
            .Select(pair => KeyValuePair.Create(
                pair.Key,
                _growing.Contains(pair.Key) ? pair.Value.narrow(2, 0, Filled)
                : pair.Key == AttentionMixer.Visible ? pair.Value.narrow(1, 0, Filled)
                : pair.Value.alias())));
    }

    /// <summary>Of a state with its room, the tensors that say where its end is and what is seen of it.</summary>
    public static IEnumerable<KeyValuePair<string, Tensor>> EndOf(ModelState state) =>
        state.Tensors.Where(pair => Names.Contains(pair.Key));

    /// <summary>A copy to be written in place by a graph, but for what has room, which is written in place already.</summary>
    public ModelState Own(ModelState state) => new(state.Tensors.Select(pair => KeyValuePair.Create(
        pair.Key, _growing.Contains(pair.Key) ? pair.Value.alias() : pair.Value.clone())));

    private static long Bytes(Tensor tensor) => tensor.NumberOfElements * tensor.ElementSize;

    /// <summary>Zeros behind what is filled: what nobody sees is multiplied by 0.</summary>
    private static Tensor WithRoom(Tensor x, long length)
    {
        var room = zeros([.. x.shape[..2], length, x.shape[3]], x.dtype, x.device);
        room.narrow(2, 0, x.shape[2]).copy_(x);
        return room;
    }
}
