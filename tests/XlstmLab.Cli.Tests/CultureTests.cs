using System.Globalization;
using System.Text.Json;
using Plotly.NET;
using XlstmLab.Checkpoints;
using XlstmLab.Experiments;
using XlstmLab.Models;
using XlstmLab.Tasks;
using XlstmLab.Text;
using XlstmLab.Training;
using XlstmLab.Visualization;
using Xunit;

namespace XlstmLab.Tests;

public sealed class CultureTests
{
    /// <summary>A culture that spells all that a culture can spell otherwise; real ones need ICU, which a machine may lack.</summary>
    private static CultureInfo Foreign
    {
        get
        {
            var culture = (CultureInfo)CultureInfo.InvariantCulture.Clone();
            culture.NumberFormat.NumberDecimalSeparator = ",";
            culture.NumberFormat.NumberGroupSeparator = ".";
            culture.NumberFormat.PercentDecimalSeparator = ",";
            culture.NumberFormat.NegativeSign = "\u2212";
            culture.NumberFormat.NaNSymbol = "no number";
            culture.NumberFormat.PositiveInfinitySymbol = "very much";
            culture.DateTimeFormat.DateSeparator = "~";
            culture.DateTimeFormat.TimeSeparator = "~";
            culture.DateTimeFormat.ShortDatePattern = "d~M~yy";
            return culture;
        }
    }

    private static SyntheticAccuracy[] Accuracies { get; } = [new(1, 1000, 1000, 2000, 0.5, -0.25, double.NaN, 1234.5), new(
        1, 2000, 2000, 2000, 0.25, -0.5, 0.125, 0.5)];

    public static TheoryData<string> Names() => [.. Texts.Keys];

    private static Dictionary<string, Func<string>> Texts { get; } = new()
    {
        ["model's config"] = () => ModelConfigJson.Text(new XlstmConfig { GateSoftCap = 1.5, NormEpsilon = 1e-7 }),
        ["model's config read"] = () => ModelConfigJson.Text(
            ModelConfigJson.Parse("""{"model_type":"xlstm","gate_soft_cap":1.5,"igate_bias_init":-2.5}""")),
        ["training config"] = () => JsonSerializer.Serialize(TrainingConfig.Xlstm7B, RunJson.Indented),
        ["training faults"] = () => Message(() => new TrainingConfig
        {
            PeakLearningRate = -0.5,
            Beta1 = 1.5,
            AdamEpsilon = -0.5,
            WeightDecay = -0.5,
            GradientClip = -0.5,
            Schedule = new() { EndFactor = 1.5 },
            Spikes = new() { LossFactor = 0.5 },
        }.Validate()),
        ["config faults"] = () => Message(() => new XlstmConfig { GateSoftCap = -1.5, QkDimFactor = double.NaN, Dropout = 1.5 }.Validate()),
        ["scores"] = () => JsonSerializer.Serialize(Accuracies, RunJson.Line),
        ["split"] = () => $"{new SplitRule { Validation = 0.25 }}",
        ["split faults"] = () => Message(() => _ = new Corpus("x", [new("a", "b")], new SplitRule { Validation = -0.5 })),
        ["corpus"] = () =>
            new Corpus("x", Enumerable.Range(0, 40)
                .Select(i => new Document(FormattableString.Invariant($"d{i}"), "text")), new() { Validation = 0.125 }).SplitMethod,
        ["task faults"] = () => Message(() => new ListOps { ListShare = 1.5 }.Validate(new(10, 20))) + Message(
            () => new MultiQueryRecall { PowerLaw = -0.5 }.Validate(new(64))),
        ["memory"] = () => Message(
            () => MemoryNeed.RequireModel(new XlstmConfig { EmbeddingDim = 1 << 20, VocabularySize = int.MaxValue })),
        ["table"] = () => Readable.Duration(3.25) + Readable.Duration(12345) + Readable.Size(1234567),
        ["csv"] = Csv,
        ["plots"] = () => GenericChart.toFigureJson(Plots.AccuracyByLength(Accuracies, 1500))
            + GenericChart.toFigureJson(Plots.AccuracyCurve(
                [new(1, 1000, 100_000, 12.5, 0.75, "3-40", 0.5, 0.25, 0.125), new(
                    1, 2000, 200_000, 25.5, 0.5, "3-40", 0.75, 0.5, 0.0625)])),
    };

    [Theory]
    [MemberData(nameof(Names))]
    public void Text_ForeignCulture_IsThatOfTheInvariantOne(string name)
    {
        var before = CultureInfo.CurrentCulture;
        try
        {
            CultureInfo.CurrentCulture = CultureInfo.InvariantCulture;
            var expected = Texts[name]();
            CultureInfo.CurrentCulture = Foreign;
            Assert.Equal(expected, Texts[name]());
        }
        finally
        {
            CultureInfo.CurrentCulture = before;
        }
    }

    /// <summary>What the analyzers do not find: numbers in interpolated texts, orders of texts, readings without a culture.</summary>
    [Fact]
    public void Sources_NoTextDependsOnTheCulture()
    {
        // In a short run the program alone, against the library as it was built.
        string[] scanned = LongTests.Cases(all: ["XlstmLab", "xlstm.dll"], few: new[] { "XlstmLab.Cli", "xlstm.dll" });
        var assemblies = ((string)AppContext.GetData("TRUSTED_PLATFORM_ASSEMBLIES")!).Split(Path.PathSeparator)
            .Where(file => !scanned.Any(name => Path.GetFileName(file).StartsWith(name, StringComparison.Ordinal)));
        var found = CultureScan.Find(
            Path.Combine(TestSetup.RepositoryRoot, "src", LongTests.Cases(all: "", few: "XlstmLab.Cli")), assemblies);
        Assert.True(found.Count == 0, string.Join("\n", found));
    }

    /// <summary>The scan would find what it is for.</summary>
    [Theory]
    [InlineData("string F(double x) => $\"{x:0.0}\";")]
    [InlineData("string F(int x) => $\"{x:N0}\";")]
    [InlineData("string F(double? x) => \"x \" + x;")]
    [InlineData("string F(double x) => $\"x \" + $\"{x:0.0}\";")]
    [InlineData("string F(double x) => string.Format(System.Globalization.CultureInfo.InvariantCulture, \"a\" + $\"{x}\");")]
    [InlineData("string F(double[] x) => string.Join(\", \", x);")]
    [InlineData("double F(string x) => double.Parse(x);")]
    [InlineData("bool F(string x) => int.TryParse(x, out _);")]
    [InlineData("object F(string[] x) => x.OrderBy(y => y);")]
    [InlineData("object F() => new SortedDictionary<string, int>();")]
    [InlineData("record R(double X); string F(R x) => $\"{x}\";")]
    public void Find_TextOfTheCulture_IsFound(string member) => Assert.Single(FoundIn(member));

    [Theory]
    [InlineData("string F(double x) => string.Create(System.Globalization.CultureInfo.InvariantCulture, $\"{x:0.0}\");")]
    [InlineData("string F(double x) => string.Create(System.Globalization.CultureInfo.InvariantCulture, $\"x \" + $\"{x:0.0}\");")]
    public void Find_TextOfTheInvariantCulture_IsNotFound(string member) => Assert.Empty(FoundIn(member));

    private static IReadOnlyList<string> FoundIn(string member)
    {
        using var folder = new TempFolder();
        folder.Write("a.cs", $"class C {{ {member} }}");
        return CultureScan.Find(folder.Path, ((string)AppContext.GetData("TRUSTED_PLATFORM_ASSEMBLIES")!).Split(Path.PathSeparator));
    }

    private static string Csv()
    {
        using var folder = new TempFolder();
        SeedFolders.WriteCsv(folder["a.csv"], Accuracies);
        return File.ReadAllText(folder["a.csv"]);
    }

    private static string Message(Action action) => Assert.ThrowsAny<Exception>(action).Message;
}
