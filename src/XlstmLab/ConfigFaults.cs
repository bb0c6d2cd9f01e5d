namespace XlstmLab;

/// <summary>What is wrong with a configuration, gathered to be told at once.</summary>
internal sealed class ConfigFaults
{
    private readonly List<string> _faults = [];

    /// <summary>Notes a fault unless something holds.</summary>
    public void Require(bool holds, FormattableString fault)
    {
        if (!holds)
        {
            _faults.Add(FormattableString.Invariant(fault));
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
