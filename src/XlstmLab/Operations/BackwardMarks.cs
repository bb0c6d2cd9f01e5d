using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>
/// Tells where a backward pass is: the engine goes back through what was computed in reverse order, so that the gradients of all weights
/// that only blocks behind a mark have are there when it comes to the mark.
/// </summary>
/// <remarks>What is summed when a pass ends (<see cref="TrainedProducts.EndGradients"/>) is not there yet.</remarks>
internal sealed class BackwardMarks
{
    [ThreadStatic]
    private static BackwardMarks? _current;

    private readonly Action<int> _reached;
    private int _count;

    private BackwardMarks(Action<int> reached) => _reached = reached;

    /// <summary>Computes a forward pass whose backward pass tells where it is.</summary>
    /// <param name="reached">
    /// Told the number of a mark, the highest first, when the gradients of all that comes behind it are there: by the thread that computes
    /// the backward pass.
    /// </param>
    /// <param name="forward">The forward pass.</param>
    public static T Serve<T>(Action<int> reached, Func<T> forward)
    {
        var before = _current;
        _current = new(reached);
        try
        {
            return forward();
        }
        finally
        {
            _current = before;
        }
    }

    /// <summary>Marks the place behind a block, the next one from 0: what comes next is to be given the result.</summary>
    /// <param name="stream">What the block gives.</param>
    /// <returns>The same numbers.</returns>
    public static Tensor Behind(Tensor stream) =>
        _current is { } marks && stream.requires_grad ? Mark.apply(stream, marks, marks._count++)[0] : stream;

    private sealed class Mark : GradientFunction<Mark>
    {
        protected override List<Tensor> Forward(autograd.AutogradContext ctx, params object[] vars)
        {
            ctx.save_data("marks", vars[1]);
            ctx.save_data("number", vars[2]);
            return [((Tensor)vars[0]).alias()];
        }

        protected override List<Tensor?> Backward(autograd.AutogradContext ctx, List<Tensor> gradients)
        {
            ((BackwardMarks)ctx.get_data("marks"))._reached((int)ctx.get_data("number"));
            return [gradients[0].alias(), null, null];
        }
    }
}
