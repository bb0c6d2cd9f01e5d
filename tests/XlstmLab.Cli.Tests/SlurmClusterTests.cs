using System.Diagnostics;
using Xunit;

namespace XlstmLab.Tests.Cli;

/// <summary>The cluster that other tests rely on.</summary>
[Collection(nameof(ProcessCollection))]
public sealed class SlurmClusterTests
{
    [Fact]
    public async Task Cluster_NodeLost_RunsItsTasksAgainAndLeavesNothing()
    {
        LongTests.Skip();
        string folder;
        using (var cluster = await SlurmCluster.StartAsync())
        {
            folder = cluster.Folder.Path;
            var done = await SlurmCluster.RunAsync(
                "srun", "--ntasks=2", "--gres=gpu:1", "sh", "-c", "echo task $SLURM_PROCID of $SLURM_NTASKS has $CUDA_VISIBLE_DEVICES");
            Assert.Equal(["task 0 of 2 has 0", "task 1 of 2 has 0"], done.Out.Trim().Split('\n').Order());

            // Started again, it does not find the file that its first start has left.
            var script = cluster.Folder.Write(
                "job.sh", $"#!/bin/sh\n[ -e {folder}/first ] && exit 0\ntouch {folder}/first\nexec sleep 300\n");
            var id =
                (await SlurmCluster.RunAsync("sbatch", "--parsable", "--requeue", $"--output={cluster.Folder["job.txt"]}", script)).Out
                    .Trim();
            await SlurmCluster.UntilAsync("the task", () => Task.FromResult(File.Exists(cluster.Folder["first"])), cluster.Logs);
            cluster.KillNode();
            await cluster.StartNodeAsync();
            await SlurmCluster.UntilAsync(
                "its second start", async () => (await SlurmCluster.StatesAsync()).GetValueOrDefault(id) == "COMPLETED", cluster.Logs);
        }

        Assert.False(Directory.Exists(folder));
        Assert.DoesNotContain(
            Process.GetProcesses(),
            process => process.ProcessName is "slurmd" or "slurmctld" or "slurmstepd"
                && CommandLineOf(process.Id).Contains(folder, StringComparison.Ordinal));
    }

    private static string CommandLineOf(int id)
    {
        try
        {
            return File.ReadAllText($"/proc/{id}/cmdline");
        }
        catch (IOException)
        {
            return "";
        }
    }
}
