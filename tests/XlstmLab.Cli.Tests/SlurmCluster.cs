using System.Diagnostics;
using System.Globalization;
using System.Security.Cryptography;
using XlstmLab.Cli.Machine;
using Xunit;

namespace XlstmLab.Tests.Cli;

/// <summary>
/// Slurm's own daemons from Debian's packages on this machine, for one test: a controller and a node <c>lab</c> with two CPUs, and two GPUs
/// that are given out but are not there.
/// </summary>
/// <remarks>
/// All of it is under a folder of its own, on the loopback with ports of its own. While it runs, this process's <c>SLURM_CONF</c> names it,
/// so that <c>sbatch</c>, <c>srun</c> and whatever this process starts finds it; hence its tests belong to the collection of those that
/// change the process.
/// </remarks>
internal sealed class SlurmCluster : IDisposable
{
    private const string ConfigVariable = "SLURM_CONF";
    private const string Node = "lab";

    /// <summary>Ends a daemon when this process has ended, however that was: then its input is closed.</summary>
    private const string Guarded = "log=$1; shift; exec 3<&0; (read _ <&3; kill -9 $$) 2>/dev/null & exec \"$@\" </dev/null "
        + ">>\"$log\" 2>&1 3<&-";

    private static readonly string[] Daemons = ["/usr/sbin/munged", "/usr/sbin/slurmctld", "/usr/sbin/slurmd", "/usr/bin/sbatch"];
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(40);

    private readonly List<Process> _guards = [];
    private Process? _node;

    private SlurmCluster()
    {
        Directory.CreateDirectory(Folder["munge"]);
        Directory.CreateDirectory(Folder["state"]);
        Directory.CreateDirectory(Folder["spool"]);
        File.WriteAllBytes(Folder["munge/key"], RandomNumberGenerator.GetBytes(128));
#pragma warning disable CA1416 // The daemons are Linux's: without them there is no cluster.
        File.SetUnixFileMode(Folder["munge/key"], UnixFileMode.UserRead | UnixFileMode.UserWrite);
        File.SetUnixFileMode(Folder["munge"], UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
#pragma warning restore CA1416

        // A GPU is any device to Slurm, which gives its number to the task that has it.
        Folder.Write("gres.conf", "AutoDetect=off\nName=gpu File=/dev/null\nName=gpu File=/dev/zero\n");
        Folder.Write("slurm.conf", Config());
    }

    /// <summary>Why there can be no cluster; null where the programs are.</summary>
    public static string? Absence => !OperatingSystem.IsLinux() ? "Slurm's daemons are Linux's."
        : Daemons.FirstOrDefault(program => !File.Exists(program)) is { } missing
        ? $"There is no {missing}: Debian has it in munge, slurmctld, slurmd and slurm-client."
        : null;

    /// <summary>The cluster's files; those of a test may be beside them.</summary>
    public TempFolder Folder { get; } = new();

    /// <summary>Starts a cluster and waits until its node takes work; skips the test where the programs are not installed.</summary>
    public static async Task<SlurmCluster> StartAsync()
    {
        Assert.SkipWhen(Absence is not null, Absence ?? "");
        var cluster = new SlurmCluster();
        try
        {
            Environment.SetEnvironmentVariable(ConfigVariable, cluster.Folder["slurm.conf"]);

            // Forced, as folders above that others may not enter are no fault here.
            cluster.StartDaemon(
                "munged", Daemons[0], "--foreground", "--force", $"--socket={cluster.Folder["munge/socket"]}",
                $"--key-file={cluster.Folder["munge/key"]}",
                $"--pid-file={cluster.Folder["munge/pid"]}", $"--seed-file={cluster.Folder["munge/seed"]}",
                $"--log-file={cluster.Folder["munge/log"]}");
            await UntilAsync("munged", () => Task.FromResult(File.Exists(cluster.Folder["munge/socket"])), cluster.Logs);
            cluster.StartDaemon("slurmctld", Daemons[1], "-D", "-f", cluster.Folder["slurm.conf"]);
            await cluster.StartNodeAsync();
            return cluster;
        }
        catch
        {
            cluster.Dispose();
            throw;
        }
    }

    /// <summary>Waits for something, and fails the test if it does not come.</summary>
    /// <param name="what">What it is.</param>
    /// <param name="holds">Whether it is there.</param>
    /// <param name="tell">What the failure says besides.</param>
    public static async Task UntilAsync(string what, Func<Task<bool>> holds, Func<string>? tell = null)
    {
        for (var watch = Stopwatch.StartNew(); !await holds(); await Task.Delay(100, TestContext.Current.CancellationToken))
        {
            Assert.True(watch.Elapsed < Patience * 2, $"Waited in vain: {what}. {tell?.Invoke()}");
        }
    }

    /// <summary>Runs a program such as <c>squeue</c> to its end.</summary>
    public static Task<CommandResult> RunAsync(string program, params string[] arguments) => CommandLine.RunAsync(
        new ProcessStartInfo(program, arguments), Patience);

    /// <summary>
    /// The states of the jobs and of the tasks of arrays, such as <c>12_0</c> and <c>RUNNING</c>, also of those that have ended.
    /// </summary>
    public static async Task<IReadOnlyDictionary<string, string>> StatesAsync()
    {
        var queue = await RunAsync("squeue", "--noheader", "--array", "--states=all", "--format=%i %T");
        return queue.Out.Split('\n', StringSplitOptions.RemoveEmptyEntries).Select(line => line.Split(' '))
            .ToDictionary(words => words[0], words => words[1]);
    }

    /// <summary>Starts the node's daemon and waits until the controller counts on it.</summary>
    /// <param name="isLost">Whether the node was lost with its tasks.</param>
    public async Task StartNodeAsync(bool isLost = true)
    {
        // The controller would find out by itself, after minutes.
        if (_node is not null && isLost)
        {
            await RunAsync("scontrol", "update", $"NodeName={Node}", "State=DOWN", "Reason=lost");
        }

        _node = StartDaemon("slurmd", Daemons[2], "-D", "-N", Node, "-f", Folder["slurm.conf"]);
        await UntilAsync(
            "the node",
            async () => (await RunAsync("sinfo", "--noheader", "--format=%T")).Out.Trim() is "idle" or "mixed"
                or "allocated" or "completing",
            Logs);
    }

    /// <summary>Kills the node's daemon, and what it runs with it, as a loss of power does.</summary>
    public void KillNode()
    {
        var tasks = Processes().Where(process => process.Name == "slurmstepd" && Owns(process)).ToArray();
        var below = tasks.SelectMany(task => Below(task.Id)).ToArray();
        KillDaemon();

        // First those that would tell the controller how their tasks ended.
        foreach (var id in tasks.Select(task => task.Id).Concat(below))
        {
            Kill(id);
        }
    }

    /// <summary>Kills the node's daemon alone: its tasks go on.</summary>
    public void KillDaemon()
    {
        _node!.Kill();
        _node.WaitForExit();
    }

    /// <summary>Kills the processes of a task of an array, as one that takes too much memory is.</summary>
    public void KillTask(int index)
    {
        var mark = string.Create(CultureInfo.InvariantCulture, $"SLURM_ARRAY_TASK_ID={index}\0");
        foreach (var process in Processes().Where(process => process.Name != "slurmstepd" && Owns(process) && Has(process.Id, mark)))
        {
            Kill(process.Id);
        }
    }

    /// <summary>What the daemons have said.</summary>
    public string Logs() => string.Join(
        '\n', Directory.GetFiles(Folder.Path, "*.log").Order().Select(file => $"{Path.GetFileName(file)}:\n{File.ReadAllText(file)}"));

    public void Dispose()
    {
        if (_node is { HasExited: false })
        {
            KillNode();
        }

        foreach (var guard in _guards)
        {
            guard.StandardInput.Close();
            guard.WaitForExit(Patience);
            guard.Dispose();
        }

        Environment.SetEnvironmentVariable(ConfigVariable, null);

        // A process that is being killed may still write.
        for (var attempt = 0; Processes().Any(Owns) && attempt < 50; attempt++)
        {
            foreach (var process in Processes().Where(Owns))
            {
                Kill(process.Id);
            }

            Thread.Sleep(100);
        }

        Folder.Dispose();
    }

    private Process StartDaemon(string name, params string[] line)
    {
        var process = Process.Start(
            new ProcessStartInfo("/bin/sh", ["-c", Guarded, "guard", Folder[$"{name}.log"], .. line]) { RedirectStandardInput = true })!;
        _guards.Add(process);
        return process;
    }

    private string Config() => string.Create(CultureInfo.InvariantCulture, $"""
        ClusterName=lab
        SlurmctldHost={Environment.MachineName}(127.0.0.1)
        SlurmctldPort={RankProcesses.FreePort()}
        SlurmdPort={RankProcesses.FreePort()}
        SlurmUser={Environment.UserName}
        SlurmdUser={Environment.UserName}
        AuthType=auth/munge
        AuthInfo=socket={Folder["munge/socket"]},cred_expire=5
        StateSaveLocation={Folder["state"]}
        SlurmdSpoolDir={Folder["spool"]}
        SlurmctldPidFile={Folder["slurmctld.pid"]}
        SlurmdPidFile={Folder["slurmd.pid"]}
        ProctrackType=proctrack/linuxproc
        TaskPlugin=task/none
        SwitchType=switch/none
        MpiDefault=none
        JobAcctGatherType=jobacct_gather/none
        AccountingStorageType=accounting_storage/none
        SelectType=select/cons_tres
        SelectTypeParameters=CR_CPU
        SchedulerParameters=batch_sched_delay=0,sched_min_interval=100000,sched_interval=2,bf_interval=2
        SlurmdParameters=config_overrides
        ReturnToService=2
        SlurmdTimeout=10
        BatchStartTimeout=1
        KillWait=20
        JobRequeue=1
        GresTypes=gpu
        NodeName={Node} NodeAddr=127.0.0.1 NodeHostname={Environment.MachineName} CPUs=2 RealMemory=4000 Gres=gpu:2 State=UNKNOWN
        PartitionName=main Nodes=ALL Default=YES MaxTime=60 State=UP

        """);

    /// <summary>
    /// Whether a process is a daemon of this cluster, or one of its jobs. The configuration alone does not tell: what other tests start
    /// meanwhile inherits it.
    /// </summary>
    private bool Owns((int Id, string Name, int Parent) process) =>
        Has(process.Id, $"{ConfigVariable}={Folder["slurm.conf"]}\0")
            && (process.Name.StartsWith("slurm", StringComparison.Ordinal) || Has(process.Id, "SLURM_JOB_ID="));

    /// <summary>Whether the environment of a process has text that begins with a variable's name.</summary>
    private static bool Has(int id, string text)
    {
        try
        {
            return $"\0{File.ReadAllText($"/proc/{id}/environ")}".Contains($"\0{text}", StringComparison.Ordinal);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return false;
        }
    }

    private static IEnumerable<int> Below(int id) => Processes().Where(process => process.Parent == id).SelectMany(
        child => Below(child.Id).Prepend(child.Id));

    private static List<(int Id, string Name, int Parent)> Processes()
    {
        var processes = new List<(int Id, string Name, int Parent)>();
        foreach (var folder in Directory.EnumerateDirectories("/proc"))
        {
            if (!int.TryParse(Path.GetFileName(folder), NumberStyles.None, CultureInfo.InvariantCulture, out var id))
            {
                continue;
            }

            try
            {
                // The name is in parentheses, and may have some of its own.
                var stat = File.ReadAllText(Path.Combine(folder, "stat"));
                var (open, close) = (stat.IndexOf('('), stat.LastIndexOf(')'));
                if (stat[close + 2] != 'Z')
                {
                    processes.Add(
                        (id, stat[(open + 1)..close], int.Parse(stat[(close + 4)..].Split(' ')[0], CultureInfo.InvariantCulture)));
                }
            }
            catch (IOException)
            {
                // It has ended.
            }
        }

        return processes;
    }

    private static void Kill(int id)
    {
        try
        {
            using var process = Process.GetProcessById(id);
            process.Kill();
        }
        catch (Exception e) when (e is ArgumentException or InvalidOperationException or System.ComponentModel.Win32Exception)
        {
            // It has ended.
        }
    }
}
