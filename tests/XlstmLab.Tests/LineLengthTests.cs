using System.Globalization;
using System.Text.RegularExpressions;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;
using Microsoft.CodeAnalysis.CSharp.Syntax;
using Microsoft.CodeAnalysis.Text;
using Xunit;

namespace XlstmLab.Tests;

/// <summary>
/// No line is wider than .editorconfig says, which formatters do not hold. A line of C# may be that has nothing but a raw string, or a part
/// of one, and what closes it: a document in another language (JSON, HTML, a script), whose lines are its own.
/// </summary>
public sealed partial class LineLengthTests
{
    private static int Columns { get; } = int.Parse(
        Limit().Match(File.ReadAllText(Path.Combine(TestSetup.RepositoryRoot, ".editorconfig"))).Groups[1].Value,
        CultureInfo.InvariantCulture);

    [Fact]
    public void Sources_NoLineIsTooLong()
    {
        string[] folders = ["src", "tests"];
        var files = folders.SelectMany(folder => Directory.EnumerateFiles(
                Path.Combine(TestSetup.RepositoryRoot, folder), "*", SearchOption.AllDirectories))
            .Where(file => Path.GetExtension(file) is ".cs" or ".cu" or ".cuh")
            .Where(file => !file.Split(Path.DirectorySeparatorChar).Any(part => part is "bin" or "obj"))
            .Order(StringComparer.Ordinal);
        var found = files.SelectMany(file => TooLong(Path.GetRelativePath(TestSetup.RepositoryRoot, file), File.ReadAllText(file)))
            .ToArray();
        Assert.True(found.Length == 0, string.Join("\n", found));
    }

    /// <summary>The test would find what it is for: ~ stands for as many letters as a line may have.</summary>
    [Theory]
    [InlineData("a.cs", "// ~", 1)]
    [InlineData("a.cs", "/// <summary>~</summary>\nclass A;", 1)]
    [InlineData("a.cs", "class A\n{\n    const string B = \"~\";\n}", 3)]
    [InlineData("a.cs", "class A\n{\n    const string B =\n        @\"~\";\n}", 4)]
    [InlineData("a.cs", "class A\n{\n    const string B = \"\"\"~\"\"\";\n}", 3)]
    [InlineData("a.cs", "class A\n{\n    const string B =\n        \"\"\"b\"\"\"; // ~\n}", 4)]
    [InlineData("a.cs", "class A\n{\n    const string B = \"\"\"\n        b\n        \"\"\"; // ~\n}", 5)]
    [InlineData("a.cs", "class A\n{\n    const string B =\n        \"\"\"~\"\"\" + \"b\";\n}", 4)]
    [InlineData("a.cu", "\"\"\"~\"\"\"", 1)]
    [InlineData("a.cs", "class A\n{\n    const string B =\n        \"\"\"~\"\"\";\n}", null)]
    [InlineData("a.cs", "class A\n{\n    const string B = \"\"\"\n        ~\n        \"\"\";\n}", null)]
    [InlineData("a.cs", "class A\n{\n    static int B;\n    string C =\n        $$\"\"\"~{{B}}\"\"\";\n}", null)]
    public void TooLong_Source_FindsTheLineAndSparesRawStrings(string file, string source, int? line) =>
        Assert.Equal(
            line is { } number ? [number] : [],
            TooLong(file, source.Replace("~", new string('a', Columns), StringComparison.Ordinal))
                .Select(found => int.Parse(found.Split(':')[1], CultureInfo.InvariantCulture)));

    /// <summary>A column is a code point. The sources have no characters that are wider, and hardly any that take two.</summary>
    private static IEnumerable<string> TooLong(string file, string source)
    {
        var text = SourceText.From(source);
        var lines = text.Lines.Where(line => line.Span.Length > Columns && text.ToString(line.Span).EnumerateRunes().Count() > Columns)
            .ToArray();
        var root = lines.Length > 0 && Path.GetExtension(file) == ".cs"
            ? CSharpSyntaxTree.ParseText(text, CSharpParseOptions.Default.WithLanguageVersion(LanguageVersion.Preview)).GetRoot() : null;
        return lines.Where(line => root is null || !IsRawString(root, text, line))
            .Select(line => $"{file}:{line.LineNumber + 1}: {line.Span.Length} columns, at most {Columns}");
    }

    private static bool IsRawString(SyntaxNode root, SourceText text, TextLine line)
    {
        string Between(int start, int end) => start < end ? text.ToString(TextSpan.FromBounds(start, end)) : "";

        return root.FindToken(line.Start + Columns / 2).Parent!.AncestorsAndSelf().Any(node =>
            node is LiteralExpressionSyntax or InterpolatedStringExpressionSyntax
            && node.GetFirstToken().Text.TrimStart('$').StartsWith("\"\"\"", StringComparison.Ordinal)
            && Between(line.Start, node.SpanStart).Trim().Length == 0
            && Between(node.Span.End, line.End).Trim(')', ']', ',', ';').Length == 0);
    }

    [GeneratedRegex(@"^max_line_length = (\d+)$", RegexOptions.Multiline | RegexOptions.CultureInvariant)]
    private static partial Regex Limit();
}
