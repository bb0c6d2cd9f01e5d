using System.Text;
using System.Text.Json;
using XlstmLab.Cli.Terminals;
using XlstmLab.Text;

namespace XlstmLab.Cli;

/// <summary>What text a run was trained on, and how it was made into tokens: <c>text.json</c> in the run's folder, with the tokenizer's file beside it.</summary>
internal sealed record RunText
{
    private const string FileName = "text.json";
    private const string TokenizerName = "tokenizer.json";

    /// <summary>The dataset's name, the path, or the mixture.</summary>
    public required string Data { get; init; }

    /// <summary>The field of JSON lines and the column of Parquet files.</summary>
    public string TextField { get; init; } = "text";

    /// <summary>Whether rows without a text are left out.</summary>
    public bool SkipNull { get; init; }

    /// <summary>MiB that a line may have, where it is not the usual number.</summary>
    public int? MaxLineMib { get; init; }

    /// <summary>Whether tokens are bytes; otherwise the tokenizer's file lies beside this one.</summary>
    public required bool Bytes { get; init; }

    /// <summary>The token that opens documents, where it is not the usual one.</summary>
    public string? EndOfDocument { get; init; }

    /// <summary>What a run's folder says of its text; null if it says nothing.</summary>
    /// <exception cref="InvalidDataException">The file is damaged.</exception>
    public static RunText? Read(string run)
    {
        var path = Path.Combine(run, FileName);
        try
        {
            return File.Exists(path) ? StrictJson.Read<RunText>(File.ReadAllText(path), Terminal.Json) : null;
        }
        catch (JsonException e)
        {
            throw new InvalidDataException($"{path} cannot be read: {e.Message}", e);
        }
    }

    /// <summary>The tokenizer that the run was trained with.</summary>
    public ITokenizer OpenTokenizer(string run) =>
        TokenizerFile(run) is { } file ? TextOptions.Tokenizer(file, EndOfDocument) : new ByteTokenizer();

    /// <summary>The tokenizer's file in the run's folder; null where tokens are bytes.</summary>
    public string? TokenizerFile(string run) => Bytes ? null : Path.Combine(run, TokenizerName);

    /// <summary>The file and the tokenizer's, by their names in the run's folder; null is a file that the run has not.</summary>
    /// <param name="tokenizerFile">The tokenizer's file; null where tokens are bytes.</param>
    public IReadOnlyDictionary<string, byte[]?> Files(string? tokenizerFile) => new Dictionary<string, byte[]?>
    {
        [TokenizerName] = tokenizerFile is null ? null : File.ReadAllBytes(tokenizerFile),
        [FileName] = Encoding.UTF8.GetBytes(JsonSerializer.Serialize(this, Terminal.Json) + "\n"),
    };
}
