using System.Text;

namespace XlstmLab.Tasks.Ruler;

/// <summary>A problem before it is known how much haystack fits.</summary>
/// <param name="Head">What stands before the haystack.</param>
/// <param name="Haystack">The haystack, with what is hidden in it.</param>
/// <param name="Tail">What stands after it.</param>
/// <param name="Answers">The answers.</param>
/// <param name="Hidden">Start and length of each hidden piece, in the haystack.</param>
internal sealed record RulerDraft(
    string Head, string Haystack, string Tail, IReadOnlyList<string> Answers, IReadOnlyList<(int Start, int Length)> Hidden)
{
    /// <summary>The text as a model reads it.</summary>
    public string Text => Head + Haystack + Tail;

    /// <summary>The hidden pieces in the text.</summary>
    public IReadOnlyList<RulerNeedle> Needles =>
        [
            .. Hidden.Select(h => new RulerNeedle(
                Head.Length + h.Start, h.Length, h.Start / (double)Math.Max(1, Haystack.Length - h.Length))),
        ];
}

/// <summary>A problem whose haystack can have any number of units.</summary>
/// <param name="Least">The fewest units.</param>
/// <param name="Most">The most units.</param>
/// <param name="Reply">An answer as a model should give it.</param>
/// <param name="Build">The problem with that many units; each unit makes it longer.</param>
internal sealed record RulerProblem(int Least, int Most, string Reply, Func<int, RulerDraft> Build)
{
    /// <summary>
    /// The problem with that many units and something else of at most that many characters; null if there is nothing so short.
    /// </summary>
    public Func<int, int, RulerDraft?>? Fill { get; init; }
}

/// <summary>Puts haystacks together.</summary>
internal static class Hay
{
    /// <summary>Joins pieces, with others between them.</summary>
    /// <param name="pieces">The pieces of the haystack.</param>
    /// <param name="separator">What stands between any two pieces.</param>
    /// <param name="hidden">What is hidden, and the share of the pieces that stands before it, from 0 to 1.</param>
    /// <param name="opensAt">Whether something may be hidden before the piece of that index; it always may at both ends.</param>
    /// <returns>The text, and start and length of what is hidden, in its order.</returns>
    public static (string Text, (int Start, int Length)[] Hidden) Join(
        IReadOnlyList<string> pieces, char separator, IReadOnlyList<(double Depth, string Piece)> hidden, Func<int, bool>? opensAt = null)
    {
        var places = new (int Start, int Length)[hidden.Count];
        var queue = new Queue<(int Before, int Index)>(hidden
            .Select((h, index) => (Before: Nearest((int)Math.Round(h.Depth * pieces.Count), pieces.Count, opensAt), Index: index))
            .OrderBy(h => h.Before)
            .ThenBy(h => h.Index));
        var text = new StringBuilder();
        for (var k = 0; k <= pieces.Count; k++)
        {
            while (queue.TryPeek(out var next) && next.Before == k)
            {
                queue.Dequeue();
                Separate();
                places[next.Index] = (text.Length, hidden[next.Index].Piece.Length);
                text.Append(hidden[next.Index].Piece);
            }

            if (k < pieces.Count)
            {
                Separate();
                text.Append(pieces[k]);
            }
        }

        return (text.ToString(), places);

        void Separate()
        {
            if (text.Length > 0)
            {
                text.Append(separator);
            }
        }
    }

    private static int Nearest(int wanted, int count, Func<int, bool>? opensAt)
    {
        for (var distance = 0; opensAt is not null && distance <= count; distance++)
        {
            foreach (var at in new[] { wanted - distance, wanted + distance })
            {
                if (at == 0 || at == count || (at > 0 && at < count && opensAt(at)))
                {
                    return at;
                }
            }
        }

        return wanted;
    }
}
