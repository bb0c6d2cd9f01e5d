namespace XlstmLab.Text;

/// <summary>Where a source of batches stands, to be saved with a checkpoint.</summary>
/// <param name="Epoch">The epoch, from 0; always 0 where data are drawn anew.</param>
/// <param name="Window">The next row of the epoch.</param>
/// <param name="Seed">The seed of the order, or of the data.</param>
/// <param name="ContextLength">The number of tokens of a row, S.</param>
/// <param name="Fingerprint">A hash of what the data are.</param>
public sealed record BatchPosition(int Epoch, long Window, long Seed, int ContextLength, string Fingerprint)
{
    /// <summary>What keeps a source from going on at a position; null if nothing does.</summary>
    /// <param name="here">A position of the source.</param>
    internal string? DifferenceFrom(BatchPosition here) =>
        Fingerprint != here.Fingerprint ? $"other data (fingerprint {Fingerprint}, here {here.Fingerprint})"
        : ContextLength != here.ContextLength ? $"a context of {ContextLength} tokens, here {here.ContextLength}"
        : Seed != here.Seed ? $"the seed {Seed}, here {here.Seed}"
        : null;

    /// <summary>Refuses a position that is of other data, or of no window that they have.</summary>
    /// <param name="position">The position.</param>
    /// <param name="here">Where the loading stands.</param>
    /// <param name="windows">The number of windows of an epoch.</param>
    /// <exception cref="ArgumentException">It is; the message says of what.</exception>
    internal static void Require(BatchPosition position, BatchPosition here, long windows)
    {
        var difference = position.DifferenceFrom(here)
            ?? (position.Epoch < 0 || position.Window < 0 || position.Window >= windows
                ? $"window {position.Window} of epoch {position.Epoch}, where an epoch has {windows} windows"
                : null);
        if (difference is not null)
        {
            throw new ArgumentException($"Loading cannot go on from this position: it is of {difference}.", nameof(position));
        }
    }
}

/// <summary>Rows that are learned from together.</summary>
/// <typeparam name="TSelf">The kind of batch itself.</typeparam>
public interface IBatch<TSelf>
    where TSelf : IBatch<TSelf>
{
    /// <summary>The number of rows, B.</summary>
    int Rows { get; }

    /// <summary>The number of targets that count: the loss of the batch is a sum over so many.</summary>
    int TargetCount { get; }

    /// <summary>Some of the rows.</summary>
    /// <param name="first">The first of them.</param>
    /// <param name="count">How many, at least 1.</param>
    TSelf Slice(int first, int count);
}

/// <summary>Hands out training batches of tokens, as many as are asked for: packed text, token files, a synthetic task.</summary>
/// <inheritdoc cref="BatchSource{TBatch}" path="/remarks"/>
public abstract class BatchSource : BatchSource<TokenBatch>;

/// <summary>Hands out training batches, as many as are asked for.</summary>
/// <remarks>
/// The rows come in one order, however they are divided into batches: the same data, context length and seed give the same rows on
/// every machine. No tensors are held. Not thread-safe.
/// </remarks>
/// <typeparam name="TBatch">The kind of batch.</typeparam>
public abstract class BatchSource<TBatch>
    where TBatch : IBatch<TBatch>
{
    /// <summary>The number of tokens of a row, S.</summary>
    public abstract int ContextLength { get; }

    /// <summary>The seed of the order, or of the data.</summary>
    public abstract long Seed { get; }

    /// <summary>A hash of what the data are, in hexadecimal.</summary>
    public abstract string Fingerprint { get; }

    /// <summary>The number of tokens of an epoch; null where data are drawn anew without end.</summary>
    public abstract long? TokenCount { get; }

    /// <summary>Where the next batch begins.</summary>
    public abstract BatchPosition Position { get; }

    /// <summary>The next rows.</summary>
    /// <param name="rows">The number of rows, B, at least 1.</param>
    /// <returns>[B, S].</returns>
    public abstract TBatch Next(int rows);

    /// <summary>Goes to a position: the batches that follow are those that followed there.</summary>
    /// <exception cref="ArgumentException">The position is of other data, another context length or another seed.</exception>
    public abstract void Resume(BatchPosition position);
}
