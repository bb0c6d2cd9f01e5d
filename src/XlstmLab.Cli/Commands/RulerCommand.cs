using System.CommandLine;
using System.Diagnostics;
using System.Globalization;
using System.Text.Json;
using XlstmLab.Cli.Terminals;
using XlstmLab.Evaluation;
using XlstmLab.Tasks.Ruler;
using XlstmLab.Text;

namespace XlstmLab.Cli.Commands;

/// <summary><c>xlstm ruler</c>: how much of a long context a model makes use of.</summary>
internal static class RulerCommand
{
    /// <summary>The command.</summary>
    public static Command Create()
    {
        var model = new ModelOptions();
        var tasks = new Option<string?>("--tasks")
        {
            Description = "RULER's names, with commas between; niah, or all without questions, synthetic. Default: synthetic, "
                + "and what --qa has questions for.",
            HelpName = "LIST",
        };
        var lengths = new Option<string>("--lengths")
        {
            Description = "Tokens of prompt and answer together, with commas between.",
            DefaultValueFactory = _ => "512,1024,2048,4096",
            HelpName = "LIST",
        };
        var samples = NumberOption.Whole(
            new Option<int?>("--samples") { Description = "Samples of each task at each length. Default: 40.", HelpName = "N" }, 1);
        var seed = NumberOption.Whole(new Option<long>("--seed") { Description = "Other seeds give other samples.", HelpName = "N" });
        var questions = new Option<string[]>("--qa")
        {
            Description = "Questions for qa_1 (about one paragraph) and qa_2 (about several): SQuAD's or HotpotQA's .json, or .jsonl. "
                + "More than once for several files.",
            HelpName = "FILE",
        };
        var haystack = new Option<string?>("--haystack")
        {
            Description = $"A text file that needles are hidden in. Default: the test part of {Datasets.Default}.",
            HelpName = "FILE",
        };
        var noExample = new Option<bool>("--no-example")
        {
            Description = "Show no solved example before vt and cwe: shorter lengths have room then.",
        };
        var answer = NumberOption.Whole(new Option<int?>("--answer-tokens")
        {
            Description = "Tokens a model may answer with. Default: RULER's for each task.",
            HelpName = "N",
        }, 1);
        var batch = NumberOption.Whole(
            new Option<int?>("--batch-size") { Description = "Samples read and answered side by side. Default: 8.", HelpName = "N" }, 1);
        var output = new Option<string?>("--out")
        {
            Description = "Also write ruler.json, ruler.csv and ruler-answers.jsonl into this folder.",
            HelpName = "FOLDER",
        };
        var json = new Option<bool>("--json") { Description = "Print one JSON document." };
        var command = new ExampleCommand(
            "ruler",
            "Measures retrieval, tracking, counting and question answering at growing lengths: RULER's 13 tasks in the model's own tokens.",
            "xlstm ruler runs/first --tasks niah_single_1,vt --lengths 512,1024 --samples 20",
            "xlstm ruler NX-AI_xLSTM-7b --lengths 4096,8192 --qa dev-v2.0.json --qa hotpot_dev_distractor_v1.json --out results/ruler")
        {
            model.Folder, tasks, lengths, samples, seed, questions, haystack, noExample, answer, batch, output, model, json,
        };
        command.SetAction(async (parsed, cancellationToken) =>
        {
            var terminal = new Terminal(parsed);

            // What the user gave is looked at before a model is loaded, which may take minutes.
            var asked = parsed.GetValue(questions) is { Length: > 0 } files ? RulerQuestions.Read(files) : null;
            var options = new RulerEvaluationOptions
            {
                Tasks = Tasks(parsed.GetValue(tasks), asked),
                Lengths = Lengths(parsed.GetValue(lengths)!),
                Samples = parsed.GetValue(samples) ?? 40,
                BatchSize = parsed.GetValue(batch) ?? 8,
            };
            options.Validate();
            var made = new RulerOptions
            {
                Seed = parsed.GetValue(seed),
                Haystack = parsed.GetValue(haystack) is { } text ? Haystack.Read(text) : null,
                Questions = asked,
                Example = !parsed.GetValue(noExample),
                AnswerTokens = parsed.GetValue(answer),
            };
            using var loaded = await model.OpenAsync(parsed, terminal, cancellationToken);
            var watch = Stopwatch.StartNew();
            RulerResult? result = null;
            await terminal.TrackAsync("RULER", tracker =>
            {
                result = loaded.Ruler(
                    options, made, new ImmediateProgress<RulerProgress>(p => tracker.Report(
                        p.Done / (double)p.Total,
                        string.Create(CultureInfo.InvariantCulture, $"{p.Task.Name()} at {p.Length}: {100 * p.Score:F0} %"))),
                    cancellationToken);
                return Task.CompletedTask;
            });
            var report = new
            {
                loaded.Checkpoint,
                made.Seed,
                Haystack = parsed.GetValue(haystack) ?? Datasets.Default,
                made.Example,
                options.Samples,
                Seconds = watch.Elapsed.TotalSeconds,
                Scores = result!.Scores.Select(s => new { Task = s.Name, s.Length, s.Samples, s.PromptTokens, s.Score }).ToArray(),
                result.Averages,
                Depths = result.DepthScores.Select(d => new { Task = d.Name, d.Length, d.From, d.To, d.Needles, d.Score }).ToArray(),
            };
            if (parsed.GetValue(output) is { } target)
            {
                AtomicFile.WriteText(Path.Combine(target, "ruler.json"), JsonSerializer.Serialize(report, ResultJson.Options) + "\n");
                AtomicFile.WriteText(Path.Combine(target, "ruler.csv"), "task,length,samples,prompt_tokens,score\n"
                    + string.Concat(result.Scores.Select(s =>
                        string.Create(CultureInfo.InvariantCulture, $"{s.Name},{s.Length},{s.Samples},{s.PromptTokens},{s.Score}\n"))));
                AtomicFile.WriteText(Path.Combine(target, "ruler-answers.jsonl"), string.Concat(result.Answers.Select(a =>
                    JsonSerializer.Serialize(
                        new { Task = a.Task.Name(), a.Length, a.Index, a.PromptTokens, a.Score, a.Expected, a.Output },
                        ResultJson.Line) + "\n")));
            }

            if (parsed.GetValue(json))
            {
                terminal.WriteJson(report);
            }
            else
            {
                WriteTable(terminal, options, result);
            }

            return ExitCode.Success;
        });
        return command;
    }

    private static void WriteTable(Terminal terminal, RulerEvaluationOptions options, RulerResult result) => terminal.WriteTable(
        ["task", .. options.Lengths.Select(l => $">{l.ToString(CultureInfo.InvariantCulture)}")],
        [
            .. options.Tasks.Select(
                task => (string[])[task.Name(), .. options.Lengths.Select(length => Percent(result[task, length].Score))]),
            ["mean", .. result.Averages.Select(a => Percent(a.Score))],
        ]);

    private static string Percent(double share) => (100 * share).ToString("F1", CultureInfo.InvariantCulture);

    private static List<RulerTask> Tasks(string? list, RulerQuestions? questions)
    {
        if (list is null)
        {
            return [.. RulerTasks.Synthetic, .. questions?.Tasks ?? []];
        }

        var tasks = new List<RulerTask>();
        foreach (var name in list.Split(',', StringSplitOptions.TrimEntries | StringSplitOptions.RemoveEmptyEntries))
        {
            try
            {
                tasks.AddRange(name switch
                {
                    "synthetic" => RulerTasks.Synthetic,
                    "niah" => RulerTasks.All.Where(t => t.Name().StartsWith("niah", StringComparison.Ordinal)),
                    _ => [RulerTasks.Parse(name)],
                });
            }
            catch (ArgumentException e)
            {
                throw new UsageException($"--tasks: {e.Message}");
            }
        }

        foreach (var task in tasks.Where(t => t.IsQuestion() && questions?.Tasks.Contains(t) != true))
        {
            throw new UsageException($"{task.Name()} needs questions: name a file that has some by --qa.");
        }

        return [.. tasks.Distinct()];
    }

    private static int[] Lengths(string list) =>
        [.. list.Split(',', StringSplitOptions.TrimEntries | StringSplitOptions.RemoveEmptyEntries).Select(text =>
            int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out var length) && length > 0
                ? length
                : throw new UsageException($"--lengths: expected numbers of tokens with commas between, got '{text}'."))];
}
