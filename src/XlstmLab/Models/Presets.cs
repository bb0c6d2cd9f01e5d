namespace XlstmLab.Models;

/// <summary>Every preset of every kind of model, by the name the command line knows it by.</summary>
public static class Presets
{
    /// <summary>All presets, in the order of their names.</summary>
    public static IReadOnlyDictionary<string, LanguageModelConfig> All { get; } = new SortedDictionary<string, LanguageModelConfig>(
        XlstmPresets.All.Select(p => KeyValuePair.Create(p.Key, (LanguageModelConfig)p.Value))
            .Concat(LlamaPresets.All.Select(p => KeyValuePair.Create(p.Key, (LanguageModelConfig)p.Value)))
            .Concat(MambaPresets.All.Select(p => KeyValuePair.Create(p.Key, (LanguageModelConfig)p.Value)))
            .Concat(Mamba2Presets.All.Select(p => KeyValuePair.Create(p.Key, (LanguageModelConfig)p.Value)))
            .Concat(GlaPresets.All.Select(p => KeyValuePair.Create(p.Key, (LanguageModelConfig)p.Value)))
            .Concat(LstmPresets.All.Select(p => KeyValuePair.Create(p.Key, (LanguageModelConfig)p.Value)))
            .ToDictionary(),
        StringComparer.OrdinalIgnoreCase);

    /// <summary>The preset of that name.</summary>
    /// <exception cref="ArgumentException">There is none; the message lists all.</exception>
    public static LanguageModelConfig ByName(string name) =>
        All.TryGetValue(name, out var config)
            ? config
            : throw new ArgumentException(
                $"There is no preset '{name}'.{NearestName.Hint(name, All.Keys)} Presets: {string.Join(", ", All.Keys)}.", nameof(name));
}
