using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;
using XlstmLab.Inference;
using XlstmLab.Native;
using XlstmLab.Text;
using static TorchSharp.torch;

namespace XlstmLab.Benchmarks;

/// <summary>Measures a generation in this process, as a user's program would generate.</summary>
internal static class GenerationBench
{
    /// <summary>Measures.</summary>
    public static BenchResult Run(GenerationTask task, CancellationToken cancellationToken)
    {
        using var limit = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        limit.CancelAfter(task.Seconds is { } end ? TimeSpan.FromSeconds(end) : Timeout.InfiniteTimeSpan);
        var device = Compute.Device(task.Device);
        random.manual_seed(1).Dispose();
        WorkBench.Require(task.Preset, 1, task.Prompt, device);
        var memory = new MemoryGrowth(device);
        using var model = BenchModels.Untrained(
            BenchModels.ByName(task.Preset), device, Compute.Type(task.ComputeType) ?? ScalarType.Float32);
        var generator = new TextGenerator(model, new ByteTokenizer());
        var draw = new Random(1);
        int[][] prompt = [[.. Enumerable.Range(0, task.Prompt).Select(_ => draw.Next(model.VocabularySize))]];
        var marks = task.Marks.Index().ToDictionary(mark => (long)mark.Item, mark => mark.Index);
        var seconds = new double[task.Marks.Count];
        var peaks = new long[task.Marks.Count];
        var counts = new int[task.Marks.Count];
        string? remark = null;
        for (var round = -task.WarmUps; round < task.Repetitions && remark is null; round++)
        {
            var isMeasured = round >= 0;
            var watch = Stopwatch.StartNew();
            var told = new ImmediateProgress<long>(done =>
            {
                // What was told is chosen: its id is on the host.
                if (isMeasured && marks.TryGetValue(done, out var mark))
                {
                    seconds[mark] += watch.Elapsed.TotalSeconds;
                    peaks[mark] = memory.Bytes;
                    counts[mark]++;
                }
            });
            var tokens = isMeasured ? task.Marks[^1] : Math.Min(GenerationTask.WarmUpTokens, task.Marks[^1]);
            try
            {
                generator.Generate(
                    prompt, new() { MaxNewTokens = tokens, Temperature = 0, StopAtEndOfDocument = false }, progress: told,
                    cancellationToken: limit.Token);
            }
            catch (OperationCanceledException) when (!cancellationToken.IsCancellationRequested)
            {
                remark = string.Create(CultureInfo.InvariantCulture, $"it took more than {task.Seconds:0} s");
            }
            catch (Exception e) when (e is ExternalException or OutOfMemoryException)
            {
                // Memory ran out on the way: what was told before stays.
                remark = e.Message.Split('\n')[0];
            }
        }

        return new()
        {
            Repetitions = counts.Max(),
            Marks =
            [
                .. task.Marks.Index().Where(m => counts[m.Index] > 0)
                    .Select(m => new GenerationMark(m.Item, seconds[m.Index] / counts[m.Index], peaks[m.Index])),
            ],
            Remark = remark,
        };
    }
}
