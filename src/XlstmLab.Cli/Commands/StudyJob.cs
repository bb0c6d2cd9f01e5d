using System.Globalization;
using System.Text;
using System.Text.Json;
using XlstmLab.Cli.Machine;
using XlstmLab.Experiments;
using XlstmLab.Training;

namespace XlstmLab.Cli.Commands;

/// <summary>What is asked of Slurm for a study's tasks.</summary>
internal sealed record StudyJobOptions
{
    /// <summary>The runs of a task, one after another or side by side on its GPU.</summary>
    public int RunsPerTask { get; init; } = 1;

    /// <summary>The most tasks at a time; null for as many as the cluster has room for.</summary>
    public int? AtOnce { get; init; }

    /// <summary>The threads of a task, for which it gets CPUs; null for what the cluster usually gives.</summary>
    public int? Threads { get; init; }

    /// <summary>Options of sbatch, such as <c>--partition=gpu</c>.</summary>
    public IReadOnlyList<string> Lines { get; init; } = [];
}

/// <summary>Runs of a study that were handed to Slurm as an array job, in a folder of <see cref="Study.SharesFolder"/>.</summary>
internal sealed record StudyJob
{
    /// <summary>The file of it in its folder.</summary>
    public const string FileName = "job.json";

    /// <summary>Slurm's number of the job; empty before it has one.</summary>
    public string Id { get; init; } = "";

    /// <summary>The ids of the runs of each task, in the order of the array's indices.</summary>
    public IReadOnlyList<IReadOnlyList<string>> Tasks { get; init; } = [];

    /// <summary>When it was submitted, in UTC.</summary>
    public DateTimeOffset SubmittedAt { get; init; }

    /// <summary>The jobs of a study, the latest last.</summary>
    /// <exception cref="InvalidDataException">The file of one is damaged.</exception>
    public static IReadOnlyList<(string Folder, StudyJob Job)> Of(Study study) => !Directory.Exists(study.SharesFolder) ? []
        : [.. Directory.GetDirectories(study.SharesFolder)
            .Order(StringComparer.Ordinal)
            .Where(folder => File.Exists(Path.Combine(folder, FileName)))
            .Select(folder => (folder, Read(Path.Combine(folder, FileName))))];

    /// <summary>Hands runs to Slurm.</summary>
    /// <param name="study">The study.</param>
    /// <param name="runs">The ids of those that are to be done.</param>
    /// <param name="options">What is asked of Slurm.</param>
    /// <param name="command">The command line that does a task, to which the job's file is added.</param>
    /// <param name="cancellationToken">Stops before the job is submitted.</param>
    /// <exception cref="InvalidOperationException">There is no Slurm here, or it rejects the job. Nothing of it is left then.</exception>
    public static async Task<StudyJob> SubmitAsync(
        Study study, IReadOnlyList<string> runs, StudyJobOptions options, IReadOnlyList<string> command,
        CancellationToken cancellationToken)
    {
        var number = 1 + (Directory.Exists(study.SharesFolder) ? Directory.GetDirectories(study.SharesFolder).Length : 0);
        var folder = Path.Combine(study.SharesFolder, number.ToString("0000", CultureInfo.InvariantCulture));
        var file = Path.Combine(folder, FileName);
        var job = new StudyJob { Tasks = [.. runs.Chunk(options.RunsPerTask)], SubmittedAt = DateTimeOffset.UtcNow };
        Directory.CreateDirectory(folder);
        try
        {
            // The tasks may begin before sbatch has said the job's number.
            Write(file, job);
            var script = Path.Combine(folder, "job.sh");
            AtomicFile.WriteText(script, Script(study, job, options, folder, [.. command, "--task", file]));
            job = job with { Id = await Slurm.SubmitAsync(script, cancellationToken) };
            Write(file, job);
            return job;
        }
        catch when (job.Id.Length == 0)
        {
            Directory.Delete(folder, recursive: true);
            throw;
        }
    }

    /// <summary>The share of the task that this process is.</summary>
    /// <param name="file">The job's file.</param>
    /// <exception cref="InvalidOperationException">This is no task of that job.</exception>
    public static StudyShare ShareOfThisTask(string file)
    {
        var job = Read(file);
        var index = Environment.GetEnvironmentVariable("SLURM_ARRAY_TASK_ID");
        return int.TryParse(index, NumberStyles.None, CultureInfo.InvariantCulture, out var at) && at < job.Tasks.Count
            ? new(job.Tasks[at], TableOf(file, at))
            : throw new InvalidOperationException(
                $"{file} has tasks 0 to {job.Tasks.Count - 1}; SLURM_ARRAY_TASK_ID, which Slurm sets in a task, is '{index}'.");
    }

    /// <summary>What a task prints.</summary>
    public static string LogOf(string folder, int task) =>
        Path.Combine(folder, string.Create(CultureInfo.InvariantCulture, $"task-{task}.log"));

    /// <summary>A table for each attempt at a task: one that was given up may still be writing its own.</summary>
    private static string TableOf(string file, int task)
    {
        var attempt = Environment.GetEnvironmentVariable("SLURM_RESTART_COUNT") is { Length: > 0 } count ? count : "0";
        return Path.Combine(Path.GetDirectoryName(file)!, string.Create(CultureInfo.InvariantCulture, $"task-{task}-{attempt}.jsonl"));
    }

    private static string Script(Study study, StudyJob job, StudyJobOptions options, string folder, IReadOnlyList<string> command)
    {
        List<string> lines =
        [
            $"--job-name=xlstm-{study.Name}",
            string.Create(CultureInfo.InvariantCulture, $"--array=0-{job.Tasks.Count - 1}{(options.AtOnce is { } most ? $"%{most}" : "")}"),
            "--nodes=1",
            "--ntasks=1",
            "--requeue",
            "--open-mode=append",

            // A minute before its time is over a task is asked to end, and writes its checkpoints.
            "--signal=B:TERM@60",
            $"--chdir=\"{Directory.GetCurrentDirectory()}\"",
            $"--output=\"{folder.Replace("%", "%%", StringComparison.Ordinal)}/task-%a.log\"",
        ];
        if (options.Threads is { } threads)
        {
            lines.Add(string.Create(CultureInfo.InvariantCulture, $"--cpus-per-task={threads}"));
        }

        var script = new StringBuilder("#!/bin/sh\n");
        foreach (var line in lines.Concat(options.Lines))
        {
            script.Append("#SBATCH ").Append(line).Append('\n');
        }

        // In the place of the shell it gets the signals that are meant for the task.
        return script.Append("exec ").AppendJoin(' ', command.Select(Quoted)).Append('\n').ToString();
    }

    private static string Quoted(string word)
    {
        var isPlain = word.Length > 0 && word.All(c => char.IsAsciiLetterOrDigit(c) || c is '-' or '_' or '.' or '/' or '=' or ',');
        return isPlain ? word : $"'{word.Replace("'", "'\\''", StringComparison.Ordinal)}'";
    }

    private static void Write(string file, StudyJob job) =>
        AtomicFile.WriteText(file, JsonSerializer.Serialize(job, RunJson.Indented) + "\n");

    private static StudyJob Read(string file)
    {
        try
        {
            return StrictJson.Read<StudyJob>(File.ReadAllText(file), RunJson.ByHand);
        }
        catch (JsonException e)
        {
            throw new InvalidDataException(
                $"{file} cannot be read as a job of a study: {e.Message} Delete its folder: runs of it that are not merged are done again.",
                e);
        }
    }
}
