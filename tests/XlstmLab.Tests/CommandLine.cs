using System.Diagnostics;
using System.Text.Json;
using System.Text.Json.Nodes;
using XlstmLab.Cli;

namespace XlstmLab.Tests;

/// <summary>What a command line came to.</summary>
internal sealed record CommandResult(int Code, string Out, string Error)
{
    /// <summary>The result as JSON, which must be all there is on stdout.</summary>
    public JsonNode Json => JsonNode.Parse(Out, documentOptions: new JsonDocumentOptions())!;
}

/// <summary>Runs command lines in this process.</summary>
internal static class CommandLine
{
    /// <summary>Runs one.</summary>
    public static Task<CommandResult> RunAsync(params string[] args) => RunAsync(CancellationToken.None, args);

    /// <summary>Runs one that can be stopped.</summary>
    public static async Task<CommandResult> RunAsync(CancellationToken cancellationToken, params string[] args)
    {
        using var stdout = new StringWriter();
        using var stderr = new StringWriter();
        var code = await Program.InvokeAsync(args, TextWriter.Synchronized(stdout), TextWriter.Synchronized(stderr), cancellationToken);
        return new(code, stdout.ToString(), stderr.ToString());
    }

    /// <summary>Runs a program to its end; one that takes too long is killed.</summary>
    public static async Task<CommandResult> RunAsync(ProcessStartInfo start, TimeSpan limit)
    {
        start.RedirectStandardOutput = start.RedirectStandardError = true;
        using var process = Process.Start(start)!;
        var (output, error) = (process.StandardOutput.ReadToEndAsync(), process.StandardError.ReadToEndAsync());
        using var tooLong = new CancellationTokenSource(limit);
        try
        {
            await process.WaitForExitAsync(tooLong.Token);
        }
        catch (OperationCanceledException)
        {
            process.Kill(entireProcessTree: true);
            return new(-1, "", $"{start.FileName} did not end within {limit.TotalMinutes:0.#} minutes.\n{await error}");
        }

        return new(process.ExitCode, await output, await error);
    }

    /// <summary>A folder of a test's own, deleted with it.</summary>
    public static TempFolder Folder() => new();
}
