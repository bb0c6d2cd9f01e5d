using System.Text.Json.Nodes;
using XlstmLab.Text.Patterns;
using Xunit;

namespace XlstmLab.Tests.Text.Patterns;

[Collection(nameof(TextCollection))]
public sealed class OnigurumaPatternTests
{
    /// <summary>
    /// Patterns of published tokenizers and patterns drawn at random, with the pieces that Oniguruma 6.9.8 itself cuts texts into: gaps and
    /// matches, none empty.
    /// </summary>
    [Fact]
    public void Find_CasesOfTheLibrary_GivesItsPieces()
    {
        var cases = JsonNode.Parse(File.ReadAllText(TestSetup.Golden("oniguruma", "cases.json")))!.AsArray();
        var refused = 0;
        foreach (var (index, one) in cases.Index())
        {
            CodePointPattern pattern;
            try
            {
                pattern = OnigurumaPattern.Parse((string)one![0]!);
            }
            catch (InvalidDataException) when (index >= 34)
            {
                refused++;
                continue;
            }

            foreach (var text in one[1]!.AsArray())
            {
                Assert.Equal(text![1]!.AsArray().Select(p => (string)p!), Pieces(pattern, (string)text[0]!));
            }
        }

        // Of the random ones, those that are refused are not known to be equal; the published ones all are.
        Assert.InRange(refused, 0, 25);
        Assert.True(cases.Count > 190);
    }

    [Theory]
    [InlineData(@"a\1", @"'\1'", 2)]
    [InlineData(@"\X+", @"'\X+'", 1)]
    [InlineData(@"\R", @"'\R'", 1)]
    [InlineData(@"a\Kb", @"'\Kb'", 2)]
    [InlineData(@"\Gb", @"'\Gb'", 1)]
    [InlineData(@"x\p{Ogham}", @"'\p{Ogham}'", 2)]
    [InlineData(@"(?~ab)", "'(?~'", 1)]
    [InlineData(@"a(?(1)b)", "'(?('", 2)]
    [InlineData(@"(?W:a)", "'(?W'", 1)]
    [InlineData(@"(?i:stra\x{DF}e)", "'tra", 6)]
    [InlineData(@"(?i:\x{DF})", @"'\x{DF}", 5)]
    [InlineData(@"(?i:[\p{L}])", "'[", 5)]
    [InlineData(@"[[:foo:]]", "'[:'", 2)]
    [InlineData(@"[z-a]", "'a]'", 4)]
    [InlineData(@"a{3,1}", "'{3,1}'", 2)]
    [InlineData(@"*a", "'*a'", 1)]
    [InlineData(@"a)", "')'", 2)]
    [InlineData(@"(a", "'(a'", 1)]
    [InlineData(@"[a", "'[a'", 1)]
    [InlineData(@"\xFF", @"'\xFF'", 1)]
    [InlineData(@"(?<=a++)b", "'++", 6)]
    [InlineData(@"\", @"'\'", 1)]
    public void Parse_NotKnownToBeEqual_IsRefusedByItsPlace(string pattern, string shown, int place)
    {
        var message = Assert.Throws<InvalidDataException>(() => OnigurumaPattern.Parse(pattern)).Message;
        Assert.Contains(pattern, message, StringComparison.Ordinal);
        Assert.Contains(shown, message, StringComparison.Ordinal);
        Assert.True(place == 0 || message.Contains($"character {place} ", StringComparison.Ordinal), message);
    }

    [Fact]
    public void Parse_AnyText_IsAPatternOrRefused()
    {
        var random = new Random(3);
        string[] pieces = ["a", "[", "]", "(", ")", "?", "*", "+", "{", "}", "1", ",", "\\", "p{L}",
            "^", "$", "|", "-", "&&", ":", "<", "i", "#", " ", "\ud83d", "\U0001F44D"];
        var (count, accepted) = (LongTests.Cases(all: 3000, few: 600), 0);
        for (var k = 0; k < count; k++)
        {
            var pattern = string.Concat(Enumerable.Range(0, random.Next(8)).Select(_ => pieces[random.Next(pieces.Length)]));
            try
            {
                accepted += Pieces(OnigurumaPattern.Parse(pattern), "a1 \U0001F44D").Count > 0 ? 1 : 0;
            }
            catch (InvalidDataException e)
            {
                Assert.False(string.IsNullOrWhiteSpace(e.Message));
            }
        }

        Assert.InRange(accepted, count / 30, count - count / 30);
    }

    private static List<string> Pieces(CodePointPattern pattern, string text)
    {
        var (matches, pieces, end) = (new List<Range>(), new List<string>(), 0);
        pattern.Find(text, matches);
        foreach (var match in matches)
        {
            pieces.AddRange([text[end..match.Start], text[match]]);
            end = match.End.Value;
        }

        pieces.Add(text[end..]);
        pieces.RemoveAll(p => p.Length == 0);
        return pieces;
    }
}
