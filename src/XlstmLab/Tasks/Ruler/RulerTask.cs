namespace XlstmLab.Tasks.Ruler;

/// <summary>The 13 tasks of RULER (Hsieh et al. 2024, arXiv 2404.06654, section 3).</summary>
/// <remarks>
/// A needle is a line that gives a secret value to a key. It is hidden in a haystack, and the question after the text asks for the values
/// of some keys.
/// </remarks>
public enum RulerTask
{
    /// <summary>A needle with a 7-digit number for a word, in a few sentences that are repeated: the passkey test.</summary>
    NiahSingle1,

    /// <summary>A needle with a 7-digit number for a word, in essays: the vanilla needle in a haystack.</summary>
    NiahSingle2,

    /// <summary>A needle with a UUID for a word, in essays.</summary>
    NiahSingle3,

    /// <summary>Four needles with a number for a word each, in essays; one is asked for.</summary>
    NiahMultikey1,

    /// <summary>A needle with a number for a word, among nothing but needles of other words.</summary>
    NiahMultikey2,

    /// <summary>A needle with a UUID for a UUID, among nothing but needles of other UUIDs.</summary>
    NiahMultikey3,

    /// <summary>Four needles with numbers for one word, in essays; all four are asked for.</summary>
    NiahMultivalue,

    /// <summary>Four needles with a number for a word each, in essays; all four are asked for.</summary>
    NiahMultiquery,

    /// <summary>
    /// Variable tracking: a chain of 5 variables, the first of which is given a number and each other its predecessor's value, in repeated
    /// sentences; all that have the number are asked for.
    /// </summary>
    Vt,

    /// <summary>
    /// Common words: a numbered list in which 10 words stand 30 times each and all others 3 times; below 4096 tokens 6 times and once.
    /// </summary>
    Cwe,

    /// <summary>
    /// Frequent words: coded words of 6 letters, the k-th of which stands N k^-2 / zeta(2) times in N; the first are dots and count as
    /// noise, the next three are asked for.
    /// </summary>
    Fwe,

    /// <summary>A question to one paragraph, as in SQuAD, among other paragraphs.</summary>
    Qa1,

    /// <summary>A question to several paragraphs, as in HotpotQA, among other paragraphs.</summary>
    Qa2,
}

/// <summary>What the tasks are called and how they are scored.</summary>
public static class RulerTasks
{
    /// <summary>All tasks, in RULER's order.</summary>
    public static IReadOnlyList<RulerTask> All { get; } = Enum.GetValues<RulerTask>();

    /// <summary>
    /// The tasks that need no questions from the user: all but <see cref="RulerTask.Qa1"/> and <see cref="RulerTask.Qa2"/>.
    /// </summary>
    public static IReadOnlyList<RulerTask> Synthetic { get; } = [.. All.Where(t => !t.IsQuestion())];

    /// <summary>The published name: niah_single_1, ..., vt, cwe, fwe, qa_1, qa_2.</summary>
    public static string Name(this RulerTask task) => task switch
    {
        RulerTask.NiahSingle1 => "niah_single_1",
        RulerTask.NiahSingle2 => "niah_single_2",
        RulerTask.NiahSingle3 => "niah_single_3",
        RulerTask.NiahMultikey1 => "niah_multikey_1",
        RulerTask.NiahMultikey2 => "niah_multikey_2",
        RulerTask.NiahMultikey3 => "niah_multikey_3",
        RulerTask.NiahMultivalue => "niah_multivalue",
        RulerTask.NiahMultiquery => "niah_multiquery",
        RulerTask.Vt => "vt",
        RulerTask.Cwe => "cwe",
        RulerTask.Fwe => "fwe",
        RulerTask.Qa1 => "qa_1",
        RulerTask.Qa2 => "qa_2",
        _ => throw UnknownValue.Of(task),
    };

    /// <summary>The task of that published name.</summary>
    /// <exception cref="ArgumentException">There is none; the message lists all.</exception>
    public static RulerTask Parse(string name)
    {
        foreach (var task in All)
        {
            if (task.Name() == name)
            {
                return task;
            }
        }

        throw new ArgumentException(
            $"There is no RULER task '{name}'.{NearestName.Hint(name, All.Select(Name))} Tasks: {string.Join(", ", All.Select(Name))}.",
            nameof(name));
    }

    /// <summary>Whether the task asks questions about the user's texts.</summary>
    public static bool IsQuestion(this RulerTask task) => task.Known() is RulerTask.Qa1 or RulerTask.Qa2;

    /// <summary>Whether the task hides needles in a haystack.</summary>
    internal static bool IsNeedle(this RulerTask task) => task is RulerTask.NiahSingle1 or RulerTask.NiahSingle2 or RulerTask.NiahSingle3
        or RulerTask.NiahMultikey1 or RulerTask.NiahMultikey2 or RulerTask.NiahMultikey3
        or RulerTask.NiahMultivalue or RulerTask.NiahMultiquery;

    /// <summary>
    /// The number of tokens that RULER lets a model answer with: 128 for needles, 30 for vt, 120 for cwe, 50 for fwe, 32 for qa.
    /// </summary>
    public static int PublishedAnswerTokens(this RulerTask task) => task switch
    {
        RulerTask.Vt => 30,
        RulerTask.Cwe => 120,
        RulerTask.Fwe => 50,
        RulerTask.Qa1 or RulerTask.Qa2 => 32,
        _ when task.IsNeedle() => 128,
        _ => throw UnknownValue.Of(task),
    };

    /// <summary>The share of right answers in an output, from 0 to 1, by the metric that RULER scores the task with.</summary>
    public static double Score(this RulerTask task, string output, IReadOnlyList<string> answers) =>
        task.IsQuestion() ? RulerMetrics.StringMatchPart(output, answers) : RulerMetrics.StringMatchAll(output, answers);
}
