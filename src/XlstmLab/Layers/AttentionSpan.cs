using XlstmLab.Cells;
using static TorchSharp.torch;

namespace XlstmLab.Layers;

/// <summary>
/// Which keys each token of a piece may attend to: those of its own document up to itself, cached or new, and never padding.
/// </summary>
/// <remarks>
/// Where a row holds one document without padding, as all rows then do, no mask is made and attention may take its fastest form. To know
/// that takes one look at the layout, for which a device is waited for once a forward pass.
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

    /// <summary>The span of a piece of tokens.</summary>
    /// <param name="batch">B.</param>
    /// <param name="length">S.</param>
    /// <param name="cached">T, the number of cached keys, padding included.</param>
    /// <param name="visible">What <see cref="Visible"/> was after the piece before.</param>
    /// <param name="next">What <see cref="Next"/> was after the piece before.</param>
    /// <param name="layout">Document starts and padding.</param>
    /// <param name="device">Where to make the tensors, in the caller's dispose scope.</param>
    public static AttentionSpan Of(long batch, long length, long cached, Tensor? visible, Tensor? next, SequenceLayout? layout, Device device)
    {
        var starts = AnyTrue(cached == 0 ? layout?.DocumentStarts?.narrow(1, 1, length - 1) : layout?.DocumentStarts) ? layout!.DocumentStarts : null;
        var padding = AnyTrue(layout?.Padding) ? layout!.Padding : null;
        var causal = ones(length, length, dtype: ScalarType.Bool, device: device).tril(); // (S, S)
        if (starts is null && padding is null && visible is null)
        {
            var mask = cached == 0 || length == 1 ? null : cat([ones(length, cached, dtype: ScalarType.Bool, device: device), causal], 1);
            return new(arange(cached, cached + length, device: device), mask?.unsqueeze(0).unsqueeze(0), cached == 0);
        }

        var real = padding?.logical_not() ?? ones(batch, length, dtype: ScalarType.Bool, device: device); // (B, S)
        var documents = starts?.to(ScalarType.Int64).cumsum(1) ?? zeros(batch, length, dtype: ScalarType.Int64, device: device); // (B, S)
        visible ??= ones(batch, cached, dtype: ScalarType.Bool, device: device); // (B, T)
        next ??= full([batch], cached, dtype: ScalarType.Int64, device: device);

        // A token of padding sees itself, since the softmax of nothing is not a number.
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

    private static bool AnyTrue(Tensor? mask) => mask is not null && mask.any().item<bool>();
}
