namespace XlstmLab.Text;

/// <summary>
/// Random numbers that no version of .NET will change (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators").
/// </summary>
/// <param name="seed">Each seed gives other numbers.</param>
/// <param name="stream">So does each stream of a seed.</param>
internal struct SplitMix64(long seed, long stream)
{
    private ulong _state = Mix((ulong)seed + 0x9E3779B97F4A7C15) ^ (ulong)stream * 0xD1B54A32D192ED03;

    /// <summary>What the next numbers follow from.</summary>
    public readonly ulong State => _state;

    public void Shuffle(Span<int> values)
    {
        for (var k = values.Length - 1; k > 0; k--)
        {
            var other = Next(k + 1);
            (values[k], values[other]) = (values[other], values[k]);
        }
    }

    /// <summary>A number from 0 to 1, 1 excluded, in steps of 2^-53.</summary>
    public double NextDouble() => (Next() >> 11) * (1.0 / (1UL << 53));

    /// <summary>Leaves numbers out, as if they had been drawn.</summary>
    public void Skip(long count) => _state += (ulong)count * 0x9E3779B97F4A7C15;

    /// <summary>64 random bits.</summary>
    public ulong Next() => Mix(_state += 0x9E3779B97F4A7C15);

    /// <summary>A whole number from 0 to <paramref name="bound"/>, which it is never.</summary>
    public int Next(int bound) => (int)Math.BigMul(Next(), (ulong)bound, out _);

    /// <summary>A bijection of the numbers of 64 bits whose values look random.</summary>
    public static ulong Mix(ulong z)
    {
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
        return z ^ (z >> 31);
    }
}
