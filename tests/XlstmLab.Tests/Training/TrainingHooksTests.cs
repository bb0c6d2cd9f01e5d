using XlstmLab.Training;
using Xunit;

namespace XlstmLab.Tests.Training;

[Collection(nameof(AloneCollection))]
public sealed class TrainingHooksTests : IDisposable
{
    private static readonly TrainingConfig Config = TinyText.Training with
    {
        ValidateEvery = 5,
        CheckpointEvery = 4,
        StatisticsEvery = 0,
    };

    private readonly TempFolder _temp = new();

    public void Dispose() => _temp.Dispose();

    [Fact]
    public void Run_EveryHook_IsCalledInItsPlace()
    {
        var calls = new List<string>();
        Action<TrainingMoment> Note(string what) => moment =>
        {
            var folder = Path.GetFileName(moment.Checkpoint);
            calls.Add(FormattableString.Invariant($"{what} {moment.Metrics.Step} {folder}").TrimEnd());
        };
        Run("run", Config with { Steps = 6 }, new()
        {
            AfterStep = Note("step"),
            AfterValidation = Note("validation"),
            BeforeCheckpoint = Note("before"),
            AfterCheckpoint = Note("after"),
        });
        Assert.Equal(
            [
                "step 1", "step 2", "step 3", "step 4", "before 4", "after 4 step-000004", "validation 5", "step 5",
                "validation 6", "step 6", "before 6", "after 6 step-000006",
            ],
            calls);
    }

    [Fact]
    public void Run_StoppedByAHook_SavesAndGoesOnAsUninterrupted()
    {
        Run("straight", Config, new());
        var stopped = Run("broken", Config, new() { AfterStep = moment => StopAt(moment, 7) });
        Assert.Equal((TrainingStatus.Stopped, 7, "step-000007"), (stopped.Status, stopped.Step, Path.GetFileName(stopped.Checkpoint)));
        stopped = Run("broken", Config, new() { AfterCheckpoint = moment => StopAt(moment, 8) });
        Assert.Equal((TrainingStatus.Stopped, 8), (stopped.Status, stopped.Step));
        stopped = Run("broken", Config, new() { AfterValidation = moment => StopAt(moment, 10) });
        Assert.Equal((TrainingStatus.Stopped, 10), (stopped.Status, stopped.Step));
        Assert.Equal(TrainingStatus.Completed, Run("broken", Config, new()).Status);
        TrainerTests.AssertSameMetrics(_temp["straight"], _temp["broken"]);
    }

    [Fact]
    public void Run_HookThatThrows_EndsTheRunAndIsNoted()
    {
        var hooks = new TrainingHooks { AfterStep = _ => throw new TimeoutException("the night is over") };
        Assert.Throws<TimeoutException>(() => Run("run", Config, hooks));
        Assert.Equal((TrainingStatus.Failed, "the night is over"), Noted(RunFolder.ReadMetadata(_temp["run"])));

        static (TrainingStatus, string?) Noted(RunMetadata metadata) => (metadata.Status, metadata.Error);
    }

    private TrainingResult Run(string name, TrainingConfig config, TrainingHooks hooks)
    {
        using var model = new TinyModel();
        return new Trainer(model, config, TinyText.Packed(1), [], _temp[name]) { Hooks = hooks }.Run(TestContext.Current.CancellationToken);
    }

    private static void StopAt(TrainingMoment moment, int step)
    {
        if (moment.Metrics.Step == step)
        {
            moment.Stop();
        }
    }
}
