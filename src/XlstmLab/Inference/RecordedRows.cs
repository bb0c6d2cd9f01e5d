using System.Runtime.InteropServices;
using static TorchSharp.torch;

namespace XlstmLab.Inference;

/// <summary>Gives texts that come and go the tokens that a recorded step chooses for its rows.</summary>
/// <remarks>
/// The device knows of each row what its choices need, and keeps it up to date by itself; the host tells it where another text has taken
/// the row, or has got a token from elsewhere. A text that wants the probabilities of other tokens too is given logits instead, and chooses
/// on the host.
/// </remarks>
internal sealed class RecordedRows(RecordedTokenStep step, int count) : IDisposable
{
    /// <summary>What the device holds of each row, where it chooses its tokens: of which text, and after how many of its tokens.</summary>
    private readonly (RowInProgress? Row, int Count)[] _placed = new (RowInProgress?, int)[count];

    /// <summary>The ids that the device reads next, once all that was started was taken.</summary>
    private readonly long[] _unread = new long[count];

    /// <summary>The texts of what was started.</summary>
    private RowInProgress?[] _rows = [];

    /// <summary>How many tokens of each text were started and not taken.</summary>
    public int Pending => step.Choice.Choices.Pending;

    /// <inheritdoc cref="RecordedTokenStep.Serves"/>
    public bool Serves() => step.Serves();

    /// <summary>Gives each text the token behind its last, and has the device go on while it may.</summary>
    /// <param name="tokens">The last ids, one a row.</param>
    /// <param name="rows">Whose they are; null where nobody wants what the model makes of them.</param>
    /// <param name="ahead">
    /// How many tokens of each text may be started before it gets the first; texts that left are given the rest of theirs.
    /// </param>
    public void Read(ReadOnlySpan<int> tokens, IReadOnlyList<RowInProgress?> rows, int ahead)
    {
        if (Pending == 0)
        {
            _rows = [.. rows];
            Place();
            Write(tokens);
            step.Start();
        }

        // Other rows wait until the device knows of them, which it is told when nothing is on its way.
        if (AreAllChosen() && rows.SequenceEqual(_rows))
        {
            while (Pending < Math.Min(ahead, RecordedTokenStep.MostAhead))
            {
                step.Start();
            }
        }

        Take();
    }

    /// <summary>Waits for the first token of each row that is pending, and gives it to the text.</summary>
    public void Take()
    {
        var choices = step.Choice.Choices.Take();
        for (var r = 0; r < _rows.Length; r++)
        {
            if (_rows[r] is { IsChosenOnDevice: true } row)
            {
                _unread[r] = (long)choices[2 * r];
                _placed[r] = (row, row.Tokens.Count + 1);
                row.SetChoice((int)_unread[r], choices[(2 * r) + 1]);
            }
        }

        if (AreAllChosen())
        {
            return;
        }

        using var scope = NewDisposeScope();
        var logits = MemoryMarshal.Cast<byte, float>(step.Logits.cpu().contiguous().bytes);
        for (var r = 0; r < _rows.Length; r++)
        {
            if (_rows[r] is { IsChosenOnDevice: false } row)
            {
                row.SetLogits(logits.Slice(r * step.KnownIds, step.KnownIds));
            }
        }
    }

    /// <inheritdoc/>
    public void Dispose() => step.Dispose();

    private bool AreAllChosen() => _rows.All(row => row is null or { IsChosenOnDevice: true });

    /// <summary>Has the device know the texts that it did not choose the last token of.</summary>
    private void Place()
    {
        var isKnown = true;
        for (var r = 0; r < _rows.Length; r++)
        {
            var row = _rows[r] is { IsChosenOnDevice: true } chosen ? chosen : null;
            var place = (row, row?.Tokens.Count ?? 0);
            if (_placed[r] == place)
            {
                continue;
            }

            (_placed[r], isKnown) = (place, false);
            if (row?.Occurred() is { } occurred)
            {
                step.Choice.SetCounts(r, occurred);
            }
        }

        if (!isKnown)
        {
            step.Choice.Set([.. _placed.Select(place => place.Row?.ForDevice(step.KnownIds) ?? default)]);
        }
    }

    /// <summary>Gives the device the tokens that are to be read, if it has others.</summary>
    private void Write(ReadOnlySpan<int> tokens)
    {
        var isThere = true;
        for (var r = 0; r < tokens.Length; r++)
        {
            isThere &= _rows[r] is null || _unread[r] == tokens[r];
        }

        if (isThere)
        {
            return;
        }

        for (var r = 0; r < tokens.Length; r++)
        {
            _unread[r] = tokens[r];
        }

        step.Write(_unread);
    }
}
