using System.Globalization;

namespace XlstmLab.Text.Patterns;

/// <summary>A set of Unicode code points, as the ranges it is made of.</summary>
internal sealed class CodePointSet
{
    /// <summary>The number of code points there are.</summary>
    public const int Limit = 0x110000;

    /// <summary>All code points.</summary>
    public static readonly CodePointSet All = new([0, Limit]);

    /// <summary>No code point.</summary>
    public static readonly CodePointSet Empty = new([]);

    /// <summary>Where membership changes: the start of a range and the code point after its end, in turn, rising.</summary>
    private readonly int[] _edges;

    private CodePointSet(int[] edges) => _edges = edges;

    /// <summary>Where membership changes, rising; outside before the first.</summary>
    public IReadOnlyList<int> Edges => _edges;

    /// <summary>Whether there is no code point in it.</summary>
    public bool IsEmpty => _edges.Length == 0;

    /// <summary>All code points that are not in it.</summary>
    public CodePointSet Complement => Combine(All, (inThis, inAll) => inAll && !inThis);

    /// <summary>The code points of a range, both ends included.</summary>
    public static CodePointSet Range(int first, int last) => new([first, last + 1]);

    /// <summary>These code points.</summary>
    public static CodePointSet Of(params IEnumerable<int> codePoints)
    {
        var edges = new List<int>();
        foreach (var c in codePoints.Distinct().Order())
        {
            if (edges.Count > 0 && edges[^1] == c)
            {
                edges[^1]++;
            }
            else
            {
                edges.AddRange([c, c + 1]);
            }
        }

        return new([.. edges]);
    }

    /// <summary>Ranges as hexadecimal numbers, in rising order: <c>41-5A 61-7A AA</c>.</summary>
    public static CodePointSet Parse(string ranges)
    {
        var edges = new List<int>();
        foreach (var range in ranges.Split(' '))
        {
            var ends = range.Split('-');
            edges.Add(int.Parse(ends[0], NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture));
            edges.Add(int.Parse(ends[^1], NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture) + 1);
        }

        return new([.. edges]);
    }

    /// <summary>The code points of either set.</summary>
    public CodePointSet Union(CodePointSet other) => Combine(other, (a, b) => a || b);

    /// <summary>The code points of both sets.</summary>
    public CodePointSet Intersect(CodePointSet other) => Combine(other, (a, b) => a && b);

    /// <summary>Whether a code point is in the set.</summary>
    public bool Contains(int codePoint)
    {
        var found = Array.BinarySearch(_edges, codePoint);
        return (found >= 0 ? found : ~found - 1) % 2 == 0;
    }

    /// <summary>The code points in rising order.</summary>
    public IEnumerable<int> CodePoints()
    {
        for (var k = 0; k < _edges.Length; k += 2)
        {
            for (var c = _edges[k]; c < _edges[k + 1]; c++)
            {
                yield return c;
            }
        }
    }

    /// <summary>Whether both hold the same code points.</summary>
    public bool SetEquals(CodePointSet other) => _edges.AsSpan().SequenceEqual(other._edges);

    private CodePointSet Combine(CodePointSet other, Func<bool, bool, bool> contains)
    {
        var edges = new List<int>();
        var (a, b, inside) = (0, 0, false);
        while (a < _edges.Length || b < other._edges.Length)
        {
            var edge = Math.Min(a < _edges.Length ? _edges[a] : Limit, b < other._edges.Length ? other._edges[b] : Limit);
            a += a < _edges.Length && _edges[a] == edge ? 1 : 0;
            b += b < other._edges.Length && other._edges[b] == edge ? 1 : 0;
            if (contains(a % 2 == 1, b % 2 == 1) != inside)
            {
                inside = !inside;
                edges.Add(edge);
            }
        }

        return new([.. edges]);
    }
}
