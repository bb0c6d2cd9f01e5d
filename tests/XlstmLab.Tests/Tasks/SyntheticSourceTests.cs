using CsCheck;
using XlstmLab.Tasks;
using XlstmLab.Text;
using Xunit;

namespace XlstmLab.Tests.Tasks;

public sealed class SyntheticSourceTests
{
    [Fact]
    public void Next_AnyDivisionIntoBatches_GivesTheSameRows() =>
        Gen.Select(Gen.Long[0, 1000], Gen.Int[1, 6].Array[1, 6], Gen.Bool).Sample(
            (seed, sizes, epochs) =>
            {
                var one = new SyntheticSource(new Repetition(), new(5, 9), seed, epochs ? 7 : null);
                var other = new SyntheticSource(new Repetition(), new(5, 9), seed, epochs ? 7 : null);
                var parts = sizes.Select(one.Next).ToArray();
                var whole = other.Next(sizes.Sum());
                Assert.Equal(whole.Inputs, parts.SelectMany(p => p.Inputs));
                Assert.Equal(whole.Targets, parts.SelectMany(p => p.Targets));
                Assert.Equal(other.Position, one.Position);
            },
            iter: 50);

    [Theory]
    [InlineData(null)]
    [InlineData(10)]
    public void Resume_AtAPosition_GoesOnThere(int? samples)
    {
        var source = new SyntheticSource(new Parity(), seed: 9, samples: samples);
        source.Next(17);
        var position = source.Position;
        var expected = source.Next(8);
        var again = new SyntheticSource(new Parity(), seed: 9, samples: samples);
        again.Resume(position);
        Assert.Equal(expected.Inputs, again.Next(8).Inputs);
    }

    [Fact]
    public void Resume_OtherTaskSeedOrSize_IsRefused()
    {
        var position = new SyntheticSource(new Parity(), seed: 9, samples: 10).Position;
        Assert.Throws<ArgumentException>(() => new SyntheticSource(new EvenPairs(), seed: 9, samples: 10).Resume(position));
        Assert.Throws<ArgumentException>(() => new SyntheticSource(new Parity(), seed: 8, samples: 10).Resume(position));
        Assert.Throws<ArgumentException>(() => new SyntheticSource(new Parity(), seed: 9).Resume(position));
        Assert.Throws<ArgumentException>(() => new SyntheticSource(new Parity(), new(3, 41), seed: 9, samples: 10).Resume(position));
        Assert.Throws<ArgumentException>(
            () => new SyntheticSource(new Parity(), seed: 9, samples: 10).Resume(position with { Window = 10 }));
    }

    [Fact]
    public void Epochs_EachRowOnce_InAnotherOrder()
    {
        var source = new SyntheticSource(new Repetition(), new(21), seed: 4, samples: 30);
        var first = Rows(source.Next(30));
        var second = Rows(source.Next(30));
        Assert.Equal(30, first.Distinct().Count());
        Assert.Equal(first.Order(), second.Order());
        Assert.NotEqual(first, second);
        Assert.Equal(30 * 21, source.TokenCount);
        Assert.Equal(2, source.Position.Epoch);
    }

    [Fact]
    public void Rows_OfThreeSplits_HaveNoRowInCommon()
    {
        var task = new Repetition();
        var all = new[] { SyntheticSplit.Train, SyntheticSplit.Validation, SyntheticSplit.Test }
            .SelectMany(split => Rows(task.Rows(split, 0, 0, 500, new(31)))).ToArray();
        Assert.Equal(1500, all.Distinct().Count());
    }

    [Fact]
    public void Rows_OfDifferentParameters_HaveOtherFingerprints()
    {
        var lengths = new LengthRange(64);
        string[] prints =
        [
            new MultiQueryRecall().Fingerprint(lengths), new MultiQueryRecall { PowerLaw = 0.1 }.Fingerprint(lengths),
            new MultiQueryRecall { PairCount = 5 }.Fingerprint(lengths), new MultiQueryRecall().Fingerprint(new(128)),
        ];
        Assert.Equal(4, prints.Distinct().Count());
    }

    [Theory]
    [InlineData("3-40", 3, 40)]
    [InlineData("64", 64, 64)]
    public void LengthRange_ParseAndText_AreInverse(string text, int minimum, int maximum)
    {
        Assert.Equal(new LengthRange(minimum, maximum), LengthRange.Parse(text));
        Assert.Equal(text, LengthRange.Parse(text).ToString());
    }

    [Theory]
    [InlineData("")]
    [InlineData("40-3")]
    [InlineData("0-3")]
    [InlineData("-3")]
    [InlineData("3-4-5")]
    public void LengthRange_Nonsense_IsRefused(string text) => Assert.Throws<FormatException>(() => LengthRange.Parse(text));

    private static string[] Rows(TokenBatch batch) =>
        [.. Enumerable.Range(0, batch.Rows).Select(r => string.Join(' ', batch.Inputs.AsSpan(r * batch.Length, batch.Length).ToArray()))];
}
