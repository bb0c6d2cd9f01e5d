using XlstmLab.Layers;
using XlstmLab.Operations;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Operations;

public sealed class GluFusedTests
{
    [Theory]
    [InlineData(FeedForwardKind.SwiGlu)]
    [InlineData(FeedForwardKind.GeGlu)]
    [InlineData(FeedForwardKind.ReluSquared)]
    [InlineData(FeedForwardKind.Mlp)]
    public void Middle_AnyWidth_HasOutputsAndGradientsOfFloat64(FeedForwardKind kind)
    {
        foreach (var width in new[] { 1, 7, 64, 83 })
        {
            using var scope = NewDisposeScope();
            var gated = kind is FeedForwardKind.SwiGlu or FeedForwardKind.GeGlu;
            CpuLoops.Check([CpuLoops.Draw(1, 2, 41, 2 * width) * 2, CpuLoops.Draw(2, 2, 41, width)], x =>
            {
                var halves = x[0].chunk(2, -1); // rows of twice the width
                return gated
                    ? [FeedForward.Middle(kind, halves[0], halves[1]), FeedForward.Middle(kind, x[1], halves[0])]
                    : [FeedForward.Middle(kind, halves[1], null), FeedForward.Middle(kind, x[1], null)];
            });
        }
    }

    [Theory]
    [InlineData(FeedForwardKind.SwiGlu)]
    [InlineData(FeedForwardKind.GeGlu)]
    [InlineData(FeedForwardKind.Mlp)]
    [InlineData(FeedForwardKind.ReluSquared)]
    public unsafe void Apply_EachKind_IsTheLayersNonlinearity(FeedForwardKind kind)
    {
        using var scope = NewDisposeScope();
        var (g, u, y) = (CpuLoops.Draw(1, 45).to(ScalarType.Float32) * 6, CpuLoops.Draw(2, 45).to(ScalarType.Float32), zeros(45));
        GluFused.Apply(kind, CpuMemory.Floats(g), null, CpuMemory.Floats(y), 45);
        MLstmTests.Near(FeedForward.Activate(kind, g), y, 1e-6, "alone", floor: 1e-6);
        GluFused.Apply(kind, CpuMemory.Floats(g), CpuMemory.Floats(u), CpuMemory.Floats(y), 45);
        MLstmTests.Near(FeedForward.Activate(kind, g) * u, y, 1e-6, "gated", floor: 1e-6);
    }

    [Fact]
    public void Middle_ManyPasses_LeavesNoTensors()
    {
        using var scope = NewDisposeScope();
        CpuLoops.CheckLifetimes(
            [CpuLoops.Draw(1, 2, 9, 24), CpuLoops.Draw(2, 2, 9, 24)], x => [FeedForward.Middle(FeedForwardKind.SwiGlu, x[0], x[1])]);
    }
}
