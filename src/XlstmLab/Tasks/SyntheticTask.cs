using System.Runtime.InteropServices;
using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using System.Text.Json.Serialization;
using XlstmLab.Text;

namespace XlstmLab.Tasks;

/// <summary>What rows of a task are for; no row is for two of them.</summary>
public enum SyntheticSplit
{
    /// <summary>Training.</summary>
    Train,

    /// <summary>A look at the model while it is trained, and whether it is to stop.</summary>
    Validation,

    /// <summary>The result.</summary>
    Test,
}

/// <summary>A task whose questions and answers are drawn at random, as a record of its parameters.</summary>
/// <remarks>
/// A row is a question, and targets where answers are due; all other targets are <see cref="TokenBatch.Ignored"/>. A row depends on its
/// seed, part, index and range of lengths alone: it is the same on every machine and in every batch. Parts have rows of their own, but a
/// short question may be drawn in several of them.
/// </remarks>
public abstract record SyntheticTask
{
    /// <summary>The token that fills a row behind its question: [PAD].</summary>
    public const int Padding = 0;

    private static readonly JsonSerializerOptions Parameters = new() { PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower };

    /// <summary>The name that the command line knows it by.</summary>
    [JsonIgnore]
    public abstract string Name { get; }

    /// <summary>The number of token ids, V.</summary>
    [JsonIgnore]
    public abstract int VocabularySize { get; }

    /// <summary>The accuracy of guessing among all tokens that can be answers.</summary>
    [JsonIgnore]
    public abstract double Chance { get; }

    /// <summary>The lengths that are trained on, as published.</summary>
    [JsonIgnore]
    public abstract LengthRange TrainingLengths { get; }

    /// <summary>The lengths that are tested, as published.</summary>
    [JsonIgnore]
    public abstract LengthRange TestLengths { get; }

    /// <summary>Rows of the task.</summary>
    /// <param name="split">What they are for.</param>
    /// <param name="seed">Another seed gives other rows.</param>
    /// <param name="first">The index of the first row, from 0.</param>
    /// <param name="rows">The number of rows, B, at least 1.</param>
    /// <param name="lengths">The lengths to draw from.</param>
    /// <returns>[B, S], with S the greatest length of the range.</returns>
    /// <exception cref="ArgumentException">The task has no rows of such lengths; the message says which it has.</exception>
    public TokenBatch Rows(SyntheticSplit split, long seed, long first, int rows, LengthRange lengths)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(first);
        ArgumentOutOfRangeException.ThrowIfLessThan(rows, 1);
        Validate(lengths);
        var indices = new long[rows];
        for (var r = 0; r < rows; r++)
        {
            indices[r] = first + r;
        }

        return Rows(split, seed, indices, lengths);
    }

    /// <summary>Rows of the task by their indices.</summary>
    internal TokenBatch Rows(SyntheticSplit split, long seed, ReadOnlySpan<long> indices, LengthRange lengths)
    {
        var width = lengths.Maximum;
        var inputs = new int[checked(indices.Length * width)];
        var targets = new int[inputs.Length];
        targets.AsSpan().Fill(TokenBatch.Ignored);
        for (var r = 0; r < indices.Length; r++)
        {
            var random = new SplitMix64(seed, Stream(split, indices[r], lengths));
            Fill(ref random, lengths, inputs.AsSpan(r * width, width), targets.AsSpan(r * width, width));
        }

        return new(inputs, targets, new bool[inputs.Length], indices.Length, width);
    }

    /// <summary>Refuses lengths that the task has no rows of.</summary>
    /// <exception cref="ArgumentException">It has none; the message says which it has.</exception>
    public abstract void Validate(LengthRange lengths);

    /// <summary>A token as a person would write it.</summary>
    /// <param name="token">Its id, from 0 to V - 1.</param>
    public abstract string Text(int token);

    /// <summary>A hash of the task, its parameters and its first rows, in hexadecimal.</summary>
    /// <param name="lengths">The lengths of the rows.</param>
    public string Fingerprint(LengthRange lengths)
    {
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        hash.AppendData(Encoding.UTF8.GetBytes($"{Describe()} {lengths}"));
        var rows = Rows(SyntheticSplit.Train, 0, 0, 4, lengths);
        hash.AppendData(MemoryMarshal.AsBytes(rows.Inputs.AsSpan()));
        hash.AppendData(MemoryMarshal.AsBytes(rows.Targets.AsSpan()));
        return Convert.ToHexStringLower(hash.GetHashAndReset().AsSpan(0, 8));
    }

    /// <summary>The name and the parameters, as JSON.</summary>
    public string Describe() => $"{Name} {JsonSerializer.Serialize(this, GetType(), Parameters)}";

    /// <summary>Draws a row.</summary>
    /// <param name="random">Where its random numbers come from.</param>
    /// <param name="lengths">The lengths to draw from.</param>
    /// <param name="inputs">As long as the greatest length, all <see cref="Padding"/>.</param>
    /// <param name="targets">As long, all <see cref="TokenBatch.Ignored"/>.</param>
    internal abstract void Fill(ref SplitMix64 random, LengthRange lengths, Span<int> inputs, Span<int> targets);

    /// <summary>Refuses lengths below a least one.</summary>
    private protected void RequireAtLeast(int least, LengthRange lengths)
    {
        if (lengths.Minimum < least || lengths.Maximum < lengths.Minimum)
        {
            throw new ArgumentException($"{Name} has rows of {least} tokens or more, asked for were {lengths}.", nameof(lengths));
        }
    }

    /// <summary>Training rows have streams from 0; the negative ones are left to the order of epochs.</summary>
    private static long Stream(SyntheticSplit split, long index, LengthRange lengths) =>
        split.Known() == SyntheticSplit.Train ? index : ((long)split << 60) + ((long)lengths.Minimum << 36) + index;
}
