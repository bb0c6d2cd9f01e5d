using XlstmLab.Tasks;
using Xunit;

namespace XlstmLab.Tests.Tasks;

public sealed class NearestNeighborSearchTests
{
    [Fact]
    public void Rows_Targets_AreTheValuesOfTheLeastAngle()
    {
        int[] indices = [.. Enumerable.Range(0, 50)];
        var batch = NearestNeighborSearch.Rows(SyntheticSplit.Train, 3, indices, 20);
        for (var r = 0; r < 50; r++)
        {
            var vectors = Enumerable.Range(0, 20)
                .Select(t => batch.Inputs.AsSpan((r * 20 + t) * 3, 3).ToArray())
                .Select(v => (Angle: Math.Atan2(v[1], v[0]), Norm: v[0] * v[0] + v[1] * v[1], Value: v[2])).ToArray();
            Assert.All(vectors, v => Assert.Equal(1, v.Norm, 1e-6));
            Assert.Equal(0, vectors[0].Value);
            Assert.True(float.IsNaN(batch.Targets[r * 20]));
            for (var t = 1; t < 20; t++)
            {
                var nearest = vectors[1..(t + 1)].MinBy(v => Math.Abs(Math.IEEERemainder(v.Angle - vectors[0].Angle, 2 * Math.PI)));
                Assert.Equal(nearest.Value, batch.Targets[r * 20 + t]);
            }
        }
    }

    [Fact]
    public void Rows_BestConstant_HasTheErrorOfChance()
    {
        int[] indices = [.. Enumerable.Range(0, 4000)];
        var batch = NearestNeighborSearch.Rows(SyntheticSplit.Test, 3, indices, 4);
        var error = batch.Targets.Where(float.IsFinite).Average(t => (t - 0.5) * (t - 0.5));
        Assert.Equal(NearestNeighborSearch.ChanceError, error, 0.003);
    }

    [Fact]
    public void Rows_ByIndex_AreTheSameInAnyBatch()
    {
        var one = NearestNeighborSearch.Rows(SyntheticSplit.Train, 3, [5, 9], 6);
        var other = NearestNeighborSearch.Rows(SyntheticSplit.Train, 3, [9], 6);
        Assert.Equal(one.Inputs[18..], other.Inputs);
        Assert.NotEqual(other.Inputs, NearestNeighborSearch.Rows(SyntheticSplit.Validation, 3, [9], 6).Inputs);
    }
}
