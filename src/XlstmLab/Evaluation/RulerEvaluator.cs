using XlstmLab.Inference;
using XlstmLab.Models;
using XlstmLab.Tasks.Ruler;

namespace XlstmLab.Evaluation;

/// <summary>Measures how much of a long context a model makes use of: RULER (Hsieh et al. 2024, arXiv 2404.06654).</summary>
/// <remarks>
/// A base model goes on with the prompt, which ends with the beginning of the answer; it takes the likeliest token each time, until the
/// room for the answer is used or the document ends. The score is the published metric of each task. Sentences and word lists are our
/// own, see <see cref="RulerGenerator"/>, so that scores compare models measured here; published ones are near, not the same to the digit.
/// </remarks>
public static class RulerEvaluator
{
    /// <summary>Answers samples of each task at each length.</summary>
    /// <param name="model">The model; it is put into evaluation mode, and back.</param>
    /// <param name="generator">Makes the samples, with the model's tokenizer.</param>
    /// <param name="options">Which tasks, how long and how often; null is the default.</param>
    /// <param name="progress">Told after each batch.</param>
    /// <param name="cancellationToken">Stops between tokens.</param>
    /// <exception cref="ArgumentException">Options make no sense, or a length has no room for a task; nothing was read then.</exception>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    public static RulerResult Evaluate(
        LanguageModel model, RulerGenerator generator, RulerEvaluationOptions? options = null, IProgress<RulerProgress>? progress = null,
        CancellationToken cancellationToken = default)
    {
        options ??= new();
        options.Validate();
        var writer = new TextGenerator(model, generator.Tokenizer) { PrefillLength = options.PrefillLength };
        var cells = options.Tasks.SelectMany(task => options.Lengths.Select(length => (Task: task, Length: length))).ToArray();
        foreach (var (task, length) in cells)
        {
            cancellationToken.ThrowIfCancellationRequested();
            generator.Sample(task, length, 0);
        }

        var (scores, depths, answers) = (new List<RulerScore>(), new List<RulerDepthScore>(), new List<RulerAnswer>());
        using (EvaluationMode.Of(model))
        {
            foreach (var (task, length) in cells)
            {
                var (first, finds) = (answers.Count, new List<(double Depth, double Score)>());
                foreach (var batch in generator.Samples(task, length, options.Samples).Chunk(options.BatchSize))
                {
                    cancellationToken.ThrowIfCancellationRequested();
                    foreach (var (sample, output) in batch.Zip(Answer(writer, generator, batch, cancellationToken)))
                    {
                        var score = sample.Score(output);
                        var expected = string.Join(", ", sample.Answers);
                        answers.Add(new(task, length, sample.Index, sample.Prompt.Length, score, output, expected));
                        finds.AddRange(sample.Needles.Select((needle, k) =>
                            (needle.Depth, task.IsQuestion() ? score : RulerMetrics.Holds(output, sample.Answers[k]) ? 1.0 : 0)));
                    }

                    var total = cells.Length * options.Samples;
                    progress?.Report(new(answers.Count, total, task, length, answers.Skip(first).Average(a => a.Score)));
                }

                var of = answers[first..];
                scores.Add(new(task, length, of.Count, of.Average(a => a.PromptTokens), of.Average(a => a.Score)));
                double ranges = options.DepthRanges;
                depths.AddRange(finds.GroupBy(f => Math.Min(options.DepthRanges - 1, (int)(f.Depth * ranges))).OrderBy(g => g.Key)
                    .Select(g => new RulerDepthScore(
                        task, length, g.Key / ranges, (g.Key + 1) / ranges, g.Count(), g.Average(f => f.Score))));
            }
        }

        var averages = options.Lengths.Select(length => new RulerAverage(
            length, options.Tasks.Count, scores.Where(s => s.Length == length).Average(s => s.Score)));
        return new(scores, depths, [.. averages], answers);
    }

    private static IEnumerable<string> Answer(
        TextGenerator writer, RulerGenerator generator, RulerSample[] batch, CancellationToken cancellationToken)
    {
        var greedy = new GenerationOptions { Temperature = 0, MaxNewTokens = batch.Max(s => s.AnswerTokens) };
        var written = writer.Generate([.. batch.Select(s => s.Prompt)], greedy, cancellationToken: cancellationToken).Sequences;

        // The row with the most room decides how long all are written.
        return batch.Zip(written, (sample, sequence) => sequence.Tokens.Length <= sample.AnswerTokens
            ? sequence.Text
            : generator.Tokenizer.Decode(sequence.Tokens.Take(sample.AnswerTokens)));
    }
}
