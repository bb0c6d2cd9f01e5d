using System.Globalization;
using XlstmLab.Text;

namespace XlstmLab.Tasks.Ruler;

/// <summary>The draws of one sample.</summary>
internal sealed class RulerRandom(long seed, RulerTask task, int length, int index, RulerDraws draws)
{
    // Fields of 5, 31, 25 and 3 bits do not overlap, so that no two samples share a stream.
    private SplitMix64 _random = new(seed, ((long)task << 59) ^ ((long)length << 28) ^ ((long)index << 3) ^ (long)draws);

    /// <summary>A number from 0 to below the bound.</summary>
    public int Next(int bound) => (int)(_random.NextDouble() * bound);

    /// <summary>A number from 0 to 1.</summary>
    public double NextDouble() => _random.NextDouble();

    /// <summary>The numbers from 0 to below the count in random order.</summary>
    public int[] Permutation(int count)
    {
        var order = Enumerable.Range(0, count).ToArray();
        _random.Shuffle(order);
        return order;
    }

    /// <summary>Letters from a first one on.</summary>
    public string Letters(char first, int count) => string.Create(count, this, (span, random) =>
    {
        for (var k = 0; k < span.Length; k++)
        {
            span[k] = (char)(first + random.Next(26));
        }
    });

    /// <summary>A number of that many digits, the first of which is not 0.</summary>
    public string Digits(int count)
    {
        var least = (int)Math.Pow(10, count - 1);
        return (least + Next(9 * least)).ToString(CultureInfo.InvariantCulture);
    }

    /// <summary>A UUID of version 4 (RFC 9562).</summary>
    public string Uuid()
    {
        Span<byte> bytes = stackalloc byte[16];
        foreach (ref var b in bytes)
        {
            b = (byte)Next(256);
        }

        bytes[6] = (byte)((bytes[6] & 0x0F) | 0x40);
        bytes[8] = (byte)((bytes[8] & 0x3F) | 0x80);
        return new Guid(bytes, bigEndian: true).ToString("D", CultureInfo.InvariantCulture);
    }

    /// <summary>Something that was not drawn before; what was drawn is kept.</summary>
    public static string Distinct(HashSet<string> before, Func<string> draw)
    {
        string value;
        do
        {
            value = draw();
        }
        while (!before.Add(value));

        return value;
    }
}

/// <summary>What draws are for: each has its own numbers, so that how much one takes changes no other.</summary>
internal enum RulerDraws
{
    /// <summary>What is asked for.</summary>
    Problem,

    /// <summary>What surrounds it.</summary>
    Noise,

    /// <summary>The order of depths, one for all samples of a task and length.</summary>
    Depths,

    /// <summary>The order of questions, one for all samples of a task and length.</summary>
    Questions,

    /// <summary>The solved example.</summary>
    Example,
}
