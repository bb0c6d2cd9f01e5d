using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Layers;

/// <summary>
/// A batch whose rows have their padding moved behind their tokens. What reads a row then sees its tokens side by side, wherever
/// padding was, and only has to leave its state as it is at the row's end.
/// </summary>
internal sealed class PaddingLast
{
    private readonly Tensor? _order;
    private readonly Tensor? _places;

    private PaddingLast(Tensor x, Tensor? starts, Tensor? real, Tensor? order, Tensor? places)
    {
        X = x;
        DocumentStarts = starts;
        Real = real;
        _order = order;
        _places = places;
    }

    /// <summary>[B, S, d].</summary>
    public Tensor X { get; }

    /// <summary>[B, S] bool, at the first token of a document, or behind the last token if a document began there; or null.</summary>
    public Tensor? DocumentStarts { get; }

    /// <summary>[B, S] bool, true for tokens, which come first; null where all are.</summary>
    public Tensor? Real { get; }

    /// <summary>Moves the padding of a batch, if there is any; tensors are in the caller's dispose scope.</summary>
    /// <param name="x">[B, S, d].</param>
    /// <param name="layout">Document starts and padding.</param>
    public static PaddingLast Of(Tensor x, SequenceLayout? layout)
    {
        if (layout?.Padding is not { } padding)
        {
            return new(x, layout?.DocumentStarts, null, null, null);
        }

        var length = x.shape[1];
        var order = (padding.to(ScalarType.Int64) * length + arange(length, device: x.device)).argsort(1); // (B, S)
        var real = padding.logical_not().gather(1, order);
        Tensor? starts = null;
        if (layout.DocumentStarts is not null)
        {
            // A document may begin at padding: then it is the next token that its number first stands at.
            var numbers = layout.DocumentStarts.to(ScalarType.Int64).cumsum(1);
            var ordered = where(real, numbers.gather(1, order), numbers.narrow(1, length - 1, 1)); // (B, S)
            starts = ordered.ne(cat([zeros_like(ordered.narrow(1, 0, 1)), ordered.narrow(1, 0, length - 1)], 1));
        }

        return new(Take(x, order), starts, real, order, order.argsort(1));
    }

    /// <summary>The same for another tensor of the batch, [B, S, d].</summary>
    public PaddingLast Of(Tensor x) => new(_order is null ? x : Take(x, _order), DocumentStarts, Real, _order, _places);

    /// <summary>The same for what has been moved already: nothing is left to move.</summary>
    public PaddingLast Moved() => new(X, DocumentStarts, Real, null, null);

    /// <summary>Moves what was computed of <see cref="X"/> to the places where the batch had it.</summary>
    public Tensor Restore(Tensor y) => _places is null ? y : Take(y, _places);

    private static Tensor Take(Tensor x, Tensor order) => x.gather(1, order.unsqueeze(2).expand(-1, -1, x.shape[2]));
}
