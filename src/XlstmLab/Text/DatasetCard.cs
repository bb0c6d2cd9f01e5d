using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Serialization;

namespace XlstmLab.Text;

/// <summary>How much text a part of a dataset holds.</summary>
/// <param name="Documents">The number of documents.</param>
/// <param name="Bytes">The UTF-8 bytes of their texts.</param>
public sealed record SplitSize(int Documents, long Bytes);

/// <summary>What a dataset is, where it comes from and how it is split: its <c>card.json</c>.</summary>
public sealed record DatasetCard
{
    /// <summary>The name of a card's file.</summary>
    public const string FileName = "card.json";

    private static readonly JsonSerializerOptions Options = new()
    {
        PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower,
        Converters = { new JsonStringEnumConverter(JsonNamingPolicy.SnakeCaseLower, allowIntegerValues: false) },
        Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
        WriteIndented = true,
    };

    /// <summary>The name it is opened by, which is that of its folder.</summary>
    public required string Name { get; init; }

    /// <summary>The name for readers.</summary>
    public required string Title { get; init; }

    /// <summary>Who published it where, with the version.</summary>
    public required string Origin { get; init; }

    /// <summary>The licence of the text.</summary>
    public required string Licence { get; init; }

    /// <summary>What was done to the text, and what a user should know of it.</summary>
    public required string Preparation { get; init; }

    /// <summary>The packages of a distribution that it was made of; null for a dataset that was made of something else.</summary>
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public IReadOnlyList<SourcePackage>? Packages { get; init; }

    /// <summary>
    /// The file of the documents: JSON lines with the fields name and text, compressed by Brotli or, if it ends in .zst, by Zstandard.
    /// </summary>
    public string File { get; init; } = "text.jsonl.br";

    /// <summary>The SHA-256 of the file, in hexadecimal.</summary>
    public string Sha256 { get; init; } = "";

    /// <summary>The size of the file in bytes.</summary>
    public long FileBytes { get; init; }

    /// <summary>The SHA-256 of the decompressed JSON lines, in hexadecimal.</summary>
    public string ContentSha256 { get; init; } = "";

    /// <summary>The size of the decompressed JSON lines in bytes.</summary>
    public long ContentBytes { get; init; }

    /// <summary>How documents are split.</summary>
    public SplitRule Split { get; init; } = new();

    /// <summary>The size of each part under that rule.</summary>
    public IReadOnlyDictionary<Split, SplitSize> Parts { get; init; } = new Dictionary<Split, SplitSize>();

    /// <summary>Reads the card of a dataset's folder.</summary>
    /// <exception cref="InvalidDataException">The card is missing, damaged or incomplete.</exception>
    public static DatasetCard Read(string folder)
    {
        var path = Path.Combine(folder, FileName);
        try
        {
            var card = StrictJson.Read<DatasetCard>(System.IO.File.ReadAllText(path), Options);
            return card.File.Length > 0 && card.File == Path.GetFileName(card.File)
                ? card
                : throw new InvalidDataException($"The dataset card '{path}' names no file of its folder.");
        }
        catch (JsonException e)
        {
            throw new InvalidDataException($"The dataset card '{path}' cannot be read: {e.Message}", e);
        }
        catch (FileNotFoundException e)
        {
            throw new InvalidDataException($"The folder '{folder}' has no {FileName}: it is no dataset.", e);
        }
    }

    /// <summary>The card as JSON.</summary>
    internal string ToJson() => JsonSerializer.Serialize(this, Options) + "\n";
}

/// <summary>A version of a distribution's package that a dataset was made of.</summary>
/// <param name="Name">The package.</param>
/// <param name="Version">Its version.</param>
/// <param name="Sha256">The SHA-256 of the package's file, in hexadecimal.</param>
/// <param name="Bytes">The size of that file.</param>
public sealed record SourcePackage(string Name, string Version, string Sha256, long Bytes);
