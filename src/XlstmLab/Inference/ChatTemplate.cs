using System.Text;
using System.Text.Json;

namespace XlstmLab.Inference;

/// <summary>What one side of a conversation said.</summary>
/// <param name="Role"><c>system</c> (or <c>developer</c>), <c>user</c> or <c>assistant</c>.</param>
/// <param name="Content">The text.</param>
public sealed record ChatTurn(string Role, string Content);

/// <summary>How a conversation becomes the beginning of a text that the model goes on with.</summary>
/// <remarks>
/// Templates of Hugging Face models are programs in Jinja, which nothing here interprets: ChatML's is known by its text, others are refused
/// by name rather than guessed at.
/// </remarks>
public sealed class ChatTemplate
{
    private const string Opening = "<|im_start|>";
    private const string Closing = "<|im_end|>";

    /// <summary>ChatML's program without white space, with single quotes.</summary>
    private const string ChatMlProgram =
        "{%formessageinmessages%}{{'<|im_start|>'+message['role']+'\\n'+message['content']+'<|im_end|>'+'\\n'}}{%endfor%}"
        + "{%ifadd_generation_prompt%}{{'<|im_start|>assistant\\n'}}{%endif%}";

    private readonly Func<ChatTurn, string> _turn;
    private readonly string _answer;
    private readonly string[] _reserved;

    private ChatTemplate(string name, Func<ChatTurn, string> turn, string answer, string[] stops, string[] reserved) =>
        (Name, _turn, _answer, StopStrings, _reserved) = (name, turn, answer, stops, reserved);

    /// <summary>
    /// For models without a template of their own: <c>User: ...</c> and <c>Assistant: ...</c> with an empty line between turns, a system's
    /// text without a name before it; the answer goes on after <c>Assistant:</c>, and ends before the next turn.
    /// </summary>
    public static ChatTemplate Plain { get; } = new(
        "plain",
        turn => turn.Role switch { "user" => "User: ", "assistant" => "Assistant: ", _ => "" } + turn.Content + "\n\n",
        "Assistant:",
        ["\n\nUser:", "\n\nAssistant:"],
        []);

    /// <summary>ChatML: each turn between <c>&lt;|im_start|&gt;</c> with its role, and <c>&lt;|im_end|&gt;</c>.</summary>
    public static ChatTemplate ChatMl { get; } = new(
        "chatml",
        turn => $"{Opening}{turn.Role}\n{turn.Content}{Closing}\n",
        $"{Opening}assistant\n",
        [Closing],
        [Opening, Closing]);

    /// <summary>What it is called on the command line.</summary>
    public string Name { get; }

    /// <summary>What ends an answer.</summary>
    public IReadOnlyList<string> StopStrings { get; }

    /// <summary>The template of a name.</summary>
    /// <exception cref="ArgumentException">There is none.</exception>
    public static ChatTemplate ByName(string name) => name switch
    {
        "plain" => Plain,
        "chatml" => ChatMl,
        _ => throw new ArgumentException($"There is no chat template '{name}'; known are plain and chatml."),
    };

    /// <summary>
    /// The template of a model's folder, from <c>chat_template.jinja</c> or <c>tokenizer_config.json</c>; the plain one where it has none.
    /// </summary>
    /// <param name="folder">The folder.</param>
    /// <exception cref="NotSupportedException">
    /// It is a program that is not known here; the message says where it stands and what to do.
    /// </exception>
    /// <exception cref="InvalidDataException">The file is damaged.</exception>
    public static ChatTemplate OfFolder(string folder)
    {
        var file = Path.Combine(folder, "chat_template.jinja");
        var program = File.Exists(file) ? File.ReadAllText(file) : null;
        if (program is null)
        {
            file = Path.Combine(folder, "tokenizer_config.json");
            program = File.Exists(file) ? ProgramOf(file) : null;
        }

        if (program is null)
        {
            return Plain;
        }

        var bare = new StringBuilder();
        foreach (var c in program.Where(c => !char.IsWhiteSpace(c)))
        {
            bare.Append(c == '"' ? '\'' : c);
        }

        return bare.Replace("{%-", "{%").Replace("-%}", "%}").ToString() == ChatMlProgram
            ? ChatMl
            : throw new NotSupportedException(
                $"The chat template of {file} is a Jinja program that is not known here (ChatML's is). "
                + "Choose the template plain or chatml, if the model was trained with that.");
    }

    /// <summary>The text of a conversation, up to where the answer begins.</summary>
    /// <param name="turns">At least one turn.</param>
    /// <exception cref="ArgumentException">A role is not known, or a text holds what the template itself marks turns with.</exception>
    public string Render(IReadOnlyList<ChatTurn> turns)
    {
        ArgumentNullException.ThrowIfNull(turns);
        if (turns.Count == 0)
        {
            throw new ArgumentException("Expected at least one message, got none.");
        }

        var text = new StringBuilder();
        foreach (var (index, turn) in turns.Index())
        {
            var role = turn.Role switch
            {
                "system" or "developer" => "system",
                "user" or "assistant" => turn.Role,
                _ => throw new ArgumentException(
                    $"Message {index} has the role '{turn.Role}'; known are system, developer, user and assistant."),
            };
            if (Array.Find(_reserved, mark => turn.Content.Contains(mark, StringComparison.Ordinal)) is { } reserved)
            {
                throw new ArgumentException($"Message {index} holds {reserved}, by which the template {Name} marks turns.");
            }

            text.Append(_turn(turn with { Role = role }));
        }

        return text.Append(_answer).ToString();
    }

    private static string? ProgramOf(string file)
    {
        try
        {
            using var json = JsonDocument.Parse(File.ReadAllText(file));
            if (json.RootElement.ValueKind != JsonValueKind.Object || !json.RootElement.TryGetProperty("chat_template", out var template))
            {
                return null;
            }

            return template.ValueKind switch
            {
                JsonValueKind.Null => null,
                JsonValueKind.String => template.GetString(),
                _ => template.GetRawText(),
            };
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException)
        {
            throw new InvalidDataException($"{file} is not the JSON of a tokenizer's configuration: {e.Message}", e);
        }
    }
}

/// <summary>Leaves out the white space that an answer begins with, piece by piece.</summary>
internal sealed class AnswerStart
{
    private bool _hasBegun;

    /// <summary>The piece as it is shown.</summary>
    public string Push(string piece)
    {
        if (_hasBegun)
        {
            return piece;
        }

        var rest = piece.TrimStart();
        _hasBegun = rest.Length > 0;
        return rest;
    }
}
