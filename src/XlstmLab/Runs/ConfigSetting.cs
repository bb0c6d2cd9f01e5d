namespace XlstmLab.Runs;

/// <summary>One setting of a configuration.</summary>
/// <param name="Name">Its name in JSON, with dots where it lies in a record of its own, such as <c>schedule.warmup_steps</c>.</param>
/// <param name="Property">The C# property, with dots too.</param>
/// <param name="Value">Its value as text, as <c>--set</c> takes it.</param>
/// <param name="Default">The value of a record that says nothing.</param>
/// <param name="Meaning">What it is, from the documentation; empty where that is not at hand.</param>
public sealed record ConfigSetting(string Name, string Property, string Value, string Default, string Meaning)
{
    /// <summary>Whether the value is another than a record has that says nothing.</summary>
    public bool IsChanged => Value != Default;
}
