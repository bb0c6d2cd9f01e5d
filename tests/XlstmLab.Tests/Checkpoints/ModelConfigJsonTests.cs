using System.Reflection;
using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.Json.Serialization;
using XlstmLab.Checkpoints;
using XlstmLab.Layers;
using XlstmLab.Mixers;
using XlstmLab.Models;
using XlstmLab.Operations;
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

    /// <summary>Random values of every property that a file has, whatever axes there will be.</summary>
    [Fact]
    public void Text_RandomConfigs_RoundTrip()
    {
        var axes = typeof(XlstmConfig).GetProperties()
            .Select(property => (Property: property, property.GetCustomAttribute<JsonPropertyNameAttribute>()?.Name))
            .Where(axis => axis.Name is not null)
            .ToArray();
        var random = new Random(21);
        var seen = new HashSet<(string, string)>();
        for (var trial = 0; trial < LongTests.Cases(all: 3000, few: 600); trial++)
        {
            var config = new XlstmConfig
            {
                VocabularySize = 300,
                EmbeddingDim = 48,
                BlockCount = 2,
                HeadCount = 2,
                SLstmAt = random.Next(2) == 0 ? BlockList.None : [1],
            };
            var changed = axes[random.Next(axes.Length)..].Take(random.Next(1, 6)).ToArray();
            foreach (var (property, _) in changed)
            {
                property.SetValue(config, Any(property.PropertyType, random));
            }

            try
            {
                config.Validate();
            }
            catch (ConfigException)
            {
                continue;
            }

            var text = ModelConfigJson.Text(config);
            Assert.Equal(config, ModelConfigJson.Parse(text));
            var json = JsonNode.Parse(text)!.AsObject();
            foreach (var (property, name) in changed)
            {
                Assert.True(json.ContainsKey(name!) || Equals(property.GetValue(config), property.GetValue(new XlstmConfig())), name);
                seen.Add((name!, $"{property.GetValue(config)}"));
            }
        }

        Assert.All(axes, axis => Assert.True(seen.Count(s => s.Item1 == axis.Name) >= 2, $"{axis.Name} never had two valid values."));
    }

    private static object? Any(Type type, Random random)
    {
        if (Nullable.GetUnderlyingType(type) is { } inner)
        {
            return random.Next(3) == 0 ? null : Any(inner, random);
        }

        if (type.IsEnum)
        {
            var values = Enum.GetValues(type);
            return values.GetValue(random.Next(values.Length));
        }

        return type == typeof(bool) ? random.Next(2) == 0
            : type == typeof(int) ? new[] { 1, 2, 4, 48 }[random.Next(4)]
            : type == typeof(double) ? new[] { 0.25, 0.5, 1, 2 }[random.Next(4)]
            : random.Next(2) == 0 ? BlockList.None : BlockList.Create([1]);
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
        var text = ModelConfigJson.Text(
            new XlstmConfig { InputGate = InputGate.Sigmoid, WeightMode = WeightMode.Fused }, ScalarType.BFloat16);
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
    [InlineData("""{"model_type":"xlstm","embedding_dim":512,"hidden_size":null,"num_blocks":3,"id2label":{"a":[1]}}""", 512, 3)]
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
    [InlineData("input_gate", "\"tanh\"", "expected one of exponential, sigmoid, none")]
    [InlineData("forget_gate", "\"tanh\"", "forget_gate has a value of the wrong kind; expected one of sigmoid, exponential, none.")]
    [InlineData("gate_source", "\"y\"", "expected one of input, qkv or null.")]
    [InlineData("head_norm_groups", "\"y\"", "expected a whole number of 32 bits or null.")]
    [InlineData("slstm_at", "\"y\"", "slstm_at has a value of the wrong kind; expected a list of whole numbers.")]
    [InlineData("slstm_at", "null", "slstm_at has a value of the wrong kind; expected a list of whole numbers.")]
    [InlineData("slstm_at", "[0, 1.5]", "slstm_at has a value of the wrong kind; expected a list of whole numbers.")]
    [InlineData("mlstm_form", "\"fast\"", "expected one of chunkwise, recurrent, parallel")]
    [InlineData("normalizer_gradient", "true", "expected one of exact, constant")]
    [InlineData("dropout", "1", "dropout is 1; expected a share from 0 to below 1")]
    [InlineData("dropout", "-0.1", "dropout is -0.1")]
    [InlineData("head_norm_eps", "-1", "head_norm_eps is -1")]
    [InlineData("init_std", "-1", "init_std is -1")]
    [InlineData("igate_bias_init", "1e400", "igate_bias_init is Infinity")]
    [InlineData("igate_bias_init_std", "-1", "igate_bias_init_std is -1")]
    [InlineData("fgate_bias_init_first", "1e400", "fgate_bias_init_first is Infinity")]
    [InlineData("fgate_bias_init_last", "-1e400", "fgate_bias_init_last is -Infinity")]
    [InlineData("head_norm_groups", "2", "head_norm is not group")]
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

    [Theory]
    [InlineData("""{"model_type":"xlstm","igate_bias":-2}""", "there is no 'igate_bias'. Did you mean 'igate_bias_init'?")]
    [InlineData("""{"model_type":"xlstm","embeding_dim":64}""", "there is no 'embeding_dim'. Did you mean 'embedding_dim'?")]
    [InlineData("""{"model_type":"xlstm","Embedding_Dim":64}""", "there is no 'Embedding_Dim'. Did you mean 'embedding_dim'?")]
    [InlineData("""{"model_type":"llama","num_attention_head":4}""", "Did you mean 'num_attention_heads'?")]
    [InlineData("""{"model_type":"mamba","state_sise":4}""", "Did you mean 'state_size'?")]
    [InlineData("""{"model_type":"mamba2","n_group":4}""", "Did you mean 'n_groups'?")]
    [InlineData("""{"model_type":"simple_gla","expandk":4}""", "Did you mean 'expand_k'?")]
    [InlineData("""{"model_type":"lstm","forget_bias":4}""", "there is no 'forget_bias'")]
    [InlineData("""{"model_type":"xlstm","unknown":{"a":[1]}}""", "there is no 'unknown'")]
    [InlineData("""{"model_type":"xslstm"}""", "Did you mean 'xlstm'?")]
    [InlineData("""{"model_type":"xlstm","num_heads":4,"num_heads":8}""", "num_heads")]
    [InlineData("""{"model_type":"xlstm","add_qk_norm":true,"qk_norm":false}""", "they are one quantity and must agree")]
    [InlineData("""{"model_type":"xlstm","add_post_norm":true}""", "add_post_norm is true, which is not supported; expected false")]
    [InlineData("""{"model_type":"xlstm","head_dim":64}""", "head_dim is 64; expected embedding_dim divided by num_heads, 512")]
    [InlineData("""{"model_type":"xlstm","cell_norm_eps":1e-3}""", "cell_norm_eps is 1e-3; expected what norm_eps says, 1E-06")]
    [InlineData("""{"model_type":"xlstm","quantization_config":{"bits":4}}""", "quantization_config is")]
    [InlineData("""{"model_type":"llama","rope_scaling":{"type":"linear","factor":2}}""", "rope_scaling has the type \"linear\"")]
    [InlineData("""{"model_type":"llama","rope_scaling":{"rope_type":"default","factor":2}}""", "rope_scaling has a 'factor'")]
    [InlineData("""{"model_type":"llama","sliding_window":4096}""", "sliding_window is 4096, which is not supported; expected null")]
    [InlineData("""{"model_type":"llama","layer_types":["sliding_attention"]}""", "layer_types is")]
    [InlineData("""{"model_type":"llama","hidden_act":"gelu"}""", "hidden_act is \"gelu\", which is not supported; expected \"silu\"")]
    [InlineData("""{"model_type":"llama","attention_dropout":0.1}""", "attention_dropout is 0.1, which is not supported; expected 0")]
    [InlineData("""{"model_type":"mamba","rms_norm":false}""", "rms_norm is false")]
    [InlineData("""{"model_type":"mamba","d_inner":5}""", "d_inner is 5; expected expand times hidden_size, 1536")]
    [InlineData("""{"model_type":"mamba2","intermediate_size":5}""", "intermediate_size is 5; expected expand times hidden_size, 8192")]
    [InlineData("""{"model_type":"simple_gla","use_gk":true}""", "use_gk is true, which is not supported; expected false")]
    public void Parse_FieldThatWouldBeIgnored_IsRefused(string json, string expected)
    {
        var message = Assert.Throws<ConfigException>(() => ModelConfigJson.Parse(json, "some/config.json")).Message;
        Assert.StartsWith("some/config.json: ", message, StringComparison.Ordinal);
        Assert.Contains(expected, message, StringComparison.Ordinal);
    }

    /// <summary>What published files have beside their kind's own fields.</summary>
    [Theory]
    [InlineData(
        """
        {"model_type":"xlstm","add_embedding_dropout":false,"add_forward_backend_padding":false,"add_out_norm":true,"add_post_blocks_norm":true,
        "add_post_norm":false,"add_qk_norm":false,"architectures":["xLSTMForCausalLM"],"autocast_kernel_dtype":"bfloat16","bos_token_id":0,
        "cell_norm_eps":1e-06,"chunk_size":64,"chunkwise_kernel":"chunkwise--triton_xl_chunk","embedding_dim":4096,"eos_token_id":2,"eps":1e-06,
        "ffn_proj_factor":2.667,"ffn_round_up_to_multiple_of":64,"force_bos_token_insert":true,"gate_soft_cap":15.0,"head_dim":512,
        "igate_bias_init_range":-10.0,"inference_state_dtype":"float32","mlstm_round_up_to_multiple_of":64,"mode":"inference","norm_eps":1e-06,
        "norm_reduction_force_float32":true,"num_blocks":32,"num_heads":8,"output_logit_soft_cap":30.0,"pad_token_id":1,"qk_dim_factor":0.5,
        "return_last_states":true,"sequence_kernel":"native_sequence__triton","step_kernel":"triton","tie_word_embeddings":false,
        "torch_dtype":"float32","transformers_version":"4.48.0.dev0","use_bias":false,"use_cache":true,"v_dim_factor":1.0,"vocab_size":50304,
        "weight_mode":"single"}
        """)]
    [InlineData(
        """
        {"model_type":"llama","_name_or_path":"x","attention_bias":false,"attention_dropout":0.0,"bos_token_id":1,"hidden_act":"silu",
        "initializer_range":0.02,"is_llama_config":true,"mlp_bias":false,"pretraining_tp":1,"rope_interleaved":false,"rope_scaling":null,
        "transformers.js_config":{"kv_cache_dtype":{"q4f16":"float16"}},"torch_dtype":"bfloat16","use_cache":true,"sliding_window":null}
        """)]
    [InlineData(
        """
        {"model_type":"mamba","d_inner":1536,"d_model":768,"fused_add_norm":true,"hidden_act":"silu","hidden_size":768,"intermediate_size":1536,
        "n_layer":24,"num_hidden_layers":24,"pad_vocab_size_multiple":8,"residual_in_fp32":true,"rms_norm":true,"ssm_cfg":{},
        "time_step_init_scheme":"random","time_step_rank":48,"time_step_scale":1.0,"use_cache":true,"use_mambapy":false}
        """)]
    [InlineData(
        """
        {"model_type":"mamba2","hidden_act":"silu","hidden_size":4096,"intermediate_size":8192,"norm_before_gate":true,"residual_in_fp32":true,
        "rms_norm":true,"time_step_init_scheme":"random","time_step_limit":[0.0,Infinity],"time_step_rank":256,"time_step_scale":1.0}
        """)]
    [InlineData(
        """
        {"model_type":"simple_gla","attn":null,"attn_mode":"chunk","elementwise_affine":true,"feature_map":null,"fuse_cross_entropy":true,
        "fuse_norm":true,"fuse_swiglu":true,"hidden_act":"swish","hidden_ratio":4,"num_heads":4,"num_kv_heads":null,"share_conv_kernel":false,
        "use_cache":true,"use_output_gate":true,"use_short_conv":true}
        """)]
    public void Parse_FieldsOfPublishedFiles_AreLeftAside(string json) => ModelConfigJson.Parse(json);

    [Fact]
    public void Validate_SeveralFaults_AreNamedAtOnce()
    {
        var e = Assert.Throws<ConfigException>(
            new XlstmConfig { HeadCount = 0, ChunkSize = -1, Epsilon = double.NaN, WeightMode = (WeightMode)7 }.Validate);
        foreach (var name in new[] { "num_heads is 0", "chunk_size is -1", "eps is NaN", "weight_mode is 7" })
        {
            Assert.Contains(name, e.Message, StringComparison.Ordinal);
        }
    }

    public static TheoryData<XlstmConfig, string> Impossible()
    {
        var small = new XlstmConfig { VocabularySize = 11, EmbeddingDim = 16, HeadCount = 2, BlockCount = 1 };
        return new()
        {
            { small with { HeadNorm = HeadNormKind.Group, HeadNormGroups = 3 },
                "head_norm_groups is 3; expected a divisor of the 16 channels" },
            { small with { HeadNorm = HeadNormKind.Group, HeadNormGroups = 0 }, "head_norm_groups is 0" },
            { small with { HeadNorm = HeadNormKind.Group, HeadNormGroups = 16 }, "a single channel at a time" },
            { small with { HeadCount = 16, QkDimFactor = 1 }, "a single channel at a time" },
            { small with { Normalize = false, HeadNorm = HeadNormKind.None }, "normalize is false with an exponential gate" },
            { small with { Normalize = false, HeadNorm = HeadNormKind.Group, HeadNormGroups = 1 },
                "normalize is false with an exponential gate" },
            { small with
            {
                Normalize = false,
                HeadNorm = HeadNormKind.None,
                InputGate = InputGate.Sigmoid,
                ForgetGate = ForgetGate.Exponential,
            }, "normalize is false" },
            { small with { HeadCount = 8, QkNorm = true }, "qk_norm is true with one channel a head" },
            { small with { WeightMode = WeightMode.Fused, BlockStyle = BlockStyle.PreUp },
                "weight_mode is fused and block_style is pre_up" },
            { small with { InputGate = InputGate.None, InputGatePreactivation = GatePreactivation.Fixed }, "igate_preactivation is given" },
            { small with { ForgetGate = ForgetGate.None, ForgetGatePreactivation = GatePreactivation.BiasOnly },
                "fgate_preactivation is given" },
            {
                small with
                {
                    GateSource = GateSource.Qkv, InputGate = InputGate.None, ForgetGatePreactivation = GatePreactivation.Fixed,
                },
                "gate_source is qkv and no gate has weights"
            },
            { small with { PostNorm = (NormKind)9 }, "post_norm is 9; expected one of rms, layer, none" },
            { small with { GateSource = (GateSource)9 }, "gate_source is 9; expected one of input, qkv" },
        };
    }

    [Theory]
    [MemberData(nameof(Impossible))]
    public void Validate_ImpossibleCombination_SaysWhy(XlstmConfig config, string reason) =>
        Assert.Contains(reason, Assert.Throws<ConfigException>(config.Validate).Message, StringComparison.Ordinal);

    [Fact]
    public void Validate_AblationsOfThePapers_ArePossible()
    {
        var small = new XlstmConfig { VocabularySize = 11, EmbeddingDim = 16, HeadCount = 2, BlockCount = 1 };
        XlstmConfig[] configs =
        [
            small with { Normalize = false },
            small with { Normalize = false, HeadNorm = HeadNormKind.None, InputGate = InputGate.Sigmoid },
            small with { InputGate = InputGate.None, ForgetGate = ForgetGate.None, HeadNorm = HeadNormKind.None, Normalize = false },
            small with { InputGate = InputGate.Sigmoid, ForgetGate = ForgetGate.Exponential },
            small with { HeadNorm = HeadNormKind.Group, HeadNormGroups = 1 },
            small with { HeadNorm = HeadNormKind.Rms, HeadCount = 8 },
            small with { GateSource = GateSource.Qkv, InputGatePreactivation = GatePreactivation.Fixed },
            small with { InputGatePreactivation = GatePreactivation.Fixed, InputGateBias = 0 },
        ];
        Assert.All(configs, config => config.Validate());
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
        string[] tokens = ["{", "}", "[", "]", ",", ":", "\"", "-", "0", "9", "99999999999", "1e400",
            "null", "true", "\\ud800", "\"fused\"", ".5", "\\"];
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
