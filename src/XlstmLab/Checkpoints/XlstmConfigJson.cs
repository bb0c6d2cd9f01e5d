using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.Json.Serialization;
using XlstmLab.Models;
using static TorchSharp.torch;

namespace XlstmLab.Checkpoints;

/// <summary>What an xLSTM's <c>config.json</c> has of its own.</summary>
internal static class XlstmConfigJson
{
    /// <summary>The fields that transformers reads: they are always written.</summary>
    private static readonly HashSet<string> OfTransformers =
    [
        "vocab_size", "embedding_dim", "num_blocks", "num_heads", "qk_dim_factor", "v_dim_factor", "ffn_proj_factor",
        "ffn_round_up_to_multiple_of", "gate_soft_cap", "output_logit_soft_cap", "norm_eps", "eps", "use_bias", "add_out_norm",
        "tie_word_embeddings", "weight_mode", "chunk_size",
    ];

    /// <summary>Reads the fields of an xLSTM.</summary>
    public static XlstmConfig Read(JsonObject given)
    {
        ModelConfigJson.TakeAlias(given, "embedding_dim", "hidden_size", mustAgree: true);

        // Published checkpoints have the class's default of 32 here beside their real num_blocks.
        ModelConfigJson.TakeAlias(given, "num_blocks", "num_hidden_layers", mustAgree: false);
        ModelConfigJson.TakeAlias(given, "igate_bias_init", "igate_bias_init_range", mustAgree: true);
        ModelConfigJson.TakeAlias(given, "add_out_norm", "add_post_blocks_norm", mustAgree: true);
        ModelConfigJson.TakeAlias(given, "qk_norm", "add_qk_norm", mustAgree: true);
        foreach (var off in new[] { "add_embedding_dropout", "add_post_norm", "gate_linear_headwise" })
        {
            ModelConfigJson.Require(given, off, "false");
        }

        // Names of kernels and their types, which compute the same more or less exactly, and what a tokenizer or a cache does.
        ModelConfigJson.Leave(
            given, "autocast_kernel_dtype", "inference_state_dtype", "norm_reduction_force_float32", "chunkwise_kernel", "sequence_kernel",
            "step_kernel",
            "forward_backend_name", "step_backend_name", "add_forward_backend_padding", "mode", "return_last_states",
            "max_inference_chunksize",
            "force_bos_token_insert");
        var (width, epsilon, multiple) = (given["head_dim"]?.DeepClone(), given["cell_norm_eps"]?.DeepClone(),
            given["mlstm_round_up_to_multiple_of"]?.DeepClone());
        ModelConfigJson.Leave(given, "head_dim", "cell_norm_eps", "mlstm_round_up_to_multiple_of");
        var mixers = MixerJson.Take(given);
        var config = ModelConfigJson.Read<XlstmConfig>(given);
        config = mixers is null ? config : config with { Mixers = mixers };
        var repeated = new JsonObject { ["head_dim"] = width, ["cell_norm_eps"] = epsilon };
        ModelConfigJson.RequireImplied(
            repeated, "head_dim", config.EmbeddingDim / Math.Max(1, config.HeadCount), "embedding_dim divided by num_heads");
        ModelConfigJson.RequireImplied(repeated, "cell_norm_eps", config.HeadNormEpsilon ?? config.NormEpsilon, "what norm_eps says");
        return multiple is null || multiple is JsonValue value && value.TryGetValue<int>(out var to) && to > 0 && config.QkDim % to == 0
            && config.VDim % to == 0
            ? config
            : throw new ConfigException(
                $"mlstm_round_up_to_multiple_of is {multiple.ToJsonString()}; expected a divisor of the widths {config.QkDim} "
                + $"and {config.VDim}.");
    }

    /// <summary>The fields of an xLSTM, those that the xLSTM of Hugging Face's transformers wants among them.</summary>
    /// <remarks>
    /// transformers 5 declares the soft caps as floats and refuses null, and it knows the 7B architecture only: other models are for this
    /// library. What they have of their own is written where it differs from the 7B model's.
    /// </remarks>
    public static JsonObject Write(XlstmConfig config, ScalarType dtype)
    {
        var json = JsonSerializer.SerializeToNode(config, ModelConfigJson.Fields)!.AsObject();
        var defaults = JsonSerializer.SerializeToNode(new XlstmConfig(), ModelConfigJson.Fields)!.AsObject();
        foreach (var name in defaults.Select(pair => pair.Key)
            .Where(name => !OfTransformers.Contains(name) && JsonNode.DeepEquals(json[name], defaults[name])).ToList())
        {
            json.Remove(name);
        }

        if (!config.Mixers.IsOwn)
        {
            json.Remove("slstm_at");
            json["mixers"] = MixerJson.Write(config.Mixers);
        }

        json["architectures"] = new JsonArray("xLSTMForCausalLM");
        json["hidden_size"] = config.EmbeddingDim;
        json["num_hidden_layers"] = config.BlockCount;

        // What transformers needs to know of its own kernels: the plain ones, which run everywhere.
        json["autocast_kernel_dtype"] = dtype == ScalarType.Float64 ? "float32" : ModelConfigJson.DtypeName(dtype);
        json["inference_state_dtype"] = "float32";
        json["norm_reduction_force_float32"] = true;
        json["chunkwise_kernel"] = "chunkwise--native_autograd";
        json["sequence_kernel"] = "native_sequence__native";
        json["step_kernel"] = "native";
        json["mode"] = "inference";
        json["return_last_states"] = true;
        json["max_inference_chunksize"] = 16384;
        json["use_cache"] = true;

        // Absent ids would get transformers' defaults, which belong to another tokenizer.
        json["bos_token_id"] = null;
        json["eos_token_id"] = null;
        json["pad_token_id"] = null;
        return json;
    }
}

/// <summary>Writes whole numbers as 15.0: transformers checks types, and to Python 15 is no float.</summary>
internal sealed class FloatConverter : JsonConverter<double>
{
    public override double Read(ref Utf8JsonReader reader, Type typeToConvert, JsonSerializerOptions options) => reader.GetDouble();

    public override void Write(Utf8JsonWriter writer, double value, JsonSerializerOptions options)
    {
        var text = value.ToString("R", CultureInfo.InvariantCulture);
        writer.WriteRawValue(text.AsSpan().IndexOfAny(".E") >= 0 ? text : text + ".0");
    }
}

/// <summary>A list of blocks as an array of numbers.</summary>
internal sealed class BlockListConverter : JsonConverter<BlockList>
{
    /// <summary>Whether null comes here, which refuses it.</summary>
    public override bool HandleNull => true;

    public override BlockList Read(ref Utf8JsonReader reader, Type typeToConvert, JsonSerializerOptions options)
    {
        // Without a message and a path of its own, the exception gets those of the property.
        if (reader.TokenType != JsonTokenType.StartArray)
        {
            throw new JsonException();
        }

        List<int> blocks = [];
        while (reader.Read() && reader.TokenType != JsonTokenType.EndArray)
        {
            blocks.Add(reader.TokenType == JsonTokenType.Number && reader.TryGetInt32(out var block) ? block : throw new JsonException());
        }

        return BlockList.Create([.. blocks]);
    }

    public override void Write(Utf8JsonWriter writer, BlockList value, JsonSerializerOptions options) =>
        JsonSerializer.Serialize<int[]>(writer, [.. value], options);
}
