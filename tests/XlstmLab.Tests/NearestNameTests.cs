using Xunit;

namespace XlstmLab.Tests;

public sealed class NearestNameTests
{
    [Theory]
    [InlineData("embeding_dim", "embedding_dim")]
    [InlineData("Embedding_Dim", "embedding_dim")]
    [InlineData("embeddnig_dim", "embedding_dim")]
    [InlineData("igate_bias", "igate_bias_init")]
    [InlineData("num_head", "num_heads")]
    [InlineData("xyz", null)]
    [InlineData("", null)]
    public void Of_MisspeltName_IsTheNearest(string name, string? expected) =>
        Assert.Equal(expected, NearestName.Of(name, ["embedding_dim", "igate_bias_init", "num_heads", "num_blocks"]));

    [Fact]
    public void Hint_NothingNear_IsEmpty() => Assert.Equal("", NearestName.Hint("quux", ["train", "test"]));

    [Fact]
    public void Hint_Near_AsksForIt() => Assert.Equal(" Did you mean 'test'?", NearestName.Hint("tset", ["train", "test"]));
}
