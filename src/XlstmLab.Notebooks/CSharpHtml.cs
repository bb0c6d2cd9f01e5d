using System.Net;
using System.Text;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;

namespace XlstmLab.Notebooks;

/// <summary>Colours C# by its tokens.</summary>
internal static class CSharpHtml
{
    private static readonly CSharpParseOptions Script = new(LanguageVersion.Latest, DocumentationMode.None, SourceCodeKind.Script);

    public static string Render(string source)
    {
        StringBuilder html = new();
        var tokens = SyntaxFactory.ParseTokens(source, options: Script).ToList();
        for (int i = 0; i < tokens.Count; i++)
        {
            Append(html, tokens[i].LeadingTrivia);
            Append(html, tokens[i].Text, ClassOf(tokens, i));
            Append(html, tokens[i].TrailingTrivia);
        }

        return html.ToString();
    }

    private static void Append(StringBuilder html, SyntaxTriviaList trivia)
    {
        foreach (var piece in trivia)
        {
            bool comment = piece.IsKind(SyntaxKind.SingleLineCommentTrivia) || piece.IsKind(SyntaxKind.MultiLineCommentTrivia);
            Append(html, piece.ToFullString(), comment ? "c" : piece.IsDirective ? "p" : null);
        }
    }

    private static void Append(StringBuilder html, string text, string? kind)
    {
        string escaped = WebUtility.HtmlEncode(text);
        html.Append(kind is null || escaped.Length == 0 ? escaped : $"<span class=\"{kind}\">{escaped}</span>");
    }

    private static string? ClassOf(List<SyntaxToken> tokens, int index)
    {
        var token = tokens[index];
        var kind = token.Kind();
        if (SyntaxFacts.IsReservedKeyword(kind)
            || token.Text is "var" or "await" or "async" or "record" or "init" or "with" or "when" or "yield" or "nint")
        {
            return "k";
        }

        if (kind is SyntaxKind.NumericLiteralToken)
        {
            return "n";
        }

        if (token.Text is ['"' or '\'' or '$' or '@', ..] || kind is SyntaxKind.InterpolatedStringTextToken)
        {
            return "s";
        }

        if (kind != SyntaxKind.IdentifierToken)
        {
            return null;
        }

        // Without binding, names tell by what follows them, and by their capital, as C# spells them.
        var next = index + 1 < tokens.Count ? tokens[index + 1].Kind() : SyntaxKind.None;
        bool afterNew = index > 0 && tokens[index - 1].IsKind(SyntaxKind.NewKeyword);
        bool member = index > 0 && tokens[index - 1].IsKind(SyntaxKind.DotToken);
        return next == SyntaxKind.OpenParenToken && !afterNew ? "f"
            : char.IsUpper(token.Text[0]) && !member ? "t"
            : null;
    }
}
