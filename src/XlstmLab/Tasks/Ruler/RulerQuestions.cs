using System.Text.Json;

namespace XlstmLab.Tasks.Ruler;

/// <summary>A question to some paragraphs.</summary>
/// <param name="Text">The question.</param>
/// <param name="Answers">Spellings of its answer.</param>
/// <param name="Paragraphs">The indices of the paragraphs that it is about: one, or several that have to be read together.</param>
/// <param name="Article">What distractors of the same article share; null if nothing is known of articles.</param>
public sealed record RulerQuestion(string Text, IReadOnlyList<string> Answers, IReadOnlyList<int> Paragraphs, string? Article = null);

/// <summary>Questions to paragraphs, for qa_1 and qa_2.</summary>
/// <remarks>qa_1 asks the questions about one paragraph, as SQuAD has them; qa_2 those about several, as HotpotQA has them.</remarks>
public sealed class RulerQuestions
{
    private readonly List<string> _paragraphs = [];
    private readonly List<string?> _articles = [];
    private readonly List<RulerQuestion> _questions = [];
    private readonly Dictionary<string, int> _indices = new(StringComparer.Ordinal);

    /// <summary>All paragraphs, each once.</summary>
    public IReadOnlyList<string> Paragraphs => _paragraphs;

    /// <summary>All questions that have an answer, in the order of the files.</summary>
    public IReadOnlyList<RulerQuestion> Questions => _questions;

    /// <summary>The tasks that there are questions for.</summary>
    public IReadOnlyList<RulerTask> Tasks => [.. new[] { RulerTask.Qa1, RulerTask.Qa2 }.Where(t => Of(t).Any())];

    /// <summary>Reads files: the .json of SQuAD or HotpotQA, or .jsonl with a question a line.</summary>
    /// <remarks>
    /// A record has <c>question</c>; <c>answers</c> as a list of strings or in SQuAD's forms, or <c>answer</c>; <c>context</c> as a text, a
    /// list of texts, or titles with sentences in HotpotQA's forms; and it may have <c>title</c>, the article's name. Questions without an
    /// answer are left out.
    /// </remarks>
    /// <exception cref="FileNotFoundException">There is no such file.</exception>
    /// <exception cref="InvalidDataException">
    /// A file is damaged or holds no question; the message says where and what was expected.
    /// </exception>
    public static RulerQuestions Read(params IReadOnlyList<string> paths)
    {
        var questions = new RulerQuestions();
        foreach (var path in paths)
        {
            var before = questions._questions.Count;
            questions.ReadFile(path);
            if (questions._questions.Count == before)
            {
                throw new InvalidDataException($"'{path}' holds no question with an answer.");
            }
        }

        return questions;
    }

    /// <summary>The questions of a task.</summary>
    internal IEnumerable<RulerQuestion> Of(RulerTask task) => _questions.Where(q => q.Paragraphs.Count > 1 == (task == RulerTask.Qa2));

    /// <summary>The article of a paragraph.</summary>
    internal string? ArticleOf(int paragraph) => _articles[paragraph];

    private void ReadFile(string path)
    {
        if (!File.Exists(path))
        {
            throw new FileNotFoundException($"There is no file of questions '{path}'.", path);
        }

        if (Path.GetExtension(path).Equals(".jsonl", StringComparison.OrdinalIgnoreCase))
        {
            foreach (var (at, line) in File.ReadLines(path).Index().Where(l => !string.IsNullOrWhiteSpace(l.Item)))
            {
                Parse($"'{path}', line {at + 1}", line, AddRecord);
            }

            return;
        }

        Parse($"'{path}'", File.ReadAllText(path), root =>
        {
            if (root.ValueKind == JsonValueKind.Array)
            {
                foreach (var (at, element) in root.EnumerateArray().Index())
                {
                    Located($"question {at}", () => AddRecord(element));
                }
            }
            else
            {
                AddSquad(root);
            }
        });
    }

    private static void Parse(string place, string text, Action<JsonElement> read)
    {
        try
        {
            using var json = JsonDocument.Parse(text, new JsonDocumentOptions { AllowDuplicateProperties = false });
            read(json.RootElement);
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException or KeyNotFoundException)
        {
            throw new InvalidDataException(
                $"{place}: expected SQuAD's JSON, or records with question, answers and context. {e.Message}", e);
        }
    }

    private static void Located(string place, Action read)
    {
        try
        {
            read();
        }
        catch (Exception e) when (e is InvalidOperationException or KeyNotFoundException)
        {
            throw new JsonException($"In {place}: {e.Message}", e);
        }
    }

    private void AddSquad(JsonElement root)
    {
        foreach (var (at, article) in root.GetProperty("data").EnumerateArray().Index())
        {
            Located($"article {at}", () =>
            {
                var title = article.TryGetProperty("title", out var named) ? named.GetString() : $"article {at}";
                foreach (var paragraph in article.GetProperty("paragraphs").EnumerateArray())
                {
                    var context = Paragraph(paragraph.GetProperty("context").GetString()!, title);
                    foreach (var question in paragraph.GetProperty("qas").EnumerateArray())
                    {
                        Add(question, [context], title);
                    }
                }
            });
        }
    }

    private void AddRecord(JsonElement record)
    {
        var title = record.TryGetProperty("title", out var named) ? named.GetString() : null;
        Add(record, [.. Contexts(record.GetProperty("context")).Select(text => Paragraph(text, title))], title);
    }

    private void Add(JsonElement record, int[] paragraphs, string? title)
    {
        var answers = Answers(record).Where(a => !string.IsNullOrWhiteSpace(a)).Distinct().ToArray();
        if (answers.Length > 0 && paragraphs.Length > 0)
        {
            _questions.Add(new(record.GetProperty("question").GetString()!.Trim(), answers, [.. paragraphs.Distinct()], title));
        }
    }

    private int Paragraph(string text, string? article)
    {
        if (!_indices.TryGetValue(text, out var index))
        {
            index = _paragraphs.Count;
            _indices.Add(text, index);
            _paragraphs.Add(text);
            _articles.Add(article);
        }

        return index;
    }

    /// <summary>"text", ["text"], [["title", ["sentence"]]] or {"title": ["title"], "sentences": [["sentence"]]}.</summary>
    private static IEnumerable<string> Contexts(JsonElement context) => context.ValueKind switch
    {
        JsonValueKind.Array => context.EnumerateArray()
            .Select(e => e.ValueKind == JsonValueKind.Array ? Titled(e[0], e[1]) : e.GetString()!),
        JsonValueKind.Object => context.GetProperty("title").EnumerateArray()
            .Zip(context.GetProperty("sentences").EnumerateArray(), Titled),
        _ => [context.GetString()!],
    };

    private static string Titled(JsonElement title, JsonElement sentences) =>
        $"{title.GetString()}\n{string.Concat(sentences.EnumerateArray().Select(s => s.GetString()))}";

    /// <summary>answer: "text", or answers: ["text"], [{"text": "text"}] or {"text": ["text"]}.</summary>
    private static IEnumerable<string> Answers(JsonElement record)
    {
        if (record.TryGetProperty("answer", out var one))
        {
            return [one.GetString()!];
        }

        var answers = record.GetProperty("answers");
        var list = answers.ValueKind == JsonValueKind.Object ? answers.GetProperty("text") : answers;
        return list.EnumerateArray().Select(a => (a.ValueKind == JsonValueKind.Object ? a.GetProperty("text") : a).GetString()!);
    }
}
