using Xunit;

namespace XlstmLab.Tests.Text;

/// <summary>Damages files in ways that disks and networks do.</summary>
internal static class Damage
{
    /// <summary>
    /// Reads cut, flipped, overwritten, repeated and odd copies: each must read, or fail with InvalidDataException and a message.
    /// </summary>
    /// <returns>The part of the copies that was refused.</returns>
    public static double Check(byte[] content, Action<byte[]> read, int copies = 400)
    {
        copies = LongTests.Cases(all: copies, few: 100);
        var random = new Random(1);
        var refused = 0;
        for (var k = 0; k < copies; k++)
        {
            var damaged = Copy(content, k, random);
            try
            {
                read(damaged);
            }
            catch (InvalidDataException e)
            {
                Assert.False(string.IsNullOrWhiteSpace(e.Message));
                refused++;
            }
        }

        Assert.True(refused > copies / 4, $"only {refused} of {copies} damaged copies were refused");
        return (double)refused / copies;
    }

    private static byte[] Copy(byte[] content, int kind, Random random)
    {
        byte[] copy = [.. content];
        switch (kind % 5)
        {
            case 0:
                return copy[..random.Next(content.Length)];
            case 1:
                copy[random.Next(content.Length)] ^= (byte)(1 << random.Next(8));
                return copy;
            case 2:
                for (var k = 0; k < 4; k++)
                {
                    copy[random.Next(content.Length)] = (byte)random.Next(256);
                }

                return copy;
            case 3:
                // What JSON does not allow and published files have, and what unpacks or nests without end.
                string[] oddities =
                    ["\\ud83d", "NaN", "-Infinity", "null", "[[:alpha:]]", "\\\\p{Han}{,2}", "&&[^a]", new('[', 200), new('9', 400)];
                var place = random.Next(content.Length);
                return [.. copy[..place], .. System.Text.Encoding.UTF8.GetBytes(oddities[random.Next(oddities.Length)]), .. copy[place..]];
            default:
                var at = random.Next(content.Length);
                return [.. copy[..at], .. copy[random.Next(content.Length)..]];
        }
    }
}
