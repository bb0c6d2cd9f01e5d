using System.Text.Json;
using XlstmLab.Checkpoints;
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
            return File.Exists(path) ? JsonSerializer.Deserialize<RunText>(File.ReadAllText(path), Terminal.Json) : null;
        }
        catch (JsonException e)
        {
            throw new InvalidDataException($"{path} cannot be read: {e.Message}", e);
        }
    }

    /// <summary>The tokenizer that the run was trained with.</summary>
    public ITokenizer OpenTokenizer(string run) =>
        Bytes ? new ByteTokenizer() : TextOptions.Tokenizer(Path.Combine(run, TokenizerName), EndOfDocument);

    /// <summary>Writes the file, and copies the tokenizer's.</summary>
    public void Write(string run, string? tokenizerFile)
    {
        if (tokenizerFile is not null && Path.GetFullPath(tokenizerFile) != Path.GetFullPath(Path.Combine(run, TokenizerName)))
        {
            var content = File.ReadAllBytes(tokenizerFile);
            AtomicFile.Write(Path.Combine(run, TokenizerName), stream => stream.Write(content));
        }

        AtomicFile.WriteText(Path.Combine(run, FileName), JsonSerializer.Serialize(this, Terminal.Json) + "\n");
    }
}
