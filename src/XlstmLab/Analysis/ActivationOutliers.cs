using XlstmLab.Models;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Analysis;

/// <summary>The extremes of an activation of one block, over all tokens and channels.</summary>
/// <param name="Layer">The block, from 0.</param>
/// <param name="Name">The activation.</param>
/// <param name="Count">The elements, those of padding left out.</param>
/// <param name="Rms">The root of the mean square.</param>
/// <param name="MaxAbs">The greatest magnitude.</param>
/// <param name="MaxOverRms">The greatest magnitude over the root mean square: about 4 to 6 for normally distributed elements.</param>
/// <param name="Kurtosis">
/// The fourth central moment over the squared variance: 3 for normally distributed elements, more with heavy tails.
/// </param>
/// <param name="MaxOverMedian">The greatest magnitude over the median magnitude.</param>
/// <param name="MassiveCount">
/// The massive activations (Sun et al. 2024, section 2): elements of magnitude above 100 and above 1000 times the median magnitude.
/// </param>
/// <param name="Sequence">The row of the batch of the greatest magnitude.</param>
/// <param name="Token">The position of the greatest magnitude.</param>
/// <param name="Channel">The channel of the greatest magnitude.</param>
public sealed record ActivationOutliers(
    int Layer,
    string Name,
    long Count,
    double Rms,
    double MaxAbs,
    double MaxOverRms,
    double Kurtosis,
    double MaxOverMedian,
    long MassiveCount,
    int Sequence,
    int Token,
    int Channel);

/// <summary>One channel of an activation of one block, over all tokens.</summary>
/// <param name="Layer">The block, from 0.</param>
/// <param name="Name">The activation.</param>
/// <param name="Channel">The channel, from 0; head by head where there are heads.</param>
/// <param name="Rms">The root of the channel's mean square.</param>
/// <param name="RelativeRms">That over the root mean square of all channels: 1 where all are alike.</param>
/// <param name="MaxAbs">The channel's greatest magnitude.</param>
/// <param name="Kurtosis">The channel's kurtosis over the tokens; NaN where it does not vary.</param>
public sealed record ChannelOutliers(int Layer, string Name, int Channel, double Rms, double RelativeRms, double MaxAbs, double Kurtosis);

/// <summary>Outliers of the activations of a model, while it reads.</summary>
/// <param name="Blocks">A row a block.</param>
/// <param name="Channels">A row a block and channel.</param>
public sealed record OutlierReport(IReadOnlyList<ActivationOutliers> Blocks, IReadOnlyList<ChannelOutliers> Channels)
{
    private const double MassiveMagnitude = 100;
    private const double MassiveRatio = 1000;

    /// <summary>Reads a single sequence.</summary>
    /// <param name="model">The model; it is left as it is, its observer too.</param>
    /// <param name="tokens">The token ids, at least one.</param>
    /// <param name="name">As in <see cref="Measure(LanguageModel, Tensor, SequenceLayout, string)"/>.</param>
    /// <exception cref="ArgumentException">There are no tokens, or the model does not know them.</exception>
    /// <exception cref="InvalidOperationException">The model shows no activation of that name.</exception>
    public static OutlierReport Measure(LanguageModel model, ReadOnlySpan<int> tokens, string name = "block_out")
    {
        using var scope = NewDisposeScope();
        return Measure(model, BlockActivations.Sequence(model, tokens), null, name);
    }

    /// <summary>Reads a batch, from an empty state.</summary>
    /// <param name="model">
    /// The model; it is left as it is. An observer that it has does not see this pass and is there again afterwards.
    /// </param>
    /// <param name="tokens">[B, S] int64 on the model's device.</param>
    /// <param name="layout">Document starts and padding.</param>
    /// <param name="name">
    /// The activation: <c>block_out</c>, the residual stream after each block, or any other [B, S, d] or [B, NH, S, D] that the model shows
    /// its observer.
    /// </param>
    /// <exception cref="ArgumentException">Shapes or tokens do not fit the model.</exception>
    /// <exception cref="InvalidOperationException">The model shows no activation of that name.</exception>
    public static OutlierReport Measure(LanguageModel model, Tensor tokens, SequenceLayout? layout = null, string name = "block_out")
    {
        ArgumentNullException.ThrowIfNull(model);
        var (sequences, length) = BlockActivations.Shape(tokens);
        var padding = BlockActivations.Flags(layout?.Padding, sequences * length);
        var blocks = new List<ActivationOutliers>();
        var channels = new List<ChannelOutliers>();
        BlockActivations.Observe(model, tokens, layout, [name], [name], (block, seen) =>
        {
            using var scope = NewDisposeScope();
            var x = seen[name];
            x = x.dim() == 4 ? x.transpose(1, 2).flatten(2) : x; // (B, S, d)
            if (x.dim() != 3 || x.shape[0] != sequences || x.shape[1] != length)
            {
                throw new InvalidOperationException(
                    $"Block {block} showed a {name} of shape [{string.Join(", ", seen[name].shape)}]; "
                    + $"expected [{sequences}, {length}, d] or [{sequences}, NH, {length}, D].");
            }

            Measure(block, name, BlockActivations.ToArray(x), (int)x.shape[2], length, padding, blocks, channels);
        });
        return blocks.Count > 0
            ? new(blocks, channels)
            : throw new InvalidOperationException($"The model showed no '{name}' to its observer.");
    }

    private static void Measure(
        int block,
        string name,
        float[] values,
        int width,
        int length,
        bool[] padding,
        List<ActivationOutliers> blocks,
        List<ChannelOutliers> channels)
    {
        var rows = Enumerable.Range(0, padding.Length).Where(row => !padding[row]).ToArray();
        if (rows.Length == 0)
        {
            throw new ArgumentException("The batch holds no token, only padding.");
        }

        var magnitudes = new float[rows.Length * width];
        for (var r = 0; r < rows.Length; r++)
        {
            for (var c = 0; c < width; c++)
            {
                magnitudes[r * width + c] = Math.Abs(values[rows[r] * width + c]);
            }
        }

        var peak = Array.IndexOf(magnitudes, magnitudes.Max());
        var (row, channel, greatest) = (rows[peak / width], peak % width, (double)magnitudes[peak]);
        var all = Moments(rows.SelectMany(r => Enumerable.Range(r * width, width)), values);
        Array.Sort(magnitudes);
        double median = magnitudes[magnitudes.Length / 2];
        var massive = Math.Max(MassiveMagnitude, MassiveRatio * median);
        blocks.Add(new(
            block,
            name,
            magnitudes.Length,
            all.Rms,
            greatest,
            greatest / all.Rms,
            all.Kurtosis,
            greatest / median,
            magnitudes.LongCount(m => m > massive),
            row / length,
            row % length,
            channel));
        for (var c = 0; c < width; c++)
        {
            var at = c;
            var own = Moments(rows.Select(r => r * width + at), values);
            channels.Add(new(block, name, c, own.Rms, own.Rms / all.Rms, own.MaxAbs, own.Kurtosis));
        }
    }

    private static (double Rms, double MaxAbs, double Kurtosis) Moments(IEnumerable<int> indices, float[] values)
    {
        var (count, sum, square, greatest) = (0, 0.0, 0.0, 0.0);
        foreach (var at in indices)
        {
            double value = values[at];
            count++;
            sum += value;
            square += value * value;
            greatest = Math.Max(greatest, Math.Abs(value));
        }

        var mean = sum / count;
        var (second, fourth) = (0.0, 0.0);
        foreach (var at in indices)
        {
            var off = values[at] - mean;
            second += off * off / count;
            fourth += off * off * off * off / count;
        }

        return (Math.Sqrt(square / count), greatest, fourth / (second * second));
    }
}
