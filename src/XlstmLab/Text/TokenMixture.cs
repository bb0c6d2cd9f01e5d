using System.Globalization;
using System.Security.Cryptography;
using System.Text;

namespace XlstmLab.Text;

/// <summary>A source of a mixture.</summary>
/// <param name="Source">The windows, at their start; the mixture moves it.</param>
/// <param name="Weight">Its share of the rows, in proportion to the other weights; more than 0.</param>
public sealed record MixturePart(TokenWindows Source, double Weight);

/// <summary>
/// Windows of several token folders in given shares, as in the second stage of the 7B's training (Beck et al. 2025, table 5).
/// </summary>
/// <remarks>
/// Of every <see cref="BlockRows"/> rows, each source gives its share, rounded to whole rows, in an order drawn from the seed. A source
/// that comes to its end begins its next epoch. The same sources, weights and seed give the same batches on every machine. Not thread-safe.
/// </remarks>
public sealed class TokenMixture : BatchSource
{
    /// <summary>The number of rows over which each share holds to less than one row.</summary>
    public const int BlockRows = 4096;

    private readonly IReadOnlyList<MixturePart> _parts;
    private readonly int[] _quotas;
    private readonly int[] _block = new int[BlockRows];
    private long _preparedBlock = -1;
    private long _row;

    /// <summary>Starts at the first batch.</summary>
    /// <param name="parts">The sources, of one context length and one tokenizer's end of document.</param>
    /// <param name="seed">The seed of the order in which they take turns.</param>
    /// <exception cref="ArgumentException">
    /// There is no source, or they do not go together, or a weight is no positive number or too small.
    /// </exception>
    public TokenMixture(IReadOnlyList<MixturePart> parts, long seed = 0)
    {
        if (parts.Count == 0)
        {
            throw new ArgumentException("A mixture needs a source.", nameof(parts));
        }

        if (parts.FirstOrDefault(p => !(p.Weight > 0 && double.IsFinite(p.Weight))) is { } bad)
        {
            throw new ArgumentException(
                $"Expected weights that are positive numbers, got {bad.Weight.ToString(CultureInfo.InvariantCulture)}.", nameof(parts));
        }

        var first = parts[0].Source;
        if (parts.FirstOrDefault(p => p.Source.ContextLength != first.ContextLength
            || p.Source.EndOfDocument != first.EndOfDocument) is { } other)
        {
            throw new ArgumentException(
                $"Expected sources of one context length and end of document, got {first.ContextLength} and {first.EndOfDocument}, and "
                + $"{other.Source.ContextLength} and {other.Source.EndOfDocument}.",
                nameof(parts));
        }

        if (parts.Select(p => p.Source).Distinct().Count() != parts.Count)
        {
            throw new ArgumentException("A source stands in the mixture twice: add up its weights, or open it twice.", nameof(parts));
        }

        _parts = parts;
        _quotas = Quotas([.. parts.Select(p => p.Weight)]);
        var rare = Array.IndexOf(_quotas, 0);
        if (rare >= 0)
        {
            throw new ArgumentException(
                $"The weight {parts[rare].Weight.ToString(CultureInfo.InvariantCulture)} is no whole row in {BlockRows}: "
                + "leave the source out or give it more.",
                nameof(parts));
        }

        Seed = seed;
        var description = string.Join(
            '\n', parts.Zip(_quotas, (p, quota) => FormattableString.Invariant($"{p.Source.Fingerprint} {p.Source.Seed} {quota}")));
        Fingerprint = Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(description)).AsSpan(0, 8));
        GoTo(0);
    }

    /// <inheritdoc/>
    public override int ContextLength => _parts[0].Source.ContextLength;

    /// <inheritdoc/>
    public override long Seed { get; }

    /// <summary>Null: the sources end at different rows, so that the mixture has no epochs.</summary>
    public override long? TokenCount => null;

    /// <inheritdoc/>
    public override string Fingerprint { get; }

    /// <inheritdoc/>
    public override BatchPosition Position => new(0, _row, Seed, ContextLength, Fingerprint);

    /// <summary>The share of rows of each source, which sum to 1.</summary>
    public IReadOnlyList<double> Shares => [.. _quotas.Select(q => q / (double)BlockRows)];

    /// <inheritdoc/>
    public override TokenBatch Next(int rows)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(rows, 1);
        var width = ContextLength + 1;
        var tokens = new int[checked(rows * width)];
        for (var row = 0; row < rows; row++, _row++)
        {
            _parts[SourceOf(_row)].Source.NextWindow(tokens.AsSpan(row * width, width));
        }

        return TokenBatch.OfWindows(tokens, rows, ContextLength, _parts[0].Source.EndOfDocument);
    }

    /// <inheritdoc/>
    public override void Resume(BatchPosition position)
    {
        var difference = position.DifferenceFrom(Position)
            ?? (position.Epoch != 0 || position.Window < 0
                ? $"row {position.Window} of epoch {position.Epoch}, and a mixture has one epoch" : null);
        if (difference is not null)
        {
            throw new ArgumentException($"Loading cannot go on from this position: it is of {difference}.", nameof(position));
        }

        GoTo(position.Window);
    }

    /// <summary>The source of a row.</summary>
    internal int SourceOf(long row)
    {
        if (row / BlockRows != _preparedBlock)
        {
            var k = 0;
            for (var part = 0; part < _quotas.Length; part++)
            {
                Array.Fill(_block, part, k, _quotas[part]);
                k += _quotas[part];
            }

            _preparedBlock = row / BlockRows;
            new SplitMix64(Seed, _preparedBlock).Shuffle(_block);
        }

        return _block[row % BlockRows];
    }

    private void GoTo(long row)
    {
        _row = row;
        var rows = _quotas.Select(q => row / BlockRows * q).ToArray();
        for (var earlier = row / BlockRows * BlockRows; earlier < row; earlier++)
        {
            rows[SourceOf(earlier)]++;
        }

        for (var part = 0; part < rows.Length; part++)
        {
            _parts[part].Source.GoTo(rows[part]);
        }
    }

    /// <summary>Whole rows in proportion to the weights: each rounded down, those that lost most get the rows that are left.</summary>
    private static int[] Quotas(double[] weights)
    {
        var total = weights.Sum();
        var exact = weights.Select(w => w / total * BlockRows).ToArray();
        var quotas = exact.Select(e => (int)e).ToArray();
        var left = BlockRows - quotas.Sum();
        foreach (var part in Enumerable.Range(0, quotas.Length).OrderByDescending(k => exact[k] - quotas[k]).Take(left))
        {
            quotas[part]++;
        }

        return quotas;
    }
}
