using System.Text.Json.Nodes;
using Microsoft.CodeAnalysis.CSharp;
using Microsoft.DotNet.Interactive;
using Microsoft.DotNet.Interactive.Commands;
using Microsoft.DotNet.Interactive.Events;

namespace XlstmLab.Notebooks.Jupyter;

/// <summary>What clients ask of code that they do not run. They count code points where .NET counts UTF-16 units.</summary>
internal static class CodeQuestions
{
    private static readonly string[] FSharpOpenEnds =
        ["=", "->", "then", "else", "do", "with", "(", "[", "{", "|>", ">>", ",", ";", ":", "+", "&&", "||", "fun", "function", "try"];

    /// <summary>Answers a <c>complete_request</c>: what can stand where the cursor is, that begins as what is there.</summary>
    public static async Task<JsonObject> CompleteAsync(CompositeKernel root, string code, int cursor)
    {
        int offset = Offset(code, cursor);
        var result = await root.SendAsync(new RequestCompletions(code, Position(code, offset))).ConfigureAwait(false);
        int start = WordStart(code, offset);
        JsonArray matches = [];
        JsonArray types = [];
        foreach (var completions in result.Events.OfType<CompletionsProduced>())
        {
            start = completions.LinePositionSpan is { } span ? Math.Min(offset, Offset(code, span.Start)) : start;
            string typed = code[start..offset];
            foreach (var item in completions.Completions.Where(
                item => item.DisplayText.StartsWith(typed, StringComparison.OrdinalIgnoreCase)))
            {
                string text = item.DisplayText.Replace("<>", "", StringComparison.Ordinal);
                matches.Add((JsonNode)text);
                types.Add(
                    (JsonNode)new JsonObject
                    {
                        ["text"] = text,
                        ["type"] = item.Kind,
                        ["start"] = CodePoints(code, start),
                        ["end"] = cursor,
                    });
            }
        }

        return new()
        {
            ["status"] = "ok",
            ["matches"] = matches,
            ["cursor_start"] = CodePoints(code, start),
            ["cursor_end"] = cursor,
            ["metadata"] = new JsonObject { ["_jupyter_types_experimental"] = types },
        };
    }

    /// <summary>
    /// Answers an <c>inspect_request</c>: what the name at the cursor is, with its documentation, and the signatures of a call.
    /// </summary>
    public static async Task<JsonObject> InspectAsync(CompositeKernel root, string code, int cursor)
    {
        int offset = Offset(code, cursor);
        var help = await root.SendAsync(new RequestSignatureHelp(code, Position(code, offset))).ConfigureAwait(false);

        // The cursor may stand behind the name, or behind the bracket after it.
        int name = offset;
        while (name > 0 && !(name < code.Length && IsWord(code[name])) && !IsWord(code[name - 1]))
        {
            name--;
        }

        name = name > 0 && !(name < code.Length && IsWord(code[name])) ? name - 1 : name;
        var hover = await root.SendAsync(new RequestHoverText(code, Position(code, name))).ConfigureAwait(false);
        string text = string.Join(
            '\n',
            hover.Events.OfType<HoverTextProduced>().SelectMany(e => e.Content).Select(content => content.Value)
                .Concat(help.Events.OfType<SignatureHelpProduced>().SelectMany(e => e.Signatures).Select(signature => signature.Label))
                .Distinct()).ReplaceLineEndings("\n");
        return new()
        {
            ["status"] = "ok",
            ["found"] = text.Length > 0,
            ["data"] = text.Length > 0 ? new JsonObject { ["text/plain"] = text, ["text/markdown"] = text } : new JsonObject(),
            ["metadata"] = new JsonObject(),
        };
    }

    /// <summary>Answers an <c>is_complete_request</c>: whether a console is to run the code or to ask for another line.</summary>
    /// <param name="code">The lines so far.</param>
    /// <param name="language">The kernel of code without magics.</param>
    public static JsonObject IsComplete(string code, string language)
    {
        string[] lines = code.Split('\n');
        language = lines.Where(line => line.StartsWith("#!", StringComparison.Ordinal))
            .Select(line => CellLanguage.Kernel(line[2..].Split(' ')[0].Trim())).LastOrDefault(kernel => kernel is not null) ?? language;
        string plain = string.Join('\n', lines.Where(line => !line.StartsWith("#!", StringComparison.Ordinal)));
        bool isComplete = language switch
        {
            CellLanguage.CSharp => SyntaxFactory.IsCompleteSubmission(CSharpSyntaxTree.ParseText(plain, CellEngine.Script)),
            CellLanguage.FSharp => IsCompleteFSharp(plain),
            _ => true,
        };
        return isComplete ? new() { ["status"] = "complete" } : new() { ["status"] = "incomplete", ["indent"] = "    " };
    }

    /// <summary>
    /// As in F# Interactive, two semicolons end any code; beyond that a line by itself, and several lines by an empty one.
    /// </summary>
    private static bool IsCompleteFSharp(string code)
    {
        string text = code.TrimEnd();
        if (text.EndsWith(";;", StringComparison.Ordinal) || text.Length == 0)
        {
            return true;
        }

        bool isOpen = FSharpOpenEnds.Any(end => text.EndsWith(end, StringComparison.Ordinal)
            && (!char.IsLetter(end[0]) || text.Length == end.Length || !IsWord(text[^(end.Length + 1)])));
        int depth = text.Count(c => c is '(' or '[' or '{') - text.Count(c => c is ')' or ']' or '}');
        return !isOpen && depth <= 0 && (!text.Contains('\n', StringComparison.Ordinal) || code.EndsWith('\n'));
    }

    private static bool IsWord(char c) => char.IsLetterOrDigit(c) || c == '_';

    private static int WordStart(string code, int offset)
    {
        while (offset > 0 && IsWord(code[offset - 1]))
        {
            offset--;
        }

        return offset;
    }

    private static int Offset(string code, int codePoints)
    {
        int offset = 0;
        for (int i = 0; i < codePoints && offset < code.Length; i++)
        {
            offset += char.IsSurrogatePair(code, offset) ? 2 : 1;
        }

        return offset;
    }

    private static int Offset(string code, LinePosition position) =>
        code.Split('\n').Take(position.Line).Sum(line => line.Length + 1) + position.Character;

    private static int CodePoints(string code, int offset) => offset - code.AsSpan(0, offset).ToArray().Count(char.IsLowSurrogate);

    private static LinePosition Position(string code, int offset)
    {
        var before = code.AsSpan(0, offset);
        return new(before.Count('\n'), offset - before.LastIndexOf('\n') - 1);
    }
}
