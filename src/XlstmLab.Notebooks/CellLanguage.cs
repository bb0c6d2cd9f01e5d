namespace XlstmLab.Notebooks;

/// <summary>The kernels that cells can be written for, and those of other programs that are named when they are refused.</summary>
internal static class CellLanguage
{
    public const string CSharp = "csharp";
    public const string FSharp = "fsharp";
    public const string Html = "html";
    public const string JavaScript = "javascript";
    public const string Markdown = "markdown";
    public const string Mermaid = "mermaid";
    public const string Value = "value";

    /// <summary>Other names of a kernel, which are magics too.</summary>
    public static readonly IReadOnlyDictionary<string, string[]> Aliases = new Dictionary<string, string[]>
    {
        [CSharp] = ["c#", "C#"],
        [FSharp] = ["f#", "F#"],
        [Html] = [],
        [JavaScript] = ["js"],
        [Markdown] = [],
        [Mermaid] = [],
        [Value] = [],
    };

    private static readonly HashSet<string> Elsewhere = new(StringComparer.OrdinalIgnoreCase)
    {
        "pwsh", "powershell", "python", "r", "sql", "kql", "http", "connect", "vscode",
    };

    /// <summary>The kernel of a language's or a kernel's name; null if there is none.</summary>
    public static string? Kernel(string language) => Aliases
        .FirstOrDefault(kernel => kernel.Key.Equals(language, StringComparison.OrdinalIgnoreCase)
            || kernel.Value.Contains(language, StringComparer.OrdinalIgnoreCase)).Key;

    /// <summary>Whether a magic belongs to a kernel of .NET Interactive that is not here.</summary>
    public static bool IsKnownElsewhere(string magic) => Elsewhere.Contains(magic);

    /// <summary>What is said of a language or magic that is not here.</summary>
    public static string Refusal(string what) =>
        $"'{what}' is not supported: cells can be C#, F#, HTML, JavaScript, Markdown, Mermaid and values "
        + $"({string.Join(", ", Aliases.Keys.Select(name => "#!" + name))}); #!lsmagic lists the other magics.";
}
