using System.Globalization;
using XlstmLab.Tasks;
using XlstmLab.Training;

namespace XlstmLab.Experiments;

/// <summary>How a synthetic task is trained and tested, apart from the kind of model.</summary>
/// <param name="Task">The task.</param>
/// <param name="Training">The training; the seed is each run's own.</param>
/// <param name="EmbeddingDim">The width of the model, d.</param>
/// <param name="BlockCount">Its blocks.</param>
/// <param name="HeadCount">Its heads.</param>
public sealed record SyntheticRecipe(SyntheticTask Task, TrainingConfig Training, int EmbeddingDim, int BlockCount, int HeadCount)
{
    /// <summary>The rows of an epoch; null to draw rows without end.</summary>
    public int? SampleCount { get; init; }

    /// <summary>The rows of a validation.</summary>
    public int ValidationRows { get; init; } = 512;

    /// <summary>The rows of each range of lengths that is tested.</summary>
    public int TestRows { get; init; } = 1024;

    /// <summary>The ranges of lengths that are tested.</summary>
    public IReadOnlyList<LengthRange> TestLengths { get; init; } = [];
}

/// <summary>Tasks by name, and the published recipe of each.</summary>
public static class SyntheticRecipes
{
    private static readonly int[] TestedLengths = [16, 24, 32, 40, 64, 96, 128, 160, 192, 224, 256];

    private static readonly TrainingConfig Base = new()
    {
        WeightDecay = 0.1,
        GradientClip = null,
        Spikes = null,
        StatisticsEvery = 0,
        TensorBoard = false,
        LogEvery = 10,
        KeepCheckpoints = 1,
    };

    /// <summary>The tasks that the command line lists: any <c>mqar-CL-KV</c> is one too.</summary>
    public static IReadOnlyList<SyntheticTask> Tasks { get; } =
    [
        .. FormalTasks.All,
        new SymmetricGroup(),
        new MultiQueryRecall { ContextLength = 64, PairCount = 4 },
        new MultiQueryRecall { ContextLength = 128, PairCount = 8 },
        new MultiQueryRecall { ContextLength = 256, PairCount = 16 },
        new MixedRecall(),
        new ListOps(),
    ];

    /// <summary>The task of a name.</summary>
    /// <exception cref="ArgumentException">There is none; the message lists all.</exception>
    public static SyntheticTask Task(string name)
    {
        var parts = name.Split('-');
        return parts is ["mqar", var length, var pairs] && Number(length) is { } tokens && Number(pairs) is { } count
            ? new MultiQueryRecall { ContextLength = tokens, PairCount = count }
            : Tasks.FirstOrDefault(task => task.Name == name)
                ?? throw new ArgumentException(
                    $"There is no task '{name}'.{NearestName.Hint(name, Tasks.Select(t => t.Name))} There are: "
                    + $"{string.Join(", ", Tasks.Select(t => t.Name))}.", nameof(name));

        static int? Number(string digits) =>
            int.TryParse(digits, NumberStyles.None, CultureInfo.InvariantCulture, out var number) ? number : null;
    }

    /// <summary>The recipe of a task.</summary>
    /// <remarks>
    /// Formal languages: the experiments of the first paper's code (NX-AI/xlstm, experiments/parity_xlstm11.yaml): d 64, 2 blocks, 1 head,
    /// batches of 256, learning rate 1e-3 with 2,000 updates of warm-up and a cosine to 1e-6 at 20,000, weight decay 0.1, lengths 3 to 40,
    /// tested at 40 to 256. The paper itself (appendix D) has 100,000 updates, three learning rates and two seeds. Recall: paper appendix
    /// D, with 100,000 rows, 64 epochs, batches of 512 (256 at 256 tokens, 128, 96 and 24 up to 756, 1,024 and more), 10 % warm-up and a
    /// cosine to 1e-4 (1e-5 in batches of 24); the rate is the second of the four that it tries, the width is one of those it tries, and
    /// the number of heads ours; recall at mixed sizes has 180,000 rows, 64 epochs in batches of 256. ListOps: table of the Long Range
    /// Arena experiments, 8 blocks of 128, batches of 32, 80,000 updates; the rate is ours.
    /// </remarks>
    public static SyntheticRecipe For(SyntheticTask task) => task switch
    {
        MultiQueryRecall recall => Recall(task, recall.ContextLength, 100_000, [task.TestLengths]),
        MixedRecall => Recall(task, 256, 180_000, [new(64), new(128), new(256), new(512), new(1024)]),
        ListOps => new(
            task,
            Base with
            {
                Steps = 80_000,
                BatchSize = 32,
                PeakLearningRate = 1e-3,
                Beta2 = 0.99,
                Schedule = new() { WarmupSteps = 8000, EndFactor = 1e-2 },
                ValidateEvery = 1000,
                CheckpointEvery = 1000,
            },
            128, 8, 4)
        {
            SampleCount = 96_000,
            TestRows = 2000,
            ValidationRows = 500,
            TestLengths = [task.TestLengths],
        },
        _ => new(
            task,
            Base with
            {
                Steps = 20_000,
                BatchSize = 256,
                PeakLearningRate = 1e-3,
                Beta2 = 0.999,
                Schedule = new() { WarmupSteps = 2000, EndFactor = 1e-3 },
                ValidateEvery = 200,
                CheckpointEvery = 1000,
            },
            64, 2, 1)
        {
            TestRows = 8192,
            TestLengths =
            [
                task.TrainingLengths, task.TestLengths,
                .. TestedLengths.Select(length => new LengthRange(length)),
            ],
        },
    };

    private static SyntheticRecipe Recall(SyntheticTask task, int length, int samples, IReadOnlyList<LengthRange> tested)
    {
        var (batch, rate) = length switch
        {
            <= 128 => (512, 2.15e-3),
            <= 256 => (256, 2.15e-3),
            <= 756 => (128, 2.15e-3),
            <= 1024 => (96, 2.15e-3),
            _ => (24, 2.2e-4),
        };
        var steps = 64 * samples / batch;
        return new(
            task,
            Base with
            {
                Steps = steps,
                BatchSize = batch,
                PeakLearningRate = rate,
                Beta2 = 0.99,
                Schedule = new() { WarmupSteps = steps / 10, EndFactor = (batch == 24 ? 1e-5 : 1e-4) / rate },
                ValidateEvery = 200,
                CheckpointEvery = 1000,
            },
            128, 2, 4)
        {
            SampleCount = samples,
            TestRows = 3000,
            TestLengths = tested,
        };
    }
}
