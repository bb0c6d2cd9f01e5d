using System.Globalization;
using System.Text.RegularExpressions;
using Microsoft.Data.Analysis;
using XlstmLab.Analysis;
using Xunit;

namespace XlstmLab.Tests.Analysis;

public sealed class CsvTextTests
{
    /// <summary>
    /// The tables in folders of experiments hold what they held when a data frame wrote them, with no more digits than a number needs.
    /// </summary>
    [Fact]
    public void Of_NumbersAndTexts_IsWhatADataFrameWritesButForDigits()
    {
        Row[] rows =
        [
            new(1, 5_000_000_000, 0.1, "3-40", 1 / 3.0), new(-2, 0, double.NaN, "a, \"b\"", null), new(3, 1, 1e-9, "", 6.02e23),
        ];
        var stream = new MemoryStream();
        DataFrame.SaveCsv(rows.ToDataFrame(), stream, cultureInfo: CultureInfo.InvariantCulture);
        var written = CsvText.Of(MetricsTable.FromAll(rows, []));
        Assert.Equal(Short(System.Text.Encoding.UTF8.GetString(stream.ToArray()).ReplaceLineEndings("\n")), written);
        Assert.StartsWith(
            "Seed,Tokens,Loss,Lengths,Accuracy\n1,5000000000,0.1,3-40,0.3333333333333333\n", written, StringComparison.Ordinal);
    }

    private static string Short(string text) => Regex.Replace(
        text, @"\d+\.\d+(E[-+]?\d+)?",
        number => double.Parse(number.Value, CultureInfo.InvariantCulture).ToString(CultureInfo.InvariantCulture));

    private sealed record Row(int Seed, long Tokens, double Loss, string Lengths, double? Accuracy);
}
