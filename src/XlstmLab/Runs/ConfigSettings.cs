using System.Globalization;
using System.Reflection;
using System.Text.Json;
using System.Text.Json.Serialization;
using System.Text.Json.Serialization.Metadata;
using TorchSharp;
using XlstmLab.Checkpoints;
using XlstmLab.Models;
using XlstmLab.Training;

namespace XlstmLab.Runs;

/// <summary>The settings of configurations by name: to show all of them, and to change some.</summary>
/// <remarks>
/// A setting is named as in JSON or as its C# property; case, underscores and hyphens do not matter, nor do the records that it lies in,
/// where the last part alone is enough. What belongs to the model and to the training is told apart by a <c>model.</c> or
/// <c>training.</c> before it.
/// </remarks>
public static class ConfigSettings
{
    private const string ModelPrefix = "model.";
    private const string TrainingPrefix = "training.";

    /// <summary>All settings of a model's configuration, in the order of its properties.</summary>
    /// <param name="config">The configuration.</param>
    public static IReadOnlyList<ConfigSetting> Of(LanguageModelConfig config) => All(config);

    /// <summary>All settings of a training, in the order of its properties.</summary>
    /// <param name="config">The configuration.</param>
    public static IReadOnlyList<ConfigSetting> Of(TrainingConfig config) => All(config);

    /// <summary>A configuration with other values; it is not validated.</summary>
    /// <param name="config">The configuration of a model, of any kind.</param>
    /// <param name="settings">Names and values, such as <c>input_gate_bias=-2</c>.</param>
    /// <exception cref="ArgumentException">There is no such setting, or its value is of another kind.</exception>
    public static T With<T>(this T config, params IEnumerable<string> settings)
        where T : LanguageModelConfig => (T)Changed(config, null, settings).Model!;

    /// <summary>A training configuration with other values; it is not validated.</summary>
    /// <param name="config">The configuration.</param>
    /// <param name="settings">Names and values, such as <c>schedule.kind=constant</c>.</param>
    /// <exception cref="ArgumentException">There is no such setting, or its value is of another kind.</exception>
    public static TrainingConfig With(this TrainingConfig config, params IEnumerable<string> settings) =>
        Changed(null, config, settings).Training!;

    /// <summary>A model's and a training's configuration with other values; they are not validated.</summary>
    /// <param name="model">The model's; null where there is none to change.</param>
    /// <param name="training">The training's; null where there is none to change.</param>
    /// <param name="settings">Names and values.</param>
    /// <exception cref="ArgumentException">There is no such setting, or its value is of another kind.</exception>
    public static (LanguageModelConfig? Model, TrainingConfig? Training) Changed(
        LanguageModelConfig? model, TrainingConfig? training, IEnumerable<string> settings)
    {
        ArgumentNullException.ThrowIfNull(settings);
        foreach (var setting in settings)
        {
            var equals = setting.IndexOf('=', StringComparison.Ordinal);
            if (equals < 1)
            {
                throw new ArgumentException($"'{setting}' is no setting; expected NAME=VALUE, such as input_gate=sigmoid.");
            }

            var (name, value) = (setting[..equals].Trim(), setting[(equals + 1)..].Trim());
            var ofModel = model is null || IsPrefixed(name, TrainingPrefix) ? [] : Find(model.GetType(), WithoutPrefix(name, ModelPrefix));
            var ofTraining = training is null || IsPrefixed(name, ModelPrefix)
                ? []
                : Find(typeof(TrainingConfig), WithoutPrefix(name, TrainingPrefix));
            switch (ofModel.Count, ofTraining.Count)
            {
                case (1, 0):
                    model = (LanguageModelConfig)Set(model!, ofModel[0], 0, name, value);
                    break;
                case (0, 1):
                    training = (TrainingConfig)Set(training!, ofTraining[0], 0, name, value);
                    break;
                case (0, 0):
                    throw new ArgumentException(Unknown(name, model, training));
                default:
                    var found = ofModel.Select(l => ModelPrefix + l.Name).Concat(ofTraining.Select(l => TrainingPrefix + l.Name));
                    throw new ArgumentException($"'{name}' may be {string.Join(" or ", found)}: name one of them.");
            }
        }

        return (model, training);
    }

    private static bool IsPrefixed(string name, string prefix) => name.StartsWith(prefix, StringComparison.OrdinalIgnoreCase);

    private static string WithoutPrefix(string name, string prefix) => IsPrefixed(name, prefix) ? name[prefix.Length..] : name;

    private static string Unknown(string name, LanguageModelConfig? model, TrainingConfig? training)
    {
        List<Leaf> leaves = [.. model is null ? [] : Leaves(model.GetType()), .. training is null ? [] : Leaves(typeof(TrainingConfig))];
        var known =
            leaves.SelectMany(l => new[] { l.Name, LastPart(l.Name), JsonNamingPolicy.SnakeCaseLower.ConvertName(l.Path[^1].Name) })
                .Distinct();
        var of = model is null ? "a training" : $"a model of the kind {model.ModelType}" + (training is null ? "" : " or of a training");
        return $"There is no setting '{name}' of {of}.{NearestName.Hint(name, known)}";
    }

    private static ConfigSetting[] All(object config)
    {
        var usual = Activator.CreateInstance(config.GetType())!;
        return [.. Leaves(config.GetType()).Select(leaf => new ConfigSetting(
            leaf.Name,
            string.Join('.', leaf.Path.Select(p => p.Name)),
            Text(leaf.Read(config), config),
            Text(leaf.Read(usual), config),
            PropertyDocs.Summary(leaf.Path[^1])))];
    }

    /// <summary>The settings that a name may mean: by its whole name in JSON or C#, else by the last part.</summary>
    private static List<Leaf> Find(Type type, string name)
    {
        var (leaves, wanted) = (Leaves(type), Plain(name));
        foreach (var key in new Func<Leaf, string>[]
        {
            l => l.Name, l => string.Join('.', l.Path.Select(p => p.Name)), l => LastPart(l.Name), l => l.Path[^1].Name,
        })
        {
            if (leaves.FindAll(l => Plain(key(l)) == wanted) is { Count: > 0 } found)
            {
                return found;
            }
        }

        return [];
    }

    private static string LastPart(string name) => name[(name.LastIndexOf('.') + 1)..];

    private static string Plain(string name) => string.Concat(name.Where(c => c is not ('_' or '-'))).ToUpperInvariant();

    private static List<Leaf> Leaves(Type type)
    {
        var leaves = new List<Leaf>();
        var options = Options(type);
        options.MakeReadOnly(populateMissingResolver: true);
        Collect(type, [], "");
        return leaves;

        void Collect(Type of, PropertyInfo[] path, string prefix)
        {
            var properties = of.GetProperties(BindingFlags.Public | BindingFlags.Instance);
            foreach (var property in properties.Where(p => p.SetMethod is { IsPublic: true } && p.GetIndexParameters().Length == 0))
            {
                var given = property.GetCustomAttribute<JsonPropertyNameAttribute>()?.Name;
                var name = prefix + (given ?? JsonNamingPolicy.SnakeCaseLower.ConvertName(property.Name));
                PropertyInfo[] longer = [.. path, property];
                var isRecord = IsRecord(property.PropertyType, options);
                if (!isRecord || IsNullable(property))
                {
                    leaves.Add(new(name, longer));
                }

                if (isRecord)
                {
                    Collect(property.PropertyType, longer, name + ".");
                }
            }
        }
    }

    /// <summary>Whether a type is a record of settings, which can be made without any and has no form of its own in JSON.</summary>
    private static bool IsRecord(Type type, JsonSerializerOptions options) =>
        type.IsClass
        && Clone(type) is not null
        && type.GetConstructor([]) is not null
        && options.GetTypeInfo(type).Kind == JsonTypeInfoKind.Object;

    private static MethodInfo? Clone(Type type) => type.GetMethod("<Clone>$");

    private static bool IsNullable(PropertyInfo property) =>
        Nullable.GetUnderlyingType(property.PropertyType) is not null
        || (!property.PropertyType.IsValueType && new NullabilityInfoContext().Create(property).WriteState == NullabilityState.Nullable);

    /// <summary>A copy of a record in which the value at the end of a path is another.</summary>
    private static object Set(object record, Leaf leaf, int depth, string name, string text)
    {
        var copy = Clone(record.GetType())!.Invoke(record, null)!;
        var property = leaf.Path[depth];
        property.SetValue(copy, depth == leaf.Path.Length - 1
            ? Parse(property, Options(leaf.Path[0].ReflectedType!), name, text)
            : Set(property.GetValue(record) ?? Activator.CreateInstance(property.PropertyType)!, leaf, depth + 1, name, text));
        return copy;
    }

    private static JsonSerializerOptions Options(Type config) =>
        config.IsAssignableTo(typeof(LanguageModelConfig)) ? ModelConfigJson.Fields : RunJson.ByHand;

    private static object? Parse(PropertyInfo property, JsonSerializerOptions options, string name, string text)
    {
        var (type, nullable) = (Nullable.GetUnderlyingType(property.PropertyType) ?? property.PropertyType, IsNullable(property));
        if (nullable && text == "null")
        {
            return null;
        }

        if (type == typeof(double))
        {
            return double.TryParse(text, NumberStyles.Float, CultureInfo.InvariantCulture, out var number)
                ? number
                : throw Wrong("a number, with a point");
        }

        if (type == typeof(int))
        {
            return int.TryParse(text, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out var number)
                ? number
                : throw Wrong("a whole number of 32 bits");
        }

        if (type == typeof(long))
        {
            return long.TryParse(text, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out var number)
                ? number
                : throw Wrong("a whole number of 64 bits");
        }

        if (type == typeof(bool))
        {
            return bool.TryParse(text, out var flag) ? flag : throw Wrong("true or false");
        }

        if (type == typeof(string))
        {
            return text;
        }

        if (type == typeof(torch.ScalarType))
        {
            return Plain(text) switch
            {
                "BF16" or "BFLOAT16" => torch.ScalarType.BFloat16,
                "FLOAT32" or "FP32" => torch.ScalarType.Float32,
                _ => throw Wrong("float32 or bfloat16"),
            };
        }

        if (type.IsEnum)
        {
            var names = Enum.GetNames(type);
            var words = names.Select(JsonNamingPolicy.SnakeCaseLower.ConvertName).ToArray();
            return Array.Find(names, w => Plain(w) == Plain(text)) is { } named
                ? Enum.Parse(type, named)
                : throw Wrong($"one of {string.Join(", ", words)}", NearestName.Hint(text, words));
        }

        // Lists, and whatever else has a form in JSON: as it stands there, without the brackets, or as a word.
        JsonException? last = null;
        foreach (var json in new[] { text, $"[{text}]", JsonSerializer.Serialize(text) })
        {
            try
            {
                return StrictJson.Read(StrictJson.Parse(json), type, options, name);
            }
            catch (JsonException e)
            {
                last = last is not null && text.AsSpan().IndexOfAny("[{") == 0 ? last : e;
            }
        }

        throw new ArgumentException(last!.Message, last);

        ArgumentException Wrong(string expected, string hint = "") =>
            new($"{name}: expected {expected}{(nullable ? ", or null" : "")}; got '{text}'.{hint}");
    }

    private static string Text(object? value, object config) => value switch
    {
        null => "null",
        bool flag => flag ? "true" : "false",
        string text => text,
        torch.ScalarType.BFloat16 => "bfloat16",
        Enum => JsonNamingPolicy.SnakeCaseLower.ConvertName(value.ToString()!),
        IFormattable number => number.ToString(null, CultureInfo.InvariantCulture),
        _ => JsonSerializer.SerializeToNode(value, value.GetType(), Options(config.GetType()))!.ToJsonString(),
    };

    /// <summary>A setting, and how to get at it.</summary>
    private sealed record Leaf(string Name, PropertyInfo[] Path)
    {
        public object? Read(object config)
        {
            object? at = config;
            foreach (var property in Path)
            {
                at = at is null ? null : property.GetValue(at);
            }

            return at;
        }
    }
}
