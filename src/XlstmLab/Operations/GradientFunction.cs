using TorchSharp;
using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>An operation with a hand-written backward pass, whose failure reaches who asked for the gradients.</summary>
/// <remarks>
/// libtorch's engine calls backward passes from native code, which no exception of this runtime can cross: it would end the process, be it
/// only that memory was short. So a failure is kept, and the engine is given gradients that it must refuse, whose shape names the failure;
/// <see cref="Gradients.Backward(Tensor)"/> finds it again.
/// </remarks>
/// <typeparam name="T">The operation.</typeparam>
internal abstract class GradientFunction<T> : autograd.MultiTensorFunction<T>
    where T : GradientFunction<T>, new()
{
    private const string Made = "made";

    /// <inheritdoc/>
    public sealed override string Name => (typeof(T).DeclaringType ?? typeof(T)).Name;

    /// <inheritdoc/>
    public sealed override List<Tensor> forward(autograd.AutogradContext ctx, params object[] vars)
    {
        ctx.save_data(Made, new Making(Array.ConvertAll(vars, value => value is Tensor { IsInvalid: false }), Kernel.Prepares));
        return Forward(ctx, vars);
    }

    /// <inheritdoc/>
    public sealed override List<Tensor> backward(autograd.AutogradContext ctx, List<Tensor> gradients)
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        var making = (Making)ctx.get_data(Made);
        List<Tensor?> results = [];
        try
        {
            scope.Attach(gradients.Where(gradient => !gradient.IsInvalid));
            if (making.Prepares)
            {
                Kernel.Prepare(true, () => results = Backward(ctx, gradients));
            }
            else
            {
                results = Backward(ctx, gradients);
            }
        }
        catch (Exception failure)
        {
            var refused = Gradients.Refused(failure);
            results = [.. making.IsTensor.Select(isTensor => isTensor ? refused : null)];
        }

        scope.MoveToOuter(results.OfType<Tensor>());
        if (results.Any(result => result is not null && result.device_type != DeviceType.CPU))
        {
            EngineThread.Keep(results);
        }

        return results!;
    }

    /// <summary>Computes the results, and keeps in the context what the backward pass needs.</summary>
    /// <param name="ctx">The context.</param>
    /// <param name="vars">What the operation was applied to.</param>
    protected abstract List<Tensor> Forward(autograd.AutogradContext ctx, params object[] vars);

    /// <summary>Computes gradients, in a dispose scope that ends with the pass, without gradients of their own.</summary>
    /// <param name="ctx">The context.</param>
    /// <param name="gradients">Of each result; an invalid tensor where there is none and the context does not make zeros of it.</param>
    /// <returns>Of each of what the operation was applied to; null for what has none.</returns>
    protected abstract List<Tensor?> Backward(autograd.AutogradContext ctx, List<Tensor> gradients);

    /// <summary>
    /// What a backward pass is told of its forward pass: which of what it was applied to are tensors, and whether it only readies kernels.
    /// </summary>
    private sealed record Making(bool[] IsTensor, bool Prepares);
}
