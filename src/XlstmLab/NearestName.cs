namespace XlstmLab;

/// <summary>What a misspelt name was probably meant to be.</summary>
internal static class NearestName
{
    /// <summary>The known name that is nearest to another; null if none is near.</summary>
    /// <param name="name">What was given.</param>
    /// <param name="known">What there is.</param>
    public static string? Of(string name, IEnumerable<string> known)
    {
        var wanted = name.ToUpperInvariant();
        return known
            .Select(candidate => (Name: candidate, Edits: Edits(wanted, candidate.ToUpperInvariant())))
            .Where(c => c.Edits <= Math.Max(1, Math.Min(wanted.Length, c.Name.Length) / 3) || Holds(c.Name.ToUpperInvariant(), wanted))
            .OrderBy(c => c.Edits)
            .ThenBy(c => c.Name, StringComparer.Ordinal)
            .Select(c => c.Name)
            .FirstOrDefault();
    }

    /// <summary>A sentence that asks for the nearest name, with a space before it; nothing if none is near.</summary>
    /// <inheritdoc cref="Of"/>
    public static string Hint(string name, IEnumerable<string> known) =>
        Of(name, known) is { } nearest ? $" Did you mean '{nearest}'?" : "";

    /// <summary>Whether one of two names is a part of the other, and long enough for that to mean something.</summary>
    private static bool Holds(string one, string other) =>
        Math.Min(one.Length, other.Length) >= 4
        && (one.Contains(other, StringComparison.Ordinal) || other.Contains(one, StringComparison.Ordinal));

    /// <summary>The letters to insert, delete, replace or swap with their neighbour.</summary>
    private static int Edits(string from, string to)
    {
        var (before, last, row) = (new int[to.Length + 1], Enumerable.Range(0, to.Length + 1).ToArray(), new int[to.Length + 1]);
        for (var i = 1; i <= from.Length; i++)
        {
            row[0] = i;
            for (var j = 1; j <= to.Length; j++)
            {
                row[j] = Math.Min(Math.Min(row[j - 1], last[j]) + 1, last[j - 1] + (from[i - 1] == to[j - 1] ? 0 : 1));
                if (i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1])
                {
                    row[j] = Math.Min(row[j], before[j - 2] + 1);
                }
            }

            (before, last, row) = (last, row, before);
        }

        return last[to.Length];
    }
}
