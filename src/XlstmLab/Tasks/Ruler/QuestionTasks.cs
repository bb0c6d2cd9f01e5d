using System.Globalization;
using System.Text;

namespace XlstmLab.Tasks.Ruler;

/// <summary>Questions to paragraphs among others (Hsieh et al. 2024, section 3.4).</summary>
internal static class QuestionTasks
{
    /// <summary>How many of the next distractors are looked at for one that fills what is left.</summary>
    private const int Candidates = 64;

    /// <summary>A problem: a question's paragraphs, at random places among others, those of its own article first.</summary>
    public static RulerProblem Create(RulerTask task, RulerQuestion question, int length, int index, RulerOptions options)
    {
        var texts = options.Questions!;
        var random = new RulerRandom(options.Seed, task, length, index, RulerDraws.Problem);
        var own = question.Paragraphs.ToHashSet();
        var distractors = random.Permutation(texts.Paragraphs.Count)
            .Where(p => !own.Contains(p))
            .OrderBy(p => question.Article is null || texts.ArticleOf(p) != question.Article)
            .ToArray();
        var depths = question.Paragraphs.Select(_ => random.NextDouble()).ToArray();
        var golden = question.Paragraphs.Index().Where(p => question.Answers.Any(a => RulerMetrics.Holds(texts.Paragraphs[p.Item], a)))
            .Select(p => (int?)p.Index).FirstOrDefault();
        var reply = " " + question.Answers.MaxBy(a => a.Length);
        return new(0, distractors.Length, reply, units => Build(distractors[..units])) { Fill = Fill };

        RulerDraft? Fill(int units, int characters)
        {
            var next = distractors.Skip(units).Take(Candidates).Where(p => texts.Paragraphs[p].Length <= characters)
                .Select(p => (int?)p).MaxBy(p => texts.Paragraphs[p!.Value].Length);
            return next is { } paragraph ? Build([.. distractors[..units], paragraph]) : null;
        }

        RulerDraft Build(int[] others)
        {
            var documents = others.ToList();
            var places = depths.Select(d => (int)(d * (others.Length + 1))).ToArray();
            foreach (var k in Enumerable.Range(0, places.Length).OrderByDescending(k => places[k]).ThenByDescending(k => k))
            {
                documents.Insert(places[k], question.Paragraphs[k]);
            }

            var hidden = new List<(int Start, int Length)>();
            var text = new StringBuilder();
            foreach (var (at, paragraph) in documents.Index())
            {
                text.Append(at == 0 ? "" : "\n\n").Append(CultureInfo.InvariantCulture, $"Document {at + 1}:\n");
                if (golden is { } g && question.Paragraphs[g] == paragraph)
                {
                    hidden.Add((text.Length, texts.Paragraphs[paragraph].Length));
                }

                text.Append(texts.Paragraphs[paragraph]);
            }

            const string Instruction = "Answer the question from the documents with as few words as possible.";
            return new(
                $"{Instruction} These are the documents.\n\n",
                text.ToString(),
                $"\n\n{Instruction}\n\nQuestion: {question.Text}\nAnswer:",
                question.Answers,
                hidden);
        }
    }
}
