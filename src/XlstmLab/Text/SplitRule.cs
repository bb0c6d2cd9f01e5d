using System.Buffers.Binary;
using System.Security.Cryptography;
using System.Text;

namespace XlstmLab.Text;

/// <summary>A part of a corpus.</summary>
public enum Split
{
    /// <summary>What a model learns from.</summary>
    Train,

    /// <summary>What decisions are made on while training.</summary>
    Validation,

    /// <summary>What a result is reported on.</summary>
    Test,
}

/// <summary>What part of a corpus a document belongs to.</summary>
/// <remarks>
/// A document's share point u is the first 8 bytes, big-endian, of the SHA-256 of the UTF-8 text "SEED\nNAME", divided by 2^64. It is a
/// validation document if u &lt; <see cref="Validation"/>, a test document if u &lt; <see cref="Validation"/> +
/// <see cref="Test"/>, else a training document: no other document has a say.
/// </remarks>
public sealed record SplitRule
{
    /// <summary>Another seed splits the same documents in another way.</summary>
    public long Seed { get; init; }

    /// <summary>The expected share of validation documents, from 0 to 1.</summary>
    public double Validation { get; init; } = 0.05;

    /// <summary>The expected share of test documents, from 0 to 1.</summary>
    public double Test { get; init; } = 0.05;

    /// <summary>The part that the document of this name belongs to.</summary>
    public Split Of(string documentName)
    {
        var hash = SHA256.HashData(Encoding.UTF8.GetBytes(FormattableString.Invariant($"{Seed}\n{documentName}")));
        var point = BinaryPrimitives.ReadUInt64BigEndian(hash) / Math.Pow(2, 64);
        return point < Validation ? Split.Validation : point < Validation + Test ? Split.Test : Split.Train;
    }

    /// <summary>The share of a part, from 0 to 1.</summary>
    public double Share(Split split) => split switch
    {
        Split.Validation => Validation,
        Split.Test => Test,
        Split.Train => 1 - Validation - Test,
        _ => throw UnknownValue.Of(split),
    };

    /// <inheritdoc/>
    public override string ToString() => FormattableString.Invariant($"seed {Seed}, validation {Validation}, test {Test}");

    /// <summary>Refuses shares that are none.</summary>
    /// <exception cref="InvalidDataException">A share is negative, or nothing is left to train on.</exception>
    internal void Check()
    {
        if (!(Validation >= 0 && Test >= 0 && Validation + Test < 1))
        {
            throw new InvalidDataException(
                FormattableString.Invariant($"The shares of validation ({Validation}) and test ({Test}) must not be negative and must sum to less than 1."));
        }
    }
}
