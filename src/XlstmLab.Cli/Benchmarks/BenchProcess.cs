using System.Diagnostics;
using System.Text.Json;
using XlstmLab.Cli.Terminals;

namespace XlstmLab.Cli.Benchmarks;

/// <summary>Has a measurement made by a process of its own.</summary>
internal static class BenchProcess
{
    /// <summary>The hidden command that measures.</summary>
    public const string WorkerName = "worker";

    /// <summary>Measures.</summary>
    /// <exception cref="InvalidOperationException">The process failed, or was ended by the system, as it does when memory runs out.</exception>
    public static async Task<BenchResult> RunAsync(BenchTask task, CancellationToken cancellationToken)
    {
        var library = typeof(BenchProcess).Assembly.Location;
        var program = Environment.ProcessPath!;

        // The program of a test or of 'dotnet xlstm.dll' is another one.
        var isOwn = Path.GetFileNameWithoutExtension(program) == "xlstm" || library.Length == 0;
        var start = new ProcessStartInfo(isOwn ? program : "dotnet") { RedirectStandardOutput = true, RedirectStandardError = true };
        foreach (var argument in (isOwn ? Array.Empty<string>() : [library]).Concat(["bench", WorkerName, JsonSerializer.Serialize(task, Terminal.Json)]))
        {
            start.ArgumentList.Add(argument);
        }

        using var process = Process.Start(start)!;
        try
        {
            var output = process.StandardOutput.ReadToEndAsync(cancellationToken);
            var errors = process.StandardError.ReadToEndAsync(cancellationToken);
            await process.WaitForExitAsync(cancellationToken);
            return process.ExitCode == 0
                ? JsonSerializer.Deserialize<BenchResult>(await output, Terminal.Json)!
                : throw new InvalidOperationException(
                    process.ExitCode == 137 ? "the system ended it, as it does when memory runs out" : (await errors).Trim().Split('\n')[0].Replace("error: ", "", StringComparison.Ordinal));
        }
        catch (OperationCanceledException)
        {
            process.Kill();
            throw;
        }
    }
}
