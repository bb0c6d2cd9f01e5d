namespace XlstmLab.Evaluation.LogLikelihood;

/// <summary>How few-shot examples are chosen.</summary>
public enum FewShotSelection
{
    /// <summary>At random, others for each question; the question itself is never among them.</summary>
    Random,

    /// <summary>The first ones, the same for all questions of a group.</summary>
    First,
}

/// <summary>What of a task counts.</summary>
public enum TaskMetrics
{
    /// <summary>Accuracy of the choice with the highest log-likelihood.</summary>
    Accuracy,

    /// <summary>The same, and with log-likelihoods divided by the answers' lengths.</summary>
    NormalizedAccuracy,

    /// <summary>Whether greedy decoding finds the answer, and the answers' perplexity.</summary>
    Cloze,
}

/// <summary>A task of lm-evaluation-harness that is scored by log-likelihoods: how a dataset's row becomes a question.</summary>
/// <param name="Name">Its name, as in the harness.</param>
public abstract record LikelihoodTask(string Name)
{
    /// <summary>All tasks here.</summary>
    public static IReadOnlyList<LikelihoodTask> All { get; } =
    [
        new ArcTask("arc_easy"), new ArcTask("arc_challenge"), new HellaSwagTask(), new PiqaTask(), new WinoGrandeTask(),
        new OpenBookQaTask(), new LambadaTask("lambada_openai"), new LambadaTask("lambada_standard"), new MmluTask(), new BlimpTask(),
    ];

    /// <summary>What of it counts.</summary>
    public virtual TaskMetrics Metrics => TaskMetrics.NormalizedAccuracy;

    /// <summary>
    /// Whether a metric of the whole is the mean over groups, as in the harness's BLiMP, and not over questions, as in its MMLU.
    /// </summary>
    public virtual bool GroupsCountAlike => false;

    /// <summary>How its few-shot examples are chosen, unless asked otherwise.</summary>
    public virtual FewShotSelection Selection => FewShotSelection.Random;

    /// <summary>The question of a row.</summary>
    /// <param name="row">A row in the dataset's published schema.</param>
    /// <exception cref="InvalidDataException">The row has another schema; the message names file, row and what was expected.</exception>
    public abstract TaskItem Item(TaskRow row);

    /// <summary>The questions of a file, a pattern or a folder (see <see cref="TaskFiles.ReadAsync"/>).</summary>
    /// <exception cref="FileNotFoundException">There is no such file.</exception>
    /// <exception cref="InvalidDataException">
    /// A file is damaged or has another schema; the message says where and what was expected.
    /// </exception>
    public async Task<IReadOnlyList<TaskItem>> ReadAsync(string path, CancellationToken cancellationToken = default) =>
        [.. (await TaskFiles.ReadAsync(path, cancellationToken).ConfigureAwait(false)).Select(Item)];

    /// <summary>A question whose choices all follow the same text.</summary>
    protected static TaskItem Question(string query, IEnumerable<string> answers, int gold) =>
        new([.. answers.Select(a => new TaskChoice(query, a))], gold);
}
