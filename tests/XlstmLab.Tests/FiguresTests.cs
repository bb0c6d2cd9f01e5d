using System.Globalization;
using System.Text.Json;
using System.Text.RegularExpressions;
using Xunit;

namespace XlstmLab.Tests;

/// <summary>What README and docs claim, against the files that it comes from: <c>results/figures.csv</c> says which.</summary>
public sealed partial class FiguresTests
{
    /// <summary>A printed figure and where it comes from.</summary>
    /// <param name="Document">The document, from the root.</param>
    /// <param name="Line">A part of its line that no other line has.</param>
    /// <param name="Figure">The figure as printed.</param>
    /// <param name="File">The file with the value; empty for what is given and not measured.</param>
    /// <param name="Where">
    /// For CSV <c>column=value</c> pairs of the row, separated by ';'; for JSON the path; else a pattern with one group.
    /// </param>
    /// <param name="Column">For CSV the column.</param>
    /// <param name="Scale">What the value is multiplied by.</param>
    private sealed record Claim(string Document, string Line, string Figure, string File, string Where, string Column, double Scale);

    public static TheoryData<string> Documents => [.. Claims().Select(c => c.Document).Distinct()];

    [Theory]
    [MemberData(nameof(Documents))]
    public void Figures_OfADocument_AreThoseOfTheirFiles(string document)
    {
        var lines = File.ReadAllLines(Path.Combine(TestSetup.RepositoryRoot, document));
        var wrong = new List<string>();
        foreach (var claim in Claims().Where(c => c.Document == document))
        {
            var line = lines.Where(l => l.Contains(claim.Line, StringComparison.Ordinal)).ToArray();
            if (line.Length != 1 || !Numbers(line[0]).Contains(claim.Figure))
            {
                wrong.Add($"{document} has {line.Length} lines with '{claim.Line}', and there no figure {claim.Figure}.");
            }
            else if (claim.File.Length > 0 && Value(claim) * claim.Scale is var value && !Agrees(claim.Figure, value))
            {
                wrong.Add(string.Create(CultureInfo.InvariantCulture, $"'{claim.Line}': {claim.Figure} is {value} in {claim.File}."));
            }
        }

        Assert.True(wrong.Count == 0, string.Join('\n', wrong));
    }

    /// <summary>Between the marks of figures no number of a table is without a source.</summary>
    [Theory]
    [MemberData(nameof(Documents))]
    public void Tables_OfADocument_HaveASourceForEveryFigure(string document)
    {
        var claims = Claims().Where(c => c.Document == document).ToArray();
        var text = File.ReadAllText(Path.Combine(TestSetup.RepositoryRoot, document));
        var missing = new List<string>();
        foreach (Match part in MarkedPart().Matches(text))
        {
            foreach (var line in part.Value.Split('\n').Where(l => l.StartsWith('|') && !l.StartsWith("|---", StringComparison.Ordinal)))
            {
                var known = claims.Where(c => line.Contains(c.Line, StringComparison.Ordinal)).Select(c => c.Figure).ToArray();
                var measured = line.Split('|')[2..];
                missing.AddRange(measured.SelectMany(Numbers).Except(known).Select(number => $"{number} in '{line}'"));
            }
        }

        Assert.True(missing.Count == 0, "Not in results/figures.csv: " + string.Join('\n', missing));
    }

    [Theory]
    [InlineData("475,000", 475_156, true)]
    [InlineData("475,000", 476_000, false)]
    [InlineData("0.58", 0.579, true)]
    [InlineData("0.58", 0.586, false)]
    [InlineData("2.6", 2.55, true)]
    [InlineData("99.9", 99.951, false)]
    public void Agrees_HoldsToTheDigitsShown(string figure, double value, bool expected) => Assert.Equal(expected, Agrees(figure, value));

    private static bool Agrees(string figure, double value)
    {
        var digits = figure.Replace(",", "", StringComparison.Ordinal);
        var point = digits.IndexOf('.', StringComparison.Ordinal);
        var unit = point >= 0 ? Math.Pow(10, point + 1 - digits.Length) : Math.Pow(10, digits.Length - digits.TrimEnd('0').Length);
        return Math.Abs(value - double.Parse(digits, CultureInfo.InvariantCulture)) <= unit / 2 * (1 + 1e-9);
    }

    private static string[] Numbers(string text) => [.. Number().Matches(text).Select(m => m.Value)];

    private static double Value(Claim claim)
    {
        var path = Path.Combine(TestSetup.RepositoryRoot, claim.File);
        return Path.GetExtension(path) switch
        {
            ".csv" => FromCsv(path, claim),
            ".json" => FromJson(path, claim.Where),
            _ => double.Parse(
                Regex.Match(File.ReadAllText(path), claim.Where).Groups[1].Value.Replace(",", "", StringComparison.Ordinal),
                CultureInfo.InvariantCulture),
        };
    }

    private static double FromCsv(string path, Claim claim)
    {
        var rows = File.ReadAllLines(path).Where(l => !l.StartsWith('#')).Select(Fields).ToArray();
        var wanted = claim.Where.Split(';').Select(pair => pair.Split('=', 2)).ToArray();
        var found = rows.Skip(1).Where(row => wanted.All(w => row[Array.IndexOf(rows[0], w[0])] == w[1])).ToArray();
        return found.Length == 1
            ? double.Parse(found[0][Array.IndexOf(rows[0], claim.Column)], CultureInfo.InvariantCulture)
            : throw new InvalidDataException($"{claim.File} has {found.Length} rows with {claim.Where}.");
    }

    private static double FromJson(string path, string where)
    {
        using var document = JsonDocument.Parse(File.ReadAllText(path));
        var at = document.RootElement;
        foreach (var step in where.Split('.'))
        {
            at = int.TryParse(step, CultureInfo.InvariantCulture, out var index) ? at[index] : at.GetProperty(step);
        }

        return at.GetDouble();
    }

    private static List<Claim> Claims() =>
    [
        .. File.ReadAllLines(Path.Combine(TestSetup.RepositoryRoot, "results", "figures.csv")).Skip(1).Where(l => l.Length > 0)
            .Select(Fields)
            .Select(f => new Claim(
                f[0], f[1], f[2], f[3], f[4], f[5], f[6].Length == 0 ? 1 : double.Parse(f[6], CultureInfo.InvariantCulture))),
    ];

    private static string[] Fields(string line) =>
        [.. Field().Matches(line).Select(
            m => m.Groups[1].Success ? m.Groups[1].Value.Replace("\"\"", "\"", StringComparison.Ordinal) : m.Groups[2].Value)];

    [GeneratedRegex("<!-- figures -->.*?<!-- /figures -->", RegexOptions.Singleline)]
    private static partial Regex MarkedPart();

    [GeneratedRegex(@"(?<![\w.,\[:])\d+(?:,\d{3})*(?:\.\d+)?(?![\w]|[.,]\d)")]
    private static partial Regex Number();

    [GeneratedRegex("(?:^|,)(?:\"((?:[^\"]|\"\")*)\"|([^,]*))")]
    private static partial Regex Field();
}
