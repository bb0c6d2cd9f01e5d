using System.Text.Json;
using System.Text.Json.Nodes;
using XlstmLab.Cells;
using XlstmLab.Checkpoints;
using XlstmLab.Models;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Checkpoints;

public sealed class ModelConfigJsonTests
{
    private static readonly string Golden = File.ReadAllText(TestSetup.Golden("hf_xlstm", "config.json"));

    [Fact]
    public void Read_GoldenFile_HasItsValues()
    {
        var config = (XlstmConfig)ModelConfigJson.Read(TestSetup.Golden("hf_xlstm", "config.json"));
        var expected = new XlstmConfig { VocabularySize = 89, EmbeddingDim = 64, BlockCount = 2, HeadCount = 4, ChunkSize = 16 };
        Assert.Equal(expected, config);
        Assert.Equal((32, 64, 192), (config.QkDim, config.VDim, config.FeedForwardDim));
    }

    [Fact]
    public void Text_EveryFieldChanged_RoundTrips()
    {
        var config = new XlstmConfig
        {
            VocabularySize = 300,
            EmbeddingDim = 96,
            BlockCount = 3,
            HeadCount = 6,
            QkDimFactor = 0.25,
            VDimFactor = 2,
            FeedForwardFactor = 1.5,
            FeedForwardRoundUpTo = 8,
            GateSoftCap = null,
            OutputLogitSoftCap = 12.5,
            NormEpsilon = 1e-5,
            Epsilon = 0,
            UseBias = true,
            AddOutNorm = false,
            TieWordEmbeddings = true,
            WeightMode = WeightMode.Fused,
            ChunkSize = 7,
            InputGate = InputGate.Sigmoid,
            Normalize = false,
        };
        Assert.Equal(config, ModelConfigJson.Parse(ModelConfigJson.Text(config)));
        Assert.Equal(new XlstmConfig(), ModelConfigJson.Parse(ModelConfigJson.Text(new XlstmConfig())));
    }

    [Fact]
    public void Text_GoldenConfig_HasTheFieldsOfTransformers()
    {
        var written = JsonNode.Parse(ModelConfigJson.Text(ModelConfigJson.Parse(Golden)))!.AsObject();
        var golden = JsonNode.Parse(Golden)!.AsObject();
        golden["num_hidden_layers"] = 2;
        foreach (var id in new[] { "bos_token_id", "eos_token_id", "pad_token_id" })
        {
            golden[id] = null;
        }

        golden.Remove("transformers_version");
        Assert.Equal(golden.Select(p => p.Key), written.Select(p => p.Key));
        foreach (var (name, value) in golden)
        {
            Assert.True(JsonNode.DeepEquals(value, written[name]), $"{name}: {written[name]} instead of {value}");

            // transformers tells 15 from 15.0 and refuses a whole number where it wants a float; DeepEquals does not tell them apart.
            Assert.Equal(IsFloat(value), IsFloat(written[name]));
        }
    }

    private static bool IsFloat(JsonNode? node) =>
        node?.GetValueKind() == JsonValueKind.Number && node.ToJsonString().AsSpan().IndexOfAny(".eE") >= 0;

    [Fact]
    public void Text_OwnFields_AreWrittenIfTheyDiffer()
    {
        var text = ModelConfigJson.Text(new XlstmConfig { InputGate = InputGate.Sigmoid, WeightMode = WeightMode.Fused }, ScalarType.BFloat16);
        Assert.Contains("\"input_gate\": \"sigmoid\"", text, StringComparison.Ordinal);
        Assert.Contains("\"weight_mode\": \"fused\"", text, StringComparison.Ordinal);
        Assert.Contains("\"dtype\": \"bfloat16\"", text, StringComparison.Ordinal);
        Assert.DoesNotContain("normalize", text, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("""{"model_type":"xlstm"}""", 4096, 32)]
    [InlineData("""{"model_type":"xlstm","hidden_size":512,"num_hidden_layers":3}""", 512, 3)]
    [InlineData("""{"model_type":"xlstm","embedding_dim":512,"num_blocks":3,"num_hidden_layers":32}""", 512, 3)]
    [InlineData("""{"model_type":"xlstm","embedding_dim":null,"hidden_size":512,"num_blocks":null,"num_hidden_layers":3}""", 512, 3)]
    [InlineData("""{"model_type":"xlstm","embedding_dim":512,"hidden_size":null,"num_blocks":3,"unknown":{"a":[1]}}""", 512, 3)]
    public void Parse_SecondNamesAndDefaults_AreUnderstood(string json, int embeddingDim, int blockCount)
    {
        var config = ModelConfigJson.Parse(json);
        Assert.Equal(new XlstmConfig { EmbeddingDim = embeddingDim, BlockCount = blockCount }, config);
    }

    [Theory]
    [InlineData("num_heads", "0", "num_heads is 0; expected at least 1")]
    [InlineData("num_heads", "5", "expected a multiple of num_heads 5")]
    [InlineData("num_heads", "\"4\"", "num_heads has a value of the wrong kind; expected a whole number")]
    [InlineData("num_heads", "null", "expected a whole number")]
    [InlineData("num_heads", "3000000000", "expected a whole number of 32 bits")]
    [InlineData("num_heads", "[]", "expected a whole number")]
    [InlineData("num_blocks", "-1", "num_blocks is -1")]
    [InlineData("vocab_size", "0", "vocab_size is 0")]
    [InlineData("embedding_dim", "32", "embedding_dim is 32 and hidden_size is 64")]
    [InlineData("qk_dim_factor", "-0.5", "qk_dim_factor is -0.5")]
    [InlineData("qk_dim_factor", "1e-9", "gives a width of 0")]
    [InlineData("v_dim_factor", "1e400", "v_dim_factor is Infinity")]
    [InlineData("v_dim_factor", "1e9", "v_dim_factor is 1000000000")]
    [InlineData("ffn_proj_factor", "0", "ffn_proj_factor is 0")]
    [InlineData("ffn_proj_factor", "0.001", "ffn_proj_factor is 0.001")]
    [InlineData("ffn_round_up_to_multiple_of", "0", "ffn_round_up_to_multiple_of is 0")]
    [InlineData("ffn_round_up_to_multiple_of", "2147483647", "ffn_proj_factor")]
    [InlineData("chunk_size", "0", "chunk_size is 0")]
    [InlineData("norm_eps", "-1e-6", "norm_eps is -1E-06")]
    [InlineData("eps", "1e999", "eps is Infinity")]
    [InlineData("gate_soft_cap", "0", "gate_soft_cap is 0")]
    [InlineData("output_logit_soft_cap", "-30", "output_logit_soft_cap is -30")]
    [InlineData("qk_dim_factor", "\"x\"", "qk_dim_factor has a value of the wrong kind; expected a number")]
    [InlineData("v_dim_factor", "null", "v_dim_factor has a value of the wrong kind; expected a number")]
    [InlineData("gate_soft_cap", "[]", "gate_soft_cap has a value of the wrong kind; expected a number or null")]
    [InlineData("use_bias", "1", "use_bias has a value of the wrong kind; expected true or false")]
    [InlineData("weight_mode", "\"double\"", "expected one of single, fused")]
    [InlineData("weight_mode", "1", "expected one of single, fused")]
    [InlineData("input_gate", "\"tanh\"", "expected one of exponential, sigmoid")]
    [InlineData("model_type", "\"gpt2\"", "model_type is \"gpt2\"; expected \"xlstm\"")]
    [InlineData("model_type", "null", "model_type is absent")]
    public void Parse_ImpossibleValue_SaysWhatWasExpected(string field, string value, string reason)
    {
        var json = JsonNode.Parse(Golden)!.AsObject();
        json[field] = JsonNode.Parse(value);
        var e = Assert.Throws<ConfigException>(() => ModelConfigJson.Parse(json.ToJsonString(), "some/config.json"));
        Assert.StartsWith("some/config.json: ", e.Message, StringComparison.Ordinal);
        Assert.Contains(reason, e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Validate_SeveralFaults_AreNamedAtOnce()
    {
        var e = Assert.Throws<ConfigException>(new XlstmConfig { HeadCount = 0, ChunkSize = -1, Epsilon = double.NaN, WeightMode = (WeightMode)7 }.Validate);
        foreach (var name in new[] { "num_heads is 0", "chunk_size is -1", "eps is NaN", "weight_mode is 7" })
        {
            Assert.Contains(name, e.Message, StringComparison.Ordinal);
        }
    }

    [Theory]
    [InlineData("")]
    [InlineData("null")]
    [InlineData("[]")]
    [InlineData("3")]
    [InlineData("{")]
    [InlineData("""{"model_type":"xlstm","model_type":"xlstm"}""")]
    [InlineData("""{"model_type":"\ud800"}""")]
    [InlineData("""{"model_type":"xlstm","\ud800":1}""")]
    [InlineData("""{"model_type":"xlstm","weight_mode":"\ud800"}""")]
    [InlineData("""{"model_type":"xlstm","weight_mode":"single, fused","num_heads":0}""")]
    public void Parse_NoConfiguration_IsRefused(string json) => Assert.Throws<ConfigException>(() => ModelConfigJson.Parse(json));

    [Fact]
    public void Read_NoFile_SaysSo() => Assert.Throws<CheckpointException>(() => ModelConfigJson.Read(TestSetup.Golden("none.json")));

    [Fact]
    public void Parse_RandomDamage_GivesAValidConfigurationOrAClearError()
    {
        var random = new Random(11);
        string[] tokens = ["{", "}", "[", "]", ",", ":", "\"", "-", "0", "9", "99999999999", "1e400", "null", "true", "\\ud800", "\"fused\"", ".5", "\\"];
        var refused = 0;
        for (var i = 0; i < 4000; i++)
        {
            var text = Golden;
            for (var change = random.Next(1, 4); change > 0; change--)
            {
                var at = random.Next(text.Length);
                var token = random.Next(4) == 0 ? ((char)random.Next(1, 0x10000)).ToString() : tokens[random.Next(tokens.Length)];
                text = text[..at] + token + text[Math.Min(text.Length, at + random.Next(3))..];
            }

            try
            {
                ModelConfigJson.Parse(text, "damaged").Validate();
            }
            catch (ConfigException e)
            {
                Assert.StartsWith("damaged: ", e.Message, StringComparison.Ordinal);
                refused++;
            }
        }

        Assert.InRange(refused, 1000, 4000);
    }
}
