using System.Diagnostics;

namespace XlstmLab.Tests;

/// <summary>Runs one explicit test in a process of its own, for what may end a process.</summary>
internal static class ChildTest
{
    /// <summary>The exit code, and what the process printed.</summary>
    /// <param name="type">The test's class.</param>
    /// <param name="method">The test, marked explicit.</param>
    /// <param name="environment">What the test reads: it skips itself without. The rest is what a user's program has.</param>
    /// <param name="limit">When to give up.</param>
    /// <exception cref="TimeoutException">The process did not end in time; it has been ended.</exception>
    public static (int ExitCode, string Output) Run(
        Type type, string method, IReadOnlyDictionary<string, string> environment, TimeSpan limit)
    {
        var host = Environment.ProcessPath!;
        var start = new ProcessStartInfo(host) { RedirectStandardOutput = true, RedirectStandardError = true };
        if (Path.GetFileNameWithoutExtension(host) == "dotnet")
        {
            start.ArgumentList.Add(type.Assembly.Location);
        }

        foreach (var argument in new[] { "-method", $"{type.FullName}.{method}", "-explicit", "only" })
        {
            start.ArgumentList.Add(argument);
        }

        foreach (var name in TestSetup.ShortLived.Keys)
        {
            start.Environment.Remove(name);
        }

        foreach (var (name, value) in environment)
        {
            start.Environment[name] = value;
        }

        using var child = Process.Start(start)!;
        var output = child.StandardOutput.ReadToEndAsync();
        var errors = child.StandardError.ReadToEndAsync();
        if (!child.WaitForExit(limit))
        {
            child.Kill(entireProcessTree: true);
            throw new TimeoutException($"{method} did not end within {limit}: {output.Result}{errors.Result}");
        }

        return (child.ExitCode, output.Result + errors.Result);
    }
}
