using System.ComponentModel;
using System.Diagnostics;
using System.Globalization;
using System.Text;

namespace XlstmLab.Notebooks;

/// <summary>
/// Knows the processes that cells start, and those that these start, by a variable of their environment: they are found even if their
/// parent has ended or they have left its session.
/// </summary>
/// <remarks>It reads <c>/proc</c>: where there is none, nothing is found.</remarks>
public static class CellProcesses
{
    /// <summary>The variable that the processes of a run inherit.</summary>
    public const string Variable = "XLSTM_NOTEBOOK_RUN";

    private const string ProcessFolder = "/proc";
    private const int MostRounds = 5;

    /// <summary>A value for <see cref="Variable"/>; a run within a run has one that starts with the outer run's.</summary>
    public static string NewMark() => $"{Environment.GetEnvironmentVariable(Variable)}/{Guid.NewGuid():N}";

    /// <summary>Ends at once all processes with the mark but the calling one, until there are no more.</summary>
    /// <param name="mark">What <see cref="NewMark"/> gave.</param>
    public static void End(string mark)
    {
        // A process may start another while it is looked for.
        for (int round = 0; round < MostRounds && Marked(mark).ToList() is { Count: > 0 } found; round++)
        {
            found.ForEach(Kill);
        }
    }

    /// <summary>
    /// Ends all processes with the mark once the calling one is gone, however it went: a shell of its own session waits for that.
    /// </summary>
    /// <param name="mark">What <see cref="NewMark"/> gave.</param>
    /// <returns>The shell; it does its work when this is disposed, too. Null where there is none.</returns>
    public static Process? EndAfterThisProcess(string mark)
    {
        // Its input ends with this process. It has no mark itself: that is in its arguments alone.
        const string script = $$"""
            exec >/dev/null 2>&1
            trap '' INT TERM HUP
            read -r line
            for round in 1 2 3; do
              for file in {{ProcessFolder}}/[0-9]*/environ; do
                grep -qsaF "{{Variable}}=$0" "$file" && id="${file#{{ProcessFolder}}/}" && kill -9 "${id%/environ}"
              done
            done
            """;
        ProcessStartInfo start = new("setsid", ["sh", "-c", script, mark]) { RedirectStandardInput = true };
        start.Environment.Remove(Variable);
        try
        {
            return Directory.Exists(ProcessFolder) ? Process.Start(start) : null;
        }
        catch (Win32Exception)
        {
            return null;
        }
    }

    private static IEnumerable<int> Marked(string mark)
    {
        if (!Directory.Exists(ProcessFolder))
        {
            yield break;
        }

        byte[] wanted = Encoding.UTF8.GetBytes($"{Variable}={mark}");
        foreach (string folder in Directory.EnumerateDirectories(ProcessFolder))
        {
            if (int.TryParse(Path.GetFileName(folder), NumberStyles.None, CultureInfo.InvariantCulture, out int id)
                && id != Environment.ProcessId && Environ(folder).AsSpan().IndexOf(wanted) >= 0)
            {
                yield return id;
            }
        }
    }

    /// <summary>The environment that a process started with; empty if it has ended or belongs to somebody else.</summary>
    private static byte[] Environ(string folder)
    {
        try
        {
            return File.ReadAllBytes(Path.Combine(folder, "environ"));
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return [];
        }
    }

    private static void Kill(int id)
    {
        try
        {
            using var process = Process.GetProcessById(id);
            process.Kill();
            process.WaitForExit(1000);
        }
        catch (Exception e) when (e is ArgumentException or InvalidOperationException or Win32Exception)
        {
            // It has ended by itself.
        }
    }
}
