using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.Json.Serialization;
using System.Text.Json.Serialization.Metadata;
using System.Text.RegularExpressions;
using XlstmLab.Models;
using static TorchSharp.torch;

namespace XlstmLab.Checkpoints;

/// <summary>A model's configuration, of whatever kind, as the text of a Hugging Face <c>config.json</c>.</summary>
public static partial class ModelConfigJson
{
    private static readonly JsonSerializerOptions Indented = new() { WriteIndented = true };

    /// <summary>How fields are spelt: enums as words in snake case, numbers as transformers wants them.</summary>
    internal static JsonSerializerOptions Fields { get; } = new()
    {
        PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower,
        Converters =
        {
            new JsonStringEnumConverter(JsonNamingPolicy.SnakeCaseLower, allowIntegerValues: false), new BlockListConverter(), new FloatConverter(),
        },
    };

    /// <summary>Reads a file.</summary>
    /// <exception cref="CheckpointException">The file cannot be read.</exception>
    /// <exception cref="ConfigException">The file is no configuration of a model that this library knows, or one that cannot be.</exception>
    public static LanguageModelConfig Read(string path)
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

    /// <summary>Reads a text. Absent fields have the defaults of the kind's record, and unknown ones are ignored.</summary>
    /// <param name="json">The text of a <c>config.json</c>.</param>
    /// <param name="source">Where it comes from, for messages.</param>
    /// <exception cref="ConfigException">The text is no configuration of a model that this library knows, or one that cannot be.</exception>
    public static LanguageModelConfig Parse(string json, string source = "config.json")
    {
        ArgumentNullException.ThrowIfNull(json);
        try
        {
            var given = JsonNode.Parse(WithoutBareInfinity(json), null, new JsonDocumentOptions { AllowDuplicateProperties = false }) as JsonObject
                ?? throw new ConfigException($"{source}: expected a JSON object.");
            var config = OfKind(given, source);
            config.Validate();
            return config;
        }
        catch (JsonException e)
        {
            throw new ConfigException($"{source}: no valid JSON: {e.Message}", e);
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

    /// <summary>Reads a record; absent fields have its defaults, and unknown ones are ignored.</summary>
    internal static T Read<T>(JsonObject given)
        where T : LanguageModelConfig
    {
        try
        {
            return given.Deserialize<T>(Fields)!;
        }
        catch (JsonException e)
        {
            throw new ConfigException(Explain(e, Fields.GetTypeInfo(typeof(T))), e);
        }
    }

    /// <summary>Moves the value of a second name of a field to the first, which counts where both are given.</summary>
    internal static void TakeAlias(JsonObject given, string name, string alias, bool mustAgree)
    {
        if (given[name] is { } value && given[alias] is { } other && mustAgree && value.ToJsonString() != other.ToJsonString())
        {
            throw new ConfigException($"{name} is {value.ToJsonString()} and {alias} is {other.ToJsonString()}; they are one quantity and must agree.");
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

    /// <summary>Refuses a <c>hidden_act</c> that is not the one that the model has.</summary>
    internal static void RequireActivation(JsonObject given, string expected)
    {
        if (given["hidden_act"] is { } activation && activation.ToJsonString() != $"\"{expected}\"")
        {
            throw new ConfigException($"hidden_act is {activation.ToJsonString()}, which is not supported; expected \"{expected}\".");
        }
    }

    /// <summary>A type's name in a <c>config.json</c>.</summary>
    internal static string DtypeName(ScalarType dtype) => dtype switch
    {
        ScalarType.Float64 => "float64",
        ScalarType.Float32 => "float32",
        ScalarType.Float16 => "float16",
        ScalarType.BFloat16 => "bfloat16",
        _ => throw new ArgumentException($"Weights of type {dtype} were given; expected float64, float32, float16 or bfloat16.", nameof(dtype)),
    };

    private static LanguageModelConfig OfKind(JsonObject given, string source)
    {
        var type = given["model_type"];
        return (type is JsonValue value && value.TryGetValue<string>(out var name) ? name : null) switch
        {
            "xlstm" => XlstmConfigJson.Read(given),
            "llama" => LlamaConfigJson.Read(given),
            "mamba" => MambaConfigJson.ReadMamba(given),
            "mamba2" => MambaConfigJson.ReadMamba2(given),
            "simple_gla" => ReadGla(given),
            "lstm" => Read<LstmConfig>(given),
            _ => throw new ConfigException(
                $"{source}: model_type is {type?.ToJsonString() ?? "absent"}; expected \"xlstm\", \"llama\", \"mamba\", \"mamba2\", \"simple_gla\" or \"lstm\". "
                + "The folder holds another kind of model."),
        };
    }

    private static GlaConfig ReadGla(JsonObject given)
    {
        RequireActivation(given, "swish");
        return Read<GlaConfig>(given);
    }

    /// <summary>Python writes an infinite number in an array as a bare word, which is no JSON; transformers 5 writes it as this object.</summary>
    private static string WithoutBareInfinity(string json) => BareInfinity().Replace(json, "{\"__float__\": \"Infinity\"}");

    [GeneratedRegex(@"(?<=\[\s*(-?[0-9.eE+]+\s*,\s*)*)Infinity(?=\s*\])")]
    private static partial Regex BareInfinity();

    private static string Explain(JsonException e, JsonTypeInfo type)
    {
        var field = type.Properties.FirstOrDefault(property => "$." + property.Name == e.Path);
        if (field is null)
        {
            return $"no valid JSON: {e.Message}";
        }

        var of = Nullable.GetUnderlyingType(field.PropertyType) ?? field.PropertyType;
        var expected = of == typeof(int) ? "a whole number of 32 bits"
            : of == typeof(int?) ? "a whole number of 32 bits or null"
            : of == typeof(double) ? "a number"
            : of == typeof(bool) ? "true or false"
            : of.IsEnum ? $"one of {string.Join(", ", Enum.GetNames(of).Select(JsonNamingPolicy.SnakeCaseLower.ConvertName))}"
            : "a list of whole numbers";
        return $"{field.Name} has a value of the wrong kind; expected {expected}{(of == field.PropertyType ? "" : " or null")}.";
    }
}
