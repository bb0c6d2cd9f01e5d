namespace XlstmLab.Text;

/// <summary>A text with a name that no other document of its corpus has.</summary>
/// <param name="Name">The name.</param>
/// <param name="Text">The text.</param>
public sealed record Document(string Name, string Text)
{
    /// <summary>What else is known of it, such as its year.</summary>
    public IReadOnlyDictionary<string, string> Fields { get; init; } = new Dictionary<string, string>();
}
