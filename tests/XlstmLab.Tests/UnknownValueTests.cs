using System.Reflection;
using System.Text.RegularExpressions;
using XlstmLab.Evaluation;
using XlstmLab.Evaluation.LogLikelihood;
using XlstmLab.Layers;
using XlstmLab.Mixers;
using XlstmLab.Models;
using XlstmLab.Operations;
using XlstmLab.Tasks.Ruler;
using XlstmLab.Text;
using XlstmLab.Training;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests;

/// <summary>A value that its enum does not have is refused wherever it arrives, and is never taken for one that it has.</summary>
public sealed partial class UnknownValueTests
{
    private const int Undefined = 99;

    /// <summary>Every enum of every configuration.</summary>
    public static TheoryData<Type, string> Axes { get; } = new(
        from type in new[] { typeof(XlstmConfig), typeof(LstmConfig) }
        from property in type.GetProperties()
        where property.CanWrite && EnumOf(property) is not null
        select (type, property.Name));

    [Fact]
    public void Axes_AreFound() => Assert.InRange(Axes.Count, 19, 100);

    [Theory]
    [MemberData(nameof(Axes))]
    public void Config_UndefinedValue_IsRefusedByNameAndMakesNoModel(Type type, string axis)
    {
        var config = (LanguageModelConfig)Activator.CreateInstance(type)!;
        Set(config, axis);
        var error = Assert.Throws<ConfigException>(config.Validate);
        Assert.Contains($"{Undefined}; expected", error.Message, StringComparison.Ordinal);
        Assert.Throws<ConfigException>(() => config.CreateModel(1));
    }

    [Theory]
    [InlineData(nameof(MLstmOptions.InputGate))]
    [InlineData(nameof(MLstmOptions.ForgetGate))]
    [InlineData(nameof(MLstmOptions.Form))]
    [InlineData(nameof(MLstmOptions.NormalizerGradient))]
    public void MLstmCell_UndefinedValue_IsRefused(string option)
    {
        using var scope = NewDisposeScope();
        var options = new MLstmOptions();
        Set(options, option);
        foreach (var length in new[] { 1, 5 })
        {
            var (x, gate) = (ones(1, 1, length, 4), zeros(1, 1, length));
            Refused(() => MLstmCell.Forward(x, x, x, gate, gate, options: options));
            Refused(() => MLstmCell.ForwardOutput(x, x, x, gate, gate, options: options));
        }
    }

    [Fact]
    public void SLstmCell_UndefinedForgetGate_IsRefused()
    {
        using var scope = NewDisposeScope();
        var options = new SLstmOptions { ForgetGate = (ForgetGate)Undefined };
        var error = Assert.Throws<ArgumentException>(
            () => SLstmCell.Forward(zeros([1, 2, 4, 1, 3]), zeros(1, 4, 3, 3), zeros(4, 1, 3), options: options));
        Assert.Contains("99", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Options_UndefinedValue_IsRefused()
    {
        foreach (object options in new object[] { new EvaluationOptions(), new ScoringOptions(), new TaskOptions(), new TrainingConfig() })
        {
            foreach (var property in options.GetType().GetProperties().Where(
                p => p.CanWrite && EnumOf(p) is not null && p.Name != "ComputeType"))
            {
                var changed = Activator.CreateInstance(options.GetType())!;
                Set(changed, property.Name);
                var error = Assert.Throws<TargetInvocationException>(() => changed.GetType().GetMethod("Validate")!.Invoke(changed, null));
                Assert.IsType<ArgumentException>(error.InnerException, exactMatch: false);
                Assert.Contains("99", error.InnerException.Message, StringComparison.Ordinal);
            }
        }

        var schedule = new TrainingConfig { Schedule = new() { Kind = (DecayKind)Undefined } };
        Assert.Contains("99", Assert.Throws<ArgumentException>(schedule.Validate).Message, StringComparison.Ordinal);
        Refused(() => schedule.Schedule.Rate(schedule.Steps, 1, schedule.Steps));
    }

    [Fact]
    public void Parts_UndefinedValue_IsRefused()
    {
        using var scope = NewDisposeScope();
        var x = ones(1, 2, 8);
        Refused(() => ((InputGate)Undefined).Log(x));
        Refused(() => ((ForgetGate)Undefined).Log(x));
        Refused(() => ((InputGate)Undefined).Log(1.0));
        Refused(() => ((ForgetGate)Undefined).Log(1.0));
        Refused(() => new HeadNorm((HeadNormKind)Undefined, 2, 4, 1e-5));
        Refused(() => new StreamNorm((NormKind)Undefined, 8, 1e-5));
        Refused(() => new FeedForward((FeedForwardKind)Undefined, 8, 8));
        Refused(() => new FeedForward(FeedForwardKind.Mlp, 8, 8, weightMode: (WeightMode)Undefined));
        Refused(() => FeedForward.Activate((FeedForwardKind)Undefined, x));
        Refused(() => WeightInits.StandardDeviation((WeightInit)Undefined, 8, 2, 1));
        Refused(() => new SplitRule().Share((Split)Undefined));
        Refused(() => ((RulerTask)Undefined).Name());
        Refused(() => ((RulerTask)Undefined).PublishedAnswerTokens());
        Refused(() => ((RulerTask)Undefined).IsQuestion());
    }

    [Fact]
    public void Accounting_UndefinedValue_IsRefused()
    {
        var config = new XlstmConfig { EmbeddingDim = 32, HeadCount = 2, BlockCount = 2 };
        Refused(() => XlstmAccounting.ParameterCount(config with { FeedForward = (FeedForwardKind)Undefined }));
        Refused(() => XlstmAccounting.ParameterCount(config with { PreNorm = (NormKind)Undefined }));
        Refused(() => XlstmAccounting.ParameterCount(config with { HeadNorm = (HeadNormKind)Undefined }));
        Refused(() => XlstmAccounting.ParameterCount(config with { InputGatePreactivation = (GatePreactivation)Undefined }));
        Refused(() => XlstmAccounting.ParameterCount(config with { BlockStyle = (BlockStyle)Undefined }));
        Refused(() => XlstmAccounting.ForwardFlopsPerToken(config with { Form = (MLstmForm)Undefined }, 64));
        Refused(() => XlstmAccounting.ForwardFlopsPerToken(config with { FeedForward = (FeedForwardKind)Undefined }, 64));
        Refused(() => new LstmConfig { FeedForward = (FeedForwardKind)Undefined }.CountParameters());
    }

    /// <summary>A default arm that computes would take a value that is added one day for an old one.</summary>
    [Fact]
    public void Switches_OverEnums_ThrowOnWhatTheyDoNotKnow()
    {
        var sources = Directory.EnumerateFiles(Path.Combine(TestSetup.RepositoryRoot, "src"), "*.cs", SearchOption.AllDirectories)
            .ToDictionary(path => Path.GetFileName(path) + " " + path, File.ReadAllText);
        var enums = sources.Values.SelectMany(text => EnumName().Matches(text).Select(m => m.Groups[1].Value)).ToHashSet();
        Assert.Contains(nameof(InputGate), enums);
        var arm = new Regex($@"(?:^|[\s(,])(?:{string.Join('|', enums)})\.\w+[^=;{{}}""\n]*(?:=>|:\s*$)", RegexOptions.Multiline);
        var faults = new List<string>();
        var seen = 0;
        foreach (var (name, text) in sources)
        {
            foreach (Match found in SwitchStart().Matches(text))
            {
                var block = OwnText(text, found.Index + found.Length);
                if (arm.IsMatch(block))
                {
                    seen++;
                    if (SilentDefault().IsMatch(block) || !Refusal().IsMatch(block))
                    {
                        faults.Add($"{name.Split(' ')[0]}, line {text[..found.Index].Count(c => c == '\n') + 1}");
                    }
                }
            }
        }

        Assert.InRange(seen, 20, 1000);
        Assert.Empty(faults);
    }

    /// <summary>The text from behind a brace to its end, without what is in braces inside of it.</summary>
    private static string OwnText(string text, int start)
    {
        var own = new System.Text.StringBuilder();
        for (int at = start, depth = 1; depth > 0; at++)
        {
            depth += text[at] == '{' ? 1 : text[at] == '}' ? -1 : 0;
            own.Append(depth == 1 ? text[at] : "");
        }

        return own.ToString();
    }

    private static Type? EnumOf(PropertyInfo property)
    {
        var type = Nullable.GetUnderlyingType(property.PropertyType) ?? property.PropertyType;
        return type.IsEnum ? type : null;
    }

    private static void Set(object record, string name)
    {
        var property = record.GetType().GetProperty(name)!;
        property.SetValue(record, Enum.ToObject(EnumOf(property)!, Undefined));
    }

    private static void Refused(Func<object?> use)
    {
        var error = Assert.Throws<ArgumentOutOfRangeException>(use);
        Assert.Contains("99", error.Message, StringComparison.Ordinal);
    }

    [GeneratedRegex(@"\benum (\w+)")]
    private static partial Regex EnumName();

    [GeneratedRegex(@"\bswitch\b[^;{}]*\{")]
    private static partial Regex SwitchStart();

    [GeneratedRegex(@"(?:^|\s)_ => (?!throw)|\bdefault:\s*(?!throw|\s)")]
    private static partial Regex SilentDefault();

    [GeneratedRegex(@"=> throw|default:\s*throw")]
    private static partial Regex Refusal();
}
