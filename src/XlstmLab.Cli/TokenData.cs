using System.Globalization;
using XlstmLab.Text;

namespace XlstmLab.Cli;

/// <summary>What <c>--data</c> names where it names tokens: a token folder, or several with weights, as in <c>tokens/dclm=0.7,tokens/code=0.3</c>.</summary>
internal sealed class TokenData : IDisposable
{
    private readonly IReadOnlyList<(TokenFolder Folder, double Weight)> _parts;

    private TokenData(IReadOnlyList<(TokenFolder Folder, double Weight)> parts) => _parts = parts;

    /// <summary>The only folder, or the first.</summary>
    public TokenFolder First => _parts[0].Folder;

    /// <summary>The tokenizer's file in the first folder; null if there is none, as where tokens are bytes.</summary>
    public string? TokenizerFile => File.Exists(Path.Combine(First.Path, "tokenizer.json")) ? Path.Combine(First.Path, "tokenizer.json") : null;

    /// <summary>Opens what is named; null if that is no token folder.</summary>
    /// <exception cref="UsageException">A mixture names what is no token folder, or a weight is none.</exception>
    public static TokenData? Open(string data)
    {
        var named = Parse(data) ?? (TokenFolder.IsOne(data) ? [(data, 1)] : null);
        if (named is null)
        {
            return null;
        }

        var parts = new List<(TokenFolder, double)>();
        try
        {
            foreach (var (path, weight) in named)
            {
                parts.Add((TokenFolder.Open(path), weight));
            }

            return new(parts);
        }
        catch
        {
            parts.ForEach(p => p.Item1.Dispose());
            throw;
        }
    }

    /// <summary>The same name with whole paths, so that it is found again from any working folder.</summary>
    public static string Absolute(string data) =>
        Parse(data) is { } parts ? string.Join(',', parts.Select(p => string.Create(CultureInfo.InvariantCulture, $"{Path.GetFullPath(p.Path)}={p.Weight}")))
        : Path.Exists(data) ? Path.GetFullPath(data)
        : data;

    /// <summary>Refuses a tokenizer other than that of the tokens.</summary>
    public void RequireTokenizer(ITokenizer tokenizer)
    {
        foreach (var (folder, _) in _parts)
        {
            folder.RequireTokenizer(tokenizer);
        }
    }

    /// <summary>What a model is trained on.</summary>
    public BatchSource Training(int contextLength, long seed) =>
        _parts.Count == 1
            ? new TokenWindows(First, Split.Train, contextLength, seed)
            : new TokenMixture([.. _parts.Select(p => new MixturePart(new TokenWindows(p.Folder, Split.Train, contextLength, seed), p.Weight))], seed);

    /// <summary>What a model is validated on: the first windows of each folder's validation part, of a mixture in its shares.</summary>
    /// <param name="contextLength">Tokens of a window.</param>
    /// <param name="rows">Windows of a batch.</param>
    /// <param name="tokens">How many tokens are wanted; null is all there are.</param>
    public TokenBatch[] Validation(int contextLength, int rows, long? tokens)
    {
        var total = _parts.Sum(p => p.Weight);
        return [.. _parts
            .Where(p => p.Folder[Split.Validation].Sum(f => f.TokenCount) > contextLength)
            .SelectMany(p =>
            {
                var batchTokens = rows * (long)contextLength;
                var batches = tokens is { } wanted ? (int)Math.Ceiling(wanted * p.Weight / total / batchTokens) : int.MaxValue;
                return new TokenWindows(p.Folder, Split.Validation, contextLength).Sequential(rows).Take(batches);
            })];
    }

    /// <summary>Whether it is several folders.</summary>
    public bool IsMixture => _parts.Count > 1;

    /// <summary>Refuses a part without documents, of the first folder.</summary>
    /// <exception cref="InvalidDataException">It has none.</exception>
    public void RequireDocuments(Split part) => TextOptions.RequireDocuments(First.Path, part, Count);

    /// <summary>The documents of a part of the first folder.</summary>
    public long Count(Split part) => First.Card.Parts.TryGetValue(part, out var counts) ? counts.Documents : 0;

    /// <summary>The first documents of a part.</summary>
    /// <exception cref="UsageException">It is a mixture.</exception>
    public TokenDocuments Documents(Split split, ITokenizer tokenizer, int most) =>
        _parts.Count == 1
            ? First.Read(split, tokenizer, most)
            : throw new UsageException($"A mixture cannot be evaluated as one text: name one of its folders by --data: {string.Join(", ", _parts.Select(p => p.Folder.Path))}.");

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (var (folder, _) in _parts)
        {
            folder.Dispose();
        }
    }

    /// <summary>The paths and weights of a mixture; null for what is none.</summary>
    private static List<(string Path, double Weight)>? Parse(string data)
    {
        if (!data.Contains('=', StringComparison.Ordinal) || Path.Exists(data))
        {
            return null;
        }

        var parts = new List<(string, double)>();
        foreach (var part in data.Split(','))
        {
            var equals = part.LastIndexOf('=');
            if (equals < 1 || !double.TryParse(part[(equals + 1)..], NumberStyles.Float, CultureInfo.InvariantCulture, out var weight) || !(weight > 0 && double.IsFinite(weight)))
            {
                throw new UsageException($"--data: '{part}' is no part of a mixture; expected a token folder and a weight, as in tokens/a=0.7,tokens/b=0.3.");
            }

            parts.Add((part[..equals], weight));
        }

        return parts;
    }
}
