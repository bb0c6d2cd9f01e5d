using XlstmLab.Text;
using Xunit;

namespace XlstmLab.Tests.Text;

[Collection(nameof(TextCollection))]
public sealed class TextSourceTests : IDisposable
{
    private readonly TempFolder _temp = new();

    public void Dispose() => _temp.Dispose();

    [Fact]
    public void Open_Corpus_IsReadWhenNeeded()
    {
        using var none = TextSource.Open(_temp["none"]);
        Assert.False(none.IsTokens);
        Assert.Throws<FileNotFoundException>(() => none.Count(Split.Train));
        _temp.Write("a/x.txt", string.Join('\n', Enumerable.Range(0, 400)));
        using var source = TextSource.Open(_temp["a"]);
        var tokenizer = source.UsualTokenizer();
        Assert.IsType<ByteTokenizer>(tokenizer);
        var batches = source.Batches(tokenizer, 8, 2, 1, cancellationToken: TestContext.Current.CancellationToken);
        Assert.Equal(8, batches.Training.ContextLength);
        Assert.NotEmpty(batches.Validation);
        Assert.Equal(
            source.Corpus[Split.Test].Count,
            source.Documents(Split.Test, tokenizer, cancellationToken: TestContext.Current.CancellationToken).Count);
    }

    [Fact]
    public void Open_TokensAndMixtures_AreToldApart()
    {
        _temp.Write("a/x.txt", string.Join('\n', Enumerable.Range(0, 400)));
        foreach (var name in new[] { "t", "u" })
        {
            TokenFolderWriter.Write(_temp["a"], new ByteTokenizer(), _temp[name], cancellationToken: TestContext.Current.CancellationToken);
        }

        using var one = TextSource.Open(_temp["t"]);
        Assert.True(one is { IsTokens: true, IsMixture: false });
        Assert.Throws<InvalidOperationException>(() => one.Corpus);
        using var mixture = TextSource.Open($"{_temp["t"]}=0.5,{_temp["u"]}=2");
        Assert.True(mixture.IsMixture);
        Assert.Contains(
            "cannot be evaluated as one text",
            Assert.Throws<InvalidOperationException>(() => mixture.RequireDocuments(Split.Train)).Message, StringComparison.Ordinal);
        Assert.Contains(
            "is no part of a mixture",
            Assert.Throws<ArgumentException>(() => TextSource.Open($"{_temp["t"]}=x")).Message, StringComparison.Ordinal);
        Assert.Equal($"{Path.GetFullPath("a")}=0.5,{Path.GetFullPath("b")}=2", TextSource.Absolute("a=0.5,b=2"));
    }
}
