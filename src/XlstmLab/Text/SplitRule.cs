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
/// <see cref="Test"/>, else a training document: no other document has a say. Where that would leave a wanted part of a corpus empty, as
/// with a few documents, every document is cut by position instead: its first characters are for training, then validation, then
/// test, in the rule's shares, each cut moved forward to the next line if a line begins before the following cut.
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

    /// <summary>Whether documents have to be cut by position, as splitting whole ones would leave a wanted part empty.</summary>
    /// <param name="documents">The documents, which are read as far as it takes.</param>
    /// <param name="name">What messages call them.</param>
    /// <exception cref="InvalidDataException">A wanted part would be empty even so.</exception>
    internal bool CutsByPosition(IEnumerable<Document> documents, string name)
    {
        var wanted = Enum.GetValues<Split>().Where(s => Share(s) > 0).ToHashSet();
        var (whole, cut, any) = (new HashSet<Split>(), new HashSet<Split>(), false);
        foreach (var document in documents.Where(d => d.Text.Length > 0))
        {
            any = true;
            whole.Add(Of(document.Name));
            if (whole.IsSupersetOf(wanted))
            {
                return false;
            }

            cut.UnionWith(Parts(document, byPosition: true).Select(p => p.Split));
        }

        return any && wanted.Except(cut).Select(s => (Split?)s).FirstOrDefault() is { } empty
            ? throw new InvalidDataException(
                $"'{name}' is too short to be split: nothing is left for {empty}. Give more text, or that part no share.")
            : any;
    }

    /// <summary>The parts of a corpus that a document goes to: one, or where it is cut up to three.</summary>
    internal IEnumerable<(Split Split, Document Document)> Parts(Document document, bool byPosition)
    {
        if (!byPosition)
        {
            return [(Of(document.Name), document)];
        }

        var text = document.Text;
        var nominal = (int)(text.Length * Share(Split.Train));
        var end = (int)(text.Length * (1 - Test));
        var validation = Cut(text, nominal, end);
        var test = Cut(text, end, text.Length);
        return new[] { (Split.Train, 0, validation), (Split.Validation, validation, test), (Split.Test, test, text.Length) }
            .Where(p => p.Item3 > p.Item2)
            .Select(p => (p.Item1, document with { Name = $"{document.Name}#{p.Item1}", Text = text[p.Item2..p.Item3] }));
    }

    /// <summary>The rule in words for a log.</summary>
    internal string Describe(bool byPosition) => byPosition
        ? FormattableString.Invariant($"by position in each document, shares {Share(Split.Train):0.###}/{Validation:0.###}/{Test:0.###}")
        : FormattableString.Invariant(
            $"by document: SHA-256 of seed {Seed} and name, shares {Share(Split.Train):0.###}/{Validation:0.###}/{Test:0.###}");

    private static int Cut(string text, int position, int limit)
    {
        var newline = text.AsSpan(position, limit - position).IndexOf('\n');
        return newline >= 0 && position + newline + 1 < limit ? position + newline + 1
            : position > 0 && position < text.Length && char.IsLowSurrogate(text[position]) && char.IsHighSurrogate(text[position - 1])
            ? position + 1
            : position;
    }

    /// <summary>Refuses shares that are none.</summary>
    /// <exception cref="InvalidDataException">A share is negative, or nothing is left to train on.</exception>
    internal void Check()
    {
        if (!(Validation >= 0 && Test >= 0 && Validation + Test < 1))
        {
            throw new InvalidDataException(
                FormattableString.Invariant(
                    $"The shares of validation ({Validation}) and test ({Test}) must not be negative and must sum to less than 1."));
        }
    }
}
