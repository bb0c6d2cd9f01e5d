using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.Json.Serialization;
using XlstmLab.Cells;
using XlstmLab.Models;
using static TorchSharp.torch;

namespace XlstmLab.Checkpoints;

/// <summary>A model's configuration as the text of a Hugging Face <c>config.json</c>.</summary>
public static class XlstmConfigJson
{
    private const string ModelType = "xlstm";

    private static readonly JsonSerializerOptions Indented = new() { WriteIndented = true };

    /// <summary>Reads a file.</summary>
    /// <exception cref="CheckpointException">The file cannot be read.</exception>
    /// <exception cref="ConfigException">The file is no configuration of an xLSTM, or one that cannot be.</exception>
    public static XlstmConfig Read(string path)
    {
        ArgumentException.ThrowIfNullOrWhiteSpace(path);
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

    /// <summary>Reads a text. Absent fields have the defaults of <see cref="XlstmConfig"/>, and unknown ones are ignored.</summary>
    /// <param name="json">The text of a <c>config.json</c>.</param>
    /// <param name="source">Where it comes from, for messages.</param>
    /// <exception cref="ConfigException">The text is no configuration of an xLSTM, or one that cannot be.</exception>
    public static XlstmConfig Parse(string json, string source = "config.json")
    {
        ArgumentNullException.ThrowIfNull(json);
        try
        {
            var given = JsonNode.Parse(json, null, new JsonDocumentOptions { AllowDuplicateProperties = false }) as JsonObject
                ?? throw new ConfigException($"{source}: expected a JSON object.");
            CheckModelType(given, source);
            TakeAlias(given, "embedding_dim", "hidden_size", mustAgree: true, source);

            // Published checkpoints have the class's default of 32 here beside their real num_blocks.
            TakeAlias(given, "num_blocks", "num_hidden_layers", mustAgree: false, source);

            // The generated reader sets every init property: absent ones must be there with their defaults.
            var complete = JsonSerializer.SerializeToNode(new XlstmConfig(), XlstmConfigContext.Default.XlstmConfig)!.AsObject();
            foreach (var name in complete.Select(pair => pair.Key).Where(given.ContainsKey).ToList())
            {
                complete[name] = given[name]?.DeepClone();
            }

            var config = complete.Deserialize(XlstmConfigContext.Default.XlstmConfig)!;
            config.Validate();
            return config;
        }
        catch (JsonException e)
        {
            throw new ConfigException($"{source}: {Explain(e)}", e);
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

    /// <summary>The text of a <c>config.json</c> that this library and the xLSTM of Hugging Face's transformers read.</summary>
    /// <param name="config">The configuration.</param>
    /// <param name="dtype">The type that the weights are stored in.</param>
    /// <remarks>
    /// transformers 5 declares the soft caps as floats and refuses null, and it knows neither a sigmoid input gate nor an mLSTM without
    /// normaliser: such models are for this library only.
    /// </remarks>
    /// <exception cref="ConfigException">The configuration cannot be.</exception>
    public static string Text(XlstmConfig config, ScalarType dtype = ScalarType.Float32)
    {
        ArgumentNullException.ThrowIfNull(config);
        config.Validate();
        var json = JsonSerializer.SerializeToNode(config, XlstmConfigContext.Default.XlstmConfig)!.AsObject();
        var defaults = new XlstmConfig();
        if (config.InputGate == defaults.InputGate)
        {
            json.Remove("input_gate");
        }

        if (config.Normalize == defaults.Normalize)
        {
            json.Remove("normalize");
        }

        json["architectures"] = new JsonArray("xLSTMForCausalLM");
        json["model_type"] = ModelType;
        json["dtype"] = DtypeName(dtype);
        json["hidden_size"] = config.EmbeddingDim;
        json["num_hidden_layers"] = config.BlockCount;

        // What transformers needs to know of its own kernels: the plain ones, which run everywhere.
        json["autocast_kernel_dtype"] = dtype == ScalarType.Float64 ? "float32" : DtypeName(dtype);
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

        var sorted = new JsonObject(json
            .OrderBy(pair => pair.Key, StringComparer.Ordinal)
            .Select(pair => KeyValuePair.Create(pair.Key, pair.Value?.DeepClone())));
        return sorted.ToJsonString(Indented) + "\n";
    }

    private static void CheckModelType(JsonObject given, string source)
    {
        var type = given["model_type"];
        if (type is not JsonValue value || !value.TryGetValue<string>(out var name) || name != ModelType)
        {
            throw new ConfigException(
                $"{source}: model_type is {type?.ToJsonString() ?? "absent"}; expected \"{ModelType}\". The folder holds another kind of model.");
        }
    }

    /// <summary>Moves the value of a second name of a field to the first, which counts where both are given.</summary>
    private static void TakeAlias(JsonObject given, string name, string alias, bool mustAgree, string source)
    {
        if (given[name] is { } value && given[alias] is { } other && mustAgree && value.ToJsonString() != other.ToJsonString())
        {
            throw new ConfigException($"{source}: {name} is {value.ToJsonString()} and {alias} is {other.ToJsonString()}; they are one quantity and must agree.");
        }

        if (given[name] is null)
        {
            given.Remove(name);
            if (given[alias] is { } only)
            {
                given[name] = only.DeepClone();
            }
        }
    }

    private static string Explain(JsonException e)
    {
        var field = XlstmConfigContext.Default.XlstmConfig.Properties.FirstOrDefault(property => "$." + property.Name == e.Path);
        if (field is null)
        {
            return $"no valid JSON: {e.Message}";
        }

        var type = field.PropertyType;
        var expected = type == typeof(int) ? "a whole number of 32 bits"
            : type == typeof(double) ? "a number"
            : type == typeof(double?) ? "a number or null"
            : type == typeof(bool) ? "true or false"
            : $"one of {string.Join(", ", Enum.GetNames(type).Select(JsonNamingPolicy.SnakeCaseLower.ConvertName))}";
        return $"{field.Name} has a value of the wrong kind; expected {expected}.";
    }

    private static string DtypeName(ScalarType dtype) => dtype switch
    {
        ScalarType.Float64 => "float64",
        ScalarType.Float32 => "float32",
        ScalarType.Float16 => "float16",
        ScalarType.BFloat16 => "bfloat16",
        _ => throw new ArgumentException($"Weights of type {dtype} were given; expected float64, float32, float16 or bfloat16.", nameof(dtype)),
    };
}

/// <summary>An enum's names in the JSON's spelling; numbers are refused.</summary>
internal sealed class SnakeCaseConverter<T>() : JsonStringEnumConverter<T>(JsonNamingPolicy.SnakeCaseLower, allowIntegerValues: false)
    where T : struct, Enum;

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

[JsonSourceGenerationOptions(
    Converters = [typeof(SnakeCaseConverter<WeightMode>), typeof(SnakeCaseConverter<InputGate>), typeof(FloatConverter)])]
[JsonSerializable(typeof(XlstmConfig))]
internal sealed partial class XlstmConfigContext : JsonSerializerContext;
