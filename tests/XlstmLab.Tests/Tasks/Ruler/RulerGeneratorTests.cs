using System.Security.Cryptography;
using System.Text;
using CsCheck;
using XlstmLab.Tasks.Ruler;
using XlstmLab.Text;
using Xunit;

namespace XlstmLab.Tests.Tasks.Ruler;

[Collection(nameof(TextCollection))]
public sealed class RulerGeneratorTests
{
    private static readonly RulerOptions Options = new() { Seed = 3, Haystack = RulerTexts.Haystack, Questions = RulerTexts.Questions };
    private static readonly ByteTokenizer Bytes = new();
    private static readonly Lazy<BpeTokenizer> Bpe = new(() => BpeTokenizer.Load(TestSetup.Golden("tokenizer", "tokenizer.json")));

    public static TheoryData<RulerTask> All => [.. RulerTasks.All];

    public static TheoryData<RulerTask> Needles => [.. RulerTasks.All.Where(t => t <= RulerTask.Vt)];

    [Theory]
    [MemberData(nameof(All))]
    public void Sample_AnyLength_FillsItAndNeverExceedsIt(RulerTask task)
    {
        // A unit of haystack at most: a needle of two UUIDs, three entries of the list, or twenty characters of coded words.
        var slack = task is RulerTask.Qa1 or RulerTask.Qa2 ? int.MaxValue : 130;
        Gen.Select(Gen.Int[2600, 7000], Gen.Int[0, 50], Gen.Bool).Sample((length, index, bytes) =>
        {
            ITokenizer tokenizer = bytes ? Bytes : Bpe.Value;
            var sample = new RulerGenerator(tokenizer, Options).Sample(task, length, index);
            Assert.Equal([tokenizer.EndOfDocument, .. tokenizer.Encode(sample.Text)], sample.Prompt);
            Assert.Equal(sample.Prompt.Length + sample.AnswerTokens, sample.TokenCount);
            Assert.True(sample.TokenCount <= length);

            // The list of common words ends where the haystack has no more words.
            Assert.True(
                length - sample.TokenCount <= slack
                    || (task == RulerTask.Cwe && Distinct(sample) >= RulerTexts.Haystack.Vocabulary.Count - 40),
                $"{length - sample.TokenCount} tokens of {length} are left.");
            Assert.True(sample.AnswerTokens >= task.PublishedAnswerTokens());
            Assert.True(sample.AnswerTokens >= tokenizer.Encode(" " + string.Join(", ", sample.Answers)).Length || task.IsQuestion());
        }, iter: 12);

        static int Distinct(RulerSample sample) => RulerOracle.List(sample.Text).Distinct().Count();
    }

    [Theory]
    [MemberData(nameof(All))]
    public void Sample_ReadByAParser_IsSolvedAndNotByChance(RulerTask task)
    {
        foreach (ITokenizer tokenizer in new ITokenizer[] { Bytes, Bpe.Value })
        {
            var generator = new RulerGenerator(tokenizer, Options);
            var samples = generator.Samples(task, 3000, 12).ToArray();
            Assert.All(samples, s => Assert.Equal(1, s.Score(RulerOracle.Solve(s.Text))));
            Assert.All(samples, s => Assert.Equal("", RulerOracle.Said(s.Text)));

            // The answers of other samples are as good as a guess; the small vocabulary and the few colours of the tests repeat.
            var others = samples.Zip(samples.Skip(1)).Average(p => p.First.Score(string.Join(", ", p.Second.Answers)));
            Assert.InRange(others, 0, task == RulerTask.Cwe ? 0.15 : 0.01);
            Assert.Equal(0, samples.Average(s => s.Score("The answer is not in the text.")));
        }
    }

    [Theory]
    [MemberData(nameof(Needles))]
    public void Sample_Needles_StandOnceAtTheirDepth(RulerTask task)
    {
        var depths = new List<double>();
        foreach (var sample in new RulerGenerator(Bytes, Options).Samples(task, 2600, 40))
        {
            Assert.Equal(sample.Answers.Count, sample.Needles.Count);
            var end = sample.Text.LastIndexOf("\nQuestion: ", StringComparison.Ordinal);
            var start = sample.Text.LastIndexOf('\n', task == RulerTask.Vt ? end - 1 : sample.Text.IndexOf('\n', StringComparison.Ordinal))
                + 1;
            foreach (var (needle, answer) in sample.Needles.Zip(sample.Answers))
            {
                var piece = sample.Text.Substring(needle.Start, needle.Length);
                Assert.Contains(task == RulerTask.Vt ? $"VAR {answer} = " : $" is {answer}.", piece, StringComparison.Ordinal);
                Assert.Equal(needle.Start, sample.Text.IndexOf(piece, StringComparison.Ordinal));
                Assert.Equal(needle.Start, sample.Text.LastIndexOf(piece, StringComparison.Ordinal));
                Assert.InRange(needle.Start, start, end - needle.Length);
                Assert.Equal((needle.Start - start) / (double)(end - start - needle.Length), needle.Depth, 1e-12);
            }

            depths.Add(sample.Needles[0].Depth);
        }

        // Forty samples have the first needle once at each of forty depths, up to the nearest end of a sentence.
        if (task != RulerTask.Vt)
        {
            Assert.All(depths.Order().Index(), d => Assert.Equal(d.Index / 39.0, d.Item, 0.05));
        }
    }

    [Theory]
    [InlineData(RulerTask.NiahMultikey1, 4)]
    [InlineData(RulerTask.NiahMultikey2, 20)]
    [InlineData(RulerTask.NiahMultikey3, 20)]
    [InlineData(RulerTask.NiahMultiquery, 4)]
    [InlineData(RulerTask.NiahMultivalue, 4)]
    public void Sample_SeveralNeedles_HaveDistinctKeysAndValues(RulerTask task, int least)
    {
        foreach (var sample in new RulerGenerator(Bytes, Options).Samples(task, 4000, 5))
        {
            var needles = RulerOracle.AllNeedles(sample.Text).ToArray();
            Assert.True(needles.Length >= least);
            Assert.Equal(task == RulerTask.NiahMultivalue ? 1 : needles.Length, needles.Select(n => n.Key).Distinct().Count());
            Assert.Equal(needles.Length, needles.Select(n => n.Value).Distinct().Count());
            Assert.Equal(task is RulerTask.NiahMultiquery or RulerTask.NiahMultivalue ? 4 : 1, sample.Answers.Count);
            Assert.All(needles, n => Assert.Equal(task == RulerTask.NiahMultikey3, Guid.TryParse(n.Value, out _)));
        }
    }

    [Fact]
    public void Sample_Vt_IsOneChainInOrder()
    {
        foreach (var sample in new RulerGenerator(Bytes, Options with { Example = false }).Samples(RulerTask.Vt, 1200, 20))
        {
            Assert.Equal(5, sample.Answers.Distinct().Count());
            Assert.Equal(sample.Needles.Select(n => n.Start).Order(), sample.Needles.Select(n => n.Start));
            var value = sample.Text.Substring(sample.Needles[0].Start, sample.Needles[0].Length)[^6..^1];
            Assert.Equal(sample.Answers, RulerOracle.Variables(sample.Text, value));
            Assert.Empty(RulerOracle.Variables(sample.Text, "00000"));
        }
    }

    [Theory]
    [InlineData(4000, false, 6, 1)]
    [InlineData(4096, true, 6, 1)]
    [InlineData(5000, false, 30, 3)]
    public void Sample_Cwe_HasTenWordsMoreOften(int length, bool bytes, int common, int uncommon)
    {
        foreach (var sample in new RulerGenerator(bytes ? Bytes : Bpe.Value, Options).Samples(RulerTask.Cwe, length, 3))
        {
            var counts = RulerOracle.List(sample.Text[..sample.Text.LastIndexOf("\nQuestion: ", StringComparison.Ordinal)]).CountBy(w => w)
                .ToDictionary();
            Assert.Equal(sample.Answers.Order(), counts.Where(c => c.Value == common).Select(c => c.Key).Order());
            Assert.All(counts.Where(c => !sample.Answers.Contains(c.Key)), c => Assert.Equal(uncommon, c.Value));
            Assert.Equal(10, sample.Answers.Distinct().Count());
            Assert.Empty(sample.Needles);
        }
    }

    [Theory]
    [InlineData(900)]
    [InlineData(6000)]
    public void Sample_Fwe_FollowsTheZetaLaw(int length)
    {
        var sample = new RulerGenerator(Bytes, Options).Sample(RulerTask.Fwe, length, 0);
        var context = sample.Text[..sample.Text.LastIndexOf("\nQuestion: ", StringComparison.Ordinal)];
        var counts = RulerOracle.Coded(context).CountBy(w => w).ToDictionary();
        var ranked = counts.Values.OrderDescending().ToArray();
        Assert.Equal(sample.Answers, counts.OrderByDescending(c => c.Value).Take(3).Select(c => c.Key));
        Assert.True(ranked[2] > (ranked.Length > 3 ? ranked[3] : 0));

        // The noise is what ranks first: 1, 1/4, 1/9, 1/16 of it.
        var dots = context.Split(' ', '\n').Count(w => w == "...");
        Assert.Equal([dots / 4.0, dots / 9.0, dots / 16.0], ranked.Take(3).Select(c => (double)c), (a, b) => Math.Abs(a - b) <= 1.3);
        Assert.Empty(sample.Needles);
    }

    [Theory]
    [InlineData(RulerTask.Qa1, 1)]
    [InlineData(RulerTask.Qa2, 2)]
    public void Sample_Qa_HasItsParagraphsAmongOthers(RulerTask task, int own)
    {
        var generator = new RulerGenerator(Bytes, Options);
        var starts = new HashSet<bool>();
        foreach (var sample in generator.Samples(task, 1000, 12))
        {
            var needle = Assert.Single(sample.Needles);
            var paragraph = sample.Text.Substring(needle.Start, needle.Length);
            Assert.Contains(paragraph, RulerTexts.Questions.Paragraphs);
            Assert.Contains(sample.Answers[0], paragraph, StringComparison.Ordinal);
            var present = RulerTexts.Questions.Paragraphs.Count(p => sample.Text.Contains(p, StringComparison.Ordinal));
            Assert.InRange(present, own + 1, RulerTexts.Questions.Paragraphs.Count - 1);
            Assert.Equal(present, sample.Text.Split("Document ").Length - 1);
            starts.Add(needle.Depth < 0.5);

            // What is left would hold none of the shortest paragraphs with its heading.
            Assert.InRange(1000 - sample.TokenCount, 0, 90);
        }

        Assert.Equal(2, starts.Count);

        // All there are, where there is room for more.
        Assert.Equal(12, generator.Sample(task, 20_000, 0).Text.Split("Document ").Length - 1);
    }

    [Fact]
    public void Sample_SameSeed_IsTheSameOnEveryMachine()
    {
        var text = string.Concat(
            RulerTasks.All.SelectMany(task => new RulerGenerator(Bytes, Options).Samples(task, 3000, 3)).Select(s => s.Text));
        Assert.Equal("58782B1DED559B39", Convert.ToHexString(SHA256.HashData(Encoding.UTF8.GetBytes(text)))[..16]);

        // A sample is the same whichever were made before, and others have other seeds, numbers and lengths.
        var one = new RulerGenerator(Bytes, Options).Sample(RulerTask.NiahSingle2, 3000, 7).Text;
        Assert.Equal(one, new RulerGenerator(Bytes, Options).Samples(RulerTask.NiahSingle2, 3000, 8).Last().Text);
        Assert.Equal(4, new[]
        {
            one,
            new RulerGenerator(Bytes, Options).Sample(RulerTask.NiahSingle2, 3000, 8).Text,
            new RulerGenerator(Bytes, Options with { Seed = 4 }).Sample(RulerTask.NiahSingle2, 3000, 7).Text,
            new RulerGenerator(Bytes, Options).Sample(RulerTask.NiahSingle3, 3000, 7).Text,
        }.Distinct().Count());
    }

    [Fact]
    public void Sample_DefaultHaystack_IsTheTestPartOfTheDataset()
    {
        var sample = new RulerGenerator(Bytes).Sample(RulerTask.NiahSingle2, 2000, 0);
        var needle = sample.Needles[0];
        var before = sample.Text[(sample.Text.IndexOf('\n', StringComparison.Ordinal) + 1)..Math.Max(needle.Start - 1, 0)];
        var test = string.Join(' ', string.Join('\n', Corpus.Open(Datasets.Default)[Split.Test].Select(d => d.Text)).Split(
            (char[]?)null, StringSplitOptions.RemoveEmptyEntries));
        Assert.Contains(before, test, StringComparison.Ordinal);
        Assert.Equal(1, sample.Score(RulerOracle.Solve(sample.Text)));
    }

    [Theory]
    [MemberData(nameof(All))]
    public void Sample_TooShort_SaysHowMuchIsNeeded(RulerTask task)
    {
        var generator = new RulerGenerator(Bytes, Options);
        var error = Assert.Throws<ArgumentException>(() => generator.Sample(task, 60, 0));
        Assert.Equal(error.Message, Assert.Throws<ArgumentException>(() => generator.Sample(task, 60, 0)).Message);
        var needed = int.Parse(error.Message.Split(" takes ")[1].Split(' ')[0], System.Globalization.CultureInfo.InvariantCulture);
        Assert.InRange(needed, 61, 2600);

        // Draws differ with the length, so that a sample of another length may take some bytes more.
        Assert.InRange(generator.Sample(task, needed + 100, 0).TokenCount, needed - 100, needed + 100);
    }

    [Fact]
    public void Sample_MissingInput_SaysWhatToGive()
    {
        var none = new RulerGenerator(Bytes, new() { Haystack = new("Just a few words.") });
        Assert.Contains(
            "qa_2 needs questions about several paragraphs",
            Assert.Throws<ArgumentException>(() => none.Sample(RulerTask.Qa2, 999, 0)).Message, StringComparison.Ordinal);
        Assert.Contains(
            "distinct words", Assert.Throws<ArgumentException>(() => none.Sample(RulerTask.Cwe, 9999, 0)).Message,
            StringComparison.Ordinal);
        Assert.Throws<ArgumentException>(() => new Haystack(" \n"));
        Assert.Throws<ArgumentOutOfRangeException>(() => none.Sample(RulerTask.Vt, 0, 0));

        // A short haystack is begun anew.
        Assert.InRange(none.Sample(RulerTask.NiahSingle2, 2000, 0).TokenCount, 1980, 2000);
    }

    [Fact]
    public void Options_ExampleAndAnswerTokens_MakeRoom()
    {
        foreach (var task in new[] { RulerTask.Vt, RulerTask.Cwe })
        {
            var with = new RulerGenerator(Bytes, Options).Sample(task, 3000, 0).Text;
            var without = new RulerGenerator(Bytes, Options with { Example = false }).Sample(task, 3000, 0).Text;
            Assert.Equal((3, 2), (with.Split("Question: ").Length, without.Split("Question: ").Length));
        }

        Assert.Equal(7, new RulerGenerator(Bytes, Options with { AnswerTokens = 7 }).Sample(RulerTask.NiahSingle1, 400, 0).AnswerTokens);
    }

    [Fact]
    public void Parse_EveryName_IsItsTask()
    {
        Assert.Equal(13, RulerTasks.All.Count);
        Assert.Equal(11, RulerTasks.Synthetic.Count);
        Assert.All(RulerTasks.All, t => Assert.Equal(t, RulerTasks.Parse(t.Name())));
        Assert.Contains(
            "niah_multikey_3", Assert.Throws<ArgumentException>(() => RulerTasks.Parse("niah")).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Score_Metrics_CountWhatTheOutputHolds()
    {
        Assert.Equal(0.5, RulerTask.NiahMultivalue.Score("It is 12 and ABC", ["12", "abc", "7", "8"]));
        Assert.Equal(1, RulerTask.Qa1.Score("in Paris.", ["paris", "the city of Paris"]));
        Assert.Equal(0, RulerTask.Qa2.Score("", ["paris"]));
        Assert.Equal(0.5, RulerMetrics.StringMatchAll("in Paris.", ["paris", "Rome"]));
        Assert.Throws<ArgumentException>(() => RulerMetrics.StringMatchAll("x", []));
    }
}
