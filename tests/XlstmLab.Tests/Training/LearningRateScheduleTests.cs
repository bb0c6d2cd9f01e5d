using CsCheck;
using XlstmLab.Training;
using Xunit;

namespace XlstmLab.Tests.Training;

public sealed class LearningRateScheduleTests
{
    [Theory]
    [InlineData(1, 5e-4 / 3000)]
    [InlineData(1500, 2.5e-4)]
    [InlineData(3000, 5e-4)]
    [InlineData(251_500, 1.5811388300841897e-4)] // halfway to 10 %: the root of 0.1
    [InlineData(500_000, 5e-5)]
    [InlineData(543_000, 4.0968578e-5)]
    [InlineData(543_001, 4.0968578e-5)]
    [InlineData(546_501, 2.0484289e-5)]
    [InlineData(550_000, 4.0968578e-5 / 7000)]
    public void Rate_PaperRecipe_HasThePapersValues(int step, double expected) =>
        Assert.Equal(expected, TrainingConfig.Xlstm7B.LearningRate(step), expected * 1e-4);

    [Theory]
    [InlineData(10, 1.0)]
    [InlineData(50, 0.55)]
    [InlineData(90, 0.1)]
    [InlineData(91, 0.1)]
    [InlineData(96, 0.05)]
    [InlineData(100, 0.01)]
    public void Rate_Cosine_FallsFromPeakToEndFactorAndCoolsDown(int step, double expected) =>
        Assert.Equal(expected, new LearningRateSchedule { WarmupSteps = 10, CooldownSteps = 10 }.Rate(step, 1, 100), 1e-12);

    [Theory]
    [InlineData(5, 0.5)]
    [InlineData(60, 1.0)]
    [InlineData(80, 1.0)]
    [InlineData(85, 0.55)] // a quarter of the decay: the root is one half
    [InlineData(100, 0.1)]
    public void Rate_WarmupStableDecay_StaysAtPeakUntilItsDecay(int step, double expected)
    {
        var schedule = new LearningRateSchedule { WarmupSteps = 10, Kind = DecayKind.WarmupStableDecay, DecaySteps = 20 };
        Assert.Equal(expected, schedule.Rate(step, 1, 100), 1e-12);
    }

    [Fact]
    public void Rate_Constant_StaysAtPeak() =>
        Assert.All(
            Enumerable.Range(1, 50), step => Assert.Equal(0.3, new LearningRateSchedule { Kind = DecayKind.Constant }.Rate(step, 0.3, 50)));

    [Theory]
    [InlineData(0)]
    [InlineData(11)]
    public void Rate_StepOutsideTheRun_Throws(int step) =>
        Assert.Throws<ArgumentOutOfRangeException>(() => new LearningRateSchedule().Rate(step, 1, 10));

    [Fact]
    public void Rate_AnySchedule_IsPositiveAndRisesOnlyInTheWarmup() =>
        Gen.Select(Gen.Int[0, 20], Gen.Enum<DecayKind>(), Gen.Double[0.01, 1], Gen.Int[1, 30], Gen.Int[0, 20], Gen.Int[0, 50])
            .Sample((warmup, kind, end, decay, cooldown, more) =>
            {
                var schedule = new LearningRateSchedule
                {
                    WarmupSteps = warmup,
                    Kind = kind,
                    EndFactor = end,
                    DecaySteps = decay,
                    CooldownSteps = cooldown,
                };
                var steps = warmup + decay + cooldown + more;
                var rates = Enumerable.Range(1, steps).Select(step => schedule.Rate(step, 1, steps)).ToArray();
                var afterWarmup = rates.Skip(Math.Max(0, warmup - 1)).ToArray();
                return rates.All(rate => rate is > 0 and <= 1)
                    && afterWarmup.Zip(afterWarmup.Skip(1)).All(pair => pair.Second <= pair.First + 1e-15);
            });
}
