using System.CommandLine;
using System.Globalization;
using TorchSharp;
using XlstmLab.Cli.Machine;
using XlstmLab.Cli.Terminals;
using XlstmLab.Experiments;
using XlstmLab.Exports;
using XlstmLab.Native;
using static System.FormattableString;

namespace XlstmLab.Cli.Commands;

/// <summary><c>xlstm study</c>: questions that many trainings answer.</summary>
internal static class StudyCommand
{
    private const string UsualRates = "results/h100/train.csv";

    /// <summary>The command and those below it.</summary>
    public static Command Create() => new ExampleCommand(
        "study",
        "Trains the variants of a question with several seeds, keeps one table of all runs, and says which differences are ones.",
        "xlstm study plan results/studies/input-gate-bias --device cuda",
        "xlstm study run results/studies/input-gate-bias --device cuda",
        "xlstm study show results/studies/input-gate-bias")
    {
        Plan(),
        Run(),
        Show(),
        Merge(),
        Report(),
    };

    private static Argument<string[]> Files() =>
        new("FILE") { Description = "A study: a JSON file, or the folder that holds it as study.json.", Arity = ArgumentArity.OneOrMore };

    private static Option<string[]> Set() =>
        new("--set")
        {
            Description = "One setting of all runs, whatever the axes say, such as steps=3 for a trial; may be given several times.",
            HelpName = "NAME=VALUE",
        };

    private static Option<string?> Out() =>
        new("--out", "-o")
        {
            Description = "Another folder for the table and the runs, with a folder for each study. Default: the study's own.",
            HelpName = "FOLDER",
        };

    private static Option<string?> Seeds() => new("--seeds") { Description = "Other seeds than the study's.", HelpName = "LIST" };

    private static Option<bool> Json() => new("--json") { Description = "Print one JSON document." };

    private static ExampleCommand Plan()
    {
        var (files, set, seeds, folder, json, device) = (Files(), Set(), Seeds(), Out(), Json(), ComputeOptions.Device());
        var rates = new Option<string?>("--rates")
        {
            Description = $"Rates that 'xlstm bench train' measured on such a GPU. Default: {UsualRates}, where that is.",
            HelpName = "CSV",
        };
        var measure = new Option<bool>("--measure") { Description = "Time a few updates of what no rate is known of, on the device." };
        var command = new ExampleCommand(
            "plan", "Shows the runs of studies, and what they will take.",
            "xlstm study plan results/studies/input-gate-bias --device cuda", "xlstm study plan study.json --measure")
        {
            files, set, seeds, folder, device, rates, measure, json,
        };
        command.SetAction((parsed, cancellationToken) =>
        {
            var terminal = new Terminal(parsed);
            var onGpu = parsed.GetValue(device)!.StartsWith("cuda", StringComparison.Ordinal);
            var csv = parsed.GetValue(rates) ?? (File.Exists(UsualRates) ? UsualRates : null);
            var known = csv is null || !onGpu ? null : StudyPlan.ReadRates(csv);
            var place = parsed.GetValue(measure) ? ComputeOptions.Find(parsed.GetValue(device)!) : null;
            var plans = Studies(parsed, files, set, seeds, folder)
                .Select(study => (Study: study, Plan: StudyPlan.Of(study, onGpu, known, place, cancellationToken))).ToArray();
            if (parsed.GetValue(json))
            {
                terminal.WriteJson(plans.Select(p => new
                {
                    p.Study.Name,
                    p.Study.Question,
                    p.Plan.Tokens,
                    p.Plan.Flops,
                    p.Plan.Seconds,
                    Runs = p.Plan.Runs.Select(r => new
                    {
                        r.Run.Id,
                        r.Run.Variant,
                        r.Run.Training.Seed,
                        r.Run.Training.Steps,
                        r.Run.Tokens,
                        r.Run.Flops,
                        r.IsDone,
                        r.Seconds,
                        r.Source,
                    }),
                }));
                return Task.FromResult(ExitCode.Success);
            }

            foreach (var (study, plan) in plans)
            {
                if (plans.Length == 1)
                {
                    terminal.WriteTable(
                        ["variant", ">parameters", ">updates", ">tokens", ">operations", ">runs", ">done", ">s a run", "rate"],
                        plan.Runs.GroupBy(run => run.Run.Variant).Select(g => (IReadOnlyList<string>)
                        [
                            g.Key, Invariant($"{g.First().Run.Model.CountParameters():N0}"),
                            Invariant($"{g.First().Run.Training.Steps:N0}"), Invariant($"{g.First().Run.Tokens:N0}"),
                            Invariant($"{g.First().Run.Flops:0.00e0}"), Invariant($"{g.Count()}"),
                            Invariant($"{g.Count(run => run.IsDone)}"), Seconds(g.First().Seconds), g.First().Source,
                        ]));
                }
            }

            if (plans.Length > 1)
            {
                terminal.WriteTable(
                    ["study", ">runs", ">done", ">tokens", ">operations", ">s"],
                    plans.Select(p => (IReadOnlyList<string>)
                    [
                        p.Study.Name, Invariant($"{p.Plan.Runs.Count}"), Invariant($"{p.Plan.Runs.Count - p.Plan.Open.Count}"),
                        Invariant($"{p.Plan.Tokens:N0}"),
                        Invariant($"{p.Plan.Flops:0.00e0}"), Seconds(p.Plan.Seconds),
                    ]));
            }

            var open = plans.Sum(p => p.Plan.Open.Count);
            double? seconds = plans.All(p => p.Plan.Seconds is not null) ? plans.Sum(p => p.Plan.Seconds!.Value) : null;
            var duration = seconds is { } s
                ? $", about {Readable.Duration(s)} without tests"
                : "; how long is not known: --measure times a few updates";
            terminal.Note(string.Create(
                CultureInfo.InvariantCulture,
                $"{open} runs to do, {plans.Sum(p => p.Plan.Tokens):N0} tokens, "
                + $"{plans.Sum(p => p.Plan.Flops):0.00e0} operations{duration}."));
            return Task.FromResult(ExitCode.Success);
        });
        return command;
    }

    private static ExampleCommand Run()
    {
        var (files, set, seeds, folder, json, device, threads) = (Files(), Set(), Seeds(), Out(), Json(),
            ComputeOptions.Device(), ComputeOptions.Threads());
        var limit = NumberOption.Real(
            new Option<double?>("--seconds")
            {
                Description = "Stop after so many seconds of each study, with checkpoints of what is under way; given again, it goes on.",
                HelpName = "N",
            }, NumberRange.Seconds);
        var keep = new Option<bool>("--keep-runs") { Description = "Keep the folders of runs that are done, with their checkpoints." };
        var slurm = new StudyOnSlurm();
        var command = new ExampleCommand(
            "run",
            "Trains the runs of studies that are not done: side by side on a GPU, one after another on a CPU. "
            + "Ctrl-C stops with checkpoints; the same line goes on.",
            "xlstm study run results/studies/input-gate-bias --device cuda",
            "xlstm study run results/studies/input-gate-bias --set steps=3 --out runs/trial",
            "xlstm study run study.json --seeds 1,2,3,4,5 --seconds 600",
            "xlstm study run results/studies/muon --device cuda --slurm --partition gpu --time 2:00:00 --runs-per-task 5 --wait")
        {
            files, set, seeds, folder, device, threads, limit, keep, json,
        };
        foreach (var option in slurm.Options)
        {
            command.Add(option);
        }

        command.SetAction(async (parsed, cancellationToken) =>
        {
            var terminal = new Terminal(parsed);
            Study[] studies = [.. Studies(parsed, files, set, seeds, folder).Select(
                study => study with { KeepRuns = parsed.GetValue(keep) })];
            if (slurm.IsMeant(parsed))
            {
                foreach (var (study, file) in studies.Zip(parsed.GetValue(files)!))
                {
                    string[] line =
                    [
                        .. OwnProgram.Words, "study", "run", Path.GetFullPath(file), .. Again(
                            parsed, set, seeds, folder, device, threads, limit, keep),
                        .. OwnProgram.Plugins(parsed),
                    ];
                    await slurm.SubmitAsync(
                        parsed, terminal, study, parsed.GetValue(device)!, parsed.GetValue(threads), line, cancellationToken);
                }

                if (!slurm.IsWaiting(parsed))
                {
                    return ExitCode.Success;
                }

                await StudyOnSlurm.WaitAsync(terminal, studies, cancellationToken);
                return await ReportAsync(terminal, [.. studies.Select(study => study.Read())], parsed.GetValue(json), cancellationToken);
            }

            Compute.Begin(parsed.GetValue(threads));
            var place = ComputeOptions.Find(parsed.GetValue(device)!);
            var results = new List<StudyResult>();
            foreach (var study in studies)
            {
                results.Add(await RunAsync(terminal, slurm.OfThisTask(parsed, study), place, parsed.GetValue(limit), cancellationToken));
            }

            return await ReportAsync(terminal, results, parsed.GetValue(json), cancellationToken);
        });
        return command;
    }

    /// <summary>Says what studies came to.</summary>
    /// <returns>The exit code that says whether all runs are done.</returns>
    private static async Task<int> ReportAsync(
        Terminal terminal, IReadOnlyList<StudyResult> results, bool inJson, CancellationToken cancellationToken)
    {
        if (inJson)
        {
            terminal.WriteJson(results.Select(Summary));
        }

        foreach (var result in inJson ? [] : results)
        {
            Write(terminal, result, null, null);
            if (result.Study.Share is null)
            {
                await StudyOnSlurm.ShowAsync(terminal, result, cancellationToken);
            }
        }

        // A share is done when its own runs are.
        static bool IsOurs(StudyResult result, string id) => result.Study.Share?.Runs.Contains(id) ?? true;
        return results.Any(result => result.Rows.Any(row => row.Status == StudyStatus.Failed && IsOurs(result, row.Id))) ? ExitCode.Failure
            : results.Any(result => result.Missing.Any(run => IsOurs(result, run.Id))) ? ExitCode.Interrupted
            : ExitCode.Success;
    }

    /// <summary>The options of a command line once more, for a task that does a part of it.</summary>
    private static IEnumerable<string> Again(
        ParseResult parsed, Option<string[]> set, Option<string?> seeds, Option<string?> folder, Option<string> device,
        Option<int?> threads,
        Option<double?> seconds, Option<bool> keep)
    {
        (string Name, string? Value)[] given =
        [
            .. (parsed.GetValue(set) ?? []).Select(setting => (set.Name, (string?)setting)),
            (seeds.Name, parsed.GetValue(seeds)),
            (folder.Name, parsed.GetValue(folder) is { } path ? Path.GetFullPath(path) : null),
            (device.Name, parsed.GetValue(device)),
            (threads.Name, parsed.GetValue(threads)?.ToString(CultureInfo.InvariantCulture)),
            (seconds.Name, parsed.GetValue(seconds)?.ToString("R", CultureInfo.InvariantCulture)),
        ];
        return given.Where(option => option.Value is not null)
            .SelectMany(option => new[] { option.Name, option.Value! })
            .Concat(parsed.GetValue(keep) ? [keep.Name] : []);
    }

    private static async Task<StudyResult> RunAsync(
        Terminal terminal, Study study, torch.Device device, double? seconds, CancellationToken cancellationToken)
    {
        using var timer = new CancellationTokenSource();
        using var both = CancellationTokenSource.CreateLinkedTokenSource(timer.Token, cancellationToken);
        if (seconds is { } limit)
        {
            timer.CancelAfter(TimeSpan.FromSeconds(limit));
        }

        try
        {
            StudyResult? result = null;
            await terminal.TrackAsync(study.Name, tracker =>
            {
                var watcher = new Watcher(tracker);
                result = study.Run(
                    device, new ImmediateProgress<StudyProgress>(watcher.Report), new WarningLines(watcher.Line), both.Token);
                return Task.CompletedTask;
            });
            return result!;
        }
        catch (OperationCanceledException) when (timer.IsCancellationRequested && !cancellationToken.IsCancellationRequested)
        {
            terminal.Note(Invariant($"{study.Name}: stopped after {seconds} s."));
            return study.Read();
        }
    }

    private static ExampleCommand Show()
    {
        var (files, set, seeds, folder, json) = (Files(), Set(), Seeds(), Out(), Json());
        var metric = new Option<string?>("--metric")
        {
            Description = "What is compared, such as test_loss, validation_bits_per_byte, tokens_per_second, "
                + "gradient_norm_max or scaled@40-256. Default: what the claims are about, else test_loss.",
            HelpName = "NAME",
        };
        var axis = new Option<string?>("--axis")
        {
            Description = "Compare along one axis, the others being equal. Default: all variants with the study's base.",
            HelpName = "NAME",
        };
        var save = new Option<string?>("--save")
        {
            Description = "Also write the table of runs, as .csv, .parquet, .npz or .safetensors.",
            HelpName = "FILE",
        };
        var command = new ExampleCommand(
            "show", "Shows what studies came to: means over seeds, corrected differences, and the claims beside our numbers.",
            "xlstm study show results/studies/input-gate-bias",
            "xlstm study show results/studies/muon --axis optimizer --metric validation_loss --save runs.parquet")
        {
            files, set, seeds, folder, metric, axis, save, json,
        };
        command.SetAction(async (parsed, cancellationToken) =>
        {
            var terminal = new Terminal(parsed);
            var results = Studies(parsed, files, set, seeds, folder).Select(study => study.Read()).ToArray();
            if (parsed.GetValue(save) is { } file)
            {
                results.SelectMany(result => result.Rows).ToTable().Save(file);
                terminal.Note($"Wrote {file}.");
            }

            if (parsed.GetValue(json))
            {
                terminal.WriteJson(results.Select(Summary));
            }
            else
            {
                foreach (var result in results)
                {
                    Write(terminal, result, parsed.GetValue(metric), parsed.GetValue(axis));
                    await StudyOnSlurm.ShowAsync(terminal, result, cancellationToken);
                }
            }

            return ExitCode.Success;
        });
        return command;
    }

    private static ExampleCommand Merge()
    {
        var file = new Argument<string>("FILE") { Description = "The study whose table grows: a JSON file, its folder, or a runs.jsonl." };
        var from = new Option<string[]>("--from")
        {
            Description = "Tables of runs from elsewhere, or folders with one. Default: those that tasks of Slurm have written.",
            HelpName = "FOLDER",
            AllowMultipleArgumentsPerToken = true,
        };
        var folder = Out();
        var command = new ExampleCommand(
            "merge", "Adds the runs of other tables to a study's own: those that it lacks, or has only as failures.",
            "xlstm study merge results/studies/input-gate-bias",
            "xlstm study merge results/studies/input-gate-bias --from elsewhere/input-gate-bias")
        {
            file, from, folder,
        };
        command.SetAction(parsed =>
        {
            var terminal = new Terminal(parsed);
            var named = parsed.GetValue(file)!;
            var others = parsed.GetValue(from) ?? [];
            var isTable = named.EndsWith(".jsonl", StringComparison.OrdinalIgnoreCase);
            if (isTable && others.Length == 0)
            {
                throw new UsageException($"{named} is a table: --from names those that are added to it.");
            }

            var study = isTable ? null : In(Study.ReadFile(named), parsed.GetValue(folder));
            var table = study?.FolderOrUsual ?? named;
            var added = study is not null && others.Length == 0 ? study.Merge() : StudyTable.Merge(table, others);
            terminal.Note(Invariant($"{added} runs added; the table has {StudyTable.Read(table).Count}."));
            return ExitCode.Success;
        });
        return command;
    }

    private static ExampleCommand Report()
    {
        var results = new Option<string>("--results")
        {
            Description = "The folder with the studies and the documents.",
            HelpName = "FOLDER",
            DefaultValueFactory = _ => "results",
        };
        var check = new Option<bool>("--check")
        {
            Description = "Write nothing, and fail where a document or picture is not what the rows make it.",
        };
        var command = new ExampleCommand(
            "report",
            "Writes what the studies' rows say into results/README.md (all claims, with pictures) and results/LOG.md (what ran when), "
            + "between the marks <!-- studies -->.",
            "xlstm study report", "xlstm study report --check")
        {
            results, check,
        };
        command.SetAction(parsed =>
        {
            var terminal = new Terminal(parsed);
            var folder = parsed.GetValue(results)!;
            var files = StudyReportFiles.Of(folder);
            var stale =
                files.Where(file => !File.Exists(Path.Combine(folder, file.Key))
                    || File.ReadAllText(Path.Combine(folder, file.Key)) != file.Value).Select(file => file.Key).ToArray();
            if (parsed.GetValue(check))
            {
                return stale.Length == 0 ? ExitCode.Success
                    : throw new InvalidDataException(
                        $"Not what the rows of {folder} make: {string.Join(", ", stale)}. 'xlstm study report' writes them.");
            }

            foreach (var file in stale)
            {
                Directory.CreateDirectory(Path.GetDirectoryName(Path.Combine(folder, file))!);
                AtomicFile.WriteText(Path.Combine(folder, file), files[file]);
                terminal.Note($"Wrote {Path.Combine(folder, file)}.");
            }

            return ExitCode.Success;
        });
        return command;
    }

    private static Study[] Studies(
        ParseResult parsed, Argument<string[]> files, Option<string[]> set, Option<string?> seeds, Option<string?> folder)
    {
        var list = parsed.GetValue(seeds) is { } given ? NumberOption.SeedList(given) : null;
        return [.. parsed.GetValue(files)!.Select(file =>
        {
            var study = Study.ReadFile(file);
            return In(study, parsed.GetValue(folder)) with { Overrides = parsed.GetValue(set) ?? [], Seeds = list ?? study.Seeds };
        })];
    }

    private static Study In(Study study, string? folder) =>
        folder is null ? study : study with { Folder = Path.Combine(folder, study.Name) };

    private static object Summary(StudyResult result) => new
    {
        result.Study.Name,
        result.Study.Question,
        Missing = result.Missing.Select(run => run.Id),
        result.Rows,
        Claims = StudyComparison.Judge(result),
    };

    private static void Write(Terminal terminal, StudyResult result, string? metric, string? axis)
    {
        var study = result.Study;
        terminal.Line(study.Question.Length > 0 ? $"{study.Name}: {study.Question}" : study.Name);
        var wanted = metric is not null ? [metric] : study.Claims.Select(claim => claim.Metric).DefaultIfEmpty("test_loss").Distinct();
        foreach (var name in wanted)
        {
            var comparison = StudyComparison.Of(result, name, axis);
            terminal.WriteTable(
                ["variant", $">{name}", ">seeds", ">diverged", ">difference", ">low", ">high", ">p", "called"],
                comparison.Variants.Select(v => (IReadOnlyList<string>)
                [
                    v.Variant, v.Value.ToString(), Invariant($"{v.Value.Count}"), Invariant($"{v.Diverged}"), Number(v.Difference?.Mean),
                    Number(v.Difference?.Low), Number(v.Difference?.High),
                    Number(v.Difference?.AdjustedPValue), v.Difference is null ? "base" : v.Difference.IsDifferent ? "different" : "",
                ]));
        }

        var claims = StudyComparison.Judge(result);
        if (claims.Count > 0)
        {
            terminal.WriteTable(
                ["claim", "source", "published", "ours", ">gain", ">low", ">high", "verdict"],
                claims.Select(c => (IReadOnlyList<string>)
                [
                    c.Claim.Text, c.Claim.Source, c.Claim.PublishedBetter is null ? "order only" : Invariant(
                        $"{c.Claim.PublishedBetter:0.####} against {c.Claim.PublishedWorse:0.####}"),
                    $"{c.Better} against {c.Worse}", Number(c.Difference.Mean), Number(c.Difference.Low), Number(c.Difference.High),
                    StudyComparison.Words(c.Verdict),
                ]));
        }

        var failed = result.Rows.Where(row => row.Status == StudyStatus.Failed).ToArray();
        terminal.Note(string.Create(
            CultureInfo.InvariantCulture,
            $"{result.Rows.Count - failed.Length} runs are done, "
            + $"{result.Missing.Count} are missing{(failed.Length > 0 ? Invariant($", {failed.Length} failed: {failed[0].Error}") : "")}. "
            + $"The table is in {study.FolderOrUsual}."));
    }

    private static string Seconds(double? seconds) => seconds is { } s ? Readable.Duration(s) : "?";

    private static string Number(double? value) => value is { } number && !double.IsNaN(number) ? Invariant($"{number:G3}") : "";

    /// <summary>Shows several runs at once, each when it ends.</summary>
    private sealed class Watcher(ProgressTracker tracker)
    {
        private readonly Lock _gate = new();
        private readonly Dictionary<string, double> _shares = [];

        public void Report(StudyProgress progress)
        {
            lock (_gate)
            {
                if (progress.Row is { } row)
                {
                    _shares.Remove(progress.Run.Id);
                    tracker.Line(string.Create(
                        CultureInfo.InvariantCulture,
                        $"{row.Id}  {row.Status}, {row.Steps:N0} updates in {Readable.Duration(row.Seconds)}, "
                        + $"{row.TokensPerSecond:N0} "
                        + $"tokens/s{(row.SideBySide > 1 ? Invariant($", {row.SideBySide} side by side") : "")}: {Losses(row)}"));
                }
                else if (progress.Metrics is { } metrics)
                {
                    _shares[progress.Run.Id] = metrics.Step / (double)progress.Run.Training.Steps;
                }

                tracker.Report((progress.Finished + _shares.Values.Sum()) / progress.Total, Invariant(
                    $"{progress.Finished} of {progress.Total} runs done, {_shares.Count} under way"));
            }
        }

        public void Line(string text)
        {
            lock (_gate)
            {
                tracker.Line(text);
            }
        }

        private static string Losses(StudyRow row) => row.Scores.Count > 0
            ? string.Join(", ", row.Scores.Select(s => Invariant($"{s.Accuracy:F3} at {s.Lengths}")))
            : Invariant($"validation {row.ValidationLoss:F4}, test {row.TestLoss:F4}");
    }
}
