using System.Diagnostics;
using System.Text.Json.Nodes;

namespace XlstmLab.Notebooks.Jupyter;

/// <summary>A request, with what its answers need.</summary>
/// <param name="Channel">The socket it came by.</param>
/// <param name="Identities">What routes the answers to who asked.</param>
/// <param name="Header">The header, which the answers name as their parent.</param>
/// <param name="Content">What is asked.</param>
internal sealed record JupyterMessage(string Channel, IReadOnlyList<byte[]> Identities, JsonObject Header, JsonObject Content)
{
    /// <summary>When it came, by the process's clock.</summary>
    public long Received { get; } = Stopwatch.GetTimestamp();

    /// <summary>What kind of request it is, such as <c>execute_request</c>.</summary>
    public string Type => MultilineText.IsString(Header["msg_type"]) ? Header["msg_type"]!.GetValue<string>() : "";

    /// <summary>A text of the content; empty if there is none.</summary>
    public string Text(string name) => MultilineText.IsString(Content[name]) ? Content[name]!.GetValue<string>() : "";

    /// <summary>A switch of the content.</summary>
    public bool Flag(string name, bool otherwise) =>
        Content[name] is JsonValue value && value.TryGetValue(out bool flag) ? flag : otherwise;

    /// <summary>A whole number of the content; null if there is none.</summary>
    public int? Number(string name) => Content[name] is JsonValue value && value.TryGetValue(out int number) ? number : null;
}
