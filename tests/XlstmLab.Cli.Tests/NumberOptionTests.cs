using System.CommandLine;
using System.Globalization;
using XlstmLab.Cli;
using Xunit;

namespace XlstmLab.Tests.Cli;

[Collection(nameof(ProcessCollection))]
public sealed class NumberOptionTests
{
    private static readonly Type[] Kinds = [typeof(int), typeof(long), typeof(double), typeof(float), typeof(decimal)];

    private static readonly RootCommand Root = Program.CreateRoot();

    /// <summary>Every option of every command that takes a number.</summary>
    public static TheoryData<string, string> NumericOptions()
    {
        var data = new TheoryData<string, string>();
        Add(Root, "");
        return data;

        void Add(Command command, string path)
        {
            foreach (var option in command.Options.Where(o => Kinds.Contains(Nullable.GetUnderlyingType(o.ValueType) ?? o.ValueType)))
            {
                data.Add(path.Trim(), option.Name);
            }

            foreach (var sub in command.Subcommands)
            {
                Add(sub, $"{path} {sub.Name}");
            }
        }
    }

    [Theory]
    [MemberData(nameof(NumericOptions))]
    public void Parse_WhatIsNoNumber_IsRefusedByTheOption(string path, string option)
    {
        var before = CultureInfo.CurrentCulture;
        try
        {
            var commas = (CultureInfo)CultureInfo.InvariantCulture.Clone();
            commas.NumberFormat.NumberDecimalSeparator = ",";
            commas.NumberFormat.NumberGroupSeparator = ".";
            foreach (var culture in new[] { CultureInfo.InvariantCulture, commas })
            {
                CultureInfo.CurrentCulture = culture;
                foreach (var text in new[] { "abc", "1,5", "1,000", " 3", "3 ", "0x10", "NaN", "Infinity",
                    "1e999", "99999999999999999999999" + (option == "--min-time" ? "e400" : "x"), "" })
                {
                    var errors = Root.Parse([.. path.Split(' ', StringSplitOptions.RemoveEmptyEntries), option, text]).Errors;
                    Assert.Contains(errors, e => e.Message.StartsWith(option, StringComparison.Ordinal) && e.Message.Contains(
                        $"'{text}'", StringComparison.Ordinal));
                    Assert.DoesNotContain(errors, e => e.Message.Contains("System.", StringComparison.Ordinal));
                }
            }
        }
        finally
        {
            CultureInfo.CurrentCulture = before;
        }
    }

    [Theory]
    [InlineData("train --out x --lr abc", "--lr: expected a number above 0 such as 0.001, got 'abc'.")]
    [InlineData("train --out x --lr 0,003", "got '0,003'. Did you mean 0.003?")]
    [InlineData("train --out x --lr 0", "--lr: expected a number above 0")]
    [InlineData("train --out x --lr -1", "--lr: expected a number above 0")]
    [InlineData("train --out x --weight-decay -1", "--weight-decay: expected a number of at least 0")]
    [InlineData("train --out x --ema 1", "--ema: expected a number from 0 to below 1")]
    [InlineData("train --out x --steps 1,000", "got '1,000'. Did you mean 1000?")]
    [InlineData("train --out x --steps 3000000000", "--steps: expected a whole number from 1 to 2147483647")]
    [InlineData("train --out x --warmup -1", "--warmup must be at least 0, got -1.")]
    [InlineData("generate x --temperature 0,7", "Did you mean 0.7?")]
    [InlineData("generate x --top-p 1.5", "--top-p: expected a number above 0 and at most 1")]
    [InlineData("generate x --max-tokens -1", "--max-tokens must be at least 0")]
    [InlineData("synthetic run parity --out x --dropout 1", "--dropout: expected a number from 0 to below 1")]
    [InlineData("notebook run x.ipynb --timeout 1e300", "--timeout: expected a number of seconds")]
    public void Parse_Misfit_SaysWhatWasExpected(string line, string expected) =>
        Assert.Contains(Root.Parse(line).Errors, e => e.Message.Contains(expected, StringComparison.Ordinal));

    [Theory]
    [InlineData("--lr", "0.003", 0.003)]
    [InlineData("--lr", "3e-3", 0.003)]
    [InlineData("--lr", ".5", 0.5)]
    [InlineData("--weight-decay", "0", 0.0)]
    public void Parse_Number_IsRead(string option, string text, double expected)
    {
        var parsed = Root.Parse(["train", "--out", "x", option, text]);
        Assert.Empty(parsed.Errors);
        Assert.Equal(expected, parsed.GetValue<double?>(option));
    }
}
