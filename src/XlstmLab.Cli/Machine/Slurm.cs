using System.ComponentModel;
using System.Diagnostics;
using System.Globalization;

namespace XlstmLab.Cli.Machine;

/// <summary>What Slurm says of a task of an array job.</summary>
/// <param name="State">Its state in Slurm's word, such as <c>PENDING</c>.</param>
/// <param name="Reason">Why it is in it, in Slurm's word; empty for no reason.</param>
/// <param name="Node">The node that has or had it; empty for none.</param>
internal sealed record SlurmTask(string State, string Reason, string Node)
{
    /// <summary>The states from which a task does not come back by itself.</summary>
    private static readonly HashSet<string> Ends =
        ["BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"];

    /// <summary>Whether it has ended for good.</summary>
    public bool HasEnded => Ends.Contains(State);
}

/// <summary>Slurm, by its own programs.</summary>
internal static class Slurm
{
    private static readonly TimeSpan Patience = TimeSpan.FromMinutes(2);

    /// <summary>Submits a batch script.</summary>
    /// <returns>The job's id.</returns>
    /// <exception cref="InvalidOperationException">
    /// There is no Slurm here, or it rejects the job; the message has Slurm's own words.
    /// </exception>
    public static async Task<string> SubmitAsync(string script, CancellationToken cancellationToken)
    {
        var said = await RunAsync("sbatch", ["--parsable", script], cancellationToken);

        // On a federation the cluster's name comes behind it.
        return said.Trim().Split(';')[0];
    }

    /// <summary>Asks tasks to end, and has them killed if they do not in the time that the cluster gives them.</summary>
    /// <param name="tasks">Their names, such as 12_0.</param>
    /// <param name="cancellationToken">Stops the asking.</param>
    public static async Task CancelAsync(IReadOnlyList<string> tasks, CancellationToken cancellationToken)
    {
        foreach (var some in tasks.Chunk(500))
        {
            await RunAsync("scancel", ["--quiet", .. some], cancellationToken);
        }
    }

    /// <summary>The tasks of array jobs, by job and index; those that ended minutes ago may be missing.</summary>
    /// <exception cref="InvalidOperationException">There is no Slurm here, or it does not answer.</exception>
    public static async Task<IReadOnlyDictionary<(string Job, int Task), SlurmTask>> TasksAsync(
        IReadOnlyList<string> jobs, CancellationToken cancellationToken)
    {
        var tasks = new Dictionary<(string, int), SlurmTask>();
        var said = await RunAsync(
            "squeue", ["--noheader", "--array", "--states=all", $"--user={Environment.UserName}", "--format=%F|%K|%T|%r|%N"],
            cancellationToken);
        foreach (var words in said.Split('\n').Select(line => line.Trim().Split('|')))
        {
            if (words.Length == 5 && jobs.Contains(words[0]) && int.TryParse(
                words[1], NumberStyles.None, CultureInfo.InvariantCulture, out var index))
            {
                tasks[(words[0], index)] = new(words[2], words[3] == "None" ? "" : words[3], words[4]);
            }
        }

        return tasks;
    }

    private static async Task<string> RunAsync(string program, IReadOnlyList<string> arguments, CancellationToken cancellationToken)
    {
        using var limit = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        limit.CancelAfter(Patience);
        try
        {
            using var process =
                Process.Start(new ProcessStartInfo(program, arguments) { RedirectStandardOutput = true, RedirectStandardError = true })!;
            var (output, error) = (process.StandardOutput.ReadToEndAsync(CancellationToken.None),
                process.StandardError.ReadToEndAsync(CancellationToken.None));
            try
            {
                await process.WaitForExitAsync(limit.Token);
            }
            catch (OperationCanceledException)
            {
                process.Kill();
                throw;
            }

            return process.ExitCode == 0 ? await output : throw new InvalidOperationException(
                $"{program} failed: {Words(await error, program)}");
        }
        catch (OperationCanceledException) when (!cancellationToken.IsCancellationRequested)
        {
            throw new InvalidOperationException(
                $"{program} did not answer within {Readable.Duration(Patience.TotalSeconds)}: is the cluster's controller up?");
        }
        catch (Win32Exception e)
        {
            throw new InvalidOperationException(
                $"There is no {program} to be run on this machine ({e.Message}): runs are handed to Slurm from one of its own machines, "
                + "such as a login node. Without --slurm they are trained here.", e);
        }
    }

    /// <summary>What a program has complained of, on one line and without its name.</summary>
    private static string Words(string error, string program) =>
        string.Join(' ', error.Split('\n', StringSplitOptions.TrimEntries | StringSplitOptions.RemoveEmptyEntries).Select(line =>
            line.Replace($"{program}: error: ", "", StringComparison.Ordinal)).Select(line => line.EndsWith('.') ? line : $"{line}."));
}
