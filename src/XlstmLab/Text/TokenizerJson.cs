using System.Text.Json;

namespace XlstmLab.Text;

/// <summary>The parts of a Hugging Face <c>tokenizer.json</c> that decide ids and bytes.</summary>
internal sealed record TokenizerJson
{
    private static readonly JsonSerializerOptions Options =
        new() { PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower, AllowDuplicateProperties = false };

    public List<AddedTokenJson?>? AddedTokens { get; init; }

    public StepJson? Normalizer { get; init; }

    public StepJson? PreTokenizer { get; init; }

    public StepJson? Decoder { get; init; }

    public BpeJson? Model { get; init; }

    /// <summary>Reads UTF-8 JSON.</summary>
    /// <exception cref="InvalidDataException">It is not such a JSON.</exception>
    public static TokenizerJson Parse(ReadOnlySpan<byte> utf8)
    {
        try
        {
            return JsonSerializer.Deserialize<TokenizerJson>(utf8, Options) ?? throw new InvalidDataException("it holds only null");
        }
        catch (JsonException e)
        {
            throw new InvalidDataException($"it is not the JSON of a tokenizer: {e.Message}", e);
        }
    }
}

/// <summary>A token that is found in the text before anything else.</summary>
internal sealed record AddedTokenJson
{
    public int Id { get; init; }

    public string? Content { get; init; }

    public bool SingleWord { get; init; }

    public bool Lstrip { get; init; }

    public bool Rstrip { get; init; }

    public bool Normalized { get; init; }

    public bool Special { get; init; }
}

/// <summary>A normalizer, pre-tokenizer or decoder: its type and the settings of all types.</summary>
internal sealed record StepJson
{
    public string? Type { get; init; }

    public bool AddPrefixSpace { get; init; } = true;

    public bool UseRegex { get; init; } = true;

    public PatternJson? Pattern { get; init; }

    public string? Behavior { get; init; }

    public bool Invert { get; init; }

    public bool IndividualDigits { get; init; }

    public List<StepJson?>? Pretokenizers { get; init; }

    public List<StepJson?>? Normalizers { get; init; }
}

/// <summary>What a Split looks for.</summary>
internal sealed record PatternJson
{
    [System.Text.Json.Serialization.JsonPropertyName("Regex")]
    public string? Regex { get; init; }

    [System.Text.Json.Serialization.JsonPropertyName("String")]
    public string? Literal { get; init; }
}

/// <summary>The byte pair encoding.</summary>
internal sealed record BpeJson
{
    public string? Type { get; init; }

    public double? Dropout { get; init; }

    public string? ContinuingSubwordPrefix { get; init; }

    public string? EndOfWordSuffix { get; init; }

    public bool IgnoreMerges { get; init; }

    public Dictionary<string, int>? Vocab { get; init; }

    public List<JsonElement>? Merges { get; init; }
}
