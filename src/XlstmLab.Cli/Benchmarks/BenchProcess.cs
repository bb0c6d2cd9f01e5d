using System.Diagnostics;
using System.Text.Json;
using XlstmLab.Cli.Machine;
using XlstmLab.Cli.Terminals;

namespace XlstmLab.Cli.Benchmarks;

/// <summary>Has a measurement made by a process of its own.</summary>
internal static class BenchProcess
{
    /// <summary>The hidden command that measures.</summary>
    public const string WorkerName = "worker";

    /// <summary>Measures.</summary>
    /// <param name="task">What.</param>
    /// <param name="cancellationToken">Ends the process.</param>
    /// <param name="patience">How long it may take; null for ever.</param>
    /// <exception cref="InvalidOperationException">The process failed, took too long, or was ended by the system, as it does when memory runs out.</exception>
    public static async Task<BenchResult> RunAsync(BenchTask task, CancellationToken cancellationToken, TimeSpan? patience = null)
    {
        using var process = Process.Start(OwnProgram.Start("bench", WorkerName, JsonSerializer.Serialize(task, Terminal.Json)))!;
        using var limit = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        limit.CancelAfter(patience ?? Timeout.InfiniteTimeSpan);
        try
        {
            var output = process.StandardOutput.ReadToEndAsync(limit.Token);
            var errors = process.StandardError.ReadToEndAsync(limit.Token);
            await process.WaitForExitAsync(limit.Token);
            if (process.ExitCode == 0)
            {
                return JsonSerializer.Deserialize<BenchResult>(await output, Terminal.Json)!;
            }

            var said = (await errors).Trim().Split('\n')[0].Replace("error: ", "", StringComparison.Ordinal);
            throw new InvalidOperationException(
                process.ExitCode == 137 ? "the system ended it, as it does when memory runs out"
                : said.Length > 0 ? said
                : $"it ended with code {process.ExitCode}");
        }
        catch (OperationCanceledException)
        {
            process.Kill();
            cancellationToken.ThrowIfCancellationRequested();
            throw new InvalidOperationException($"it took more than {Terminal.Duration(patience!.Value.TotalSeconds)}");
        }
    }
}
