using TorchSharp;
using XlstmLab.Experiments;
using XlstmLab.Models;
using XlstmLab.Runs;
using XlstmLab.Training;
using Xunit;

namespace XlstmLab.Tests.Experiments;

public sealed class StudyTests : IDisposable
{
    private const string FolderVariable = "XLSTM_TEST_KILLED_STUDY";

    private readonly int _threads = torch.get_num_threads();

    public StudyTests() => torch.set_num_threads(1);

    public void Dispose() => torch.set_num_threads(_threads);

    [Fact]
    public void Expand_AxesAndSeeds_GivesEveryCombinationSeedBySeed()
    {
        var study = Tiny("any") with
        {
            Axes = [new("igate_bias_init", 0, -10), new("rate", [new("slow", ["peak_learning_rate=1e-4", "beta1=0.8"]), new("fast", [])])],
            Seeds = [1, 2],
        };
        var runs = study.Expand();
        Assert.Equal(8, runs.Count);
        Assert.Equal(8, runs.Select(run => run.Id).Distinct().Count());
        Assert.Equal(
            ["igate_bias_init=0, slow", "igate_bias_init=0, fast", "igate_bias_init=-10, slow", "igate_bias_init=-10, fast"],
            runs.Take(4).Select(run => run.Variant));
        Assert.All(runs.Take(4), run => Assert.Equal(1, run.Training.Seed));
        Assert.Equal(
            (-10.0, 1e-4, 0.8), (((XlstmConfig)runs[2].Model).InputGateBias, runs[2].Training.PeakLearningRate, runs[2].Training.Beta1));
        Assert.Equal("slow", runs[2].Differences["rate"]);
    }

    [Fact]
    public void Ids_OfOneConfiguration_AreTheSameAndTellOthersApart()
    {
        var id = Tiny("a").Expand()[0].Id;
        Assert.StartsWith("igate_bias_init=0_s1_", id, StringComparison.Ordinal);

        // A setting that is as usual anyway, one that changes no result, and another folder.
        Assert.Equal(id, (Tiny("b") with { Settings = [.. Tiny("a").Settings, "beta1=0.9", "checkpoint_every=3"] }).Expand()[0].Id);
        Assert.NotEqual(id, (Tiny("a") with { Settings = [.. Tiny("a").Settings, "beta1=0.8"] }).Expand()[0].Id);
        Assert.NotEqual(id, (Tiny("a") with { Tokens = 64 }).Expand()[0].Id);
    }

    [Theory]
    [InlineData("igate_bias_innit", "igate_bias_init")]
    [InlineData("weight_deca", "weight_decay")]
    [InlineData("scheduler.kind", "schedule.kind")]
    public void Expand_UnknownSetting_OffersTheNearest(string name, string expected)
    {
        var error = Assert.Throws<ArgumentException>(() => (Tiny("any") with { Axes = [new(name, 1, 2)] }).Expand());
        Assert.Contains($"Did you mean '{expected}'?", error.Message, StringComparison.Ordinal);
        Assert.Contains("The study tiny, ", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Expand_WhatCannotBeMeant_IsRefused()
    {
        Assert.Contains("at least one seed", Fault(Tiny("any") with { Seeds = [] }), StringComparison.Ordinal);
        Assert.Contains("each but once", Fault(Tiny("any") with { Axes = [new("beta1", 0.9, 0.9)] }), StringComparison.Ordinal);
        Assert.Contains("has no variant 'none'", Fault(Tiny("any") with { Base = "none" }), StringComparison.Ordinal);
        Assert.Contains(
            "A claim",
            Fault(Tiny("any") with { Claims = [new() { Text = "t", Source = "s", Better = "no", Worse = "igate_bias_init=0" }] }),
            StringComparison.Ordinal);
        Assert.Contains(
            "the same", Fault(Tiny("any") with { Axes = [new("rate", [new("a", []), new("b", ["beta1=0.9"])])] }),
            StringComparison.Ordinal);
        Assert.Contains("qk_dim_factor", Fault(Tiny("any") with { Axes = [new("qk_dim_factor", -1)] }), StringComparison.Ordinal);

        static string Fault(Study study) => Assert.ThrowsAny<ArgumentException>(() => study.Expand()).Message;
    }

    [Fact]
    public void Expand_Budget_SetsTheUpdatesAndTakesTheScheduleAlong()
    {
        var usual = new Study { Name = "x", Tokens = 8 * 256 * 400 }.Expand()[0].Training;
        Assert.Equal((400, 20), (usual.Steps, usual.Schedule.WarmupSteps));

        // A named length is as it was named; a trial shortens it too.
        var named = new Study { Name = "x", Tokens = 8 * 256 * 400, Settings = ["warmup_steps=40", "cooldown_steps=100"] };
        Assert.Equal((40, 100), (named.Expand()[0].Training.Schedule.WarmupSteps, named.Expand()[0].Training.Schedule.CooldownSteps));
        var trial = (named with { Overrides = ["steps=4"] }).Expand()[0].Training;
        Assert.Equal((4, 0, 1), (trial.Steps, trial.Schedule.WarmupSteps, trial.Schedule.CooldownSteps));

        // Operations: forward and twice as much backward.
        var model = Presets.ByName("bytes-1m");
        var flops = 3 * model.ForwardFlopsPerToken(256) * 8 * 256 * 50;
        var run = new Study { Name = "x", Settings = [FormattableString.Invariant($"flops={flops:R}")] }.Expand()[0];
        Assert.Equal(50, run.Training.Steps);
        Assert.Equal(flops, run.Flops, flops * 1e-9);
    }

    [Fact]
    public void Expand_BoundsOfUpdates_LeaveOutWhatTheBudgetGivesTooFewOrTooMany()
    {
        var study = new Study
        {
            Name = "x",
            Axes = [new("embedding_dim", 32, 64, 128), new("tokens", 8 * 256 * 10, 8 * 256 * 100)],
            Seeds = [1, 2],
        };
        Assert.Equal(6, study.Variants.Count);
        var few = study with { LeastUpdates = 11 };
        Assert.Equal(
            ["embedding_dim=32, tokens=204800", "embedding_dim=64, tokens=204800", "embedding_dim=128, tokens=204800"], few.Variants);
        Assert.Equal(6, few.Expand().Count);
        Assert.Equal(study.Expand().Where(r => r.Training.Steps == 100).Select(r => r.Id), few.Expand().Select(r => r.Id));
        Assert.All((study with { MostUpdates = 99 }).Expand(), run => Assert.Equal(10, run.Training.Steps));

        // A trial has the study's variants, even if only their budgets tell them apart.
        Assert.Equal(6, (few with { Overrides = ["steps=2"] }).Expand().Count);
        Assert.Equal(12, (study with { Overrides = ["steps=2"] }).Expand().Select(r => r.Id).Distinct().Count());

        var claim = new StudyClaim
        {
            Text = "",
            Source = "",
            Better = "embedding_dim=32, tokens=20480",
            Worse = "embedding_dim=64, tokens=204800",
        };
        Assert.Contains(
            "that there is not",
            Assert.Throws<ArgumentException>(() => (few with { Claims = [claim] }).Expand()).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Run_TwoVariants_KeepsRowsAndSkipsThemTheSecondTime()
    {
        using var folder = new TempFolder();
        var study = Tiny(folder.Path);
        var seen = new List<StudyProgress>();
        var result = study.Run(progress: new ImmediateProgress<StudyProgress>(seen.Add));
        Assert.Equal(4, result.Rows.Count);
        Assert.Equal(study.Expand().Select(run => run.Id), result.Rows.Select(row => row.Id));
        Assert.All(result.Rows, row =>
        {
            Assert.Equal((StudyStatus.Completed, 6, 6 * 2 * 32), (row.Status, row.Steps, row.Tokens));
            Assert.True(
                row.TrainLoss > 0 && row.ValidationLoss > 0 && row.TestLoss > 0 && row.TestBitsPerByte > 0
                && row.GradientNormMax >= row.GradientNormMean, $"{row}");
            Assert.Equal(row.Flops, 3 * study.Expand()[0].Model.ForwardFlopsPerToken(32) * row.Tokens);
            Assert.Equal([3, 6], row.Curve.Select(point => point.Step));
            Assert.Equal(row.ValidationLoss!.Value, row.Curve[^1].Validation!.Value, 1e-4);
        });
        Assert.Equal(4, seen.Count(p => p.Row is not null));
        Assert.Empty(Directory.GetDirectories(folder["runs"]));
        Assert.Empty(result.Missing);

        var before = File.ReadAllText(folder[StudyTable.FileName]);
        Assert.Equal(
            result.Rows, study.Run(progress: new ImmediateProgress<StudyProgress>(_ => Assert.Fail("Nothing was left to do."))).Rows,
            (a, b) => a.Id == b.Id && a.TestLoss == b.TestLoss);
        Assert.Equal(before, File.ReadAllText(folder[StudyTable.FileName]));
        Assert.Equal(2, StudyComparison.Of(result).Variants.Count);
    }

    [Fact]
    public void Run_TestLoss_IsThatOfTheWeightsOnTheTestPart()
    {
        using var folder = new TempFolder();
        var study = Tiny(folder.Path) with { Seeds = [1], Axes = [], KeepRuns = true, Measure = new() { TestTokens = null } };
        var row = study.Run().Rows.Single();
        using var run = TrainedRun.Open(Directory.GetDirectories(folder["runs"]).Single());
        using var source = run.OpenText();
        var batches = source.Windows(XlstmLab.Text.Split.Test, run.Tokenizer, 32, 8).ToArray();
        using var gradient = torch.no_grad();
        using var scope = torch.NewDisposeScope();
        using var mode = EvaluationMode.Of(run.Model);
        var sum = batches.Sum(batch => NextTokenLoss.Of(run.Model, batch, 1).ToDouble());
        Assert.Equal(sum / batches.Sum(batch => batch.TargetCount), row.TestLoss!.Value, 1e-5);
    }

    [Fact]
    public void Run_OneDivergesAndOneFails_LeavesTheOthers()
    {
        using var folder = new TempFolder();
        var study = Tiny(folder.Path) with
        {
            Seeds = [1],
            Axes = [new(
                "rate",
                [new("usual", []), new("wild", ["peak_learning_rate=1e30", "gradient_clip=null", "max_bad_steps=2"]),
                    new("missing", ["data=no-such-text"])])],
        };
        var result = study.Run();
        var rows = result.Rows;
        Assert.Equal([StudyStatus.Completed, StudyStatus.Diverged, StudyStatus.Failed], rows.Select(row => row.Status));
        Assert.Contains("no-such-text", rows[2].Error, StringComparison.Ordinal);
        Assert.Equal("missing", Assert.Single(result.Missing).Variant);
        Assert.NotNull(rows[1].Error);
        Assert.Null(rows[1].Measure("test_loss"));
        Assert.Equal(1, StudyComparison.Of(study.Read()).Variants[1].Diverged);
    }

    [Fact]
    public void Run_ARunThatFailed_IsTriedAgain()
    {
        using var folder = new TempFolder();
        var study = Tiny(folder.Path) with { Seeds = [1], Axes = [] };

        // A file where the run's folder has to be.
        var id = study.Expand()[0].Id;
        folder.Write($"runs/{id}", "in the way");
        var failed = study.Run().Rows.Single();
        Assert.Equal(StudyStatus.Failed, failed.Status);
        Assert.Single(study.Read().Missing);
        File.Delete(folder["runs", id]);
        Assert.Equal(StudyStatus.Completed, study.Run().Rows.Single().Status);
        Assert.Equal(2, File.ReadAllLines(folder[StudyTable.FileName]).Length);
    }

    [Fact]
    public void Run_OutOfMemory_IsTriedAgainWithASmallerMicroBatch()
    {
        using var folder = new TempFolder();
        var study = Tiny(folder["small"]) with { Seeds = [1], Axes = [] };
        var failures = 0;
        var row = study.Run(progress: new ImmediateProgress<StudyProgress>(p =>
        {
            if (p.Metrics?.Step == 3 && failures++ == 0)
            {
                throw new InvalidOperationException("CUDA out of memory. Tried to allocate 2.00 GiB.");
            }
        })).Rows.Single();
        Assert.Equal((StudyStatus.Completed, 1, 6), (row.Status, row.MicroBatchSize, row.Steps));

        // The update is the same, in another order of sums.
        var whole = (study with { Folder = folder["whole"] }).Run().Rows.Single();
        Assert.Null(whole.MicroBatchSize);
        Assert.Equal(whole.Id, row.Id);
        Assert.Equal(whole.TestLoss!.Value, row.TestLoss!.Value, 1e-4);
    }

    [Fact]
    public void Run_StoppedAfterItRanOutOfMemory_GoesOnWithTheSmallerMicroBatch()
    {
        using var folder = new TempFolder();
        var study = Tiny(folder.Path) with { Seeds = [1], Axes = [] };
        using var stop = new CancellationTokenSource();
        var failures = 0;
        Assert.Throws<OperationCanceledException>(() => study.Run(
            progress: new ImmediateProgress<StudyProgress>(p =>
            {
                if (p.Metrics?.Step == 3 && failures++ == 0)
                {
                    throw new InvalidOperationException("CUDA out of memory. Tried to allocate 2.00 GiB.");
                }

                if (p.Metrics?.Step == 4)
                {
                    stop.Cancel();
                }
            }),
            cancellationToken: stop.Token));
        var steps = new List<int>();
        var row =
            study.Run(progress: new ImmediateProgress<StudyProgress>(p => steps.AddRange(p.Metrics is { } m ? [m.Step] : []))).Rows
                .Single();
        Assert.Equal([5, 6], steps);
        Assert.Equal((StudyStatus.Completed, 1), (row.Status, row.MicroBatchSize));
    }

    [Fact]
    public void Run_Shares_KeepTablesOfTheirOwnUntilTheyAreMerged()
    {
        using var folder = new TempFolder();
        var study = Tiny(folder.Path);
        var ids = study.Expand().Select(run => run.Id).ToArray();
        StudyResult Share(string[] runs, string name) => (study with { Share = new(runs, Path.Combine(study.SharesFolder, name)) }).Run();
        Assert.Equal(ids[..2], Share(ids[..2], "a.jsonl").Rows.Select(row => row.Id));

        // A second attempt at a share does what the first has left.
        Assert.Equal(3, Share(ids[1..3], "more/b.jsonl").Rows.Count);
        Assert.Equal([ids[2]], StudyTable.Read(folder["tasks/more/b.jsonl"]).Select(row => row.Id));
        Assert.False(File.Exists(folder[StudyTable.FileName]));
        Assert.Equal([ids[3]], study.Read().Missing.Select(run => run.Id));
        Assert.Equal(3, study.Merge());
        Assert.Equal(0, study.Merge());
        Assert.Equal(4, study.Run().Rows.Count);
        Assert.Equal(4, StudyTable.Read(folder.Path).Count);
        Assert.Contains(
            "Hand them out again",
            Assert.Throws<InvalidOperationException>(() => Share(["other"], "c.jsonl")).Message, StringComparison.Ordinal);
    }

    /// <summary>What the first attempt at a task still trains is waited for, and not trained twice.</summary>
    [Fact]
    public async Task Run_ARunThatAnotherProcessHolds_IsWaitedFor()
    {
        using var folder = new TempFolder();
        var study = Tiny(folder.Path) with
        {
            Seeds = [1],
            Axes = [],
            Share = new([.. (Tiny(folder.Path) with { Seeds = [1], Axes = [] }).Expand().Select(run => run.Id)], folder["tasks/b.jsonl"]),
        };
        var id = study.Share!.Runs[0];
        folder.Write("runs/other", "");
        Task<StudyResult> waiting;
        using (new FileStream(folder["runs", $"{id}.lock"], FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None))
        {
            waiting = Task.Run(
                () => study.Run(progress: new ImmediateProgress<StudyProgress>(_ => Assert.Fail("It was trained twice."))),
                TestContext.Current.CancellationToken);
            Assert.NotSame(waiting, await Task.WhenAny(waiting, Task.Delay(1500, TestContext.Current.CancellationToken)));
            StudyTable.Append(
                folder["tasks/a.jsonl"], new()
                {
                    Id = id,
                    Variant = "",
                    Differences = new Dictionary<string, string>(),
                    Seed = 1,
                    Status = StudyStatus.Completed,
                    TestLoss = 7,
                });
        }

        Assert.Equal(7, (await waiting).Rows.Single().TestLoss);
    }

    [Fact]
    public async Task Run_Watched_TellsOfItsRunsTogetherAndIsStoppedWithACheckpoint()
    {
        using var folder = new TempFolder();
        var study = Tiny(folder.Path) with { Seeds = [1] };
        var watcher = new Watcher(stopAt: 4);
        await Task.Run(
            () =>
            {
                TrainingWatch.Current = watcher;
                Assert.Throws<OperationCanceledException>(() => study.Run());
            },
            TestContext.Current.CancellationToken);
        Assert.Equal(["tiny: 0 of 2", "igate_bias_init=0, seed 1: 6", "1", "2", "3", "4", "over", "closed"], watcher.Told);
        Assert.Empty(study.Read().Rows);

        // Without who stopped it, it goes on.
        var other = new Watcher(stopAt: null);
        await Task.Run(
            () =>
            {
                TrainingWatch.Current = other;
                study.Run();
            },
            TestContext.Current.CancellationToken);
        Assert.Equal(
            ["tiny: 0 of 2", "igate_bias_init=0, seed 1: 6", "5", "6", "over", "end False", "igate_bias_init=-10, seed 1: 6",
                "1", "2", "3", "4", "5", "6", "over", "end False", "closed"],
            other.Told);
    }

    [Fact]
    public void Run_Cancelled_GoesOnFromItsCheckpointToTheSameLoss()
    {
        using var folder = new TempFolder();
        var study = Tiny(folder["stopped"]) with { Seeds = [1], Axes = [] };
        using var stop = new CancellationTokenSource();
        Assert.Throws<OperationCanceledException>(() => study.Run(
            progress: new ImmediateProgress<StudyProgress>(p =>
            {
                if (p.Metrics?.Step == 4)
                {
                    stop.Cancel();
                }
            }),
            cancellationToken: stop.Token));
        Assert.Empty(study.Read().Rows);
        var steps = new List<int>();
        var row =
            study.Run(progress: new ImmediateProgress<StudyProgress>(p => steps.AddRange(p.Metrics is { } m ? [m.Step] : []))).Rows
                .Single();
        Assert.Equal([5, 6], steps);
        Assert.Equal((study with { Folder = folder["straight"] }).Run().Rows.Single().TestLoss, row.TestLoss);
    }

    /// <summary>What a run had done since its last checkpoint is all that is lost, whatever the moment.</summary>
    [Fact]
    public void Run_KilledAtAMoment_GoesOnFromTheLastCheckpoints()
    {
        using var folder = new TempFolder();
        var limit = TimeSpan.FromMinutes(2);
        var (code, output) = ChildTest.Run(
            typeof(StudyTests), nameof(Child_RunsAStudyAndKillsItself),
            new Dictionary<string, string> { [FolderVariable] = folder.Path }, limit);
        Assert.True(code == 128 + 9, output);

        // The first run was done, the second was killed at its fifth update, after the checkpoint at its fourth; the last line is torn.
        File.AppendAllText(folder[StudyTable.FileName], """{"id":"igate_bias""");
        var study = Killed(folder.Path);
        var damaged = new List<string>();
        Assert.Single(StudyTable.Read(folder.Path, damaged));
        Assert.Single(damaged);
        var seen = new List<(string Run, int Step)>();
        var result = study.Run(
            progress: new ImmediateProgress<StudyProgress>(p => seen.AddRange(p.Metrics is { } m ? [(p.Run.Variant, m.Step)] : [])));
        Assert.Equal([("igate_bias_init=-10", 5), ("igate_bias_init=-10", 6)], seen);
        Assert.Equal(2, result.Rows.Count);
        Assert.Empty(result.Missing);

        using var straight = new TempFolder();
        Assert.Equal(Killed(straight.Path).Run().Rows.Select(row => row.TestLoss), result.Rows.Select(row => row.TestLoss));
    }

    /// <summary>Not a test but the process that dies.</summary>
    [Fact(Explicit = true)]
    public void Child_RunsAStudyAndKillsItself()
    {
        var folder = Environment.GetEnvironmentVariable(FolderVariable);
        Assert.SkipUnless(folder is not null, "It runs as a child of another test only.");
        Killed(folder).Run(progress: new ImmediateProgress<StudyProgress>(p =>
        {
            if (p.Finished == 1 && p.Metrics?.Step == 5)
            {
                System.Diagnostics.Process.GetCurrentProcess().Kill();
                Thread.Sleep(Timeout.Infinite);
            }
        }));
    }

    [Fact]
    public void Run_SyntheticTask_IsTheSameKindOfStudy()
    {
        using var folder = new TempFolder();
        var study = new Study
        {
            Name = "tasks",
            Folder = folder.Path,
            Task = "parity",
            Shape = new(16, 2, 1),
            Settings = ["steps=4", "training.batch_size=4", "validate_every=2"],
            Axes = [new("model", "xlstm[1:1]", "llama"), new("task", "parity", "even-pairs")],
            Seeds = [1],
            Measure = new() { TrainLengths = new(3, 6), ValidationRows = 4, TestRows = 8, TestLengths = [new(3, 6), new(8)] },
        };
        var rows = study.Run().Rows;
        Assert.Equal(4, rows.Count);
        Assert.All(rows, row =>
        {
            Assert.Equal((StudyStatus.Completed, 4), (row.Status, row.Steps));
            Assert.Equal(["3-6", "8"], row.Scores.Select(s => s.Lengths));
            Assert.InRange(row.Measure("accuracy@8")!.Value, 0, 1);
            Assert.Equal([2, 4], row.Curve.Select(point => point.Step));
            Assert.All(row.Curve, point => Assert.NotNull(point.Accuracy));
        });
        Assert.IsType<LlamaConfig>(study.Expand()[2].Model);
        Assert.Empty(study.Read().Missing);
    }

    [Fact]
    public void Plan_RowsThereAre_GiveTheRates()
    {
        using var folder = new TempFolder();
        var study = Tiny(folder.Path);
        Assert.Null(StudyPlan.Of(study, onGpu: false).Seconds);
        Assert.True(StudyPlan.Of(study, onGpu: false, measureOn: torch.CPU).Seconds > 0);
        (study with { Seeds = [1] }).Run();
        var plan = StudyPlan.Of(study, onGpu: false);
        Assert.Equal((4, 2), (plan.Runs.Count, plan.Open.Count));
        Assert.Equal(2 * 6 * 2 * 32, plan.Tokens);
        var rows = study.Read().Rows;
        var beside = rows.Average(row => Math.Max(0, row.Seconds - row.Tokens / row.TokensPerSecond!.Value));
        Assert.Equal(6 * 2 * 32 / rows[0].TokensPerSecond!.Value + beside, plan.Runs[0].Seconds!.Value, 1e-6);

        // Rates of a CPU say nothing of a GPU; those of a file go by operations.
        var gpu = StudyPlan.Of(study, onGpu: true, [new("other", study.Expand()[0].FlopsPerToken * 2, 1000)]);
        Assert.Equal(6 * 2 * 32 / 2000.0, gpu.Runs[0].Seconds!.Value, 1e-9);
    }

    [Fact]
    public void ReadRates_MeasurementsOfTheRepository_AreThoseOfTheLibrary()
    {
        var rates = StudyPlan.ReadRates(Path.Combine(TestSetup.RepositoryRoot, "results", "h100", "train.csv"));
        var small = rates.First(rate => rate.Name == "bytes-1m");
        Assert.True(small.TokensPerSecond > 5e6, $"{small}");
        Assert.Equal(3 * Presets.ByName("bytes-1m").ForwardFlopsPerToken(256), small.FlopsPerToken, small.FlopsPerToken * 0.01);
    }

    [Theory]
    [InlineData("""{ "axes": { "beta1": [0.8, 0.9], "b": { "x": ["beta2=0.9"], "y": [] } }, "seeds": [4], "tokens": 4096 }""", null)]
    [InlineData("""{ "axis": {} }""", "axes")]
    [InlineData("""{ "axes": { "beta1": 3 } }""", "axes.beta1")]
    [InlineData("""{ "axes": { "beta1": { "x": "beta1=2" } } }""", "axes.beta1.x")]
    [InlineData("""{ "train_lengths": "9-3" }""", "9-3")]
    public void ReadFile_Json_IsAStudyOrSaysWhere(string json, string? fault)
    {
        using var folder = new TempFolder();
        folder.Write("asked/study.json", json);
        if (fault is not null)
        {
            Assert.Contains(
                fault, Assert.Throws<InvalidDataException>(() => Study.ReadFile(folder["asked"])).Message, StringComparison.Ordinal);
            return;
        }

        var study = Study.ReadFile(folder["asked"]);
        Assert.Equal(("asked", folder["asked"]), (study.Name, study.Folder));
        Assert.Equal(["beta1=0.8, x", "beta1=0.8, y", "beta1=0.9, x", "beta1=0.9, y"], study.Variants);
        Assert.Equal([4], study.Seeds);
        Assert.Equal(2, study.Expand()[0].Training.Steps);
    }

    /// <summary>
    /// The studies of the repository can be run: every setting exists, every model is one, every claim is about variants.
    /// </summary>
    [Fact]
    public void Studies_OfTheRepository_Expand()
    {
        var folders = Directory.GetDirectories(Path.Combine(TestSetup.RepositoryRoot, "results", "studies"))
            .Where(f => File.Exists(Path.Combine(f, Study.FileName))).ToArray();
        Assert.NotEmpty(folders);
        Assert.All(folders, folder =>
        {
            var study = Study.ReadFile(folder);
            Assert.NotEmpty(study.Question);
            Assert.NotEmpty(study.Claims);
            Assert.True(study.Expand().Count >= 2);
            Assert.All(study.Read().Rows, row => Assert.NotEmpty(row.Device));
            Assert.All(study.Claims, claim => Assert.NotEmpty(claim.Source));
        });
    }

    private static Study Killed(string folder) => Tiny(folder) with { Seeds = [1] };

    private static Study Tiny(string folder) => new()
    {
        Name = "tiny",
        Folder = folder,
        Settings = ["embedding_dim=16", "num_blocks=1", "num_heads=2", "context_length=32", "training.batch_size=2",
            "steps=6", "validate_every=3", "checkpoint_every=2", "validation_tokens=64"],
        Axes = [new("igate_bias_init", 0, -10)],
        Seeds = [1, 2],
        Measure = new() { TestTokens = 64 },
    };

    private sealed class Watcher(int? stopAt) : ITrainingWatcher, IWatchedGroup, IWatchedTraining
    {
        private readonly CancellationTokenSource _stop = new();
        private bool _isTraining;

        public List<string> Told { get; } = [];

        public CancellationToken Stop => _stop.Token;

        public IWatchedGroup BeginGroup(string name, int total, int done)
        {
            Told.Add(FormattableString.Invariant($"{name}: {done} of {total}"));
            return this;
        }

        public IWatchedTraining Begin(TrainingConfig recipe, torch.Device device) => throw new InvalidOperationException(
            "A training of the study is told as one of its own.");

        public IWatchedTraining Begin(string name, TrainingConfig recipe, torch.Device device)
        {
            _isTraining = true;
            Told.Add(FormattableString.Invariant($"{name}: {recipe.Steps}"));
            return this;
        }

        public void Report(TrainingMetrics value)
        {
            Told.Add(FormattableString.Invariant($"{value.Step}"));
            if (value.Step == stopAt)
            {
                _stop.Cancel();
            }
        }

        public void End(bool hasFailed) => Told.Add($"end {hasFailed}");

        public void Dispose()
        {
            Told.Add(_isTraining ? "over" : "closed");
            _isTraining = false;
        }
    }
}
