using XlstmLab.Layers;
using XlstmLab.Operations;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Operations;

public sealed class NormFusedTests
{
    private const double Epsilon = 1e-5;

    [Theory]
    [InlineData(5, 128, 4)]
    [InlineData(33, 20, 4)]
    [InlineData(70, 21, 3)]
    [InlineData(1, 7, 1)]
    public void Forward_GroupsAndTails_HasOutputsAndGradientsOfFloat64(int length, int channels, int groups)
    {
        foreach (var (center, bias, gate) in new[] { (true, false, false), (true, true, true), (false, false, true), (false, true, false) })
        {
            using var scope = NewDisposeScope();
            Tensor[] inputs = [Draw(1), Draw(2), CpuLoops.Draw(3, channels), CpuLoops.Draw(4, channels)];
            CpuLoops.Check(inputs, x =>
            {
                var (o, shift) = (gate ? x[1] : null, bias ? x[3] : null);
                var y = CpuMemory.Serves(x[0])
                    ? NormFused.Forward(x[0], x[2], shift, Epsilon, center, groups, o)
                    : Reference(x[0], x[2], shift, center, groups, o);
                return [y];
            });
        }

        Tensor Draw(int seed) => CpuLoops.Draw(seed, 2, length, channels);
    }

    [Theory]
    [InlineData(NormKind.Rms, 24)]
    [InlineData(NormKind.Layer, 13)]
    public void AddForward_SumAndNormBothUsed_HasGradientsOfFloat64(NormKind kind, int channels)
    {
        using var scope = NewDisposeScope();
        Tensor[] inputs =
            [CpuLoops.Draw(1, 3, 50, channels), CpuLoops.Draw(2, 3, 50, channels), CpuLoops.Draw(3, channels), CpuLoops.Draw(4, channels)];
        var center = kind == NormKind.Layer;
        CpuLoops.Check(inputs, x =>
        {
            if (CpuMemory.Serves(x[0]))
            {
                var (sum, y) = NormFused.AddForward(x[0], x[1], x[2], x[3], Epsilon, center);
                return [sum, y];
            }

            return [x[0] + x[1], Reference(x[0] + x[1], x[2], x[3], center, 1, null)];
        });
    }

    [Fact]
    public void Layers_ManyPasses_LeaveNoTensors()
    {
        using var scope = NewDisposeScope();
        using var stream = new StreamNorm(NormKind.Rms, 24, Epsilon);
        using var heads = new HeadNorm(HeadNormKind.Group, 4, 6, Epsilon, bias: true, groups: 8);
        CpuLoops.CheckLifetimes([CpuLoops.Draw(1, 2, 9, 24), CpuLoops.Draw(2, 2, 9, 24)], x =>
        {
            var (sum, y) = stream.AddForward(x[0], x[1]);
            var gated = heads.ForwardGated(sum.unflatten(2, [4, 6]), y);
            return [y, gated];
        });
    }

    private static Tensor Reference(Tensor x, Tensor weight, Tensor? bias, bool center, int groups, Tensor? o)
    {
        var parts = x.unflatten(2, [groups, -1]);
        var centered = center ? parts - parts.mean([-1L], keepdim: true) : parts;
        var y = (centered / (centered.square().mean([-1L], keepdim: true) + Epsilon).sqrt()).flatten(2) * weight;
        y = bias is null ? y : y + bias;
        return o is null ? y : y * sigmoid(o);
    }
}
