using System.Text;
using System.Text.Json;
using XlstmLab.Text;

namespace XlstmLab.Training;

/// <summary>
/// What a run was trained on and started from, and how text was made into tokens: <c>text.json</c> in the run's folder, with the
/// tokenizer's file beside it.
/// </summary>
public sealed record RunText
{
    internal const string FileName = "text.json";
    internal const string TokenizerName = "tokenizer.json";

    /// <summary>The dataset's name, the path, or the mixture; empty where it is not known.</summary>
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

    /// <summary>
    /// The fingerprint of a tokenizer that no file describes, as one of the user's own; null where a file does, or tokens are bytes.
    /// </summary>
    public string? OwnTokenizer { get; init; }

    /// <summary>The folder that the weights were taken from at the start; null for fresh ones.</summary>
    public string? InitialWeights { get; init; }

    /// <summary>How its files are read.</summary>
    internal CorpusOptions CorpusOptions
    {
        get
        {
            var options = new CorpusOptions { TextField = TextField, SkipNull = SkipNull };
            return MaxLineMib is { } mib ? options with { MaxLineBytes = (long)mib << 20 } : options;
        }
    }

    /// <summary>What a run's folder says of its text; null if it says nothing.</summary>
    /// <param name="run">The run's folder.</param>
    /// <exception cref="InvalidDataException">The file is damaged.</exception>
    public static RunText? Read(string run)
    {
        var path = Path.Combine(run, FileName);
        try
        {
            return File.Exists(path) ? StrictJson.Read<RunText>(File.ReadAllText(path), RunJson.Indented) : null;
        }
        catch (JsonException e)
        {
            throw new InvalidDataException($"{path} cannot be read: {e.Message}", e);
        }
    }

    /// <summary>A description of a text and its tokenizer.</summary>
    /// <param name="data">The dataset's name, the path, or the mixture; paths become whole ones.</param>
    /// <param name="tokenizer">The tokenizer.</param>
    /// <param name="options">How files are read.</param>
    public static RunText Of(string data, ITokenizer tokenizer, CorpusOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(data);
        ArgumentNullException.ThrowIfNull(tokenizer);
        options ??= new();
        var bpe = tokenizer as BpeTokenizer;
        return new()
        {
            Data = TextSource.Absolute(data),
            TextField = options.TextField,
            SkipNull = options.SkipNull,
            MaxLineMib = options.MaxLineBytes == DocumentFile.UsualLineBytes ? null : (int)(options.MaxLineBytes >> 20),
            Bytes = tokenizer is ByteTokenizer,
            EndOfDocument = bpe is null or { EndOfDocumentText: BpeTokenizer.DefaultEndOfDocument } ? null : bpe.EndOfDocumentText,
            OwnTokenizer = tokenizer is ByteTokenizer || bpe is not null ? null : tokenizer.Fingerprint,
        };
    }

    /// <summary>The tokenizer that the run was trained with; null where its folder does not hold it.</summary>
    /// <param name="run">The run's folder.</param>
    /// <exception cref="InvalidDataException">Its file is damaged.</exception>
    public ITokenizer? OpenTokenizer(string run)
    {
        var file = Path.Combine(run, TokenizerName);
        return Bytes ? new ByteTokenizer()
            : OwnTokenizer is not null || !File.Exists(file) ? null
            : BpeTokenizer.Load(file, EndOfDocument ?? BpeTokenizer.DefaultEndOfDocument);
    }

    /// <summary>
    /// The files by which a run can be opened again, beside those that the caller has; null is a file that the run has not.
    /// </summary>
    /// <param name="run">The run's folder.</param>
    /// <param name="text">What the caller says of the text; null to say what the other two tell.</param>
    /// <param name="data">A description of the data.</param>
    /// <param name="tokenizer">The tokenizer, if known.</param>
    /// <param name="startOver">Whether what an earlier run left does not count.</param>
    /// <param name="given">The caller's files, which go before.</param>
    internal static IReadOnlyDictionary<string, byte[]?> Attach(
        string run, RunText? text, string? data, ITokenizer? tokenizer, bool startOver, IReadOnlyDictionary<string, byte[]?> given)
    {
        // A run that goes on has a file that may say more than can be told here.
        if (text is null && !startOver && (tokenizer is null || File.Exists(Path.Combine(run, FileName))))
        {
            return given;
        }

        text ??= tokenizer is null ? null : Of(data ?? "", tokenizer);
        var files = new Dictionary<string, byte[]?>(given);
        files.TryAdd(TokenizerName, tokenizer is BpeTokenizer bpe ? bpe.Source.ToArray() : null);
        files.TryAdd(FileName, text is null ? null : Encoding.UTF8.GetBytes(JsonSerializer.Serialize(text, RunJson.Indented) + "\n"));
        return files;
    }
}
