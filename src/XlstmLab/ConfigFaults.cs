using System.Reflection;
using System.Text.Json;
using System.Text.Json.Serialization;

namespace XlstmLab;

/// <summary>What is wrong with a configuration, gathered to be told at once.</summary>
internal sealed class ConfigFaults
{
    private readonly List<string> _faults = [];

    /// <summary>Whether there is a fault.</summary>
    public bool Any => _faults.Count > 0;

    /// <summary>Notes a fault unless something holds; <paramref name="more"/> is the rest of a text that is too long for a line.</summary>
    public void Require(bool holds, FormattableString fault, FormattableString? more = null)
    {
        if (!holds)
        {
            _faults.Add(FormattableString.Invariant(fault) + (more is null ? "" : FormattableString.Invariant(more)));
        }
    }

    /// <summary>Notes every size that is below 1.</summary>
    public void RequireAtLeastOne(params ReadOnlySpan<(string Name, int Value)> sizes)
    {
        foreach (var (name, value) in sizes)
        {
            Require(value >= 1, $"{name} is {value}; expected at least 1");
        }
    }

    /// <summary>Notes every number that is not finite.</summary>
    public void RequireFinite(params ReadOnlySpan<(string Name, double Value)> numbers)
    {
        foreach (var (name, value) in numbers)
        {
            Require(double.IsFinite(value), $"{name} is {value}; expected a finite number");
        }
    }

    /// <summary>Notes every number that is below 0 or not finite.</summary>
    public void RequireNotNegative(params ReadOnlySpan<(string Name, double Value)> numbers)
    {
        foreach (var (name, value) in numbers)
        {
            Require(value >= 0 && double.IsFinite(value), $"{name} is {value}; expected a finite number of at least 0");
        }
    }

    /// <summary>Notes a soft cap that is none.</summary>
    public void RequireSoftCap(string name, double? cap) =>
        Require(
            cap is not { } value || (value > 0 && double.IsFinite(value)), $"{name} is {cap}; expected a finite number above 0, or null");

    /// <summary>
    /// Notes every property of a record, by its JSON name, whose enum does not have its value: a new axis is checked by being there.
    /// </summary>
    public void RequireKnown(object config)
    {
        foreach (var property in config.GetType().GetProperties())
        {
            var type = Nullable.GetUnderlyingType(property.PropertyType) ?? property.PropertyType;
            if (type.IsEnum && property.GetCustomAttribute<JsonPropertyNameAttribute>() is { Name: var name }
                && property.GetValue(config) is { } value)
            {
                var names = string.Join(", ", Enum.GetNames(type).Select(JsonNamingPolicy.SnakeCaseLower.ConvertName));
                Require(Enum.IsDefined(type, value), $"{name} is {value:D}; expected one of {names}");
            }
        }
    }

    /// <summary>Notes what is wrong with the range that a Mamba's step sizes are drawn from.</summary>
    public void RequireTimeSteps(double min, double max, double floor)
    {
        Require(
            min > 0 && max >= min && double.IsFinite(max),
            $"time_step_min is {min} and time_step_max is {max}; expected finite numbers above 0, the smaller first");
        Require(floor > 0 && double.IsFinite(floor), $"time_step_floor is {floor}; expected a finite number above 0");
    }

    /// <summary>Tells the faults, if there are any.</summary>
    /// <exception cref="ConfigException">There are.</exception>
    public void Throw()
    {
        if (_faults.Count > 0)
        {
            throw new ConfigException(string.Join("; ", _faults) + ".");
        }
    }
}
