using System.Diagnostics;
using System.Globalization;

namespace XlstmLab.Benchmarks;

/// <summary>What a model takes to be used: a point of a figure.</summary>
/// <param name="Figure">What is measured: generation, first tokens, prefill or batch.</param>
/// <param name="Preset">The model.</param>
/// <param name="Batch">Sequences side by side.</param>
/// <param name="Prompt">Tokens read before.</param>
/// <param name="Tokens">Tokens generated.</param>
/// <param name="Seconds">Seconds from before the prompt to the last token; of a batch, for a token of each.</param>
/// <param name="PeakBytes">Memory at its peak so far in bytes, weights included.</param>
/// <param name="Remark">Why there are no numbers.</param>
public sealed record InferenceRow(
    string Figure, string Preset, int Batch, int Prompt, int Tokens, double? Seconds = null, long? PeakBytes = null, string? Remark = null)
{
    /// <summary>Tokens generated in a second or, where only a prompt is read, read in a second.</summary>
    public double? Rate => (double)Batch * (Tokens > 0 ? Tokens : Prompt) / Seconds;
}

/// <summary>
/// The figures on inference of Beck et al. 2025 (section 5.3): time and memory against the number of generated tokens (figure 5), time to
/// the first tokens against the prompt (figure 6), tokens read a second at equal numbers of tokens, and tokens generated a second against
/// the batch.
/// </summary>
public sealed record InferenceBench
{
    /// <summary>The figure of time and memory against the number of generated tokens.</summary>
    public const string Generation = "generation";

    /// <summary>The figure of the time to the first tokens against the prompt.</summary>
    public const string FirstTokens = "first tokens";

    /// <summary>The figure of prompts read a second.</summary>
    public const string Prefill = "prefill";

    /// <summary>The figure of tokens generated a second against the batch.</summary>
    public const string Batch = "batch";

    /// <summary>The models, by <see cref="BenchModels"/>' names.</summary>
    public required IReadOnlyList<string> Presets { get; init; }

    /// <summary>The numbers of generated tokens, in rising order.</summary>
    public required IReadOnlyList<int> Lengths { get; init; }

    /// <summary>Tokens of the prompts whose first tokens are timed.</summary>
    public required IReadOnlyList<int> Prompts { get; init; }

    /// <summary>Prompts that are read side by side, each of as many tokens as make <see cref="PrefillTokens"/>.</summary>
    public required IReadOnlyList<int> PrefillBatches { get; init; }

    /// <summary>Tokens that are read at once, of all prompts together.</summary>
    public required int PrefillTokens { get; init; }

    /// <summary>Sequences that are generated side by side.</summary>
    public required IReadOnlyList<int> Batches { get; init; }

    /// <summary>Where to compute: cpu, cuda or cuda:1.</summary>
    public required string Device { get; init; }

    /// <summary>The type of the activations: bf16 or float32.</summary>
    public required string ComputeType { get; init; }

    /// <summary>libtorch's threads.</summary>
    public required int Threads { get; init; }

    /// <summary>
    /// The seconds after which nothing more is begun; null for no end. A generation that is begun may take a quarter of them, and two
    /// minutes at least.
    /// </summary>
    public double? Seconds { get; init; }

    private double? GenerationSeconds => Seconds is { } seconds ? Math.Max(120, seconds / 4) : null;

    /// <summary>The columns.</summary>
    public static IReadOnlyList<BenchColumn<InferenceRow>> Columns { get; } =
    [
        new("figure", r => r.Figure),
        new("preset", r => r.Preset),
        new("parameters", r => BenchModels.ByName(r.Preset).CountParameters()),
        new("B", r => r.Batch),
        new("prompt", r => r.Prompt),
        new("tokens", r => r.Tokens),
        new("seconds", r => r.Seconds, 4),
        new("tokens/s", r => r.Rate, 1),
        new("memory GB", r => r.PeakBytes / 1e9, 3),
        new("remark", r => r.Remark),
    ];

    /// <summary>How it is measured.</summary>
    public string Method => string.Create(
        CultureInfo.InvariantCulture,
        $"The protocol of the published figures: random weights and tokens, each token the likeliest. {Generation}: "
        + $"one sequence after a prompt of one token, once after a ")
        + "warm-up, told at each number of tokens. "
        + $"{FirstTokens}: one sequence, from before the prompt is read to the first and the hundredth token, "
        + $"four times after as many warm-ups. {Prefill}: forward only, as many prompts as make "
        + string.Create(
            CultureInfo.InvariantCulture, $"{PrefillTokens:N0} tokens, the median. {Batch}: a token of each sequence from a state. ")
        + "Every row of a figure and model in a process of its own, the models in turn.";

    /// <summary>Measures all, the models in turn; one that fails says why and ends nothing.</summary>
    /// <param name="process">Measures in a process of its own.</param>
    /// <param name="progress">Told before each measurement.</param>
    /// <param name="soFar">Given all rows, model by model, after each measurement; those to come are without numbers.</param>
    /// <param name="cancellationToken">Ends the measurement.</param>
    public async Task<IReadOnlyList<InferenceRow>> RunAsync(
        BenchProcess process, IProgress<BenchProgress> progress, Action<IReadOnlyList<InferenceRow>>? soFar,
        CancellationToken cancellationToken)
    {
        var watch = Stopwatch.StartNew();
        (int Place, InferenceRow[] Rows, BenchTask Task)[] plan =
            [.. Presets.SelectMany(Plan).Index().Select(step => (step.Index, step.Item.Rows, step.Item.Task))];
        var rows = plan.Select(step => step.Rows.Select(row => row with { Remark = "not measured yet" }).ToArray()).ToArray();

        // Where the time ends before all is measured, every model has the same figures, and the longest of them lacks.
        var inTurn = plan.OrderBy(step => step.Rows[0].Figure == Generation).ThenBy(step => step.Place % (plan.Length / Presets.Count));
        foreach (var (number, (place, points, task)) in inTurn.Index())
        {
            progress.Report(new(number / (double)plan.Length, $"{points[0].Preset}, {points[0].Figure}"));
            if (Seconds is { } end && watch.Elapsed.TotalSeconds > end)
            {
                rows[place] = Failed(string.Create(CultureInfo.InvariantCulture, $"left out: the {end:0} s of --seconds were over"));
                continue;
            }

            try
            {
                // Beside what a generation may take its model has to be made.
                const double patience = 120;
                var limit = task is GenerationTask { Seconds: { } seconds } ? seconds + patience / 2 : patience;
                var result = await process.RunAsync(task, cancellationToken, Seconds is null ? null : TimeSpan.FromSeconds(limit));
                rows[place] = [.. points.Select(p => Measured(p, result))];
            }
            catch (InvalidOperationException e)
            {
                rows[place] = Failed(e.Message);
            }

            soFar?.Invoke([.. rows.SelectMany(row => row)]);

            InferenceRow[] Failed(string remark) => [.. points.Select(p => p with { Remark = remark })];
        }

        return [.. rows.SelectMany(row => row)];
    }

    private static InferenceRow Measured(InferenceRow row, BenchResult result) =>
        result.Marks is null ? row with { Seconds = result.ForwardSeconds, PeakBytes = result.TrainingPeak }
        : result.Marks.FirstOrDefault(mark => mark.Tokens == row.Tokens) is { } mark
        ? row with { Seconds = mark.Seconds, PeakBytes = mark.PeakBytes }
        : row with { Remark = result.Remark };

    private IEnumerable<(InferenceRow[] Rows, BenchTask Task)> Plan(string preset)
    {
        const int few = 1, many = 100, rounds = 4;
        yield return (
            [.. Lengths.Select(tokens => new InferenceRow(Generation, preset, 1, 1, tokens))],
            Generate(preset, 1, Lengths, warmUps: 1, repetitions: 1));
        foreach (var prompt in Prompts)
        {
            yield return (
                [new(FirstTokens, preset, 1, prompt, few), new(FirstTokens, preset, 1, prompt, many)],
                Generate(preset, prompt, [few, many], rounds, rounds));
        }

        foreach (var batch in PrefillBatches)
        {
            var length = PrefillTokens / batch;
            yield return ([new(Prefill, preset, batch, length, 0)], Work(new PrefillWork(preset, batch, length), repetitions: 3));
        }

        foreach (var batch in Batches)
        {
            yield return ([new(Batch, preset, batch, 0, 1)], Work(new DecodeWork(preset, batch), repetitions: 32));
        }
    }

    private GenerationTask Generate(string preset, int prompt, IReadOnlyList<int> marks, int warmUps, int repetitions) => new()
    {
        Preset = preset,
        Prompt = prompt,
        Marks = marks,
        WarmUps = warmUps,
        Repetitions = repetitions,
        MinSeconds = 0,
        Seconds = GenerationSeconds,
        Threads = Threads,
        Device = Device,
        ComputeType = ComputeType,
    };

    private WorkTask Work(Workload work, int repetitions) => new()
    {
        Work = work,
        Repetitions = repetitions,
        MinSeconds = 0.5,
        Threads = Threads,
        Device = Device,
        ComputeType = ComputeType,
    };
}
