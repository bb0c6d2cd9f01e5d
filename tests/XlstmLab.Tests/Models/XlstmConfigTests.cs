using System.Reflection;
using System.Text.Json.Serialization;
using XlstmLab.Mixers;
using XlstmLab.Models;
using XlstmLab.Operations;
using Xunit;

namespace XlstmLab.Tests.Models;

public sealed class XlstmConfigTests
{
    private static XlstmConfig Small => new() { VocabularySize = 11, EmbeddingDim = 16, HeadCount = 2, BlockCount = 1 };

    public static TheoryData<string> EnumProperties() => [.. Named(typeof(XlstmConfig)).Where(p => TypeOf(p).IsEnum).Select(p => p.Name)];

    public static TheoryData<string> MLstmProperties() =>
        // Headwise is of the block style.
        [.. Named(typeof(MLstmMixerConfig)).Where(p => p.Name != nameof(MLstmMixerConfig.Headwise)).Select(p => p.Name)];

    [Theory]
    [MemberData(nameof(EnumProperties))]
    public void Validate_ValueThatAnEnumDoesNotHave_IsRefused(string name)
    {
        var (config, property) = (Small, typeof(XlstmConfig).GetProperty(name)!);
        property.SetValue(config, Enum.ToObject(TypeOf(property), 99));
        Assert.Contains(
            $"{property.GetCustomAttribute<JsonPropertyNameAttribute>()!.Name} is 99; expected one of ",
            Assert.Throws<ConfigException>(config.Validate).Message, StringComparison.Ordinal);
    }

    [Theory]
    [MemberData(nameof(MLstmProperties))]
    public void MLstm_EveryPropertyOfItsRecord_IsOneOfTheModel(string name)
    {
        var (ofModel, ofMixer) = (typeof(XlstmConfig).GetProperty(name), typeof(MLstmMixerConfig).GetProperty(name)!);
        Assert.NotNull(ofModel);
        Assert.Equal(
            ofMixer.GetCustomAttribute<JsonPropertyNameAttribute>()!.Name, ofModel.GetCustomAttribute<JsonPropertyNameAttribute>()!.Name);
        var config = Small;
        var other = Other(ofMixer.GetValue(config.MLstm), TypeOf(ofMixer));
        ofModel.SetValue(config, other);
        Assert.Equal(other, ofModel.GetValue(config));
        Assert.Equal(other, ofMixer.GetValue(config.MLstm));
    }

    [Fact]
    public void With_OneProperty_LeavesTheOthersAndTheFirstRecord()
    {
        var first = Small with { InputGate = InputGate.Sigmoid, SLstmGradientClip = 10 };
        var second = first with { ForgetGate = ForgetGate.Exponential };
        Assert.Equal((InputGate.Sigmoid, ForgetGate.Exponential, 10), (second.InputGate, second.ForgetGate, second.SLstmGradientClip));
        Assert.Equal(ForgetGate.Sigmoid, first.ForgetGate);
        Assert.NotEqual(first, second);
        Assert.Equal(first, second with { ForgetGate = ForgetGate.Sigmoid });
    }

    [Fact]
    public void Validate_MixerOfAPattern_IsCheckedAsTheModelsOwn()
    {
        var mixer = new MLstmMixerConfig { HeadCount = 2, InputGate = InputGate.None, InputGatePreactivation = GatePreactivation.Fixed };
        Assert.Contains(
            "mixers[0], mlstm: igate_preactivation is given and input_gate is none",
            Assert.Throws<ConfigException>((Small with { Mixers = MixerPattern.Create([mixer]) }).Validate).Message,
            StringComparison.Ordinal);
    }

    private static IEnumerable<PropertyInfo> Named(Type type) =>
        type.GetProperties().Where(property => property.GetCustomAttribute<JsonPropertyNameAttribute>() is not null);

    private static Type TypeOf(PropertyInfo property) => Nullable.GetUnderlyingType(property.PropertyType) ?? property.PropertyType;

    private static object Other(object? value, Type type) => value switch
    {
        bool flag => !flag,
        int number => number + 1,
        double number => number + 0.5,
        null when type == typeof(int) => 3,
        null when type == typeof(double) => 0.5,
        _ => Enum.ToObject(type, 1),
    };
}
