using System.ComponentModel;
using System.Diagnostics;
using System.Reflection;

namespace XlstmLab.Benchmarks;

/// <summary>The clone that the program was built from.</summary>
internal static class Repository
{
    /// <summary>
    /// The commit checked out beside the program, marked if files differ from it, or that of the build; null where neither is known.
    /// </summary>
    public static string? Commit()
    {
        var commit = Git("rev-parse", "--short=12", "HEAD");
        return commit is null ? Built() : Git("status", "--porcelain", "--untracked-files=no") is { Length: > 0 } ? commit + ", changed"
            : commit;
    }

    /// <summary>What the compiler was told: a program that was copied to another machine has no clone beside it.</summary>
    private static string? Built()
    {
        var version =
            typeof(Repository).Assembly.GetCustomAttribute<AssemblyInformationalVersionAttribute>()?.InformationalVersion.Split('+');
        if (version is not [_, var commit])
        {
            return null;
        }

        var hash = commit.Split('-')[0];
        return hash[..Math.Min(12, hash.Length)] + (commit.EndsWith("-changed", StringComparison.Ordinal) ? ", changed" : "");
    }

    private static string? Git(params string[] arguments)
    {
        try
        {
            using var git = Process.Start(new ProcessStartInfo("git", arguments)
            {
                WorkingDirectory = AppContext.BaseDirectory,
                RedirectStandardOutput = true,
                RedirectStandardError = true,
            })!;
            git.ErrorDataReceived += (_, _) => { };
            git.BeginErrorReadLine();
            var answer = git.StandardOutput.ReadToEnd().Trim();
            git.WaitForExit();
            return git.ExitCode == 0 ? answer : null;
        }
        catch (Win32Exception)
        {
            return null;
        }
    }
}
