using System.Globalization;
using System.Security.Cryptography;
using System.Text.RegularExpressions;
using XlstmLab.Text;

namespace XlstmLab.Corpora.DebianDocs;

/// <summary>Debian's packages as its files and tools name them.</summary>
internal static partial class DebianPackages
{
    /// <summary>The package in a .deb file named as apt-get download names it: NAME_VERSION_ARCHITECTURE.deb.</summary>
    /// <exception cref="InvalidDataException">The file has another name.</exception>
    public static SourcePackage OfFile(string path)
    {
        var parts = Path.GetFileNameWithoutExtension(path).Split('_');
        if (parts.Length != 3)
        {
            throw new InvalidDataException($"'{path}' is not named as apt-get download names files: NAME_VERSION_ARCHITECTURE.deb.");
        }

        using var file = File.OpenRead(path);
        return new(parts[0], Uri.UnescapeDataString(parts[1]), Convert.ToHexStringLower(SHA256.HashData(file)), file.Length);
    }

    /// <summary>Reads what <c>apt-cache show --no-all-versions</c> prints.</summary>
    /// <exception cref="InvalidDataException">A package is not of Debian's main part, or an entry lacks a field.</exception>
    public static IReadOnlyList<(SourcePackage Package, string[] Depends)> ParseShow(string output)
    {
        var all = new List<(SourcePackage, string[])>();
        foreach (var entry in output.ReplaceLineEndings("\n").Split("\n\n", StringSplitOptions.RemoveEmptyEntries))
        {
            var fields = Field().Matches(entry).DistinctBy(m => m.Groups[1].Value).ToDictionary(
                m => m.Groups[1].Value, m => m.Groups[2].Value.Trim());
            if (!fields.TryGetValue("Package", out var name))
            {
                continue;
            }

            if (!fields.TryGetValue("Version", out var version) || !fields.TryGetValue("SHA256", out var sha)
                || !fields.TryGetValue("Size", out var size))
            {
                throw new InvalidDataException(
                    $"apt-cache tells no version, SHA256 and size of '{name}': no mirror has it. Run apt-get update, or leave it out.");
            }

            if (fields.GetValueOrDefault("Section", "").Contains('/', StringComparison.Ordinal))
            {
                throw new InvalidDataException(
                    $"The package '{name}' is of the section {fields["Section"]}, not of Debian's main part, "
                    + "whose licences are free. Leave it out.");
            }

            var depends = fields.GetValueOrDefault("Depends", "").Split(
                [',', '|'], StringSplitOptions.TrimEntries | StringSplitOptions.RemoveEmptyEntries);
            all.Add(
                (new(name, version, sha, long.Parse(size, CultureInfo.InvariantCulture)),
                    Array.ConvertAll(depends, d => d.Split(' ', ':')[0])));
        }

        return all;
    }

    [GeneratedRegex("^([A-Za-z0-9-]+): *(.*)$", RegexOptions.Multiline)]
    private static partial Regex Field();
}
