using System.Runtime.InteropServices;
using XlstmLab.Models;

namespace XlstmLab.Inference;

/// <summary>
/// States of one model after beginnings of texts, so that a prompt that begins like an earlier one is read from there on.
/// </summary>
/// <remarks>
/// A recurrent state has a fixed size whatever it has read: <c>capacity / state bytes</c> beginnings are kept, and the one that was not
/// used for the longest time goes first. It is for one model whose weights stay as they are: after a change, <see cref="Clear"/> it. Calls
/// may come from any thread.
/// </remarks>
public sealed class StateCache : IDisposable
{
    private readonly Lock _lock = new();

    /// <summary>The one that was used last comes last.</summary>
    private readonly List<Entry> _entries = [];

    /// <summary>An empty cache.</summary>
    /// <param name="capacityInBytes">What all states and their tokens may take; 0 keeps nothing.</param>
    public StateCache(long capacityInBytes)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(capacityInBytes);
        CapacityInBytes = capacityInBytes;
    }

    /// <summary>What all states and their tokens may take.</summary>
    public long CapacityInBytes { get; }

    /// <summary>What they take.</summary>
    public long SizeInBytes
    {
        get
        {
            lock (_lock)
            {
                return _entries.Sum(entry => entry.SizeInBytes);
            }
        }
    }

    /// <summary>The number of states.</summary>
    public int Count
    {
        get
        {
            lock (_lock)
            {
                return _entries.Count;
            }
        }
    }

    /// <summary>Keeps the state after tokens, of one sequence, and owns it from now on.</summary>
    /// <param name="tokens">All tokens that it has read; at least one.</param>
    /// <param name="state">The state; disposed at once where it is larger than the cache, or known already.</param>
    /// <exception cref="ArgumentException">There are no tokens, or the state is not of one sequence.</exception>
    public void Add(IReadOnlyList<int> tokens, ModelState state)
    {
        ArgumentNullException.ThrowIfNull(tokens);
        ArgumentNullException.ThrowIfNull(state);
        if (tokens.Count == 0 || state.BatchSize != 1)
        {
            throw new ArgumentException(
                $"Expected the state of one sequence after at least one token, got {state.BatchSize} after {tokens.Count}.", nameof(state));
        }

        var entry = new Entry([.. tokens], state);
        lock (_lock)
        {
            var known = _entries.FindIndex(e => e.Tokens.AsSpan().SequenceEqual(entry.Tokens));
            if (known >= 0 || entry.SizeInBytes > CapacityInBytes)
            {
                state.Dispose();
                Touch(known);
                return;
            }

            _entries.Add(entry);
            var size = _entries.Sum(e => e.SizeInBytes);
            while (size > CapacityInBytes)
            {
                size -= _entries[0].SizeInBytes;
                _entries[0].State.Dispose();
                _entries.RemoveAt(0);
            }
        }
    }

    /// <summary>The longest known beginning of tokens.</summary>
    /// <param name="tokens">The tokens.</param>
    /// <returns>
    /// How many of them were read, and a copy of the state after those, which the caller owns; 0 and null where none is known.
    /// </returns>
    public (int Length, ModelState? State) Find(ReadOnlySpan<int> tokens)
    {
        lock (_lock)
        {
            var (best, length) = (-1, 0);
            for (var k = 0; k < _entries.Count; k++)
            {
                if (_entries[k].Tokens.Length > length && tokens.StartsWith(_entries[k].Tokens))
                {
                    (best, length) = (k, _entries[k].Tokens.Length);
                }
            }

            return best < 0 ? (0, null) : (length, Touch(best)!.State.Clone());
        }
    }

    /// <summary>Forgets all states.</summary>
    public void Clear()
    {
        lock (_lock)
        {
            _entries.ForEach(entry => entry.State.Dispose());
            _entries.Clear();
        }
    }

    /// <inheritdoc/>
    public void Dispose() => Clear();

    private Entry? Touch(int index)
    {
        if (index < 0)
        {
            return null;
        }

        var entry = _entries[index];
        _entries.RemoveAt(index);
        _entries.Add(entry);
        return entry;
    }

    private sealed record Entry(int[] Tokens, ModelState State)
    {
        public long SizeInBytes { get; } = State.SizeInBytes + MemoryMarshal.AsBytes(Tokens.AsSpan()).Length;
    }
}
