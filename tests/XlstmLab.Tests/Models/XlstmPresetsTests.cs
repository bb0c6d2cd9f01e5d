using XlstmLab.Checkpoints;
using XlstmLab.Mixers;
using XlstmLab.Models;
using Xunit;

namespace XlstmLab.Tests.Models;

public sealed class XlstmPresetsTests
{
    [Theory]
    [InlineData("xlstm1-125m-1-0", 163.8e6)]
    [InlineData("xlstm1-350m-1-0", 409.3e6)]
    [InlineData("xlstm1-350m-7-1", 408.4e6)]
    public void ParameterCount_FirstPaper_IsThePrintedOne(string preset, double printed) =>
        Assert.Equal(printed, XlstmPresets.ByName(preset).CountParameters(), 0.06e6);

    [Fact]
    public void ParameterCount_FirstPaperWithoutConvolution_IsThePrintedOne() =>
        Assert.Equal(408.8e6, (XlstmPresets.First350M with { ConvKernelSize = 0 }).CountParameters(), 0.06e6);

    [Fact]
    public void All_Presets_RoundTripAsJson() =>
        Assert.All(XlstmPresets.All, preset => Assert.Equal(preset.Value, ModelConfigJson.Parse(ModelConfigJson.Text(preset.Value))));

    [Theory]
    [InlineData(4, 1, 0, "[]")]
    [InlineData(3, 0, 1, "[0, 1, 2]")]
    [InlineData(2, 1, 1, "[1]")]
    [InlineData(16, 7, 1, "[7, 15]")]
    [InlineData(6, 1, 2, "[1, 2, 4, 5]")]
    public void WithRatio_PlacesSLstmLastInEachPeriod(int blocks, int mlstm, int slstm, string expected) =>
        Assert.Equal(expected, XlstmPresets.WithRatio(new() { BlockCount = blocks }, mlstm, slstm).SLstmAt.ToString());

    [Theory]
    [InlineData(12, 7, 1)]
    [InlineData(4, 0, 0)]
    public void WithRatio_Impossible_SaysWhy(int blocks, int mlstm, int slstm) =>
        Assert.Contains(
            $"xLSTM[{mlstm}:{slstm}] is not possible with {blocks} blocks",
            Assert.Throws<ConfigException>(() => XlstmPresets.WithRatio(new() { BlockCount = blocks }, mlstm, slstm)).Message,
            StringComparison.Ordinal);

    [Theory]
    [InlineData(512, 4)]
    [InlineData(640, 5)]
    [InlineData(768, 6)]
    [InlineData(896, 7)]
    [InlineData(1024, 4)]
    [InlineData(1152, 9)]
    [InlineData(1280, 5)]
    [InlineData(1408, 11)]
    [InlineData(1536, 6)]
    [InlineData(2048, 8)]
    [InlineData(2560, 10)]
    [InlineData(4096, 16)]
    public void ScalingLaw_PublishedWidth_HasThePublishedHeads(int width, int heads) =>
        Assert.Equal(heads, XlstmPresets.ScalingLaw(width, 24).HeadCount);

    [Fact]
    public void ScalingLaw_TokenParamWidths_HaveTheirFeedForwardWidths()
    {
        Assert.Equal([2112, 2752, 4160, 5504, 6848, 10944], new[] { 768, 1024, 1536, 2048, 2560, 4096 }.Select(
            d => XlstmPresets.ScalingLaw(d, 24).FeedForwardDim));
        Assert.Throws<ConfigException>(() => XlstmPresets.ScalingLaw(1000, 24));
    }

    [Fact]
    public void Presets_OfOneModel_DifferInWhatTheirNamesSay()
    {
        var seven = XlstmPresets.Xlstm7B;
        Assert.Equal(seven with { HeadCount = 16 }, XlstmPresets.ByName("xlstm-7b-16-heads"));
        Assert.Equal((128, 64), (XlstmPresets.ByName("xlstm-7b-32-heads").VHeadDim, XlstmPresets.ByName("xlstm-7b-32-heads").QkHeadDim));
        Assert.Equal(
            XlstmPresets.First350M with { SLstmAt = [3, 5, 7, 40, 42, 44], SLstmGradientClip = 10 },
            XlstmPresets.ByName("xlstm1-350m-7-1"));
        Assert.Equal("[1]", XlstmPresets.ByName("parity-1-1").SLstmAt.ToString());
        Assert.Equal("[0, 1]", XlstmPresets.ByName("parity-0-1").SLstmAt.ToString());
        Assert.Equal(
            seven with { InputGatePreactivation = GatePreactivation.Fixed, InputGateBias = 0 }, XlstmPresets.ByName("xlstm-7b-igate-0"));
    }

    [Fact]
    public void OldBlock_HasAboutTheParametersOfTheNewOne()
    {
        // Table 2 compares models of one size; the two styles differ by a few per cent at most.
        foreach (var (old, @new) in new[] { ("xlstm-old-160m", "xlstm-160m"), ("xlstm-old-400m", "xlstm-400m"),
            ("xlstm-old-1.4b", "xlstm-1.4b"), ("xlstm-old-7b", "xlstm-7b") })
        {
            Assert.Equal(1.0, (double)XlstmPresets.ByName(old).CountParameters() / XlstmPresets.ByName(@new).CountParameters(), 0.02);
        }
    }
}
