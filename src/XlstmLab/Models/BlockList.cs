using System.Collections;
using System.Runtime.CompilerServices;

namespace XlstmLab.Models;

/// <summary>Indices of blocks, from 0, compared by their values so that records that hold them compare as records do.</summary>
[CollectionBuilder(typeof(BlockList), nameof(Create))]
public sealed class BlockList : IReadOnlyList<int>, IEquatable<BlockList>
{
    private readonly int[] _blocks;

    private BlockList(int[] blocks) => _blocks = blocks;

    /// <summary>No block.</summary>
    public static BlockList None { get; } = new([]);

    /// <inheritdoc/>
    public int Count => _blocks.Length;

    /// <inheritdoc/>
    public int this[int index] => _blocks[index];

    /// <summary>A list of these indices, so that <c>[1, 3]</c> is one.</summary>
    public static BlockList Create(ReadOnlySpan<int> blocks) => new(blocks.ToArray());

    /// <summary>All indices below a number of blocks.</summary>
    public static BlockList All(int blockCount) => new([.. Enumerable.Range(0, blockCount)]);

    /// <inheritdoc/>
    public bool Equals(BlockList? other) => other is not null && _blocks.AsSpan().SequenceEqual(other._blocks);

    /// <inheritdoc/>
    public override bool Equals(object? obj) => Equals(obj as BlockList);

    /// <inheritdoc/>
    public override int GetHashCode() => _blocks.Aggregate(17, HashCode.Combine);

    /// <inheritdoc/>
    public override string ToString() => $"[{string.Join(", ", _blocks)}]";

    /// <inheritdoc/>
    public IEnumerator<int> GetEnumerator() => _blocks.AsEnumerable().GetEnumerator();

    /// <inheritdoc/>
    IEnumerator IEnumerable.GetEnumerator() => GetEnumerator();
}
