using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using CsCheck;
using XlstmLab.Text;
using Xunit;

namespace XlstmLab.Tests.Text;

[Collection(nameof(TextCollection))]
public sealed class BpeTokenizerTests
{
    private static readonly string File = TestSetup.Golden("tokenizer", "tokenizer.json");
    private static readonly BpeTokenizer Tokenizer = BpeTokenizer.Load(File);

    [Fact]
    public void Encode_GoldenCases_EqualsReference() => CheckCases(Tokenizer, Golden("cases.json"));

    public static TheoryData<string> VariantNames() => [.. Golden("variants.json").Select(v => (string)v!["name"]!)];

    [Theory]
    [MemberData(nameof(VariantNames))]
    public void Encode_VariantOfGolden_EqualsReference(string name)
    {
        var variant = Golden("variants.json").Single(v => (string)v!["name"]! == name)!;
        var json = Parse();
        foreach (var part in new[] { "pre_tokenizer", "normalizer", "added_tokens" })
        {
            if (variant[part] is { } value)
            {
                json[part] = value.DeepClone();
            }
        }

        json["model"]!["ignore_merges"] = variant["ignore_merges"]?.DeepClone() ?? false;
        CheckCases(Load(json), (JsonArray)variant["cases"]!);
    }

    [Fact]
    public void Load_MergesAsText_EqualsMergesAsPairs()
    {
        var json = Parse();
        json["model"]!["merges"] = new JsonArray([.. json["model"]!["merges"]!.AsArray().Select(m => (JsonNode)$"{m![0]} {m[1]}")]);
        CheckCases(Load(json), Golden("cases.json"));
    }

    [Fact]
    public void Decode_AnyText_RoundTrips() =>
        Gen.String[Gen.OneOf(Gen.Char['\0', '\u007f'], Gen.Char['\u0080', '\ud7ff'], Gen.Char['\ue000', '\uffff']), 0, 40].Sample(text =>
            Assert.Equal(text, Tokenizer.Decode(Tokenizer.Encode(text))), iter: 500);

    [Fact]
    public void Encode_LoneSurrogate_IsReplacementCharacter() => Assert.Equal("a\ufffdb", Tokenizer.Decode(Tokenizer.Encode("a\ud800b")));

    [Fact]
    public void Decode_SpecialTokens_LeftOutUnlessAskedFor()
    {
        var ids = Tokenizer.Encode("<|endoftext|>The end.");
        Assert.Equal(Tokenizer.EndOfDocument, ids[0]);
        Assert.True(Tokenizer.Bytes(ids[0]).IsEmpty);
        Assert.Equal("The end.", Tokenizer.Decode(ids));
        Assert.Equal("<|endoftext|>The end.", Tokenizer.Decode(ids, keepSpecialTokens: true));
        Assert.Equal("The end.", Tokenizer.Decode([.. ids, 1_000_000]));
    }

    [Fact]
    public void Load_EndOfDocumentByName_IsThatToken()
    {
        Assert.Equal(1, BpeTokenizer.Load(File, "<|padding|>").EndOfDocument);
        var error = Assert.Throws<InvalidDataException>(() => BpeTokenizer.Load(File, "</s>"));
        Assert.Contains("<|padding|>", error.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("model", """{"type":"Unigram","vocab":[]}""", "vocab")]
    [InlineData("model", """{"type":"WordPiece","vocab":{"a":0},"merges":[]}""", "WordPiece")]
    [InlineData("model", """{"type":"BPE","vocab":{"<|endoftext|>":0,"a":2,"b":3},"merges":["a b"]}""", "merge 0")]
    [InlineData("model", """{"type":"BPE","vocab":{"a":0,"b":0},"merges":[]}""", "id 0")]
    [InlineData("model", """{"type":"BPE","vocab":{"a":2147483647},"merges":[]}""", "2147483647")]
    [InlineData("normalizer", """{"type":"Lowercase"}""", "Lowercase")]
    [InlineData("pre_tokenizer", """{"type":"Whitespace"}""", "Whitespace")]
    [InlineData("pre_tokenizer", """{"type":"Split","pattern":{"Regex":"a"},"behavior":"Isolated"}""", "ByteLevel")]
    [InlineData("pre_tokenizer", """{"type":"Split","pattern":{"Regex":"a"},"behavior":"Contiguous"}""", "Contiguous")]
    [InlineData("pre_tokenizer", """{"type":"Split","pattern":{"Regex":"(a"},"behavior":"Isolated"}""", "pattern")]
    [InlineData("decoder", """{"type":"Metaspace"}""", "Metaspace")]
    public void Load_Unsupported_SaysWhat(string part, string value, string expected)
    {
        var json = Parse();
        json[part] = JsonNode.Parse(value);
        var error = Assert.Throws<InvalidDataException>(() => Load(json));
        Assert.Contains(expected, error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Encode_ByteNotInVocabulary_SaysWhich()
    {
        var json = Parse();
        json["model"] = JsonNode.Parse("""{"type":"BPE","vocab":{"a":2,"b":3},"merges":[]}""");
        Assert.Contains("0x63", Assert.Throws<ArgumentException>(() => Load(json).Encode("abc")).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Parse_Damaged_ThrowsInvalidDataOnly()
    {
        // A small file, so that most damage falls on structure and settings.
        var json = Parse();
        json["model"]!["vocab"] = new JsonObject { ["<|endoftext|>"] = 0, ["<|padding|>"] = 1, ["a"] = 2, ["b"] = 3, ["ab"] = 4 };
        json["model"]!["merges"] = new JsonArray { new JsonArray { "a", "b" } };
        json["pre_tokenizer"] = JsonNode.Parse(
            """{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"a+"},"behavior":"Removed","invert":true},{"type":"ByteLevel","use_regex":false}]}""");
        Damage.Check(Encoding.UTF8.GetBytes(json.ToJsonString()), bytes => BpeTokenizer.Parse(bytes));
    }

    [Theory]
    [InlineData("plain ASCII", false)]
    [InlineData("naïve — 東京 🚀 Здравствуйте", false)]
    [InlineData("cafe\u0301", true)]
    [InlineData("\u212b", true)]
    [InlineData("\u1100\u1161", true)]
    public void MayChangeInFormC_Text_IsCautious(string text, bool expected) => Assert.Equal(
        expected, UnicodeNormalizer.MayChangeInFormC(text));

    private static void CheckCases(BpeTokenizer tokenizer, JsonArray cases)
    {
        Assert.NotEmpty(cases);
        foreach (var @case in cases)
        {
            var text = (string)@case!["text"]!;
            int[] expected = [.. @case["ids"]!.AsArray().Select(i => (int)i!)];
            int[] ids;
            try
            {
                ids = tokenizer.Encode(text);
            }
            catch (PlatformNotSupportedException)
            {
                Assert.True(UnicodeNormalizer.MayChangeInFormC(text));
                continue;
            }

            Assert.True(expected.SequenceEqual(ids), $"'{text}': expected {string.Join(' ', expected)}, is {string.Join(' ', ids)}");
            Assert.Equal((string)@case["decoded"]!, tokenizer.Decode(ids, keepSpecialTokens: true));
            if (@case["plain"] is { } plain)
            {
                Assert.Equal((string)plain!, tokenizer.Decode(ids));
            }
        }
    }

    private static JsonArray Golden(string name) =>
        JsonNode.Parse(System.IO.File.ReadAllText(TestSetup.Golden("tokenizer", name)))!.AsArray();

    private static JsonNode Parse() => JsonNode.Parse(System.IO.File.ReadAllText(File))!;

    private static BpeTokenizer Load(JsonNode json) => BpeTokenizer.Parse(JsonSerializer.SerializeToUtf8Bytes(json));
}
