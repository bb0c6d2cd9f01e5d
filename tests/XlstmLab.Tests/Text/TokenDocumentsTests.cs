using System.Text;
using System.Text.Json.Nodes;
using XlstmLab.Evaluation;
using XlstmLab.Models;
using XlstmLab.Text;
using Xunit;

namespace XlstmLab.Tests.Text;

[Collection(nameof(TextCollection))]
public sealed class TokenDocumentsTests
{
    private static readonly BpeTokenizer Prefixed = WithPrefix();

    [Fact]
    public void EncodeDocuments_TokenizerThatPutsASpaceBefore_KnowsTheBytesOfTheTexts()
    {
        Document[] texts = [new("a", "caf\u00e9"), new("b", "two words"), new("c", " spaced")];
        var documents = Prefixed.EncodeDocuments(texts);
        var bytes = texts.Sum(t => (long)Encoding.UTF8.GetByteCount(t.Text));
        Assert.True(Prefixed.ChangesText);
        Assert.Equal(bytes, documents.TextBytes);
        Assert.Equal(bytes + 2, documents.Sum(d => d.Sum(id => (long)Prefixed.Bytes(id).Length)));
        Assert.Equal(5 + 9, documents.Take(2).TextBytes);

        using var model = Model();
        foreach (var policy in Enum.GetValues<ContextPolicy>())
        {
            var result = PerplexityEvaluator.Evaluate(model, documents, Prefixed, new() { Policy = policy, ContextLength = 4, Stride = 2 });
            Assert.Equal(bytes, result.Bytes);
            Assert.Equal(result.Nats / Math.Log(2) / bytes, result.BitsPerByte, 1e-12);
        }

        // Tokens alone do not tell.
        Assert.True(double.IsNaN(PerplexityEvaluator.Evaluate(model, documents.ToArray(), Prefixed).BitsPerByte));
        Assert.False(((ITokenizer)new ByteTokenizer()).ChangesText);
    }

    [Fact]
    public void Sequential_WindowsOfWholeDocuments_StandForAllBytesOfTheTexts()
    {
        Document[] texts = [.. Enumerable.Range(0, 9).Select(k => new Document($"{k}", $"text \u00e9 number {k}"))];
        var documents = Prefixed.EncodeDocuments(texts);
        var batches = new PackedTokens(documents, Prefixed.EndOfDocument, 1).Sequential(4).ToList();
        Assert.All(batches, b => Assert.NotNull(b.TextBytes));
        Assert.Equal(documents.TextBytes, batches.Sum(b => b.TextBytes));
        Assert.Null(new PackedTokens(documents.ToArray(), Prefixed.EndOfDocument, 1).Sequential(4).First().TextBytes);
    }

    [Fact]
    public void TokenFolder_TokenizerThatPutsASpaceBefore_KnowsTheBytesOfEachText()
    {
        using var folder = new TempFolder();
        for (var k = 0; k < 60; k++)
        {
            folder.Write($"in/{k:00}.txt", $"text {k} caf\u00e9");
        }

        folder.Write("tokenizer.json", PrefixedJson());
        TokenFolderWriter.Write(folder["in"], Prefixed, folder["out"], new() { TokenizerFile = folder["tokenizer.json"] });
        using var tokens = TokenFolder.Open(folder["out"]);
        var corpus = Corpus.Open(folder["in"]);
        foreach (var split in Enum.GetValues<Split>())
        {
            Assert.Equal(corpus.Bytes(split), tokens.Read(split, Prefixed).TextBytes);
            Assert.Equal(Encoding.UTF8.GetByteCount(corpus[split][0].Text), tokens.Read(split, Prefixed, 1).TextBytes);
        }

        Assert.Equal(corpus.Bytes(Split.Train), new TokenWindows(tokens, Split.Train, 1).Sequential(7).Sum(b => b.TextBytes));
    }

    private static XlstmLanguageModel Model() =>
        new(new XlstmConfig { VocabularySize = Prefixed.VocabularySize, EmbeddingDim = 16, HeadCount = 2, BlockCount = 1 }, seed: 5);

    private static BpeTokenizer WithPrefix() => BpeTokenizer.Parse(Encoding.UTF8.GetBytes(PrefixedJson()));

    private static string PrefixedJson()
    {
        var json = JsonNode.Parse(BpeTrainer.Train(["some text and some more text"], new() { VocabularySize = 262 }).ToJson())!;
        json["pre_tokenizer"]!["add_prefix_space"] = true;
        return json.ToJsonString();
    }
}
