using CsCheck;
using XlstmLab.Inference;
using Xunit;

namespace XlstmLab.Tests.Inference;

public sealed class SamplingTests
{
    private const double Out = double.NegativeInfinity;

    [Fact]
    public void Penalize_PositiveAndNegativeLogits_BothBecomeUnlikelier()
    {
        double[] logits = [3, -3, 0, 3];
        Sampling.Penalize(logits, [0, 1, 2], 1.5);
        Assert.Equal([2, -4.5, 0, 3], logits);
    }

    [Theory]
    [InlineData(1, new[] { Out, 4, Out, Out })]
    [InlineData(2, new[] { Out, 4, 2, 2 })]
    [InlineData(3, new[] { Out, 4, 2, 2 })]
    [InlineData(4, new[] { 1.0, 4, 2, 2 })]
    [InlineData(9, new[] { 1.0, 4, 2, 2 })]
    public void KeepTopK_TiesAndLargeK_KeepAllThatEqualTheLast(int k, double[] expected)
    {
        double[] logits = [1, 4, 2, 2];
        Sampling.KeepTopK(logits, k);
        Assert.Equal(expected, logits);
    }

    [Theory]
    [InlineData(0.01, new[] { 2 })]
    [InlineData(0.49, new[] { 2 })]
    [InlineData(0.51, new[] { 0, 2 })]
    [InlineData(0.79, new[] { 0, 2 })]
    [InlineData(0.81, new[] { 0, 1, 2 })]
    [InlineData(0.97, new[] { 0, 1, 2, 3 })]
    [InlineData(1.0, new[] { 0, 1, 2, 3 })]
    public void KeepTopP_KnownProbabilities_KeepsSmallestSet(double p, int[] kept)
    {
        double[] logits = [Math.Log(0.3), Math.Log(0.15), Math.Log(0.5), Math.Log(0.05)];
        Sampling.KeepTopP(logits, p);
        Assert.Equal(kept, Kept(logits));
    }

    [Fact]
    public void KeepTopP_EqualProbabilities_KeepsLowestIds()
    {
        double[] logits = [1, 1, 1, 1];
        Sampling.KeepTopP(logits, 0.4);
        Assert.Equal([0, 1], Kept(logits));
    }

    [Fact]
    public void KeepTopP_AnyLogits_KeepsLikeliestThatJustReachP() =>
        Gen.Select(Gen.Double[-9, 9].Array[1, 40], Gen.Double[0.01, 0.99]).Sample((logits, p) =>
        {
            var weights = logits.Select(Math.Exp).ToArray();
            var left = (double[])logits.Clone();
            Sampling.KeepTopP(left, p);
            var kept = Kept(left);
            var mass = kept.Sum(id => weights[id]) / weights.Sum();
            var least = kept.Min(id => weights[id]);
            Assert.True(mass >= p - 1e-12);
            Assert.True(mass - least / weights.Sum() < p + 1e-12);
            // A vector's last elements go through other instructions, which may round the exponential of an equal logit differently.
            Assert.All(Enumerable.Range(0, logits.Length).Except(kept), id => Assert.True(weights[id] <= least * (1 + 1e-12)));
        });

    [Theory]
    [InlineData(0.0, new[] { 0, 1, 2, 3 })]
    [InlineData(0.29, new[] { 0, 1, 2 })]
    [InlineData(0.31, new[] { 0, 2 })]
    [InlineData(1.0, new[] { 2 })]
    public void KeepMinP_KnownProbabilities_ComparesWithTheLikeliest(double p, int[] kept)
    {
        double[] logits = [Math.Log(0.3), Math.Log(0.15), Math.Log(0.5), Math.Log(0.05)];
        Sampling.KeepMinP(logits, p);
        Assert.Equal(kept, Kept(logits));
    }

    [Fact]
    public void Greedy_Tie_TakesLowestId() => Assert.Equal(1, Sampling.Greedy([0, 7, 3, 7]));

    [Theory]
    [InlineData(0.0, 1)]
    [InlineData(0.24, 1)]
    [InlineData(0.26, 3)]
    [InlineData(0.9999999, 3)]
    public void Draw_Quantile_FindsItsToken(double u, int id) =>
        Assert.Equal(id, Sampling.Draw([Out, Math.Log(0.25), Out, Math.Log(0.75), Out], u));

    [Fact]
    public void LogProbability_LargeLogits_IsLogSoftmax() =>
        Assert.Equal(Math.Log(0.25), Sampling.LogProbability([1000 + Math.Log(0.25), 1000 + Math.Log(0.75)], 0), 10);

    [Theory]
    [InlineData(1, new[] { 1 })]
    [InlineData(3, new[] { 1, 3, 0 })]
    [InlineData(9, new[] { 1, 3, 0, 2 })]
    public void Likeliest_TiesAndLargeN_AreInOrderWithLogSoftmax(int n, int[] ids)
    {
        double[] logits = [5, 7, 3, 7];
        var likeliest = Sampling.Likeliest(logits, n);
        Assert.Equal(ids, likeliest.Select(t => t.Id));
        Assert.All(likeliest, t => Assert.Equal(Sampling.LogProbability(logits, t.Id), t.LogProbability));
    }

    [Fact]
    public void Likeliest_TieAtTheLast_KeepsTheLowestIds() =>
        Assert.Equal([0, 1], Sampling.Likeliest([1.0, 1, 1, 1], 2).Select(t => t.Id));

    [Fact]
    public void PenalizeCounts_CountsOfGeneratedTokens_AreTakenOffOnceAndForEach()
    {
        double[] logits = [1, 1, 1];
        Sampling.PenalizeCounts(logits, new Dictionary<int, int> { [0] = 3, [2] = 1 }, 0.5, 0.25);
        Assert.Equal([-0.75, 1, 0.25], logits);
    }

    [Fact]
    public void Next_FrequencyPenalty_CountsWhatWasGeneratedAndNotThePrompt()
    {
        var sampler = new TokenSampler(new() { Temperature = 0, FrequencyPenalty = 1 }, 0, [0, 0, 0]);
        double[] logits = [3.5, 2.9, 1];
        Assert.Equal([0, 1, 0, 1, 0], Enumerable.Range(0, 5).Select(_ => sampler.Next(logits).Id));
        Assert.Equal(Sampling.LogProbability(logits, 2), sampler.Next(logits).LogProbability);
    }

    [Fact]
    public void Next_LogitBias_ComesBeforeAllElseAndLeavesTheModelsProbability()
    {
        double[] logits = [3, 2.9, 1];
        var biased = new GenerationOptions { Temperature = 0, LogitBias = new Dictionary<int, double> { [0] = -100, [2] = 1.95 } };
        Assert.Equal((2, Sampling.LogProbability(logits, 2)), new TokenSampler(biased, 0, []).Next(logits));

        // 2.95 is penalised as any positive logit.
        Assert.Equal(1, new TokenSampler(biased with { RepetitionPenalty = 1.1 }, 0, [2]).Next(logits).Id);
        var alone = new TokenSampler(new() { LogitBias = new Dictionary<int, double> { [1] = 100 } }, 0, []);
        Assert.All(Enumerable.Range(0, 50), _ => Assert.Equal(1, alone.Next(logits).Id));
        Assert.Equal(new GenerationOptions(), new GenerationOptions());
    }

    [Fact]
    public void Next_ManyDraws_FollowTheDistribution()
    {
        var sampler = new TokenSampler(new() { Temperature = 0.5 }, 3, []);
        var counts = new int[3];
        for (var k = 0; k < 20_000; k++)
        {
            counts[sampler.Next([Math.Log(1), Math.Log(2), Math.Log(3)]).Id]++;
        }

        // At half the temperature the odds are squared.
        Assert.Equal([1 / 14.0, 4 / 14.0, 9 / 14.0], counts.Select(c => c / 20_000.0), (a, b) => Math.Abs(a - b) < 0.015);
    }

    [Fact]
    public void Next_OrderOfFilters_IsPenaltyTemperatureTopKTopPMinP()
    {
        // The penalty takes id 0 behind 1 and 2; at a temperature of 1/2 their odds of 3:2 become 9:4, so that id 1 alone reaches 0.65.
        var options = new GenerationOptions { RepetitionPenalty = 100, Temperature = 0.5, TopK = 2, TopP = 0.65 };
        for (var seed = 0; seed < 50; seed++)
        {
            Assert.Equal(1, new TokenSampler(options, seed, [0]).Next([Math.Log(4), Math.Log(3), Math.Log(2), Math.Log(1.5)]).Id);
        }
    }

    [Fact]
    public void Next_LogitsAreNotNumbers_SaysSo()
    {
        var sampler = new TokenSampler(new(), 0, []);
        Assert.Contains(
            "not all numbers", Assert.Throws<InvalidOperationException>(() => sampler.Next([1, double.NaN])).Message,
            StringComparison.Ordinal);
    }

    [Fact]
    public void Validate_BadOption_NamesIt()
    {
        new GenerationOptions().Validate();
        foreach (var (options, name) in new (GenerationOptions, string)[]
        {
            (new() { MaxNewTokens = -1 }, "MaxNewTokens to be 0 or more, got -1"),
            (new() { Temperature = -0.5 }, "Temperature to be 0 (greedy) or more, got -0.5"),
            (new() { Temperature = double.NaN }, "Temperature"), (new() { TopK = 0 }, "TopK"), (new() { TopP = 0 }, "TopP"),
            (new() { TopP = 1.1 }, "TopP"),
            (new() { FrequencyPenalty = double.NaN }, "FrequencyPenalty"),
            (new() { PresencePenalty = double.PositiveInfinity }, "PresencePenalty"),
            (new() { TopLogProbabilities = -1 }, "TopLogProbabilities"), (new() { MinP = -0.1 }, "MinP"),
            (new() { LogitBias = new Dictionary<int, double> { [3] = double.NaN } }, "LogitBias"),
            (new() { LogitBias = new Dictionary<int, double> { [-1] = 1 } }, "LogitBias"),
            (new() { RepetitionPenalty = 0 }, "RepetitionPenalty"), (new() { StopStrings = ["a", ""] }, "StopStrings"),
        })
        {
            Assert.Contains(name, Assert.Throws<ArgumentException>(options.Validate).Message, StringComparison.Ordinal);
        }
    }

    private static int[] Kept(double[] logits) => [.. Enumerable.Range(0, logits.Length).Where(id => logits[id] > Out)];
}
