using System.Text.Json;
using XlstmLab.Training;
using Xunit;

namespace XlstmLab.Tests;

public sealed class StrictJsonTests
{
    [Theory]
    [InlineData("""{"stps":3}""", "there is no 'stps'. Did you mean 'steps'?")]
    [InlineData("""{"Steps":3}""", "there is no 'Steps'. Did you mean 'steps'?")]
    [InlineData("""{"schedule":{"knd":"cosine"}}""", "there is no 'schedule.knd'. Did you mean 'kind'?")]
    [InlineData("""{"batch_ramp":[{"after_step":0,"batch":3}]}""", "there is no 'batch_ramp[0].batch'. Did you mean 'batch_size'?")]
    [InlineData("""{"batch_ramp":[null]}""", "batch_ramp[0] has a value of the wrong kind; expected an object. It is null.")]
    [InlineData("""{"batch_ramp":[{"after_step":0}]}""", "'batch_ramp[0].batch_size' is missing")]
    [InlineData("""{"batch_ramp":null}""", "batch_ramp has a value of the wrong kind; expected a list. It is null.")]
    [InlineData("""{"schedule":null}""", "schedule has a value of the wrong kind; expected an object. It is null.")]
    [InlineData(
        """{"schedule":{"kind":"cosin"}}""",
        "expected one of constant, cosine, exponential, warmup_stable_decay. It is \"cosin\". Did you mean 'cosine'?")]
    [InlineData("""{"schedule":{"kind":2}}""", "schedule.kind has a value of the wrong kind")]
    [InlineData("""{"schedule":{"kind":null}}""", "schedule.kind has a value of the wrong kind")]
    [InlineData("""{"steps":"3"}""", "steps has a value of the wrong kind; expected a whole number of 32 bits. It is \"3\".")]
    [InlineData("""{"steps":3.5}""", "steps has a value of the wrong kind")]
    [InlineData("""{"steps":3000000000}""", "steps has a value of the wrong kind")]
    [InlineData(
        """{"compute_type":"float31"}""", "compute_type has a value of the wrong kind; expected float32 or bfloat16. It is \"float31\".")]
    [InlineData("""{"peak_learning_rate":1,"peak_learning_rate":2}""", "'peak_learning_rate' is given twice.")]
    [InlineData("""{"schedule":{"kind":"cosine","kind":"wsd"}}""", "'kind' is given twice.")]
    [InlineData("""{"peak_learning_rate":0,003}""", "no valid JSON")]
    [InlineData("[]", "the document has a value of the wrong kind; expected an object. It is [].")]
    [InlineData("null", "the document has a value of the wrong kind")]
    [InlineData("{", "no valid JSON")]
    [InlineData("", "no valid JSON")]
    [InlineData("""{"compute_type":"\ud800"}""", "")]
    public void Read_Fault_IsNamedWithItsPlace(string json, string expected)
    {
        var e = Assert.Throws<JsonException>(() => StrictJson.Read<TrainingConfig>(json, RunJson.Line));
        Assert.Contains(expected, e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Parse_NestedTooDeep_IsRefused() =>
        Assert.Contains(
            "depth", Assert.Throws<JsonException>(() => StrictJson.Parse(new string('[', 100_000))).Message, StringComparison.Ordinal);

    [Fact]
    public void Read_NullsThatAreMeant_AreRead()
    {
        var config = StrictJson.Read<TrainingConfig>(
            """{"gradient_clip":null,"spikes":null,"micro_batch_size":null,"schedule":{"decay_steps":null}}""", RunJson.Line);
        Assert.Null(config.GradientClip);
        Assert.Null(config.Spikes);
    }

    [Fact]
    public void Read_WhatWasWritten_IsTheSame()
    {
        var config = TrainingConfig.Xlstm7B with { EmaDecay = 0.999 };
        var read = StrictJson.Read<TrainingConfig>(JsonSerializer.Serialize(config, RunJson.Indented), RunJson.Indented);
        Assert.Equal(config, read with { BatchRamp = config.BatchRamp });
        Assert.Equal(config.BatchRamp, read.BatchRamp);
    }
}
