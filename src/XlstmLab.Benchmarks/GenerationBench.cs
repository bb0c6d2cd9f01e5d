using System.Diagnostics;
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
        for (var round = -task.WarmUps; round < task.Repetitions; round++)
        {
            var isMeasured = round >= 0;
            var watch = Stopwatch.StartNew();
            var told = new ImmediateProgress<long>(done =>
            {
                // What was told is chosen: its id is on the host.
                if (isMeasured && marks.TryGetValue(done, out var mark))
                {
                    seconds[mark] += watch.Elapsed.TotalSeconds / task.Repetitions;
                    peaks[mark] = memory.Bytes;
                }
            });
            var tokens = isMeasured ? task.Marks[^1] : Math.Min(GenerationTask.WarmUpTokens, task.Marks[^1]);
            generator.Generate(
                prompt, new() { MaxNewTokens = tokens, Temperature = 0, StopAtEndOfDocument = false }, progress: told,
                cancellationToken: cancellationToken);
        }

        return new()
        {
            Repetitions = task.Repetitions,
            Marks = [.. task.Marks.Select((tokens, mark) => new GenerationMark(tokens, seconds[mark], peaks[mark]))],
        };
    }
}
