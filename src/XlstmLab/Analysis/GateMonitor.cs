using XlstmLab.Models;
using static TorchSharp.torch;

namespace XlstmLab.Analysis;

/// <summary>The distribution of one gate's pre-activation in one head, over everything seen.</summary>
/// <param name="Layer">The block, from 0.</param>
/// <param name="Head">The head, from 0.</param>
/// <param name="Gate">The gate, <c>igate_preact</c> or <c>fgate_preact</c>.</param>
/// <param name="Count">The values seen, NaN not counted.</param>
/// <param name="NaNCount">The values that were NaN.</param>
/// <param name="Minimum">The least value.</param>
/// <param name="Mean">The mean.</param>
/// <param name="StandardDeviation">The standard deviation.</param>
/// <param name="Maximum">The greatest value.</param>
/// <param name="Quantile05">The 5 % quantile, as exact as a histogram's bin.</param>
/// <param name="Median">The median, likewise.</param>
/// <param name="Quantile95">The 95 % quantile, likewise.</param>
public sealed record GateDistribution(
    int Layer,
    int Head,
    string Gate,
    long Count,
    long NaNCount,
    double Minimum,
    double Mean,
    double StandardDeviation,
    double Maximum,
    double Quantile05,
    double Median,
    double Quantile95);

/// <summary>Counts the gates of a model while it trains: minimum, mean, maximum, quantiles and a histogram of each head.</summary>
/// <remarks>
/// Set <see cref="Observe"/> as <see cref="LanguageModel.Observer"/>. A pass costs a copy of both gates [B, NH, S] a block, and memory does
/// not grow. Pre-activations are counted in bins of 0.25 from -20 to 20, the first and the last bin open, since soft-capped gates stay
/// within 15. Not for several threads at once.
/// </remarks>
public sealed class GateMonitor
{
    /// <summary>The least pre-activation with a bin of its own.</summary>
    public const double HistogramMinimum = -20;

    /// <summary>The greatest pre-activation with a bin of its own.</summary>
    public const double HistogramMaximum = 20;

    /// <summary>The width of a bin.</summary>
    public const double BinWidth = 0.25;

    private const int BinCount = (int)((HistogramMaximum - HistogramMinimum) / BinWidth);

    private readonly SortedDictionary<(string Gate, int Layer, int Head), Counts> _counts = [];

    /// <summary>Counts what a model shows: an <see cref="ActivationObserver"/>.</summary>
    /// <param name="block">The block.</param>
    /// <param name="name">The activation; all but the two gates are passed over.</param>
    /// <param name="value">[B, NH, S].</param>
    public void Observe(int block, string name, Tensor value)
    {
        if (name is not ("igate_preact" or "fgate_preact"))
        {
            return;
        }

        using var scope = NewDisposeScope();
        var values = value.detach().to(ScalarType.Float32).cpu().contiguous().data<float>().ToArray();
        var (heads, length) = ((int)value.shape[1], (int)value.shape[2]);
        for (var head = 0; head < heads; head++)
        {
            if (!_counts.TryGetValue((name, block, head), out var counts))
            {
                _counts.Add((name, block, head), counts = new());
            }

            for (var row = head; row < value.shape[0] * heads; row += heads)
            {
                counts.Add(values.AsSpan(row * length, length));
            }
        }
    }

    /// <summary>Forgets everything seen.</summary>
    public void Clear() => _counts.Clear();

    /// <summary>The distributions, by gate, block and head.</summary>
    public IReadOnlyList<GateDistribution> Distributions() =>
        [.. _counts.Select(c => c.Value.Distribution(c.Key.Layer, c.Key.Head, c.Key.Gate))];

    /// <summary>A quantile of a head's pre-activations, linear within a bin.</summary>
    /// <param name="gate"><c>igate_preact</c> or <c>fgate_preact</c>.</param>
    /// <param name="layer">The block.</param>
    /// <param name="head">The head.</param>
    /// <param name="share">The share of values below it, from 0 to 1.</param>
    /// <exception cref="ArgumentException">Nothing was seen of that gate, or the share is none.</exception>
    public double Quantile(string gate, int layer, int head, double share) =>
        share is >= 0 and <= 1
            ? Of(gate, layer, head).Quantile(share)
            : throw new ArgumentOutOfRangeException(nameof(share), share, "Expected a share from 0 to 1.");

    /// <summary>How many of a head's pre-activations fell into each bin.</summary>
    /// <param name="gate"><c>igate_preact</c> or <c>fgate_preact</c>.</param>
    /// <param name="layer">The block.</param>
    /// <param name="head">The head.</param>
    /// <returns>The centre of each bin and its count.</returns>
    /// <exception cref="ArgumentException">Nothing was seen of that gate.</exception>
    public IReadOnlyList<(double Center, long Count)> Histogram(string gate, int layer, int head) =>
        [.. Of(gate, layer, head).Bins.Select((count, bin) => (HistogramMinimum + (bin + 0.5) * BinWidth, count))];

    private Counts Of(string gate, int layer, int head) =>
        _counts.TryGetValue((gate, layer, head), out var counts)
            ? counts
            : throw new ArgumentException(
                $"Nothing was seen of {gate} in block {layer}, head {head}. Is the monitor the model's Observer?");

    private sealed class Counts
    {
        private long _count;
        private long _notANumber;
        private double _minimum = double.PositiveInfinity;
        private double _maximum = double.NegativeInfinity;
        private double _mean;
        private double _squares;

        public long[] Bins { get; } = new long[BinCount];

        public void Add(ReadOnlySpan<float> values)
        {
            foreach (var value in values)
            {
                if (float.IsNaN(value))
                {
                    _notANumber++;
                    continue;
                }

                // Welford's update: no difference of large sums.
                _count++;
                var off = value - _mean;
                _mean += off / _count;
                _squares += off * (value - _mean);
                _minimum = Math.Min(_minimum, value);
                _maximum = Math.Max(_maximum, value);
                Bins[(int)Math.Clamp((value - HistogramMinimum) / BinWidth, 0, BinCount - 1)]++;
            }
        }

        public double Quantile(double share)
        {
            if (_count == 0)
            {
                return double.NaN;
            }

            var (wanted, below) = (share * _count, 0L);
            for (var bin = 0; bin < BinCount; bin++)
            {
                if (Bins[bin] > 0 && below + Bins[bin] >= wanted)
                {
                    var least = bin == 0 ? _minimum : HistogramMinimum + bin * BinWidth;
                    var greatest = bin == BinCount - 1 ? _maximum : HistogramMinimum + (bin + 1) * BinWidth;
                    return Math.Clamp(least + (greatest - least) * (wanted - below) / Bins[bin], _minimum, _maximum);
                }

                below += Bins[bin];
            }

            return _maximum;
        }

        public GateDistribution Distribution(int layer, int head, string gate) => _count == 0
            ? new(layer, head, gate, 0, _notANumber, double.NaN, double.NaN, double.NaN, double.NaN, double.NaN, double.NaN, double.NaN)
            : new(
                layer,
                head,
                gate,
                _count,
                _notANumber,
                _minimum,
                _mean,
                Math.Sqrt(_squares / _count),
                _maximum,
                Quantile(0.05),
                Quantile(0.5),
                Quantile(0.95));
    }
}
