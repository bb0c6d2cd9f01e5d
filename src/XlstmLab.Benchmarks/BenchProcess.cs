using System.Diagnostics;
using System.Text.Json;

namespace XlstmLab.Benchmarks;

/// <summary>Has measurements made by processes of their own.</summary>
/// <param name="start">
/// How a program is started, its output and errors redirected in UTF-8, that makes a measurement, given as JSON (a
/// <see cref="BenchTask"/>), by <see cref="BenchWorker"/> and writes its result as JSON.
/// </param>
public sealed class BenchProcess(Func<string, ProcessStartInfo> start)
{
    /// <summary>Measures.</summary>
    /// <param name="task">What.</param>
    /// <param name="cancellationToken">Ends the process.</param>
    /// <param name="patience">How long it may take; null for ever.</param>
    /// <exception cref="InvalidOperationException">
    /// The process failed, took too long, or was ended by the system, as it does when memory runs out.
    /// </exception>
    public async Task<BenchResult> RunAsync(BenchTask task, CancellationToken cancellationToken, TimeSpan? patience = null)
    {
        using var process = Process.Start(start(JsonSerializer.Serialize(task, ResultJson.Options)))!;
        using var limit = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        limit.CancelAfter(patience ?? Timeout.InfiniteTimeSpan);
        try
        {
            var output = process.StandardOutput.ReadToEndAsync(limit.Token);
            var errors = process.StandardError.ReadToEndAsync(limit.Token);
            await process.WaitForExitAsync(limit.Token);
            if (process.ExitCode == 0)
            {
                return JsonSerializer.Deserialize<BenchResult>(await output, ResultJson.Options)!;
            }

            var said = Said(await errors);
            throw new InvalidOperationException(
                process.ExitCode == 137 ? "the system ended it, as it does when memory runs out"
                : said.Length > 0 ? said
                : $"it ended with code {process.ExitCode}");
        }
        catch (OperationCanceledException)
        {
            process.Kill();
            cancellationToken.ThrowIfCancellationRequested();
            throw new InvalidOperationException($"it took more than {Readable.Duration(patience!.Value.TotalSeconds)}");
        }
    }

    /// <summary>The first of what a process said, or two lines where native code ended it: the second says what it threw.</summary>
    private static string Said(string errors)
    {
        var lines = errors.Split('\n', StringSplitOptions.TrimEntries | StringSplitOptions.RemoveEmptyEntries);
        var count = lines.Length > 0 && lines[0].StartsWith("terminate called", StringComparison.Ordinal) ? 2 : 1;
        return string.Join(' ', lines.Take(count)).Replace("error: ", "", StringComparison.Ordinal);
    }
}
