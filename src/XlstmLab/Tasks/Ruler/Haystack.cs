using XlstmLab.Text;

namespace XlstmLab.Tasks.Ruler;

/// <summary>A text that needles are hidden in, and whose words fill lists.</summary>
public sealed class Haystack
{
    private static readonly Lazy<Haystack> DefaultHaystack = new(() => FromCorpus(Corpus.Open(Datasets.Default)));

    /// <summary>Takes a text apart.</summary>
    /// <param name="text">The text.</param>
    /// <exception cref="ArgumentException">The text holds no word.</exception>
    public Haystack(string text)
    {
        Words = text.Split((char[]?)null, StringSplitOptions.RemoveEmptyEntries);
        if (Words.Count == 0)
        {
            throw new ArgumentException(
                "The haystack's text holds no word: give one with sentences to hide needles between.", nameof(text));
        }

        Vocabulary = [.. Words.Select(w => w.TrimEnd(',', '.', ';')).Where(IsPlain).Distinct().Order(StringComparer.Ordinal)];
    }

    /// <summary>
    /// The test part of the dataset <see cref="Datasets.Default"/>: essays that a model trained on its training part has not read.
    /// </summary>
    /// <exception cref="FileNotFoundException">The dataset is not there.</exception>
    public static Haystack Default => DefaultHaystack.Value;

    /// <summary>The text's words, with their punctuation.</summary>
    public IReadOnlyList<string> Words { get; }

    /// <summary>The distinct words of 3 to 12 small Latin letters, in ordinal order.</summary>
    public IReadOnlyList<string> Vocabulary { get; }

    /// <summary>The test part of a corpus.</summary>
    public static Haystack FromCorpus(Corpus corpus) => new(string.Join('\n', corpus[Split.Test].Select(d => d.Text)));

    /// <summary>Reads all of a UTF-8 text file.</summary>
    /// <exception cref="FileNotFoundException">There is no such file.</exception>
    /// <exception cref="InvalidDataException">The file holds no word.</exception>
    public static Haystack Read(string path)
    {
        if (!File.Exists(path))
        {
            throw new FileNotFoundException($"There is no haystack file '{path}'; expected a text file.", path);
        }

        var text = File.ReadAllText(path);
        return string.IsNullOrWhiteSpace(text)
            ? throw new InvalidDataException($"The haystack file '{path}' holds no word.")
            : new(text);
    }

    /// <summary>Whether a sentence ends with a word.</summary>
    internal static bool EndsSentence(string word) => word.TrimEnd('"', '\'', ')', '\u201D', '\u2019') is [.., '.' or '!' or '?'];

    private static bool IsPlain(string word) => word.Length is >= 3 and <= 12 && word.All(char.IsAsciiLetterLower);
}
