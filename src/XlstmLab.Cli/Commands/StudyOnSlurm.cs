using System.CommandLine;
using XlstmLab.Cli.Machine;
using XlstmLab.Cli.Terminals;
using XlstmLab.Experiments;
using static System.FormattableString;

namespace XlstmLab.Cli.Commands;

/// <summary>The options of <c>xlstm study run</c> that hand runs to Slurm, and what they do.</summary>
internal sealed class StudyOnSlurm
{
    /// <summary>How long tasks that were cancelled are waited for.</summary>
    private static readonly TimeSpan Patience = TimeSpan.FromMinutes(5);

    private readonly Option<bool> _slurm = new("--slurm")
    {
        Description = "Hand the runs to Slurm as an array job, instead of training them here; the study's folder must be "
            + "one that the nodes share.",
    };
    private readonly Option<bool> _wait = new("--wait")
    {
        Description = "With --slurm: wait until all tasks have ended, and merge their tables. Ctrl-C cancels them, with checkpoints.",
    };
    private readonly Option<int?> _perTask = NumberOption.Whole(new Option<int?>("--runs-per-task")
    {
        Description = "With --slurm: runs of a task, side by side on its GPU or one after another. Default: 1.",
        HelpName = "N",
    }, 1);
    private readonly Option<int?> _atOnce = NumberOption.Whole(new Option<int?>("--at-once")
    {
        Description = "With --slurm: the most tasks at a time. Default: as many as the cluster has room for.",
        HelpName = "N",
    }, 1);
    private readonly Option<string?> _partition = new("--partition")
    {
        Description = "With --slurm: the partition.",
        HelpName = "NAME",
    };
    private readonly Option<string?> _time = new("--time")
    {
        Description = "With --slurm: the time of a task, as Slurm takes it; a minute before its end a task writes checkpoints.",
        HelpName = "HH:MM:SS",
    };
    private readonly Option<string?> _memory = new("--memory")
    {
        Description = "With --slurm: the memory of a task, such as 16G.",
        HelpName = "SIZE",
    };
    private readonly Option<string?> _gres = new("--gres")
    {
        Description = "With --slurm: other resources of a task than one GPU (with --device cuda) or none.",
        HelpName = "LIST",
    };
    private readonly Option<string?> _account = new("--account")
    {
        Description = "With --slurm: whom the time is charged to.",
        HelpName = "NAME",
    };
    private readonly Option<string[]> _lines = new("--sbatch")
    {
        Description = "With --slurm: another option of sbatch, such as --sbatch=--qos=low; may be given several times.",
        HelpName = "OPTION",
    };
    private readonly Option<string?> _task = new("--task")
    {
        Description = "Do the task of an array job that this process is.",
        HelpName = "FILE",
        Hidden = true,
    };

    /// <summary>The options.</summary>
    public IReadOnlyList<Option> Options => [_slurm, _wait, _perTask, _atOnce, _partition, _time, _memory, _gres, _account, _lines, _task];

    /// <summary>Whether a command line hands its runs to Slurm.</summary>
    /// <exception cref="UsageException">Some of the options need it, and it is not there.</exception>
    public bool IsMeant(ParseResult parsed)
    {
        var isMeant = parsed.GetValue(_slurm);
        var stray = Options.FirstOrDefault(
            option => option != _task && option != _slurm && parsed.GetResult(option) is { Implicit: false });
        return isMeant || stray is null ? isMeant
            : throw new UsageException($"{stray.Name} is about tasks of Slurm: it goes with --slurm.");
    }

    /// <summary>Whether a command line waits for the tasks.</summary>
    public bool IsWaiting(ParseResult parsed) => parsed.GetValue(_wait);

    /// <summary>The study with the share of the task that this process is; unchanged where it is none.</summary>
    public Study OfThisTask(ParseResult parsed, Study study) =>
        parsed.GetValue(_task) is { } file ? study with { Share = StudyJob.ShareOfThisTask(file) } : study;

    /// <summary>Hands the runs of a study to Slurm that are not done, nor with tasks that Slurm still has.</summary>
    /// <param name="parsed">The command line.</param>
    /// <param name="terminal">Told what was done.</param>
    /// <param name="study">The study.</param>
    /// <param name="device">Where the tasks are to compute.</param>
    /// <param name="threads">The threads of a task.</param>
    /// <param name="command">The command line of a task.</param>
    /// <param name="cancellationToken">Stops before the job is submitted.</param>
    public async Task SubmitAsync(
        ParseResult parsed, Terminal terminal, Study study, string device, int? threads, IReadOnlyList<string> command,
        CancellationToken cancellationToken)
    {
        var missing = study.Read().Missing.Select(run => run.Id).ToArray();
        var held = (await TasksAsync(study, cancellationToken)).Where(task => task.IsAlive).SelectMany(task => task.Runs).ToHashSet();
        var open = missing.Where(id => !held.Contains(id)).ToArray();
        if (open.Length == 0)
        {
            var why = missing.Length == 0 ? "all runs are done" : Invariant(
                $"the {missing.Length} runs that are missing are with tasks that Slurm has");
            terminal.Note($"{study.Name}: {why}; nothing was submitted.");
            return;
        }

        var options = new StudyJobOptions
        {
            RunsPerTask = parsed.GetValue(_perTask) ?? 1,
            AtOnce = parsed.GetValue(_atOnce),
            Threads = threads,
            Lines = Lines(parsed, device),
        };
        var job = await StudyJob.SubmitAsync(study, open, options, command, cancellationToken);
        var others = open.Length < missing.Length ? Invariant($", {missing.Length - open.Length} are with earlier jobs") : "";
        terminal.Note(Invariant($"{study.Name}: {open.Length} runs in {job.Tasks.Count} tasks of job {job.Id}{others}."));
        if (!parsed.GetValue(_wait))
        {
            terminal.Note(
                $"'xlstm study show' says how they do, 'scancel {job.Id}' ends them with checkpoints, "
                + "'xlstm study merge' brings their rows into the study's table.");
        }
    }

    /// <summary>Waits until Slurm has none of the studies' tasks any more, and merges their rows.</summary>
    /// <exception cref="OperationCanceledException">
    /// It was interrupted: the tasks were cancelled, and what they have done is merged.
    /// </exception>
    public static async Task WaitAsync(Terminal terminal, IReadOnlyList<Study> studies, CancellationToken cancellationToken)
    {
        try
        {
            await terminal.TrackAsync("Slurm", tracker => EndAsync(studies, tracker, cancellationToken));
        }
        catch (OperationCanceledException) when (cancellationToken.IsCancellationRequested)
        {
            using var limit = new CancellationTokenSource(Patience);
            StudyTask[] alive = [.. (await TasksAsync(studies, limit.Token)).Where(task => task.IsAlive)];
            terminal.Note(Invariant($"Cancelling {alive.Length} tasks."));
            await Slurm.CancelAsync([.. alive.Select(task => task.Name)], limit.Token);
            await terminal.TrackAsync("Slurm", tracker => EndAsync(studies, tracker, limit.Token));
            throw;
        }
        finally
        {
            foreach (var study in studies)
            {
                terminal.Note(Invariant($"{study.Name}: {study.Merge()} runs added."));
            }
        }
    }

    /// <summary>Shows what Slurm says of the tasks whose runs have no result yet.</summary>
    public static async Task ShowAsync(Terminal terminal, StudyResult result, CancellationToken cancellationToken)
    {
        IReadOnlyList<StudyTask> tasks;
        try
        {
            tasks = await TasksAsync(result.Study, cancellationToken);
        }
        catch (InvalidOperationException e)
        {
            terminal.Note($"What became of tasks of Slurm is not known: {e.Message}");
            return;
        }

        // Of a run that was handed out again, the last task counts.
        var rows = result.Missing
            .Select(run => (
                run.Id,
                Task: tasks.LastOrDefault(task => task.Runs.Contains(run.Id)),
                Row: result.Rows.FirstOrDefault(row => row.Id == run.Id)))
            .Where(run => run.Task is not null).ToArray();
        if (rows.Length > 0)
        {
            terminal.WriteTable(
                ["run", "task", "state", "why", "node"],
                rows.Select(run => (IReadOnlyList<string>)
                [
                    run.Id, run.Task!.Name, run.Task.Slurm?.State ?? "ended",
                    run.Task.IsAlive ? run.Task.Slurm!.Reason : Why(run.Task, run.Row),
                    run.Task.Slurm?.Node ?? "",
                ]));
        }
    }

    private static string Why(StudyTask task, StudyRow? row) => row?.Error is { } error ? error
        : File.Exists(task.Log) ? $"see {task.Log}"
        : task.Slurm?.State == "CANCELLED" ? task.Slurm.Reason
        : $"it has written nothing to {Path.GetDirectoryName(task.Log)}: is that on a file system which the nodes share? --out "
            + "FOLDER takes another";

    private static async Task EndAsync(IReadOnlyList<Study> studies, ProgressTracker tracker, CancellationToken cancellationToken)
    {
        var pause = TimeSpan.FromSeconds(1);
        string? trouble = null;
        while (true)
        {
            try
            {
                var tasks = await TasksAsync(studies, cancellationToken);
                var results = studies.Select(study => study.Read()).ToArray();
                var total = results.Sum(result => result.Rows.Count(row => row.IsDone) + result.Missing.Count);
                var done = total - results.Sum(result => result.Missing.Count);
                var states = tasks.Where(task => task.IsAlive).GroupBy(task => task.Slurm!.State).Select(
                    group => Invariant($"{group.Count()} {group.Key}"));
                tracker.Report(done / (double)total, string.Join(", ", states.Prepend(Invariant($"{done} of {total} runs done"))));
                if (!tasks.Any(task => task.IsAlive))
                {
                    return;
                }

                trouble = null;
            }
            catch (InvalidOperationException e) when (e.Message != trouble)
            {
                // A controller may be away for a while, and its tasks go on.
                trouble = e.Message;
                tracker.Line($"{e.Message} Asking again.");
            }
            catch (InvalidOperationException)
            {
                // It was said already.
            }

            await Task.Delay(pause, cancellationToken);
            pause = TimeSpan.FromSeconds(Math.Min(10, pause.TotalSeconds * 1.2));
        }
    }

    private static async Task<StudyTask[]> TasksAsync(IReadOnlyList<Study> studies, CancellationToken cancellationToken) =>
        [.. (await Task.WhenAll(studies.Select(study => TasksAsync(study, cancellationToken)))).SelectMany(tasks => tasks)];

    /// <summary>All tasks of a study, in the order in which they were handed out.</summary>
    private static async Task<IReadOnlyList<StudyTask>> TasksAsync(Study study, CancellationToken cancellationToken)
    {
        var jobs = StudyJob.Of(study).Where(job => job.Job.Id.Length > 0).ToArray();
        if (jobs.Length == 0)
        {
            return [];
        }

        var known = await Slurm.TasksAsync([.. jobs.Select(job => job.Job.Id)], cancellationToken);
        return [.. jobs.SelectMany(job => job.Job.Tasks.Select((runs, index) => new StudyTask(
            Invariant($"{job.Job.Id}_{index}"), runs, StudyJob.LogOf(job.Folder, index), known.GetValueOrDefault((job.Job.Id, index)))))];
    }

    private List<string> Lines(ParseResult parsed, string device)
    {
        var gres = parsed.GetValue(_gres) ?? (device.StartsWith("cuda", StringComparison.Ordinal) ? "gpu:1" : null);
        var named = new (string Name, string? Value)[]
        {
            ("partition", parsed.GetValue(_partition)), ("time", parsed.GetValue(_time)), ("mem", parsed.GetValue(_memory)), ("gres", gres),
            ("account", parsed.GetValue(_account)),
        };
        var given = named.Where(option => option.Value is not null).Select(option => $"--{option.Name}={option.Value}");
        return [.. given, .. parsed.GetValue(_lines) ?? []];
    }

    /// <summary>A task of an array job.</summary>
    /// <param name="Name">Slurm's name for it, such as 12_0.</param>
    /// <param name="Runs">The ids of its runs.</param>
    /// <param name="Log">What it prints.</param>
    /// <param name="Slurm">What Slurm says of it; null where it has forgotten it.</param>
    private sealed record StudyTask(string Name, IReadOnlyList<string> Runs, string Log, SlurmTask? Slurm)
    {
        /// <summary>Whether it runs, or may yet.</summary>
        public bool IsAlive => Slurm is { HasEnded: false };
    }
}
