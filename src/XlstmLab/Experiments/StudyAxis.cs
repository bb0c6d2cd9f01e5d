using System.Globalization;

namespace XlstmLab.Experiments;

/// <summary>One place on an axis.</summary>
/// <param name="Label">What tables and plots call it.</param>
/// <param name="Settings">What it sets, as <c>NAME=VALUE</c>: see <see cref="Study.Settings"/>.</param>
public sealed record StudyValue(string Label, IReadOnlyList<string> Settings);

/// <summary>What varies in a study: a setting with its values, or several settings that change together, under labels.</summary>
/// <param name="Name">The setting's name, or a name for what changes.</param>
/// <param name="Values">At least one, of different labels.</param>
public sealed record StudyAxis(string Name, IReadOnlyList<StudyValue> Values)
{
    /// <summary>A setting with its values.</summary>
    /// <param name="name">The setting's name, as <c>--set</c> takes it.</param>
    /// <param name="values">The values; numbers are written in the invariant culture, null as <c>null</c>.</param>
    public StudyAxis(string name, params object?[] values)
        : this(name, [.. values.Select(value => OfSetting(name, Text(value)))])
    {
    }

    /// <summary>A place of a setting's axis.</summary>
    internal static StudyValue OfSetting(string name, string value) => new($"{name}={value}", [$"{name}={value}"]);

    private static string Text(object? value) => value switch
    {
        null => "null",
        bool flag => flag ? "true" : "false",
        IFormattable number => number.ToString(null, CultureInfo.InvariantCulture),
        _ => value.ToString()!,
    };
}

/// <summary>The sizes that a model has which is named by its kind alone, such as <c>xlstm[1:1]</c> or <c>llama</c>.</summary>
/// <param name="Dim">The width d.</param>
/// <param name="Blocks">The number of blocks.</param>
/// <param name="Heads">The number of heads, of models that have some.</param>
public sealed record StudyShape(int Dim, int Blocks, int Heads);
