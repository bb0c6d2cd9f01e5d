using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>
/// The two halves of a product's last dimension, whose gradients kernels write into one tensor, so that joining them copies nothing.
/// </summary>
internal sealed class Halves
{
    private readonly long[] _shape;
    private readonly ScalarType _type;
    private readonly Device _device;
    private Tensor? _room;
    private bool _isTaken;

    /// <summary>Splits a product, in the caller's dispose scope.</summary>
    /// <param name="product">[B, S, 2 C], contiguous.</param>
    public Halves(Tensor product)
    {
        using var scope = NewDisposeScope();
        (_shape, _type, _device) = (product.shape, product.dtype, product.device);
        var halves = is_grad_enabled() && product.requires_grad ? Function.apply(product) : [.. product.chunk(2, -1)];
        (First, Second) = (halves[0].MoveToOuterDisposeScope(), halves[1].MoveToOuterDisposeScope());
    }

    /// <summary>[B, S, C], rows of 2 C.</summary>
    public Tensor First { get; }

    /// <inheritdoc cref="First"/>
    public Tensor Second { get; }

    /// <summary>Where the first half's gradient should be written, in the caller's dispose scope.</summary>
    public Tensor FirstRoom() => Room(0);

    /// <inheritdoc cref="FirstRoom"/>
    public Tensor SecondRoom() => Room(1);

    private Tensor Room(int half)
    {
        var size = _shape[2] / 2;
        var room = _room ?? empty(_shape, _type, _device).DetachFromDisposeScope(); // First and Second are freed by now
        var part = room.narrow(2, half * size, size);
        if (_isTaken)
        {
            room.Dispose(); // the parts keep its memory
        }

        (_room, _isTaken) = (_isTaken ? null : room, !_isTaken);
        return part;
    }

    private sealed class Function : GradientFunction<Function>
    {
        protected override List<Tensor> Forward(autograd.AutogradContext ctx, params object[] vars)
        {
            ctx.set_materialize_grads(false);
            return [.. ((Tensor)vars[0]).chunk(2, -1)];
        }

        protected override List<Tensor?> Backward(autograd.AutogradContext ctx, List<Tensor> gradients)
        {
            var known = gradients.First(g => !g.IsInvalid);
            var (first, second) = (gradients[0].IsInvalid ? zeros_like(known) : gradients[0], gradients[1].IsInvalid ? zeros_like(known)
                : gradients[1]);
            var (batch, length, size) = (known.shape[0], known.shape[1], known.shape[2]);
            long[] strides = [2 * size * length, 2 * size, 1];
            var adjoin = first.stride().SequenceEqual(strides) && second.stride().SequenceEqual(strides)
                && Kernel.Address(second) - Kernel.Address(first) == size * first.element_size();
            var whole = adjoin ? first.as_strided([batch, length, 2 * size], strides, first.storage_offset()) : cat([first, second], -1);
            return [whole];
        }
    }
}
