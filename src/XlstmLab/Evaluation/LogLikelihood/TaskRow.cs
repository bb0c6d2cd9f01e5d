using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace XlstmLab.Evaluation.LogLikelihood;

/// <summary>A row of a dataset's file: a line of JSONL or a row of Parquet.</summary>
/// <param name="file">The path of the file.</param>
/// <param name="number">The row's number, from 1; in JSONL that of its line.</param>
/// <param name="fields">The columns, nested where the file nests them.</param>
public sealed class TaskRow(string file, long number, JsonObject fields)
{
    /// <summary>What a half of a surrogate pair is read as; a text with it is refused. It is a noncharacter that no text has.</summary>
    internal const string Half = "\\ufdd0";

    /// <summary>The path of the file.</summary>
    public string File => file;

    /// <summary>The row's number, from 1; in JSONL that of its line.</summary>
    public long Number => number;

    /// <summary>Whether the row has a field of that name that is not null.</summary>
    public bool Has(string field) => fields[field] is not null;

    /// <summary>A text.</summary>
    /// <param name="field">The field's name.</param>
    /// <exception cref="InvalidDataException">The row has no such field, or it is no text.</exception>
    public string Text(string field) =>
        TextOf(fields[field]) ?? throw Refuse(field, "a text");

    /// <summary>Texts.</summary>
    /// <param name="field">The field's name.</param>
    /// <exception cref="InvalidDataException">The row has no such field, or it is no list of texts.</exception>
    public IReadOnlyList<string> Texts(string field) => TextsOf(fields[field]) ?? throw Refuse(field, "a list of texts");

    /// <summary>The index of the right answer: a number, or digits.</summary>
    /// <param name="field">The field's name.</param>
    /// <param name="first">The number of the first answer: 0, or 1 where answers are counted from 1.</param>
    /// <param name="count">The number of answers.</param>
    /// <returns>The index, from 0.</returns>
    /// <exception cref="InvalidDataException">The row has no such field, or it is no number of an answer.</exception>
    public int Answer(string field, int first, int count)
    {
        var expected = string.Create(
            CultureInfo.InvariantCulture,
            $"a whole number from {first} to {first + count - 1} (test parts without answers cannot be scored)");
        return fields[field] is JsonValue value
            && int.TryParse(value.ToString(), NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out var index)
            && index >= first && index < first + count
            ? index - first
            : throw Refuse(field, expected);
    }

    /// <summary>
    /// A question with labelled choices in either published form: <c>{stem}, choices: {text: [...], label: [...]}</c> as the Hugging Face
    /// datasets have it, or <c>question: {stem, choices: [{text, label}, ...]}</c> as the AI2 downloads do.
    /// </summary>
    /// <param name="stem">The name of the question's text in the first form.</param>
    /// <returns>The question, the choices' texts, and the index of the one whose label is <c>answerKey</c>.</returns>
    /// <exception cref="InvalidDataException">The row has neither form, or no choice has the label.</exception>
    public (string Question, IReadOnlyList<string> Choices, int Answer) LabelledQuestion(string stem)
    {
        var nested = fields["question"] as JsonObject;
        var question = nested is null ? Text(stem) : TextOf(nested["stem"]) ?? throw Refuse("question", "an object with a text 'stem'");
        List<string>? texts = null;
        List<string>? labels = null;
        if (nested is null && fields["choices"] is JsonObject lists)
        {
            (texts, labels) = (TextsOf(lists["text"]), TextsOf(lists["label"]));
        }
        else if ((nested ?? fields)["choices"] is JsonArray objects)
        {
            texts = AllTexts(objects.Select(o => (o as JsonObject)?["text"]));
            labels = AllTexts(objects.Select(o => (o as JsonObject)?["label"]));
        }

        if (texts is null || labels is null || texts.Count != labels.Count || texts.Count == 0)
        {
            throw Refuse("choices", "as many texts 'text' as labels 'label'");
        }

        var key = Text("answerKey").Trim();
        var answer = labels.IndexOf(key);
        return answer >= 0
            ? (question, texts, answer)
            : throw Refuse("answerKey", $"one of the labels {string.Join(", ", labels)} (test parts without answers cannot be scored)");
    }

    /// <summary>What to throw for a field that is not as expected.</summary>
    /// <param name="field">The field's name.</param>
    /// <param name="expected">What was expected in it, in words.</param>
    public InvalidDataException Refuse(string field, string expected)
    {
        var found = fields[field] is { } node
            ? Short(node.ToJsonString().Replace(Half, "half of a surrogate pair", StringComparison.OrdinalIgnoreCase))
            : $"no such field; the row has {string.Join(", ", fields.Select(f => f.Key))}";
        return new(
            string.Create(CultureInfo.InvariantCulture, $"'{file}', row {number}: expected '{field}' to be {expected}, got {found}."));
    }

    private static string? TextOf(JsonNode? node) =>
        node is JsonValue value && value.GetValueKind() == JsonValueKind.String && value.GetValue<string>() is var text
            && !text.Contains('\uFDD0', StringComparison.Ordinal)
            ? text
            : null;

    private static List<string>? TextsOf(JsonNode? node) => node is JsonArray array ? AllTexts(array) : null;

    private static List<string>? AllTexts(IEnumerable<JsonNode?> nodes)
    {
        var texts = nodes.Select(TextOf).ToList();
        return texts.Contains(null) ? null : texts.ConvertAll(t => t!);
    }

    private static string Short(string text) => text.Length <= 80 ? text : text[..80] + "...";
}
