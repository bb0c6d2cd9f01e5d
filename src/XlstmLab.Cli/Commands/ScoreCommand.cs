using System.CommandLine;
using System.Diagnostics;
using System.Globalization;
using XlstmLab.Cli.Terminals;
using XlstmLab.Evaluation.LogLikelihood;

namespace XlstmLab.Cli.Commands;

/// <summary><c>xlstm score</c>: multiple-choice and cloze tasks by log-likelihood.</summary>
internal static class ScoreCommand
{
    /// <summary>The command.</summary>
    public static Command Create()
    {
        var model = new ModelOptions();
        var tasks = new Option<string[]>("--task")
        {
            Description = "A task and its questions: a .jsonl or .parquet file, a folder, or FOLDER/PATTERN*. May be given several times. "
                + "Tasks: arc_easy, arc_challenge, hellaswag, piqa, winogrande, openbookqa, lambada_openai, lambada_standard, mmlu, blimp.",
            HelpName = "NAME=PATH",
            Required = true,
        };
        var examples = new Option<string[]>("--examples")
        {
            Description = "Where a task's examples are chosen from. Default: its questions, but for the one asked.",
            HelpName = "NAME=PATH",
        };
        var shots = NumberOption.Whole(
            new Option<int>("--shots") { Description = "Examples before each question.", HelpName = "N", DefaultValueFactory = _ => 0 }, 0);
        var selection = new Option<string?>("--selection")
        {
            Description = "How examples are chosen. Default: first for mmlu, otherwise random.",
        }.OneOf("random", "first");
        var seed = NumberOption.Whole(
            new Option<long>("--seed") { Description = "Chooses random examples.", HelpName = "N", DefaultValueFactory = _ => 1234 });
        var mutual = new Option<bool>("--mutual-information")
        {
            Description = "Also score answers without their questions, for acc_mutual_info.",
        };
        var batch = NumberOption.Whole(
            new Option<int?>("--batch-tokens") { Description = "Tokens read at once. Default: 4096.", HelpName = "N" }, 1);
        var rows = NumberOption.Whole(new Option<int?>("--batch-rows")
        {
            Description = "Rows read at once, each with its own state. Default: 64.",
            HelpName = "N",
        }, 1);
        var most = NumberOption.Whole(new Option<int?>("--max-tokens")
        {
            Description = "Tokens of a request; prompts are cut from the left. Default: no limit.",
            HelpName = "N",
        }, 1);
        var prefix = new Option<string>("--prefix")
        {
            Description = "Whether every prompt begins with the end of document (always), or an empty one only (empty-context).",
            DefaultValueFactory = _ => "always",
        }.OneOf("always", "empty-context");
        var skip = new Option<bool>("--skip-joined")
        {
            Description = "Leave out and count questions with an answer that the tokenizer merges into the question. Default: an error.",
        };
        var limit = NumberOption.Whole(
            new Option<int?>("--limit") { Description = "Only the first questions of each task.", HelpName = "N" }, 1);
        var output = new Option<string?>("--out") { Description = "Write TASK.json and TASK.samples.jsonl there.", HelpName = "FOLDER" };
        var samples = new Option<bool>("--samples") { Description = "Also show every answer with its log-likelihood." };
        var json = new Option<bool>("--json") { Description = "Print one JSON document." };
        var command = new ExampleCommand(
            "score",
            "Puts multiple-choice and cloze tasks to a model, as lm-evaluation-harness does, from local files.",
            "xlstm score runs/first --task lambada_openai=lambada.jsonl",
            "xlstm score NX-AI_xLSTM-7b --task arc_easy=ARC-Easy/test-*.parquet --task hellaswag=hellaswag/validation.parquet --json",
            "xlstm score NX-AI_xLSTM-7b --task mmlu=mmlu/all/test-*.parquet --examples mmlu=mmlu/all/dev-*.parquet --shots 5 --out scores")
        {
            model.Folder, tasks, examples, shots, selection, seed, mutual, batch, rows, most, prefix,
            skip, limit, output, samples, model, json,
        };
        command.SetAction(async (parsed, cancellationToken) =>
        {
            var terminal = new Terminal(parsed);
            var options = new TaskOptions
            {
                Shots = parsed.GetValue(shots),
                Selection = parsed.GetValue(selection) is { } chosen ? Enum.Parse<FewShotSelection>(chosen, ignoreCase: true) : null,
                Seed = parsed.GetValue(seed),
                MutualInformation = parsed.GetValue(mutual),
                SkipJoined = parsed.GetValue(skip),
                Scoring = new()
                {
                    BatchTokens = parsed.GetValue(batch) ?? 4096,
                    MaxRows = parsed.GetValue(rows) ?? 64,
                    MaxTokens = parsed.GetValue(most),
                    Prefix = parsed.GetValue(prefix) == "always" ? DocumentPrefix.Always : DocumentPrefix.EmptyContext,
                },
            };
            options.Validate();
            var exams = await OpenAsync(parsed.GetValue(tasks)!, parsed.GetValue(examples) ?? [], options, cancellationToken);
            using var loaded = await model.OpenAsync(parsed, terminal, cancellationToken);
            var watch = Stopwatch.StartNew();
            var scores = new List<TaskScore>();
            foreach (var exam in exams)
            {
                await terminal.TrackAsync(exam.Task.Name, tracker =>
                {
                    var start = watch.Elapsed;
                    scores.Add(TaskEvaluator.Evaluate(
                        loaded.Model, loaded.Tokenizer, exam.Task, [.. exam.Questions.Take(parsed.GetValue(limit) ?? int.MaxValue)],
                        options, exam.Examples,
                        new ImmediateProgress<ScoringProgress>(p => tracker.Report(
                            p.Tokens / (double)p.TotalTokens,
                            string.Create(
                                CultureInfo.InvariantCulture,
                                $"{p.Requests:N0} of {p.TotalRequests:N0} answers, "
                                + $"{p.Tokens / (watch.Elapsed - start).TotalSeconds:N0} tokens/s"))),
                        cancellationToken));
                    return Task.CompletedTask;
                });
                if (parsed.GetValue(output) is { } place)
                {
                    scores[^1].Write(place);
                }
            }

            Write(terminal, loaded.Checkpoint, scores, watch.Elapsed.TotalSeconds, parsed.GetValue(samples), parsed.GetValue(json));
            return ExitCode.Of(
                terminal, "log-likelihood of an answer", scores.SelectMany(s => s.AnswerRows()).Select(a => a.LogLikelihood));
        });
        return command;
    }

    /// <summary>Reads all files before the model is loaded, so that a wrong one is told at once.</summary>
    private static async Task<List<Exam>> OpenAsync(
        string[] tasks, string[] examples, TaskOptions options, CancellationToken cancellationToken)
    {
        var pools = examples.Select(e => Named("--examples", e)).ToDictionary(e => e.Task.Name, e => e.Path);
        var named = tasks.Select(t => Named("--task", t)).ToList();
        if (pools.Keys.Except(named.Select(t => t.Task.Name)).FirstOrDefault() is { } unused)
        {
            throw new UsageException($"There are --examples for {unused}, but no --task {unused}=PATH.");
        }

        if (named.GroupBy(t => t.Task.Name).FirstOrDefault(g => g.Count() > 1) is { } twice)
        {
            throw new UsageException($"The task {twice.Key} is named twice; name a folder or a pattern to read several files.");
        }

        var exams = new List<Exam>();
        foreach (var (task, path) in named)
        {
            var questions = await task.ReadAsync(path, cancellationToken);
            var pool = options.Shots == 0 ? null : pools.TryGetValue(task.Name, out var other)
                ? await task.ReadAsync(other, cancellationToken) : questions;
            exams.Add(new(task, questions, pool));
        }

        return exams;
    }

    private static (LikelihoodTask Task, string Path) Named(string option, string text)
    {
        var equals = text.IndexOf('=', StringComparison.Ordinal);
        var task = equals < 0 ? null : LikelihoodTask.All.FirstOrDefault(t => t.Name == text[..equals]);
        return task is not null && equals < text.Length - 1
            ? (task, text[(equals + 1)..])
            : throw new UsageException(
                $"Expected {option} NAME=PATH with a NAME of {string.Join(", ", LikelihoodTask.All.Select(t => t.Name))}, got '{text}'."
                + (equals < 0 || task is not null ? "" : NearestName.Hint(text[..equals], LikelihoodTask.All.Select(t => t.Name))));
    }

    private static void Write(Terminal terminal, string checkpoint, List<TaskScore> scores, double seconds, bool samples, bool json)
    {
        if (json)
        {
            terminal.WriteJson(new
            {
                Checkpoint = checkpoint,
                Seconds = seconds,
                Tasks = scores.Select(s => new { s.Task, s.Options, s.Skipped, s.Metrics, Samples = samples ? s.Samples : null }),
            });
            return;
        }

        terminal.WriteTable(
            ["task", "group", "metric", ">value", ">± s.e.", ">questions", ">shots"],
            scores.SelectMany(s => s.Metrics).Select(m => new[]
            {
                m.Task, m.Group ?? "", m.Metric, Number(m.Value), Number(m.StandardError),
                m.Samples.ToString("N0", CultureInfo.InvariantCulture),
                m.Shots.ToString(CultureInfo.InvariantCulture),
            }));
        if (scores.Sum(s => s.Samples.Sum(q => q.Answers.Count(a => a.TokensCut > 0))) is > 0 and var cut)
        {
            terminal.Note(string.Create(CultureInfo.InvariantCulture, $"{cut:N0} prompts were cut from the left to fit --max-tokens."));
        }

        if (scores.Sum(s => s.Skipped) is > 0 and var skipped)
        {
            terminal.Note(string.Create(
                CultureInfo.InvariantCulture, $"{skipped:N0} questions were left out: the tokenizer merges an answer into the question."));
        }

        if (samples)
        {
            terminal.Line();
            terminal.WriteTable(
                ["task", ">question", "answer", "right", "chosen", ">log p (nats)", ">tokens", "greedy"],
                scores.SelectMany(s => s.AnswerRows()).Select(a => new[]
                {
                    a.Task, a.Sample.ToString(CultureInfo.InvariantCulture), a.Answer.ReplaceLineEndings(" "), a.IsGold ? "yes"
                        : "", a.IsPredicted ? "yes" : "",
                    Number(a.LogLikelihood), a.Tokens.ToString(CultureInfo.InvariantCulture), a.IsGreedy ? "yes" : "",
                }));
        }
    }

    private static string Number(double value) => value.ToString("F4", CultureInfo.InvariantCulture);

    private sealed record Exam(LikelihoodTask Task, IReadOnlyList<TaskItem> Questions, IReadOnlyList<TaskItem>? Examples);
}
