using XlstmLab.Benchmarks;
using XlstmLab.Tests.Operations;
using XlstmLab.Tests.Training;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Benchmarks;

[Collection(nameof(AloneCollection))]
public sealed class BenchWorkerTests
{
    /// <summary>Tokens of a Transformer are read by a graph too, for longer than there is room.</summary>
    [Fact]
    public void Decode_StateThatGrows_IsRecordedOnceAndBeginsAnewWhereItsRoomIsFull()
    {
        using var run = KernelRun.Begin();
        var counts = run.Record();
        var result = BenchWorker.Run(
            new WorkTask
            {
                Work = new DecodeWork("llama-bytes-1m", 2),
                Device = get_default_device().ToString(),
                ComputeType = "float32",
                Threads = get_num_threads(),
                MinSeconds = 0,
                Repetitions = 600,
            },
            TestContext.Current.CancellationToken);
        Assert.True(result.ForwardSeconds > 0);
        Assert.Equal(1, counts.Recorded);
        Assert.InRange(counts.Started, 600, 610);
    }

    [Fact]
    public void Generation_BeyondItsTime_HasWhatItToldBefore()
    {
        var result = BenchWorker.Run(
            new GenerationTask
            {
                Preset = "llama-bytes-1m",
                Prompt = 1,
                Marks = [1, 2, 50_000_000],
                WarmUps = 0,
                Device = "cpu",
                ComputeType = "float32",
                Threads = get_num_threads(),
                MinSeconds = 0,
                Repetitions = 1,
                Seconds = 1,
            },
            TestContext.Current.CancellationToken);
        Assert.Contains("more than 1 s", result.Remark, StringComparison.Ordinal);
        Assert.Equal(new[] { 1, 2 }.Take(result.Marks!.Count), result.Marks.Select(mark => mark.Tokens));
        Assert.All(result.Marks, mark => Assert.True(mark.Seconds > 0));
    }
}
