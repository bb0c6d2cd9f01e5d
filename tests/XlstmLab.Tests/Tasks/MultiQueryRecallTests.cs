using XlstmLab.Tasks;
using XlstmLab.Text;
using Xunit;

namespace XlstmLab.Tests.Tasks;

[Collection(nameof(TextCollection))]
public sealed class MultiQueryRecallTests
{
    [Theory]
    [InlineData(64, 4, true)]
    [InlineData(64, 16, true)]
    [InlineData(256, 16, false)]
    [InlineData(1024, 256, true)]
    public void Rows_EachKey_IsAskedForOnceAndItsValueIsDue(int length, int pairs, bool filler)
    {
        var task = new MultiQueryRecall { ContextLength = length, PairCount = pairs, RandomFiller = filler };
        var batch = task.Rows(SyntheticSplit.Train, 1, 0, 50, task.TrainingLengths);
        Assert.Equal(length, batch.Length);
        for (var r = 0; r < batch.Rows; r++)
        {
            var inputs = batch.Inputs.AsSpan(r * length, length).ToArray();
            var targets = batch.Targets.AsSpan(r * length, length).ToArray();
            var values = Enumerable.Range(0, pairs).ToDictionary(k => inputs[2 * k], k => inputs[2 * k + 1]);
            var asked = Enumerable.Range(0, length).Where(t => targets[t] != TokenBatch.Ignored).ToArray();
            Assert.Equal(pairs, values.Values.Distinct().Count());
            Assert.Equal(values.Keys.Order(), asked.Select(t => inputs[t]).Order());
            Assert.All(asked, t => Assert.Equal(values[inputs[t]], targets[t]));
            Assert.All(asked, t => Assert.True(t >= 2 * pairs && t % 2 == 0));
            Assert.All(values.Keys, key => Assert.InRange(key, 1, 4095));
            Assert.All(values.Values, value => Assert.InRange(value, 4096, 8191));
            Assert.Equal(filler ? 0 : length - 3 * pairs, filler ? 0 : inputs.Count(t => t == SyntheticTask.Padding));
        }

        Assert.True(batch.Inputs.Count(t => t == SyntheticTask.Padding) < (filler ? batch.Inputs.Length / 500 : batch.Inputs.Length));
    }

    /// <summary>The sizes of rows are the published ones: a key and its value in front for each place that is asked for.</summary>
    [Fact]
    public void MixedRecall_Rows_AreOfTheSizesInTheRange()
    {
        var task = new MixedRecall();
        Assert.Equal([(64, 4), (128, 8), (256, 16), (256, 32), (256, 64)], Sizes(task.TrainingLengths).Select(s => s.Size));
        Assert.InRange(Sizes(task.TrainingLengths)[0].Share, 0.5, 0.61);
        Assert.Equal([(1024, 256)], Sizes(new(1024)).Select(s => s.Size));
        Assert.Contains(
            "64, 128, 256, 512, 1024 tokens",
            Assert.Throws<ArgumentException>(() => task.Validate(new(65, 100))).Message, StringComparison.Ordinal);

        ((int Length, int Pairs) Size, double Share)[] Sizes(LengthRange lengths)
        {
            var batch = task.Rows(SyntheticSplit.Train, 4, 0, 1000, lengths);
            return
            [
                .. Enumerable.Range(0, batch.Rows).Select(r =>
                {
                    var inputs = batch.Inputs.AsSpan(r * batch.Length, batch.Length).ToArray();
                    var asked =
                        Enumerable.Range(0, batch.Length).Where(t => batch.Targets[r * batch.Length + t] != TokenBatch.Ignored).ToArray();
                    Assert.All(asked, t => Assert.Equal(batch.Targets[r * batch.Length + t], inputs[Array.IndexOf(inputs, inputs[t]) + 1]));

                    // Filler may be [PAD] too, rarely: lengths are powers of two.
                    return (Length: (int)System.Numerics.BitOperations.RoundUpToPowerOf2(
                        (uint)Array.FindLastIndex(inputs, t => t != SyntheticTask.Padding)), asked.Length);
                }).GroupBy(size => size).OrderBy(group => group.Key).Select(group => (group.Key, group.Count() / (double)batch.Rows)),
            ];
        }
    }

    [Theory]
    [InlineData(0.01)]
    [InlineData(0.5)]
    [InlineData(1.0)]
    public void Places_OfOneKey_FollowThePowerLaw(double power)
    {
        const int Count = 40_000;
        var task = new MultiQueryRecall { ContextLength = 22, PairCount = 1, TokenCount = 8, PowerLaw = power, RandomFiller = false };
        var batch = task.Rows(SyntheticSplit.Train, 2, 0, Count, task.TrainingLengths);
        var counts = new int[11];
        for (var at = 0; at < batch.Targets.Length; at++)
        {
            counts[(at % 22 - 2 + 22) % 22 / 2] += batch.Targets[at] != TokenBatch.Ignored ? 1 : 0;
        }

        var weights = Enumerable.Range(1, 10).Select(g => Math.Pow(g, power - 1)).ToArray();
        for (var g = 0; g < 10; g++)
        {
            var p = weights[g] / weights.Sum();
            Assert.InRange(counts[g], Count * p - 5 * Math.Sqrt(Count * p), Count * p + 5 * Math.Sqrt(Count * p));
        }
    }

    [Fact]
    public void Rows_NoRoomOrOddLength_AreRefused()
    {
        var task = new MultiQueryRecall { PairCount = 17 };
        Assert.Throws<ArgumentException>(() => task.Rows(SyntheticSplit.Train, 0, 0, 1, new(64)));
        Assert.Throws<ArgumentException>(() => new MultiQueryRecall().Rows(SyntheticSplit.Train, 0, 0, 1, new(63)));
        Assert.Throws<ArgumentException>(() => new MultiQueryRecall { TokenCount = 8 }.Rows(SyntheticSplit.Train, 0, 0, 1, new(64)));
    }
}
