using System.Globalization;
using TorchSharp;
using XlstmLab.Inference;
using XlstmLab.Models;
using XlstmLab.Native;
using XlstmLab.Native.Cuda;
using XlstmLab.Text;
using XlstmLab.Training;

namespace XlstmLab.Benchmarks;

/// <summary>What is alive at one moment of training or generation.</summary>
/// <param name="Work">Training or generation.</param>
/// <param name="Count">Steps or tokens done.</param>
/// <param name="Tensors">Live tensors.</param>
/// <param name="ResidentMiB">The process's resident set.</param>
/// <param name="AfterWarmUp">Whether it counts.</param>
/// <param name="DeviceMiB">What all processes hold of the GPU's memory; null on the CPU.</param>
public sealed record MemoryRow(string Work, long Count, long Tensors, double ResidentMiB, bool AfterWarmUp, double? DeviceMiB = null);

/// <summary>Whether training and generation hold on to tensors or memory.</summary>
public sealed record MemoryBench
{
    private const string Training = "training";
    private const int Samples = 10;
    private const double WarmUp = 0.4;
    private const double Tolerance = 1.05;
    private const int LongestText = 2000;

    /// <summary>The training steps.</summary>
    public required int Steps { get; init; }

    /// <summary>The tokens to generate, of all sequences together.</summary>
    public required int Tokens { get; init; }

    /// <summary>The sequences that are generated side by side.</summary>
    public int Batch { get; init; } = 1;

    /// <summary>Where to train and to generate; on a GPU in bfloat16.</summary>
    public torch.Device Device { get; init; } = torch.CPU;

    private static IReadOnlyList<BenchColumn<MemoryRow>> Columns { get; } =
    [
        new("work", r => r.Work),
        new("done", r => r.Count),
        new("live tensors", r => r.Tensors),
        new("resident MiB", r => r.ResidentMiB, 1),
        new("device MiB", r => r.DeviceMiB, 1),
        new("", r => r.AfterWarmUp ? "" : "warm-up"),
    ];

    /// <summary>Whether nothing grew after the warm-up: live tensors not at all, memory by 5 % at most.</summary>
    public static bool IsConstant(IReadOnlyList<MemoryRow> rows) =>
        rows.Where(r => r.AfterWarmUp).GroupBy(r => r.Work).All(work =>
            work.All(r => r.Tensors <= work.First().Tensors && r.ResidentMiB <= Tolerance * work.First().ResidentMiB
                && (r.DeviceMiB ?? 0) <= Tolerance * (work.First().DeviceMiB ?? 0)));

    /// <summary>Trains, generates and looks.</summary>
    /// <param name="command">The command line that measures it again.</param>
    /// <param name="progress">Told after each step and token.</param>
    /// <param name="cancellationToken">Ends the measurement.</param>
    public BenchReport<MemoryRow> Run(string command, IProgress<BenchProgress> progress, CancellationToken cancellationToken)
    {
        var rows = new List<MemoryRow>();
        var onGpu = Device.type == DeviceType.CUDA;
        var config = new XlstmConfig { VocabularySize = 257, EmbeddingDim = 64, BlockCount = 2, HeadCount = 2 };
        using var model = new XlstmLanguageModel(config);
        model.to(Device);
        var next = 0L;
        void Sample(string work, long done, long all)
        {
            progress.Report(
                new((work == Training ? 0 : 0.5) + 0.5 * done / all, FormattableString.Invariant($"{work}, {done:N0} of {all:N0}")));
            if (done >= next)
            {
                var (free, total) = onGpu ? Gpu.Memory(Math.Max(0, Device.index)) : default;
                rows.Add(
                    new(
                        work, done, torch.Tensor.TotalCount, SystemMemory.Resident / 1048576.0, done >= WarmUp * all,
                        onGpu ? (total - free) / 1048576.0 : null));
                next += Math.Max(1, all / Samples);
            }
        }

        next = Math.Max(1, Steps / Samples);
        Train(model, onGpu, done => Sample(Training, done, Steps), cancellationToken);
        model.ComputeType = onGpu ? torch.ScalarType.BFloat16 : null;
        next = Math.Max(1, Tokens / Samples);
        Generate(model, done => Sample("generation", done, Tokens), cancellationToken);

        double Growth(IEnumerable<MemoryRow> work, Func<MemoryRow, double> memory) =>
            100 * (work.Max(memory) / memory(work.First()) - 1);

        string OfGpu(IEnumerable<MemoryRow> work) => onGpu
            ? FormattableString.Invariant($", the GPU's {Growth(work, r => r.DeviceMiB!.Value):+0.0;-0.0;0.0} %")
            : "";

        var findings = rows.Where(r => r.AfterWarmUp).GroupBy(r => r.Work).Select(work => string.Create(
            CultureInfo.InvariantCulture,
            $"{work.Key}: {work.First().Tensors} live tensors after the warm-up, at most {work.Max(r => r.Tensors)} later; "
            + $"resident memory at most {Growth(work, r => r.ResidentMiB):+0.0;-0.0;0.0} %{OfGpu(work)}."));
        return new(
            string.Create(
                CultureInfo.InvariantCulture,
                $"Memory: {Steps:N0} training steps and {Tokens:N0} generated tokens of {Batch} sequences "
                + $"side by side, a model with {XlstmAccounting.ParameterCount(config):N0} parameters"),
            command,
            "Tensors that are alive and the process's resident set, in the middle of a step; the first two fifths are warm-up, "
            + "since what finalisers free waits for ten seconds.",
            Columns,
            rows,
            [.. findings, IsConstant(rows) ? "Nothing grows." : "It GROWS: live tensors must not, memory by 5 % at most."]);
    }

    /// <summary>Texts of up to 2,000 tokens, one round after the other.</summary>
    private void Generate(XlstmLanguageModel model, Action<long> sample, CancellationToken cancellationToken)
    {
        var generator = new TextGenerator(model, new ByteTokenizer());
        int[][] prompts = [.. Enumerable.Repeat<int[]>([256], Batch)];
        for (var before = 0L; before < Tokens;)
        {
            var done = before;
            var length = (int)Math.Min(LongestText, (Tokens - before + Batch - 1) / Batch);
            generator.Generate(
                prompts, new GenerationOptions { MaxNewTokens = length, StopAtEndOfDocument = false, Seed = done }, null, false,
                new ImmediateProgress<long>(count =>
                {
                    // Behind its last token a text lets go of what it holds.
                    if (count < (long)length * Batch)
                    {
                        sample(done + count);
                    }
                }), cancellationToken);
            before += (long)length * Batch;
        }
    }

    private void Train(XlstmLanguageModel model, bool onGpu, Action<int> sample, CancellationToken cancellationToken)
    {
        const int context = 64;
        var draw = new Random(1);
        var document = Enumerable.Range(0, 20_000).Select(t => t == 0 ? 256 : draw.Next(256)).ToArray();
        var folder = Directory.CreateTempSubdirectory("xlstm-bench-").FullName;
        try
        {
            var training = new TrainingConfig
            {
                Steps = Steps,
                BatchSize = 4,
                ContextLength = context,
                CheckpointEvery = Math.Max(1, Steps / 4),
                ValidateEvery = Math.Max(1, Steps / 5),
                ComputeType = onGpu ? torch.ScalarType.BFloat16 : torch.ScalarType.Float32,
            };
            var validation = new PackedTokens([document], 256, context).Sequential(4).Take(4).ToArray();
            var progress = new ImmediateProgress<TrainingMetrics>(metrics => sample(metrics.Step));
            new Trainer(model, training, new PackedTokens([document], 256, context), validation, folder, progress).Run(cancellationToken);
            cancellationToken.ThrowIfCancellationRequested();
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }
}
