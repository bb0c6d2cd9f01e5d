using TorchSharp;
using XlstmLab.Operations;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Operations;

/// <summary>Holds loops of the CPU against libtorch's operations, in float32 and in float64.</summary>
internal static class CpuLoops
{
    /// <summary>Outputs and all gradients of an operation, whose inputs in float64 no loop serves.</summary>
    /// <param name="inputs">Float64 tensors, each of which has a gradient.</param>
    /// <param name="operation">The operation.</param>
    /// <param name="bound">The relative error that is allowed.</param>
    public static void Check(Tensor[] inputs, Func<Tensor[], Tensor[]> operation, double bound = 2e-5)
    {
        using var scope = NewDisposeScope();
        var exact = Run(inputs, operation, ScalarType.Float64);
        var byLoops = Run(inputs, operation, ScalarType.Float32);
        Tensor[] byLibtorch;
        CpuMemory.HasLoops = false;
        try
        {
            byLibtorch = Run(inputs, operation, ScalarType.Float32);
        }
        finally
        {
            CpuMemory.HasLoops = true;
        }

        for (var k = 0; k < exact.Length; k++)
        {
            MLstmTests.Near(exact[k], byLoops[k], bound, $"{k} against float64", floor: 1e-7);
            MLstmTests.Near(byLibtorch[k], byLoops[k], 2 * bound, $"{k} against libtorch", floor: 1e-7);
        }
    }

    /// <summary>Fails if a pass forward and backward leaves tensors behind.</summary>
    public static void CheckLifetimes(Tensor[] inputs, Func<Tensor[], Tensor[]> operation)
    {
        using var outer = NewDisposeScope();
        var leaves = Leaves(inputs, ScalarType.Float32);
        long before = 0;
        for (var pass = 0; pass < 3; pass++)
        {
            before = DisposeScopeManager.Statistics.ThreadTotalLiveCount;
            using (NewDisposeScope())
            {
                operation(leaves).Aggregate(zeros(1), (sum, output) => sum + output.sum()).backward();
                foreach (var leaf in leaves)
                {
                    leaf.grad?.Dispose();
                    leaf.grad = null;
                }
            }
        }

        Assert.Equal(before, DisposeScopeManager.Statistics.ThreadTotalLiveCount);
    }

    /// <summary>Random numbers that a seed fixes.</summary>
    public static Tensor Draw(int seed, params long[] shape)
    {
        using var generator = new Generator((ulong)seed);
        return randn(shape, ScalarType.Float64, generator: generator);
    }

    private static Tensor[] Leaves(Tensor[] inputs, ScalarType type) => [.. inputs.Select(
        t => t.detach().to(type, copy: true).requires_grad_())];

    private static Tensor[] Run(Tensor[] inputs, Func<Tensor[], Tensor[]> operation, ScalarType type)
    {
        var leaves = Leaves(inputs, type);
        var outputs = operation(leaves);
        autograd.backward(outputs, [.. outputs.Select((o, k) => Draw(100 + k, o.shape).to(o.dtype))]);
        return [.. outputs.Select(o => o.detach()), .. leaves.Select(leaf => leaf.grad ?? zeros_like(leaf))];
    }
}
