using XlstmLab.Tasks.Ruler;

namespace XlstmLab.Evaluation;

/// <summary>Which of RULER's tasks are run, how long and how often.</summary>
public sealed record RulerEvaluationOptions
{
    /// <summary>The tasks; all but questions unless set.</summary>
    public IReadOnlyList<RulerTask> Tasks { get; init; } = RulerTasks.Synthetic;

    /// <summary>The lengths in tokens, prompt and room for the answer together.</summary>
    public IReadOnlyList<int> Lengths { get; init; } = [512, 1024, 2048, 4096];

    /// <summary>The number of samples of each task at each length; the paper takes 500.</summary>
    public int Samples { get; init; } = 40;

    /// <summary>The number of samples that are read and answered side by side, B. It does not change results.</summary>
    public int BatchSize { get; init; } = 8;

    /// <summary>
    /// The number of tokens of a prompt that are read at a time, see <see cref="Inference.TextGenerator.PrefillLength"/>, also for
    /// null.
    /// </summary>
    public int? PrefillLength { get; init; }

    /// <summary>The number of ranges of needle depths that scores are also given for, of equal width.</summary>
    public int DepthRanges { get; init; } = 10;

    /// <summary>Looks at every option.</summary>
    /// <exception cref="ArgumentException">An option makes no sense; the message says which and what is expected.</exception>
    public void Validate()
    {
        RequireDistinct(Tasks, nameof(Tasks), _ => true);
        RequireDistinct(Lengths, nameof(Lengths), length => length is >= 1 and <= RulerGenerator.LongestLength);
        Require(Samples, nameof(Samples));
        Require(BatchSize, nameof(BatchSize));
        Require(PrefillLength ?? 1, nameof(PrefillLength));
        Require(DepthRanges, nameof(DepthRanges));
    }

    private static void RequireDistinct<T>(IReadOnlyList<T>? values, string name, Func<T, bool> holds)
    {
        if (values is not { Count: > 0 } || values.Distinct().Count() < values.Count || !values.All(holds))
        {
            throw new ArgumentException(
                $"Expected at least one of {name}, each once and above 0, got '{string.Join(", ", values ?? [])}'.");
        }
    }

    private static void Require(int value, string name)
    {
        if (value < 1)
        {
            throw new ArgumentException($"Expected {name} of at least 1, got {value}.");
        }
    }
}

/// <summary>What a model answered to one sample.</summary>
/// <param name="Task">The task.</param>
/// <param name="Length">The length asked for, in tokens.</param>
/// <param name="Index">The sample's number.</param>
/// <param name="PromptTokens">The number of the prompt's tokens.</param>
/// <param name="Score">The score, from 0 to 1.</param>
/// <param name="Output">The model's text.</param>
/// <param name="Expected">The answers, joined by a comma.</param>
public sealed record RulerAnswer(RulerTask Task, int Length, int Index, int PromptTokens, double Score, string Output, string Expected);

/// <summary>A task at a length.</summary>
/// <param name="Task">The task.</param>
/// <param name="Length">The length asked for, in tokens.</param>
/// <param name="Samples">The number of samples.</param>
/// <param name="PromptTokens">The mean number of the prompts' tokens.</param>
/// <param name="Score">The mean score, from 0 to 1: RULER's accuracy.</param>
public sealed record RulerScore(RulerTask Task, int Length, int Samples, double PromptTokens, double Score)
{
    /// <summary>The task's published name.</summary>
    public string Name => Task.Name();
}

/// <summary>A task at a length and a range of depths.</summary>
/// <param name="Task">The task.</param>
/// <param name="Length">The length asked for, in tokens.</param>
/// <param name="From">The first depth: 0 is the start of the haystack.</param>
/// <param name="To">The depth that the range ends before; 1, the end of the haystack, is in the last.</param>
/// <param name="Needles">The number of needles, of which a sample may have several.</param>
/// <param name="Score">The share of needles that were found; of a question, the mean score.</param>
public sealed record RulerDepthScore(RulerTask Task, int Length, double From, double To, int Needles, double Score)
{
    /// <summary>The task's published name.</summary>
    public string Name => Task.Name();
}

/// <summary>All tasks at a length, as the tables of RULER and of xLSTM 7B have them.</summary>
/// <param name="Length">The length asked for, in tokens.</param>
/// <param name="Tasks">The number of tasks; the published mean is over 13.</param>
/// <param name="Score">The mean of the tasks' scores, from 0 to 1.</param>
public sealed record RulerAverage(int Length, int Tasks, double Score);

/// <summary>What a model makes of RULER.</summary>
/// <param name="Scores">A row a task and length, in the order they were asked for.</param>
/// <param name="DepthScores">The same by depth, for tasks with a place to look for; ranges without needles are left out.</param>
/// <param name="Averages">A row a length.</param>
/// <param name="Answers">A row a sample.</param>
public sealed record RulerResult(
    IReadOnlyList<RulerScore> Scores, IReadOnlyList<RulerDepthScore> DepthScores, IReadOnlyList<RulerAverage> Averages,
    IReadOnlyList<RulerAnswer> Answers)
{
    /// <summary>The score of a task at a length.</summary>
    /// <exception cref="ArgumentException">It was not measured.</exception>
    public RulerScore this[RulerTask task, int length] => Scores.FirstOrDefault(s => s.Task == task && s.Length == length)
        ?? throw new ArgumentException($"{task.Name()} was not measured at {length} tokens.");
}

/// <summary>How far an evaluation on RULER has come.</summary>
/// <param name="Done">Samples answered.</param>
/// <param name="Total">All samples.</param>
/// <param name="Task">The task of the last ones.</param>
/// <param name="Length">Their length.</param>
/// <param name="Score">The mean score of this task and length so far, from 0 to 1.</param>
public readonly record struct RulerProgress(int Done, int Total, RulerTask Task, int Length, double Score);
