using System.ComponentModel;
using System.Diagnostics;
using System.Security.Cryptography;
using XlstmLab.Text;

namespace XlstmLab.Corpora.DebianDocs;

/// <summary>Looks packages up and downloads them by apt, as any user may; nothing is installed.</summary>
internal static class Apt
{
    /// <summary>
    /// The packages of those names and, in place of empty ones that stand for a current version, the documentation they depend on.
    /// </summary>
    /// <returns>The packages in the order of their names, and the names that this release of Debian does not have.</returns>
    /// <exception cref="InvalidOperationException">There is no apt, or it knows none of the packages.</exception>
    public static (IReadOnlyList<SourcePackage> Packages, IReadOnlyList<string> Missing) Find(
        IReadOnlyList<string> names, CancellationToken cancellationToken)
    {
        var listed = Show(names, cancellationToken);

        // linux-doc, say, is empty and depends on linux-doc-6.1.
        var found = listed.Select(p => p.Package.Name).ToHashSet();
        var more = listed
            .Where(p => p.Package.Bytes < 100_000)
            .SelectMany(p => p.Depends)
            .Where(d => d.Contains("-doc", StringComparison.Ordinal) && !d.EndsWith("-doc-base", StringComparison.Ordinal) && found.Add(d))
            .ToArray();
        var all = more.Length == 0 ? listed : [.. listed, .. Show(more, cancellationToken)];
        SourcePackage[] packages = [.. all.Select(p => p.Package).DistinctBy(p => p.Name).OrderBy(p => p.Name, StringComparer.Ordinal)];
        return packages.Length > 0
            ? (packages, [.. names.Except(listed.Select(p => p.Package.Name)).Order(StringComparer.Ordinal)])
            : throw new InvalidOperationException(
                $"apt knows none of the packages {string.Join(", ", names.Take(5))}, ...: run 'apt-get update' first, "
                + "and check the names.");
    }

    /// <summary>Downloads a package's .deb file into a folder and compares its checksum.</summary>
    /// <exception cref="InvalidOperationException">It cannot be downloaded.</exception>
    /// <exception cref="InvalidDataException">It is another file than apt's list tells.</exception>
    public static string Download(SourcePackage package, string folder, CancellationToken cancellationToken)
    {
        foreach (var earlier in Directory.EnumerateFiles(folder, $"{package.Name}_*.deb"))
        {
            File.Delete(earlier);
        }

        Run("apt-get", ["-q", "-o", "APT::Sandbox::User=root", "download", $"{package.Name}={package.Version}"], folder, cancellationToken);
        var path = Directory.EnumerateFiles(folder, $"{package.Name}_*.deb").Single();
        using var file = File.OpenRead(path);
        var sha = Convert.ToHexStringLower(SHA256.HashData(file));
        return sha == package.Sha256
            ? path
            : throw new InvalidDataException(
                $"'{path}' has the SHA-256 {sha}; apt's list tells {package.Sha256}. Run apt-get update and try again.");
    }

    private static IReadOnlyList<(SourcePackage Package, string[] Depends)> Show(
        IReadOnlyList<string> names, CancellationToken cancellationToken) =>
        DebianPackages.ParseShow(Run("apt-cache", ["show", "--no-all-versions", .. names], null, cancellationToken, accepted: 100));

    /// <param name="program">The program.</param>
    /// <param name="arguments">Its arguments.</param>
    /// <param name="folder">The folder it works in.</param>
    /// <param name="cancellationToken">Ends the program.</param>
    /// <param name="accepted">A code other than 0 that is no failure, as apt-cache's where it knows some names only.</param>
    private static string Run(string program, string[] arguments, string? folder, CancellationToken cancellationToken, int accepted = 0)
    {
        var start = new ProcessStartInfo(program, arguments)
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            WorkingDirectory = folder,
        };
        start.Environment["LC_ALL"] = "C";
        Process process;
        try
        {
            process = Process.Start(start)!;
        }
        catch (Win32Exception e)
        {
            throw new InvalidOperationException(
                $"There is no {program} here ({e.Message}): packages are downloaded on Debian or one of its kin. "
                + "Elsewhere give a folder of .deb files.", e);
        }

        using (process)
        using (cancellationToken.Register(() => process.Kill()))
        {
            var error = process.StandardError.ReadToEndAsync(CancellationToken.None);
            var output = process.StandardOutput.ReadToEnd();
            process.WaitForExit();
            cancellationToken.ThrowIfCancellationRequested();
            return process.ExitCode == 0 || process.ExitCode == accepted
                ? output
                : throw new InvalidOperationException(
                    $"{program} {arguments[^1]} failed: {error.Result.Trim()} Run 'apt-get update', "
                    + "and check that a mirror can be reached.");
        }
    }
}
