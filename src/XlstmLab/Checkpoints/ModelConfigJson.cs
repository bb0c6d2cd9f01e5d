using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.Json.Serialization;
using System.Text.RegularExpressions;
using XlstmLab.Models;
using static TorchSharp.torch;

namespace XlstmLab.Checkpoints;

/// <summary>A model's configuration, of whatever kind, as the text of a Hugging Face <c>config.json</c>.</summary>
public static partial class ModelConfigJson
{
    private static readonly JsonSerializerOptions Indented = new() { WriteIndented = true };

    private static readonly string[] Kinds = ["xlstm", "llama", "mamba", "mamba2", "simple_gla", "lstm"];

    /// <summary>What transformers writes of models of any kind and what changes nothing that a model computes.</summary>
    private static readonly string[] Foreign =
    [
        "architectures", "dtype", "torch_dtype", "transformers_version", "_name_or_path", "name_or_path", "_commit_hash", "auto_map",
        "tokenizer_class", "use_cache",
        "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "unk_token_id", "decoder_start_token_id", "forced_bos_token_id",
        "forced_eos_token_id",
        "finetuning_task", "id2label", "label2id", "problem_type", "task_specific_params", "prefix", "transformers.js_config",
        "gradient_checkpointing",
        "attn_implementation", "_attn_implementation", "_attn_implementation_autoset", "chunk_size_feed_forward", "use_bfloat16",
        "tf_legacy_loss", "torchscript",
        "return_dict", "output_attentions", "output_hidden_states", "output_scores", "return_dict_in_generate", "max_length", "min_length",
        "do_sample",
        "early_stopping", "num_beams", "num_beam_groups", "num_return_sequences", "diversity_penalty", "temperature", "top_k", "top_p",
        "typical_p",
        "repetition_penalty", "length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids", "suppress_tokens",
        "begin_suppress_tokens", "remove_invalid_values", "exponential_decay_length_penalty",
    ];

    /// <summary>How fields are spelt: enums as words in snake case, numbers as transformers wants them.</summary>
    internal static JsonSerializerOptions Fields { get; } = new()
    {
        PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower,
        Converters =
        {
            new JsonStringEnumConverter(JsonNamingPolicy.SnakeCaseLower, allowIntegerValues: false),
            new BlockListConverter(), new FloatConverter(),
            new MixerPatternConverter(),
        },
    };

    /// <summary>Reads a file.</summary>
    /// <exception cref="CheckpointException">The file cannot be read.</exception>
    /// <exception cref="ConfigException">
    /// The file is no configuration of a model that this library knows, or one that cannot be.
    /// </exception>
    public static LanguageModelConfig Read(string path)
    {
        ArgumentException.ThrowIfNullOrWhiteSpace(path);
        if (Directory.Exists(path))
        {
            throw new CheckpointException($"{path} is a folder; expected a configuration's file, such as its config.json.");
        }

        string text;
        try
        {
            text = File.ReadAllText(path);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new CheckpointException($"{path}: the configuration cannot be read: {e.Message}", e);
        }

        return Parse(text, path);
    }

    /// <summary>Reads a text. Absent fields have the defaults of the kind's record.</summary>
    /// <remarks>
    /// A field that the kind's record does not have is refused, but for those of transformers that say nothing of what a model computes:
    /// token ids, versions, names of kernels, settings of its generator.
    /// </remarks>
    /// <param name="json">The text of a <c>config.json</c>.</param>
    /// <param name="source">Where it comes from, for messages.</param>
    /// <exception cref="ConfigException">
    /// The text is no configuration of a model that this library knows, or one that cannot be.
    /// </exception>
    public static LanguageModelConfig Parse(string json, string source = "config.json")
    {
        ArgumentNullException.ThrowIfNull(json);
        try
        {
            var given = StrictJson.Parse(WithoutBareInfinity(json)) as JsonObject
                ?? throw new ConfigException($"{source}: expected a JSON object.");
            var config = OfKind(given, source);
            config.Validate();
            return config;
        }
        catch (JsonException e)
        {
            throw new ConfigException($"{source}: {e.Message}", e);
        }
        catch (Exception e) when (e is InvalidOperationException or ArgumentException and not ConfigException)
        {
            // Halves of surrogate pairs, as characters or escaped, get these from System.Text.Json.
            throw new ConfigException($"{source}: a text is no Unicode: {e.Message}", e);
        }
        catch (ConfigException e) when (!e.Message.StartsWith(source, StringComparison.Ordinal))
        {
            throw new ConfigException($"{source}: {e.Message}", e);
        }
    }

    /// <summary>The text of a <c>config.json</c> that this library and, for the kinds it has, Hugging Face's transformers read.</summary>
    /// <param name="config">The configuration. Of a kind that is not this library's, all properties are written.</param>
    /// <param name="dtype">The type that the weights are stored in.</param>
    /// <exception cref="ConfigException">The configuration cannot be.</exception>
    public static string Text(LanguageModelConfig config, ScalarType dtype = ScalarType.Float32)
    {
        ArgumentNullException.ThrowIfNull(config);
        config.Validate();
        var json = config switch
        {
            XlstmConfig xlstm => XlstmConfigJson.Write(xlstm, dtype),
            LlamaConfig llama => LlamaConfigJson.Write(llama),
            MambaConfig mamba => MambaConfigJson.Write(mamba),
            Mamba2Config mamba2 => MambaConfigJson.Write(mamba2),
            _ => JsonSerializer.SerializeToNode(config, config.GetType(), Fields)!.AsObject(),
        };
        json["model_type"] = config.ModelType;
        json["dtype"] = DtypeName(dtype);
        var sorted = new JsonObject(json
            .OrderBy(pair => pair.Key, StringComparer.Ordinal)
            .Select(pair => KeyValuePair.Create(pair.Key, pair.Value?.DeepClone())));
        return sorted.ToJsonString(Indented) + "\n";
    }

    /// <summary>Reads a record from what is left of a document; absent fields have its defaults.</summary>
    /// <exception cref="JsonException">A field is not the record's, nor one of transformers that means nothing here.</exception>
    internal static T Read<T>(JsonObject given)
        where T : LanguageModelConfig
    {
        Leave(given, Foreign);
        Require(given, "pruned_heads", "{}");
        Require(given, "is_decoder", "false", "true");
        foreach (var other in new[] { "is_encoder_decoder", "add_cross_attention", "tie_encoder_decoder" })
        {
            Require(given, other, "false");
        }

        foreach (var absent in new[] { "quantization_config", "cross_attention_hidden_size" })
        {
            Require(given, absent);
        }

        return StrictJson.Read<T>(given, Fields);
    }

    /// <summary>Takes fields out that mean nothing here.</summary>
    internal static void Leave(JsonObject given, params ReadOnlySpan<string> names)
    {
        foreach (var name in names)
        {
            given.Remove(name);
        }
    }

    /// <summary>Takes a field out that may have one meaning only; another one is refused.</summary>
    /// <param name="given">The document.</param>
    /// <param name="name">The field.</param>
    /// <param name="allowed">The values it may have, in JSON, beside null.</param>
    internal static void Require(JsonObject given, string name, params ReadOnlySpan<string> allowed)
    {
        if (given[name] is { } value)
        {
            var isAllowed = false;
            foreach (var text in allowed)
            {
                isAllowed |= JsonNode.DeepEquals(value, JsonNode.Parse(text));
            }

            if (!isAllowed)
            {
                throw new ConfigException(
                    $"{name} is {value.ToJsonString()}, which is not supported; "
                    + $"expected {(allowed.IsEmpty ? "null" : string.Join(" or ", allowed.ToArray()))}.");
            }
        }

        given.Remove(name);
    }

    /// <summary>Takes a field out that repeats what others say.</summary>
    /// <param name="given">The document.</param>
    /// <param name="name">The field.</param>
    /// <param name="implied">The value that the others imply.</param>
    /// <param name="why">Of what it follows, in words.</param>
    internal static void RequireImplied(JsonObject given, string name, double implied, string why)
    {
        if (given[name] is { } value && !(value is JsonValue number && number.TryGetValue<double>(out var stated) && stated == implied))
        {
            throw new ConfigException(FormattableString.Invariant($"{name} is {value.ToJsonString()}; expected {why}, {implied}."));
        }

        given.Remove(name);
    }

    /// <summary>Moves the value of a second name of a field to the first, which counts where both are given.</summary>
    internal static void TakeAlias(JsonObject given, string name, string alias, bool mustAgree)
    {
        if (given[name] is { } value && given[alias] is { } other && mustAgree && !JsonNode.DeepEquals(value, other))
        {
            throw new ConfigException(
                $"{name} is {value.ToJsonString()} and {alias} is {other.ToJsonString()}; they are one quantity and must agree.");
        }

        if (given[name] is null)
        {
            given.Remove(name);
            if (given[alias] is { } only)
            {
                given[name] = only.DeepClone();
            }
        }

        given.Remove(alias);
    }

    /// <summary>A type's name in a <c>config.json</c>.</summary>
    internal static string DtypeName(ScalarType dtype) => dtype switch
    {
        ScalarType.Float64 => "float64",
        ScalarType.Float32 => "float32",
        ScalarType.Float16 => "float16",
        ScalarType.BFloat16 => "bfloat16",
        _ => throw new ArgumentException(
            $"Weights of type {dtype} were given; expected float64, float32, float16 or bfloat16.", nameof(dtype)),
    };

    private static LanguageModelConfig OfKind(JsonObject given, string source)
    {
        var type = given["model_type"];
        given.Remove("model_type");
        var name = type is JsonValue value && value.TryGetValue<string>(out var text) ? text : null;
        return name switch
        {
            "xlstm" => XlstmConfigJson.Read(given),
            "llama" => LlamaConfigJson.Read(given),
            "mamba" => MambaConfigJson.ReadMamba(given),
            "mamba2" => MambaConfigJson.ReadMamba2(given),
            "simple_gla" => ReadGla(given),
            "lstm" => Read<LstmConfig>(given),
            _ => throw new ConfigException(
                $"{source}: model_type is {type?.ToJsonString() ?? "absent"}; expected \"{string.Join("\", \"", Kinds[..^1])}\" "
                + $"or \"{Kinds[^1]}\"."
                + (name is not null && NearestName.Of(name, Kinds) is not null
                    ? NearestName.Hint(name, Kinds) : " The folder holds another kind of model.")),
        };
    }

    private static GlaConfig ReadGla(JsonObject given)
    {
        Require(given, "hidden_act", "\"swish\"", "\"silu\"");
        Leave(given, "attn_mode", "fuse_cross_entropy", "fuse_norm", "fuse_swiglu", "max_position_embeddings");
        foreach (var on in new[] { "use_short_conv", "use_output_gate", "elementwise_affine" })
        {
            Require(given, on, "true");
        }

        foreach (var off in new[] { "use_gk", "use_gv", "share_conv_kernel" })
        {
            Require(given, off, "false");
        }

        foreach (var absent in new[] { "feature_map", "attn", "clamp_min" })
        {
            Require(given, absent);
        }

        Require(given, "num_kv_heads", given["num_heads"]?.ToJsonString() ?? "4");
        Require(given, "hidden_ratio", "4");
        return Read<GlaConfig>(given);
    }

    /// <summary>
    /// Python writes an infinite number in an array as a bare word, which is no JSON; transformers 5 writes it as this object.
    /// </summary>
    private static string WithoutBareInfinity(string json) => BareInfinity().Replace(json, "{\"__float__\": \"Infinity\"}");

    [GeneratedRegex(@"(?<=\[\s*(-?[0-9.eE+]+\s*,\s*)*)Infinity(?=\s*\])")]
    private static partial Regex BareInfinity();
}
