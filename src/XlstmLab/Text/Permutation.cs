using System.Numerics;

namespace XlstmLab.Text;

/// <summary>The numbers below a count in a random order, of which any is computed by itself, in no memory.</summary>
/// <remarks>
/// A Feistel network (Luby and Rackoff 1988, "How to construct pseudorandom permutations from pseudorandom functions") permutes the
/// numbers of the next even number of bits; results that are too large are permuted again until one is not (cycle walking, Black and
/// Rogaway 2002, "Ciphers with arbitrary finite domains").
/// </remarks>
internal readonly struct Permutation
{
    private const int Rounds = 6;

    private readonly long _count;
    private readonly int _halfBits;
    private readonly ulong _key;

    /// <summary>Each seed, and each stream of a seed, gives another order.</summary>
    public Permutation(long count, long seed, long stream)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(count, 1);
        _count = count;
        _halfBits = Math.Max(1, (65 - BitOperations.LeadingZeroCount((ulong)count - 1)) / 2);
        _key = new SplitMix64(seed, stream).Next();
    }

    /// <summary>The number at a place.</summary>
    public long this[long place]
    {
        get
        {
            ArgumentOutOfRangeException.ThrowIfNegative(place);
            ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(place, _count);
            var value = (ulong)place;
            do
            {
                value = Permute(value);
            }
            while (value >= (ulong)_count);

            return (long)value;
        }
    }

    private ulong Permute(ulong value)
    {
        var mask = (1UL << _halfBits) - 1;
        var (left, right) = (value >> _halfBits, value & mask);
        for (var round = 1UL; round <= Rounds; round++)
        {
            (left, right) = (right, left ^ (SplitMix64.Mix(_key + round * 0x9E3779B97F4A7C15 ^ right) & mask));
        }

        return (left << _halfBits) | right;
    }
}
