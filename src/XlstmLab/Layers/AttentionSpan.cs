using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Layers;

/// <summary>
/// Which keys each token of a piece may attend to: those of its own document up to itself, cached or new, and never padding.
/// </summary>
/// <remarks>
/// Where a row holds one document without padding, as all rows then do, no mask is made and attention may take its fastest form. To know
/// that takes one look at the layout, for which a device is waited for once a forward pass. What is recorded serves other layouts too, and
/// has the mask of any.
/// </remarks>
public sealed class AttentionSpan
{
    private AttentionSpan(Tensor positions, Tensor? mask, bool isCausal)
    {
        Positions = positions;
        Mask = mask;
        IsCausal = isCausal;
    }

    /// <summary>The number of tokens of the row before each, [S] or [B, 1, S]; padding moves no position.</summary>
    public Tensor Positions { get; }

    /// <summary>
    /// [B or 1, 1, S, T + S] bool for T cached keys, true where a key is seen; null where all are, or where <see cref="IsCausal"/> says it.
    /// </summary>
    public Tensor? Mask { get; }

    /// <summary>Whether a token sees exactly the keys up to its own, and none is cached.</summary>
    public bool IsCausal { get; }

    /// <summary>[B, T + S] bool, the keys that the next token sees unless it starts a document; null where it sees all.</summary>
    public Tensor? Visible { get; private init; }

    /// <summary>[B] int64, the position of the next token; null where it is T + S.</summary>
    public Tensor? Next { get; private init; }

    /// <summary>
    /// [B, T'] int64, the places in their document of the keys that are kept of a window, -1 for none; null without a window.
    /// </summary>
    public Tensor? At { get; private init; }

    /// <summary>[B] int64, where the next token's key goes in a room of a fixed size; null where there is none.</summary>
    public Tensor? End { get; private init; }

    /// <summary>[B, 1, 1, R], what <see cref="Mask"/> adds to scores in a room of R places; null where there is none.</summary>
    public Tensor? Bias { get; private init; }

    private Tensor? KeptIndex { get; init; }

    /// <summary>The span of a piece of tokens.</summary>
    /// <param name="batch">B.</param>
    /// <param name="length">S.</param>
    /// <param name="cached">T, the number of cached keys, padding included.</param>
    /// <param name="visible">What <see cref="Visible"/> was after the piece before.</param>
    /// <param name="next">What <see cref="Next"/> was after the piece before.</param>
    /// <param name="layout">Document starts and padding.</param>
    /// <param name="device">Where to make the tensors, in the caller's dispose scope.</param>
    public static AttentionSpan Of(
        long batch, long length, long cached, Tensor? visible, Tensor? next, SequenceLayout? layout, Device device)
    {
        var starts = AnyTrue(cached == 0 ? layout?.DocumentStarts?.narrow(1, 1, length - 1) : layout?.DocumentStarts)
            ? layout!.DocumentStarts : null;
        var padding = AnyTrue(layout?.Padding) ? layout!.Padding : null;
        if (starts is null && padding is null && visible is null)
        {
            // Of a long prompt a mask that nobody needs would be the largest tensor.
            var mask = cached == 0 || length == 1 ? null
                : ones(length, cached + length, dtype: ScalarType.Bool, device: device).tril(cached); // (S, T + S)
            return new(arange(cached, cached + length, device: device), mask?.unsqueeze(0).unsqueeze(0), cached == 0);
        }

        var real = padding?.logical_not() ?? ones(batch, length, dtype: ScalarType.Bool, device: device); // (B, S)
        var documents = starts?.to(ScalarType.Int64).cumsum(1) ?? zeros(batch, length, dtype: ScalarType.Int64, device: device); // (B, S)
        visible ??= ones(batch, cached, dtype: ScalarType.Bool, device: device); // (B, T)
        next ??= full([batch], cached, dtype: ScalarType.Int64, device: device);

        // A token of padding sees itself, since the softmax of nothing is not a number.
        var causal = ones(length, length, dtype: ScalarType.Bool, device: device).tril(); // (S, S)
        var own = documents.unsqueeze(2).eq(documents.unsqueeze(1)).logical_and(real.unsqueeze(1)).logical_and(causal)
            .logical_or(eye(length, dtype: ScalarType.Bool, device: device)); // (B, S, S)
        var earlier = documents.eq(0).unsqueeze(2).logical_and(visible.unsqueeze(1)); // (B, S, T)
        var lastDocument = documents.narrow(1, length - 1, 1); // (B, 1)
        var count = real.to(ScalarType.Int64).cumsum(1); // (B, S)
        return new((next.unsqueeze(1) + count - 1).unsqueeze(1), cat([earlier, own], 2).unsqueeze(1), isCausal: false)
        {
            Visible = cat([visible.logical_and(lastDocument.eq(0)), real.logical_and(documents.eq(lastDocument))], 1),
            Next = next + count.select(1, length - 1),
        };
    }

    /// <summary>
    /// The span of one token a row, of keys that lie in a room of a fixed size: no shape depends on how much of it is filled.
    /// </summary>
    /// <param name="visible">[B, R] bool, the places with a key that it sees.</param>
    /// <param name="next">[B] int64, its position.</param>
    /// <param name="end">[B] int64, the place of its own key.</param>
    /// <param name="type">The scores' type.</param>
    public static AttentionSpan OfRoom(Tensor visible, Tensor next, Tensor end, ScalarType type)
    {
        ArgumentNullException.ThrowIfNull(visible);
        ArgumentNullException.ThrowIfNull(next);
        ArgumentNullException.ThrowIfNull(end);
        var seen = visible.logical_or(arange(visible.shape[1], device: visible.device).eq(end.unsqueeze(1))); // (B, R)
        var mask = seen.unsqueeze(1).unsqueeze(1);
        return new(next.view(-1, 1, 1), mask, isCausal: false)
        {
            Visible = seen,
            Next = next + 1,
            End = end + 1,
            Bias = zeros(mask.shape, type, mask.device).masked_fill(mask.logical_not(), double.NegativeInfinity),
        };
    }

    /// <summary>The span of a piece of tokens that see the last ones of their document and its first ones.</summary>
    /// <param name="batch">B.</param>
    /// <param name="length">S.</param>
    /// <param name="window">How many tokens each sees, itself among them.</param>
    /// <param name="sinks">How many first tokens of its document each sees besides.</param>
    /// <param name="at">[B, T] what <see cref="At"/> was after the piece before; null if there was none.</param>
    /// <param name="next">[B] what <see cref="Next"/> was; here, the number of tokens in the document so far.</param>
    /// <param name="layout">Document starts and padding.</param>
    /// <param name="device">Where to make the tensors, in the caller's dispose scope.</param>
    public static AttentionSpan OfWindow(
        long batch, long length, int window, int sinks, Tensor? at, Tensor? next, SequenceLayout? layout, Device device)
    {
        var isOne = layout?.DocumentStarts is null && layout?.Padding is null && at is null; // one document in every row
        var (rows, cached) = (isOne ? 1 : batch, at?.shape[1] ?? 0);
        at ??= full([rows, 0], -1, dtype: ScalarType.Int64, device: device);
        next ??= zeros(rows, dtype: ScalarType.Int64, device: device);
        var real = layout?.Padding?.logical_not() ?? ones(rows, length, dtype: ScalarType.Bool, device: device); // (B, S)
        var documents = layout?.DocumentStarts?.to(ScalarType.Int64).cumsum(1)
            ?? zeros(rows, length, dtype: ScalarType.Int64, device: device); // (B, S)
        var isFirst = documents.eq(0); // (B, S), the document that the piece before ended in

        var same = documents.unsqueeze(2).eq(documents.unsqueeze(1)).logical_and(real.unsqueeze(1)); // (B, S, S), of tokens
        var earlier = same.logical_and(ones(length, length, dtype: ScalarType.Bool, device: device).tril(-1));
        var place = earlier.to(ScalarType.Int64).sum(2) + isFirst * next.unsqueeze(1); // (B, S), in the document

        // A token of padding sees itself, since the softmax of nothing is not a number.
        var own = earlier.logical_and(Near(place)).logical_or(eye(length, dtype: ScalarType.Bool, device: device)); // (B, S, S)
        var before = isFirst.unsqueeze(2).logical_and(at.ge(0).unsqueeze(1)).logical_and(Near(at)); // (B, S, T)

        // What the next token sees if it goes on with the last document.
        var last = documents.narrow(1, length - 1, 1); // (B, 1)
        var inLast = real.logical_and(documents.eq(last)); // (B, S)
        var after = inLast.to(ScalarType.Int64).sum(1) + last.squeeze(1).eq(0) * next; // (B)
        var places = cat([at.masked_fill(last.ne(0), -1), place.masked_fill(inLast.logical_not(), -1)], 1); // (B, T + S)
        var isKept = places.ge(0).logical_and((after.unsqueeze(1) - places).lt(window).logical_or(places.lt(sinks)));
        places = places.masked_fill(isKept.logical_not(), -1);
        Tensor? index = null;
        if (cached + length > window - 1L + sinks)
        {
            index = places.masked_fill(isKept.logical_not(), long.MaxValue).argsort(1).narrow(1, 0, window - 1L + sinks);
            places = places.gather(1, index);
        }

        var isPlain = isOne && length <= window;
        return new(place.unsqueeze(1), isPlain ? null : cat([before, own], 2).unsqueeze(1), isCausal: isPlain)
        {
            At = places.expand(batch, -1).contiguous(),
            Next = after.expand(batch).contiguous(),
            KeptIndex = index?.expand(batch, -1),
        };

        Tensor Near(Tensor keys) => // (B, S, keys)
            (place.unsqueeze(2) - keys.unsqueeze(1)).lt(window).logical_or(keys.lt(sinks).unsqueeze(1));
    }

    /// <summary>Of keys or values [B, NKV, T + S, D], those that are kept of a window.</summary>
    public Tensor Kept(Tensor keys) => KeptIndex is null
        ? keys
        : keys.gather(2, KeptIndex.unsqueeze(1).unsqueeze(3).expand(-1, keys.shape[1], -1, keys.shape[3]));

    private static bool AnyTrue(Tensor? mask) => mask is not null && (Kernel.Records || mask.any().item<bool>());
}
