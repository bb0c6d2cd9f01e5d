using CsCheck;
using XlstmLab.Inference;
using Xunit;

namespace XlstmLab.Tests.Inference;

public sealed class StopStringFilterTests
{
    [Fact]
    public void Push_AnyPieces_ShowTextUpToTheStopStringThatEndsFirst() =>
        Gen.Select(Gen.Char["ab"].Array[0, 12], Gen.Char["abc"].Array[1, 4].Array[0, 3], Gen.Int[1, 4]).Sample((characters, stops, size) =>
        {
            var text = new string(characters);
            var strings = stops.Select(s => new string(s)).ToArray();
            var shown = text;
            for (var end = text.Length; end >= 1; end--)
            {
                foreach (var stop in strings.Where(s => text[..end].EndsWith(s, StringComparison.Ordinal)).OrderBy(s => s.Length))
                {
                    shown = text[..(end - stop.Length)];
                }
            }

            var filter = new StopStringFilter(strings);
            var all = string.Concat(text.Chunk(size).Select(piece => filter.Push(new string(piece)))) + filter.Flush();
            Assert.Equal(shown, all);
            Assert.Equal(shown.Length < text.Length, filter.Stopped);
        });

    [Fact]
    public void Push_TextThatMayBecomeAStopString_IsHeldBackNoLongerThanNeeded()
    {
        var filter = new StopStringFilter(["\n\nUser:"]);
        Assert.Equal("Hello.", filter.Push("Hello.\n"));
        Assert.Equal("\n", filter.Push("\n\n"));
        Assert.Equal("", filter.Push("Use"));
        Assert.Equal("\n\nUseful", filter.Push("ful"));
    }
}
