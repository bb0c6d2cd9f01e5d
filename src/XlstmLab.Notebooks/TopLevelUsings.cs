using System.Text.RegularExpressions;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;
using Microsoft.CodeAnalysis.CSharp.Syntax;
using Microsoft.CodeAnalysis.Text;

namespace XlstmLab.Notebooks;

/// <summary>
/// Lets a cell declare by <c>using var</c>, as samples of programs do. A script has no such declarations, and a notebook no end at which
/// they would be disposed of: the variable is one like others, which later cells have.
/// </summary>
internal static partial class TopLevelUsings
{
    private static readonly CSharpParseOptions Program = new(LanguageVersion.Latest);

    /// <summary>The code without the word <c>using</c> before declarations outside of blocks; all else stays in its place.</summary>
    /// <param name="code">C# of a cell.</param>
    public static string Blank(string code)
    {
        if (!Declaration().IsMatch(code))
        {
            return code;
        }

        char[] text = code.ToCharArray();
        var unit = CSharpSyntaxTree.ParseText(code, Program).GetCompilationUnitRoot();
        foreach (var declaration in unit.Members.OfType<GlobalStatementSyntax>().Select(member => member.Statement)
            .OfType<LocalDeclarationStatementSyntax>())
        {
            if (declaration.UsingKeyword.IsKind(SyntaxKind.UsingKeyword))
            {
                Blank(text, declaration.AwaitKeyword.Span);
                Blank(text, declaration.UsingKeyword.Span);
            }
        }

        return new string(text);
    }

    private static void Blank(char[] text, TextSpan span) => Array.Fill(text, ' ', span.Start, span.Length);

    [GeneratedRegex(@"\busing\s+[\w.<>\[\], ?]+\s+\w+\s*=")]
    private static partial Regex Declaration();
}
