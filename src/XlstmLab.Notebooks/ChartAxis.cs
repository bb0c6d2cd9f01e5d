using System.Globalization;
using System.Text.Json.Nodes;

namespace XlstmLab.Notebooks;

/// <summary>An axis of a chart that is drawn as SVG: what it spans, where its ticks are, and the pixels of its values.</summary>
/// <param name="spec">The axis as the figure's layout has it.</param>
/// <param name="isX">Whether it lies.</param>
internal sealed class ChartAxis(JsonObject spec, bool isX)
{
    private static readonly int[] Digits = [1, 2, 5, 10];

    private readonly List<string> _categories = [];
    private double _low = double.PositiveInfinity;
    private double _high = double.NegativeInfinity;
    private double _padding;
    private bool _hasZero;

    public JsonObject Spec => spec;

    public string Title => ((spec["title"] as JsonObject)?["text"] ?? spec["title"]).AsText() ?? "";

    public bool IsCategory { get; private set; } = spec["type"].AsText() == "category";

    /// <summary>Where ticks are, in the units of <see cref="Value"/>, and what they say.</summary>
    public IReadOnlyList<(double Value, string Label)> Ticks { get; private set; } = [];

    /// <summary>The pixels of the least and the greatest value.</summary>
    public double Start { get; private set; }

    public double End { get; private set; }

    /// <summary>The pixels between the places of two bars.</summary>
    public double Step => Math.Abs(End - Start) / Math.Max(1, IsCategory ? _categories.Count : _high - _low);

    private bool IsLog => spec["type"].AsText() == "log";

    /// <summary>Takes in data.</summary>
    /// <param name="data">Numbers or names.</param>
    /// <param name="padding">The share of room around them.</param>
    public void Take(JsonArray? data, double padding)
    {
        _padding = Math.Max(_padding, padding);
        foreach (var value in data ?? [])
        {
            double at = Value(value);
            if (double.IsFinite(at) && !(IsLog && at <= 0))
            {
                (_low, _high) = (Math.Min(_low, at), Math.Max(_high, at));
            }
        }
    }

    /// <summary>Takes in the cells of a heat map.</summary>
    public void TakeCells(JsonArray? data, int count)
    {
        Take(data ?? [.. Enumerable.Range(0, count).Select(i => (JsonNode)i)], 0);
        if (!IsCategory && double.IsFinite(_low))
        {
            double half = count > 1 ? (_high - _low) / (count - 1) / 2 : 0.5;
            (_low, _high) = (_low - half, _high + half);
        }
    }

    /// <summary>Bars begin at zero.</summary>
    public void TakeZero() => _hasZero = true;

    /// <summary>Decides what the axis spans, after all data.</summary>
    public void Settle()
    {
        if (spec["categoryarray"] is JsonArray order)
        {
            List<string> named = [.. order.Select(name => name.AsText() ?? "").Where(_categories.Contains)];
            List<string> all = [.. named, .. _categories.Except(named)];
            _categories.Clear();
            _categories.AddRange(all);
        }

        if (IsCategory)
        {
            (_low, _high) = (-0.5, _categories.Count - 0.5);
        }
        else if (spec["range"] is JsonArray { Count: 2 } range && range[0].AsNumber() is { } from && range[1].AsNumber() is { } to)
        {
            (_low, _high) = IsLog ? (Math.Pow(10, from), Math.Pow(10, to)) : (from, to);
        }
        else
        {
            if (!double.IsFinite(_low))
            {
                (_low, _high) = IsLog ? (1, 10) : (0, 1);
            }

            Widen();
        }

        Ticks = [.. Labels(spec, _low, _high, isX ? 8 : 6, IsLog, IsCategory ? _categories : null)];
    }

    /// <summary>Sets the pixels of the least and the greatest value.</summary>
    public void Place(double start, double end) => (Start, End) = spec["autorange"].AsText() == "reversed" ? (end, start) : (start, end);

    /// <summary>A datum as a number; the place of a name.</summary>
    public double Value(JsonNode? datum)
    {
        if (datum.AsNumber() is { } number && !IsCategory)
        {
            return number;
        }

        string? name = datum.AsText() ?? (IsCategory ? datum?.ToJsonString() : null);
        if (name is null)
        {
            return double.NaN;
        }

        if (!IsCategory && double.TryParse(name, CultureInfo.InvariantCulture, out double parsed))
        {
            return parsed;
        }

        IsCategory = true;
        int at = _categories.IndexOf(name);
        if (at < 0)
        {
            at = _categories.Count;
            _categories.Add(name);
        }

        return at;
    }

    /// <summary>Where a value is; NaN for one that a logarithmic axis has not.</summary>
    public double Pixel(double value) => IsLog
        ? Start + (Math.Log10(value) - Math.Log10(_low)) / (Math.Log10(_high) - Math.Log10(_low)) * (End - Start)
        : Start + (value - _low) / (_high - _low) * (End - Start);

    /// <summary>The same for a value in the units of the range, which are exponents where the axis is logarithmic.</summary>
    public double PixelOfRange(double value) => Pixel(IsLog ? Math.Pow(10, value) : value);

    /// <summary>Where the n-th cell of a heat map begins.</summary>
    public double Edge(JsonArray? data, int index)
    {
        if (IsCategory || data is null)
        {
            return Pixel(index - 0.5);
        }

        double step = data.Count > 1 ? Value(data[1]) - Value(data[0]) : 1;
        return Pixel(Value(data[0]) + (index - 0.5) * step);
    }

    /// <summary>Whether the labels do not fit side by side.</summary>
    public bool IsCrowded(double room, Func<string, double> wide) =>
        (spec["tickangle"].AsNumber() ?? 0) == 0 && spec["tickmode"].AsText() != "array" && Ticks.Sum(tick => wide(tick.Label) + 6) > room;

    /// <summary>The ticks that an axis or a colour bar names, or round ones.</summary>
    public static IEnumerable<(double Value, string Label)> Labels(
        JsonObject spec, double low, double high, int count, bool isLog = false, IReadOnlyList<string>? categories = null)
    {
        if (spec["tickvals"] is JsonArray values)
        {
            var texts = spec["ticktext"] as JsonArray;
            return values.Select((value, i) => (
                    value.AsNumber() ?? categories?.ToList().IndexOf(value.AsText() ?? "") ?? double.NaN,
                    i < (texts?.Count ?? 0) ? texts![i].AsText() ?? "" : value?.ToJsonString() ?? ""))
                .Where(tick => tick.Item1 >= low - 1e-9 * Math.Abs(low) && tick.Item1 <= high + 1e-9 * Math.Abs(high));
        }

        return categories is not null ? categories.Select((name, i) => ((double)i, name))
            : isLog ? Powers(low, high)
            : Round(low, high, count);
    }

    /// <summary>A number as an axis shows it: 1,500, 20k and 1.5M rather than many zeros or powers.</summary>
    internal static string Short(double value) => Math.Abs(value) switch
    {
        0 => "0",
        >= 1e9 and < 1e15 => (value / 1e9).ToString("0.###", CultureInfo.InvariantCulture) + "G",
        >= 1e6 and < 1e9 => (value / 1e6).ToString("0.###", CultureInfo.InvariantCulture) + "M",
        >= 1e4 and < 1e6 => (value / 1e3).ToString("0.###", CultureInfo.InvariantCulture) + "k",
        < 1e-5 or >= 1e15 => value.ToString("0.##e+0", CultureInfo.InvariantCulture).Replace("e+", "e", StringComparison.Ordinal),
        >= 1e3 and < 1e4 => value.ToString("#,0.###", CultureInfo.InvariantCulture),
        _ => value.ToString("0.#######", CultureInfo.InvariantCulture),
    };

    private static IEnumerable<(double, string)> Powers(double low, double high)
    {
        int first = (int)Math.Floor(Math.Log10(low)), last = (int)Math.Ceiling(Math.Log10(high));
        double[] digits = last - first > 3 ? [1] : [1, 2, 5];
        return Enumerable.Range(first, last - first + 1).SelectMany(power => digits.Select(digit => digit * Math.Pow(10, power)))
            .Where(value => value >= low * 0.999 && value <= high * 1.001).Select(value => (value, Short(value)));
    }

    private static IEnumerable<(double, string)> Round(double low, double high, int count)
    {
        double rough = (high - low) / count;
        if (!(rough > 1e-12 * Math.Max(Math.Abs(low), Math.Abs(high))) || !double.IsFinite(rough))
        {
            // All but one value: steps between its ends are lost in its digits.
            yield return (low, Short(low));
            yield break;
        }

        double power = Math.Pow(10, Math.Floor(Math.Log10(rough)));
        double step = Digits.Select(digit => digit * power).First(candidate => candidate >= rough * 0.999);
        for (double k = Math.Ceiling(low / step - 1e-9); k * step <= high + 1e-9 * step; k++)
        {
            yield return (k * step, Short(Math.Round(k * step, 12)));
        }
    }

    private void Widen()
    {
        if (IsLog)
        {
            double ratio = Math.Max(_high / _low, 1.1);
            (_low, _high) = (_low / Math.Pow(ratio, _padding), _high * Math.Pow(ratio, _padding));
            return;
        }

        double room = _high > _low ? (_high - _low) * _padding : Math.Max(Math.Abs(_low) * 0.1, 0.5);
        bool fromZero = _hasZero || spec["rangemode"].AsText() is "tozero" or "nonnegative";
        (_low, _high) = (fromZero && _low >= 0 ? 0 : _low - room, fromZero && _high <= 0 ? 0 : _high + room);
    }
}
