using System.Globalization;

namespace XlstmLab.Tasks.Ruler;

/// <summary>Common and frequent words (Hsieh et al. 2024, section 3.3).</summary>
internal static class WordTasks
{
    private const int CommonCount = 10;
    private const int LeastUncommon = 10;

    /// <summary>From here on words are repeated 30 and 3 times.</summary>
    private const int LongLength = 4096;

    /// <summary>
    /// zeta(alpha), the sum of k^-alpha over all k, for the published exponent of the coded words' frequencies, alpha = 2.
    /// </summary>
    private const double Zeta = Math.PI * Math.PI / 6;

    private const int CodedLength = 6;
    private const int TokensPerCodedWord = 50;

    /// <summary>The problems of common words, from which the first that fits is to be taken: with bytes, 4096 tokens are few.</summary>
    /// <exception cref="ArgumentException">The haystack's vocabulary is too small.</exception>
    public static IEnumerable<RulerProblem> Common(int length, int index, RulerOptions options)
    {
        if (length >= LongLength)
        {
            yield return Common(length, index, options, (30, 3), (40, 10, 3));
        }

        yield return Common(length, index, options, (6, 1), (20, 3, 1));
    }

    /// <summary>A problem of frequent words.</summary>
    public static RulerProblem Frequent(int length, int index, RulerOptions options)
    {
        var random = new RulerRandom(options.Seed, RulerTask.Fwe, length, index, RulerDraws.Problem);
        var used = new HashSet<string>();
        var words = Enumerable.Range(0, Math.Max(5, length / TokensPerCodedWord))
            .Select(k => k == 0 ? "..." : RulerRandom.Distinct(used, () => random.Letters('a', CodedLength)))
            .ToArray();
        var answers = words[1..4];

        // With fewer, the fourth coded word would be as frequent as the third, or the third absent.
        var least = Enumerable.Range(1, 1000).First(n => Enumerable.Range(2, 3).All(k => Count(n, k) > Count(n, k + 1)));
        return new(least, Math.Max(least, 2 * length), " " + string.Join(", ", answers), units =>
        {
            var text = words.SelectMany((word, k) => Enumerable.Repeat(word, Count(units, k + 1))).ToArray();
            return new(
                "The text below is made of coded words. Count how often each of them occurs, and pay no heed to the dots.\n",
                Shuffled(text, new(options.Seed, RulerTask.Fwe, length, index, RulerDraws.Noise)),
                "\nQuestion: Which three coded words occur most often in the text?\n"
                + "Answer: The three coded words that occur most often are",
                answers,
                []);
        });

        static int Count(int total, int rank) => (int)(total / (Zeta * rank * rank));
    }

    private static RulerProblem Common(
        int length, int index, RulerOptions options, (int Common, int Uncommon) repeats, (int Words, int Common, int Uncommon) example)
    {
        var vocabulary = options.Haystack!.Vocabulary;
        var order = new RulerRandom(options.Seed, RulerTask.Cwe, length, index, RulerDraws.Problem).Permutation(vocabulary.Count);
        var exampleWords = options.Example ? example.Words : 0;
        var needed = CommonCount + LeastUncommon + exampleWords;
        if (order.Length < needed)
        {
            throw new ArgumentException(
                $"cwe needs {needed} distinct words of 3 to 12 small letters, and the haystack has {order.Length}: give a longer text.");
        }

        var words = Array.ConvertAll(order, k => vocabulary[k]);
        var head = "";
        if (options.Example)
        {
            var draws = new RulerRandom(options.Seed, RulerTask.Cwe, length, index, RulerDraws.Example);
            var draft = Draft("", words[^exampleWords..], example.Common, example.Uncommon, draws);
            head = $"{draft.Text}{Numbered(draft.Answers)}\n\n";
        }

        var most = words.Length - exampleWords;
        return new(CommonCount + LeastUncommon, most, Numbered(words[..CommonCount]), units => Draft(
            head, words[..units], repeats.Common, repeats.Uncommon, new(options.Seed, RulerTask.Cwe, length, index, RulerDraws.Noise)));
    }

    /// <summary>A list of words, the first ten of which are the common ones.</summary>
    private static RulerDraft Draft(string head, string[] words, int common, int uncommon, RulerRandom random)
    {
        var list = words.SelectMany((word, k) => Enumerable.Repeat(word, k < CommonCount ? common : uncommon)).ToArray();
        var order = random.Permutation(list.Length);
        return new(
            head + "In the numbered list below, some words stand more often than others. Keep those in mind.\n",
            Numbered(order.Select(k => list[k]))[1..],
            $"\nQuestion: Which {CommonCount} words stand most often in the list?\n"
            + $"Answer: The {CommonCount} words that stand most often are",
            words[..CommonCount],
            []);
    }

    private static string Numbered(IEnumerable<string> words) =>
        string.Concat(words.Select((word, k) => string.Create(CultureInfo.InvariantCulture, $" {k + 1}. {word}")));

    private static string Shuffled(string[] words, RulerRandom random) =>
        string.Join(' ', random.Permutation(words.Length).Select(k => words[k]));
}
