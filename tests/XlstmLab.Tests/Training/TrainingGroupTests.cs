using XlstmLab.Models;
using XlstmLab.Tests.Operations;
using XlstmLab.Training;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Training;

[Collection(nameof(AloneCollection))]
public sealed class TrainingGroupTests
{
    private static readonly TrainingConfig Config = TinyText.Training with
    {
        StatisticsEvery = 0,
        CheckpointEvery = 4,
    };

    [Fact]
    public void Run_SeveralAtOnce_AreWhatEachIsAlone()
    {
        using var run = KernelRun.Begin();
        run.Record();
        var alone = Enumerable.Range(1, 4).Select(seed => Losses(seed, null, default)).ToArray();
        var together = new double[4][];
        var members = Enumerable.Range(1, 4).Select(seed => Member(seed, token => Train(seed, together, null, token))).ToArray();
        var outcomes = TrainingGroup.Run(members, 3, TestContext.Current.CancellationToken);
        Assert.Equal(["seed 1", "seed 2", "seed 3", "seed 4"], outcomes.Select(o => o.Name));
        Assert.All(outcomes, o => Assert.Equal(TrainingStatus.Completed, o.Result!.Status));
        Assert.Equal(alone, together);
    }

    [Fact]
    public void Run_OperationsOfLibtorchThatAreLoadedLate_ServeAllAtOnce()
    {
        using var run = KernelRun.BeginOnGpu();
        var members = Enumerable.Range(1, 8).Select(seed => Member(seed, _ =>
        {
            using var scope = NewDisposeScope();
            var matrix = eye(4, device: CUDA);
            Assert.True(linalg.solve_triangular(matrix, matrix, upper: false).eq(matrix).all().item<bool>());
            return new TrainingResult(TrainingStatus.Completed, 0, 0, 0, null, null, null);
        })).ToArray();
        Assert.All(TrainingGroup.Run(members, 8, TestContext.Current.CancellationToken), o => Assert.Null(o.Failure));
    }

    [Fact]
    public void Run_OneDiverges_TheOthersGoOn()
    {
        var together = new double[3][];
        using var folders = new TempFolder();
        var members = new[] { 1, 2, 3 }.Select(seed => Member(seed, token => seed == 2
            ? throw new TrainingDivergedException("it diverged")
            : Train(seed, together, folders[$"seed-{seed}"], token))).ToArray();
        var outcomes = TrainingGroup.Run(members, 2, TestContext.Current.CancellationToken);
        Assert.IsType<TrainingDivergedException>(outcomes[1].Failure);
        Assert.Equal([12, null, 12], outcomes.Select(o => o.Result?.Step));
        Assert.All([1, 3], seed => Assert.NotNull(RunFolder.LatestCheckpoint(folders[$"seed-{seed}"])));
    }

    [Fact]
    public void Run_Cancelled_StopsThoseThatRunAndBeginsNoOther()
    {
        using var stop = new CancellationTokenSource();
        using var folder = new TempFolder();
        var members = new[] { 1, 2, 3 }.Select(seed => Member(seed, token =>
        {
            stop.Cancel();
            return Train(seed, new double[3][], folder[$"seed-{seed}"], token);
        })).ToArray();
        var outcomes = TrainingGroup.Run(members, 1, stop.Token);
        Assert.Equal(TrainingStatus.Stopped, outcomes[0].Result!.Status);
        Assert.All(outcomes.Skip(1), o => Assert.Equal((null, null), (o.Result, o.Failure)));
        var whole = Losses(1, null, default);
        Assert.Equal(whole, Losses(1, folder["seed-1"], TestContext.Current.CancellationToken));
    }

    [Theory]
    [InlineData(80e9, 8)]
    [InlineData(8e9, 2)]
    [InlineData(1e9, 1)]
    public void SideBySide_Memory_SetsTheNumber(double bytes, int expected)
    {
        var config = Config with { BatchSize = 32, ContextLength = 512, ComputeType = ScalarType.BFloat16 };
        var members =
            Enumerable.Range(1, 20).Select(seed => new GroupMember($"{seed}", Presets.ByName("bytes-10m"), config, _ => null!)).ToArray();
        Assert.Equal(expected, TrainingGroup.SideBySide(members, bytes));
    }

    private static GroupMember Member(int seed, Func<CancellationToken, TrainingResult> train) =>
        new(FormattableString.Invariant($"seed {seed}"), new StubConfig { VocabularySize = 16, EmbeddingDim = 16 }, Config, train);

    private static TrainingResult Train(int seed, double[][] losses, string? folder, CancellationToken cancellationToken)
    {
        using var model = KernelRun.Model(() => new TinyModel(seed, dropout: 0.1));
        var metrics = new List<double>();
        var progress = new ImmediateProgress<TrainingMetrics>(m => metrics.Add(m.Loss));
        var config = Config with { Seed = seed };
        var result = new Trainer(model, config, TinyText.Packed(seed), [], folder, progress).Run(cancellationToken);
        losses[seed - 1] = [.. metrics];
        return result;
    }

    private static double[] Losses(int seed, string? folder, CancellationToken cancellationToken)
    {
        var losses = new double[4][];
        Train(seed, losses, folder, cancellationToken);
        return losses[seed - 1];
    }
}
