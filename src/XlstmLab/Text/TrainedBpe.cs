using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace XlstmLab.Text;

/// <summary>A byte-level BPE that <see cref="BpeTrainer"/> has learned.</summary>
public sealed class TrainedBpe
{
    private static readonly JsonSerializerOptions Json =
        new() { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping, WriteIndented = true };

    private readonly BpeTrainerOptions _options;

    internal TrainedBpe(IReadOnlyList<string> tokens, IReadOnlyList<(int Left, int Right)> merges, BpeTrainerOptions options)
    {
        Tokens = tokens;
        Merges = merges;
        _options = options;
    }

    /// <summary>The tokens by their ids, spelt as in a tokenizer.json: one character a byte, special tokens as they are.</summary>
    public IReadOnlyList<string> Tokens { get; }

    /// <summary>The pairs of ids that become one, the first merged first.</summary>
    public IReadOnlyList<(int Left, int Right)> Merges { get; }

    /// <summary>The UTF-8 bytes of the text it was learned from.</summary>
    public long TextBytes { get; init; }

    /// <summary>The pieces that text was cut into.</summary>
    public long Pieces { get; init; }

    /// <summary>The distinct pieces among them that were held at the end.</summary>
    public int DistinctPieces { get; init; }

    /// <summary>How many occurrences of a piece may at most not have been counted, for want of memory; usually 0.</summary>
    public long ForgottenCount { get; init; }

    /// <summary>The tokenizer.</summary>
    public BpeTokenizer ToTokenizer() => BpeTokenizer.Parse(Encoding.UTF8.GetBytes(ToJson()), _options.SpecialTokens[0]);

    /// <summary>Writes the Hugging Face <c>tokenizer.json</c>, as a whole or not at all.</summary>
    /// <exception cref="IOException">It cannot be written.</exception>
    public void Save(string path) => AtomicFile.WriteText(path, ToJson());

    /// <summary>The text of a Hugging Face <c>tokenizer.json</c>.</summary>
    public string ToJson() => FileJson(
        _options.SpecialTokens.Select((token, id) => (id, token)),
        JsonNode.Parse(StepJsonOf(_options.Pattern))!,
        Tokens.Select((token, id) => (token, id)),
        Merges.Select(m => $"{Tokens[m.Left]} {Tokens[m.Right]}"));

    /// <summary>The text of the <c>tokenizer.json</c> of any byte-level BPE.</summary>
    /// <param name="specialTokens">The ids and texts of special tokens.</param>
    /// <param name="preTokenizer">How text is cut into pieces.</param>
    /// <param name="vocabulary">Tokens, a character a byte, and their ids.</param>
    /// <param name="merges">The pairs that become one, the first merged first.</param>
    internal static string FileJson(
        IEnumerable<(int Id, string Text)> specialTokens, JsonNode preTokenizer, IEnumerable<(string Token, int Id)> vocabulary,
        IEnumerable<string> merges)
    {
        var file = new JsonObject
        {
            ["version"] = "1.0",
            ["truncation"] = null,
            ["padding"] = null,
            ["added_tokens"] = new JsonArray([.. specialTokens.Select(special => new JsonObject
            {
                ["id"] = special.Id,
                ["content"] = special.Text,
                ["single_word"] = false,
                ["lstrip"] = false,
                ["rstrip"] = false,
                ["normalized"] = false,
                ["special"] = true,
            })]),
            ["normalizer"] = null,
            ["pre_tokenizer"] = preTokenizer,
            ["post_processor"] = null,
            ["decoder"] = new JsonObject
            {
                ["type"] = "ByteLevel",
                ["add_prefix_space"] = true,
                ["trim_offsets"] = true,
                ["use_regex"] = true,
            },
            ["model"] = new JsonObject
            {
                ["type"] = "BPE",
                ["dropout"] = null,
                ["unk_token"] = null,
                ["continuing_subword_prefix"] = null,
                ["end_of_word_suffix"] = null,
                ["fuse_unk"] = false,
                ["byte_fallback"] = false,
                ["ignore_merges"] = false,
                ["vocab"] = new JsonObject(
                    vocabulary.Select(entry => KeyValuePair.Create(entry.Token, (JsonNode?)JsonValue.Create(entry.Id)))),
                ["merges"] = new JsonArray([.. merges.Select(merge => (JsonNode?)JsonValue.Create(merge))]),
            },
        };
        return file.ToJsonString(Json) + "\n";
    }

    /// <summary>The pre-tokenizer of a pattern.</summary>
    internal static StepJson Step(BpePattern pattern) =>
        TokenizerJson.Parse(Encoding.UTF8.GetBytes($$"""{ "pre_tokenizer": {{StepJsonOf(pattern)}} }""")).PreTokenizer!;

    private static string StepJsonOf(BpePattern pattern) => pattern switch
    {
        BpePattern.Gpt2 => """{ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true }""",

        // Letters of the clitics are spelt out: ignoring case means other things to .NET than to Hugging Face's engine.
        BpePattern.Gpt4 => """
            {
              "type": "Sequence",
              "pretokenizers": [
                {
                  "type": "Split",
                  "pattern": {
                    "Regex": "'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
                  },
                  "behavior": "Isolated",
                  "invert": false
                },
                { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false }
              ]
            }
            """,
        _ => throw UnknownValue.Of(pattern),
    };
}
