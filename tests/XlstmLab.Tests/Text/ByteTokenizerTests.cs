using System.Text;
using CsCheck;
using XlstmLab.Text;
using Xunit;

namespace XlstmLab.Tests.Text;

[Collection(nameof(TextCollection))]
public sealed class ByteTokenizerTests
{
    private static readonly ByteTokenizer Tokenizer = new();
    private static readonly BpeTokenizer Bpe = BpeTokenizer.Load(TestSetup.Golden("tokenizer"));

    [Fact]
    public void Encode_Text_IsItsUtf8Bytes()
    {
        Assert.Equal([104, 195, 169], Tokenizer.Encode("hé"));
        Assert.Equal("hé", Tokenizer.Decode([256, 104, 195, 169, 256]));
        Assert.Equal((257, 256), (Tokenizer.VocabularySize, Tokenizer.EndOfDocument));
    }

    [Fact]
    public void Bytes_InvalidUtf8_Survives() =>
        Gen.Byte.Array[0, 50].Sample(bytes =>
        {
            var ids = ByteTokenizer.EncodeBytes(bytes);
            Assert.Equal(bytes, ids.SelectMany(id => Tokenizer.Bytes(id).ToArray()));
        });

    [Fact]
    public void Bytes_IdsThatSpellNothing_AreEmpty()
    {
        Assert.True(Tokenizer.Bytes(256).IsEmpty);
        Assert.True(Tokenizer.Bytes(300).IsEmpty);
        Assert.Throws<ArgumentOutOfRangeException>(() => Tokenizer.Bytes(-1).Length);
    }

    [Fact]
    public void Push_IdsOneByOne_GivesCompleteCharactersAndJoinsToDecode() =>
        Gen.Select(Gen.Int[0, 256].Array[0, 30], Gen.String, Gen.Bool).Sample((noise, text, bpe) =>
        {
            ITokenizer tokenizer = bpe ? Bpe : Tokenizer;
            int[] ids = [.. tokenizer.Encode(text), .. noise, .. tokenizer.Encode("é🚀")];
            var decoder = new Utf8StreamDecoder(tokenizer);
            var parts = ids.Select(decoder.Push).ToList();
            Assert.DoesNotContain(parts, p => p.Length > 0 && (char.IsHighSurrogate(p[^1]) || char.IsLowSurrogate(p[0])));
            Assert.Equal(tokenizer.Decode(ids), string.Concat(parts) + decoder.Flush());
        });

    [Fact]
    public void Push_SplitCharacter_WaitsForItsLastByte()
    {
        var decoder = new Utf8StreamDecoder(Tokenizer);
        var bytes = Encoding.UTF8.GetBytes("🚀");
        Assert.Equal(["", "", "", "🚀"], bytes.Select(b => decoder.Push(b)));
        Assert.Equal("", decoder.Push(bytes[0]));
        Assert.Equal("\ufffd", decoder.Flush());
        Assert.Equal("a", decoder.Push('a'));
    }
}
