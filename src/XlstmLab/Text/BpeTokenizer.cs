using System.Collections.Concurrent;
using System.Globalization;
using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using Ml = Microsoft.ML.Tokenizers;

namespace XlstmLab.Text;

/// <summary>A byte-level BPE tokenizer as a Hugging Face <c>tokenizer.json</c> describes it.</summary>
/// <remarks>
/// Supported: vocabulary and merges in both notations, <c>ignore_merges</c>, added tokens, Unicode normalizers, and the pre-tokenizers
/// ByteLevel, Split, Digits and sequences of them; a file that asks for anything else is refused. Post-processors are not
/// applied: no token is added that the text does not spell. Thread-safe.
/// </remarks>
public sealed class BpeTokenizer : ITokenizer
{
    /// <summary>The end of document where a file does not name another.</summary>
    public const string DefaultEndOfDocument = "<|endoftext|>";

    private const int MaxId = 1 << 22;
    private const int MaxCachedPieces = 1 << 17;
    private const int MaxCachedLength = 48;

    /// <summary>The characters by which tokens are spelt in a tokenizer.json, one for each byte.</summary>
    internal static readonly char[] CharOfByte = MapBytes();

    private static readonly Dictionary<char, byte> ByteOfChar = CharOfByte.Index().ToDictionary(p => p.Item, p => (byte)p.Index);

    private readonly Dictionary<string, int> _vocabulary;
    private readonly byte[][] _bytes;
    private readonly bool[] _hasByte;
    private readonly bool _ignoreMerges;
    private readonly Ml.BpeTokenizer _merger;
    private readonly UnicodeNormalizer _normalizer;
    private readonly PreTokenizer _preTokenizer;
    private readonly AddedTokens _addedToText;
    private readonly AddedTokens _addedToNormalized;
    private readonly ConcurrentDictionary<string, int[]> _cache = new();
    private readonly HashSet<int> _silent;
    private int _cached;

    private BpeTokenizer(TokenizerJson json, string endOfDocument)
    {
        var model = json.Model ?? throw new InvalidDataException("it has no model");
        CheckModel(model, json.Decoder);
        _vocabulary = model.Vocab!;
        _ignoreMerges = model.IgnoreMerges;
        var added = CheckAddedTokens(json.AddedTokens ?? []);
        SpecialTokens = added.Where(t => t.Special).ToDictionary(t => t.Content!, t => t.Id);
        _normalizer = new UnicodeNormalizer(json.Normalizer);
        _preTokenizer = new PreTokenizer(json.PreTokenizer);
        _addedToText = new AddedTokens(added.Where(t => !t.Normalized));
        _addedToNormalized = new AddedTokens(added.Where(t => t.Normalized));

        EndOfDocument = added.Find(t => t.Content == endOfDocument)?.Id
            ?? (_vocabulary.TryGetValue(endOfDocument, out var id)
                ? id
                : throw new InvalidDataException(
                    $"it has no token '{endOfDocument}' to end documents with; name one of its special tokens: "
                    + $"{string.Join(", ", SpecialTokens.Keys)}"));

        _silent = [EndOfDocument, .. SpecialTokens.Values];
        VocabularySize = Math.Max(_vocabulary.Values.Max(), added.Select(t => t.Id).DefaultIfEmpty().Max()) + 1;
        _bytes = new byte[VocabularySize][];
        foreach (var (token, tokenId) in _vocabulary)
        {
            _bytes[tokenId] = token.All(ByteOfChar.ContainsKey) ? [.. token.Select(c => ByteOfChar[c])] : Encoding.UTF8.GetBytes(token);
        }

        foreach (var token in added)
        {
            _bytes[token.Id] = Encoding.UTF8.GetBytes(token.Content!);
        }

        _hasByte = [.. CharOfByte.Select(c => _vocabulary.ContainsKey(c.ToString()))];
        _merger = Ml.BpeTokenizer.Create(new Ml.BpeOptions(_vocabulary) { Merges = CheckMerges(model), ByteLevel = true });
    }

    /// <inheritdoc/>
    /// <remarks>The largest id plus one: ids in between may spell nothing.</remarks>
    public int VocabularySize { get; }

    /// <inheritdoc/>
    public int EndOfDocument { get; }

    /// <inheritdoc/>
    /// <remarks>Of the file's bytes and the token that opens documents.</remarks>
    public string Fingerprint { get; private init; } = "";

    /// <summary>The bytes of the <c>tokenizer.json</c>.</summary>
    internal ReadOnlyMemory<byte> Source { get; private init; }

    /// <summary>The token that opens documents.</summary>
    internal string EndOfDocumentText { get; private init; } = "";

    /// <inheritdoc/>
    public bool ChangesText =>
        _normalizer.ChangesText || _preTokenizer.ChangesText || _addedToText.ChangesText || _addedToNormalized.ChangesText;

    /// <summary>The special tokens by their text, such as the end of document; they are found in a text and spell no bytes.</summary>
    public IReadOnlyDictionary<string, int> SpecialTokens { get; }

    /// <summary>Reads a <c>tokenizer.json</c>.</summary>
    /// <param name="path">The file, or a folder that holds it.</param>
    /// <param name="endOfDocument">The token that opens documents.</param>
    /// <exception cref="FileNotFoundException">There is no such file.</exception>
    /// <exception cref="InvalidDataException">The file is damaged, or asks for what is not supported; the message says which.</exception>
    public static BpeTokenizer Load(string path, string endOfDocument = DefaultEndOfDocument)
    {
        var file = Directory.Exists(path) ? Path.Combine(path, "tokenizer.json") : path;
        if (!File.Exists(file))
        {
            throw new FileNotFoundException($"There is no tokenizer file '{file}'.", file);
        }

        return Parse(File.ReadAllBytes(file), endOfDocument, file);
    }

    /// <summary>Reads the content of a <c>tokenizer.json</c>.</summary>
    /// <param name="utf8">The JSON.</param>
    /// <param name="endOfDocument">The token that opens documents.</param>
    /// <param name="name">What messages call it.</param>
    /// <exception cref="InvalidDataException">It is damaged, or asks for what is not supported; the message says which.</exception>
    public static BpeTokenizer Parse(ReadOnlySpan<byte> utf8, string endOfDocument = DefaultEndOfDocument, string name = "tokenizer.json")
    {
        try
        {
            var json = TokenizerJson.Parse(utf8.StartsWith(Encoding.UTF8.Preamble) ? utf8[3..] : utf8);
            var hash = SHA256.HashData([.. utf8, .. Encoding.UTF8.GetBytes(endOfDocument)]);
            return new BpeTokenizer(json, endOfDocument)
            {
                Fingerprint = Convert.ToHexStringLower(hash.AsSpan(0, 16)),
                Source = utf8.ToArray(),
                EndOfDocumentText = endOfDocument,
            };
        }
        catch (InvalidDataException e)
        {
            throw new InvalidDataException($"The tokenizer '{name}' cannot be used: {e.Message}.", e);
        }
    }

    /// <inheritdoc/>
    /// <remarks>The text of an added token becomes its id wherever it stands. A lone surrogate becomes U+FFFD.</remarks>
    /// <exception cref="ArgumentException">The vocabulary lacks a byte of the text.</exception>
    /// <exception cref="PlatformNotSupportedException">The text may need Unicode normalization and .NET runs without it.</exception>
    public int[] Encode(string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        if (text.AsSpan().ContainsAnyInRange('\uD800', '\uDFFF'))
        {
            text = Encoding.UTF8.GetString(Encoding.UTF8.GetBytes(text));
        }

        var ids = new List<int>(text.Length / 3);
        PieceAction encodePiece = piece => ids.AddRange(EncodePiece(piece));
        PieceAction encodeNormalized = part => _preTokenizer.Split(part, encodePiece);
        _addedToText.Split(
            text,
            part =>
            {
                if (!part.IsEmpty)
                {
                    _addedToNormalized.Split(_normalizer.Normalize(part.ToString()), encodeNormalized, ids.Add);
                }
            },
            ids.Add);
        return [.. ids];
    }

    /// <inheritdoc/>
    public string Decode(IEnumerable<int> ids) => Utf8StreamDecoder.DecodeAll(this, ids);

    /// <summary>The text of ids with special tokens written out, if they are to be kept.</summary>
    public string Decode(IEnumerable<int> ids, bool keepSpecialTokens) =>
        keepSpecialTokens
            ? Encoding.UTF8.GetString([.. ids.Where(id => id >= 0 && id < VocabularySize).SelectMany(id => _bytes[id] ?? [])])
            : Decode(ids);

    /// <inheritdoc/>
    /// <exception cref="ArgumentOutOfRangeException">The id is negative.</exception>
    public ReadOnlySpan<byte> Bytes(int id)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(id);
        return id >= VocabularySize || _silent.Contains(id) ? default : _bytes[id];
    }

    private int[] EncodePiece(ReadOnlySpan<char> piece)
    {
        var cache = _cache.GetAlternateLookup<ReadOnlySpan<char>>();
        if (cache.TryGetValue(piece, out var ids))
        {
            return ids;
        }

        ids = Merge(piece);
        if (piece.Length <= MaxCachedLength && _cached < MaxCachedPieces && cache.TryAdd(piece, ids))
        {
            Interlocked.Increment(ref _cached);
        }

        return ids;
    }

    private int[] Merge(ReadOnlySpan<char> piece)
    {
        var bytes = new byte[Encoding.UTF8.GetByteCount(piece)];
        Encoding.UTF8.GetBytes(piece, bytes);
        foreach (var b in bytes)
        {
            if (!_hasByte[b])
            {
                throw new ArgumentException($"The tokenizer's vocabulary has no token for the byte 0x{b:X2} of '{piece}'.");
            }
        }

        return _ignoreMerges && _vocabulary.TryGetValue(string.Concat(bytes.Select(b => CharOfByte[b])), out var whole)
            ? [whole]
            : [.. _merger.EncodeToIds(piece, considerPreTokenization: false, considerNormalization: false)];
    }

    private static void CheckModel(BpeJson model, StepJson? decoder)
    {
        if (model.Type is not (null or "BPE"))
        {
            throw new InvalidDataException($"its model is of type '{model.Type}'; only BPE is supported");
        }

        if (model.Vocab is null or { Count: 0 } || model.Merges is null)
        {
            throw new InvalidDataException("its model has no vocab or no merges");
        }

        if (model.Dropout is not (null or 0))
        {
            throw new InvalidDataException("its model drops merges at random (dropout), which is not supported");
        }

        if (!string.IsNullOrEmpty(model.ContinuingSubwordPrefix) || !string.IsNullOrEmpty(model.EndOfWordSuffix))
        {
            throw new InvalidDataException("its model marks words by a prefix or suffix, which is not byte-level BPE");
        }

        if (decoder is not (null or { Type: "ByteLevel" }))
        {
            throw new InvalidDataException($"its decoder is of type '{decoder.Type}'; only ByteLevel is supported");
        }

        var ids = new HashSet<int>();
        foreach (var (token, id) in model.Vocab)
        {
            CheckId(token, id);
            if (token.Length == 0 || !ids.Add(id))
            {
                throw new InvalidDataException($"its vocab has an empty token or two tokens of id {id}");
            }
        }
    }

    private List<AddedTokenJson> CheckAddedTokens(List<AddedTokenJson?> tokens)
    {
        var tokenOf = _vocabulary.ToDictionary(p => p.Value, p => p.Key);
        var checkedTokens = new Dictionary<string, AddedTokenJson>();
        foreach (var listed in tokens)
        {
            if (string.IsNullOrEmpty(listed?.Content))
            {
                throw new InvalidDataException("an added token has no content");
            }

            // An added token that the vocabulary has too keeps the vocabulary's id, whatever it is listed with.
            var token = _vocabulary.TryGetValue(listed.Content, out var id) ? listed with { Id = id } : listed;
            CheckId(listed.Content, token.Id);
            if (token.SingleWord)
            {
                throw new InvalidDataException($"the added token '{token.Content}' is to match single words only, which is not supported");
            }

            if (tokenOf.TryGetValue(token.Id, out var other) && other != token.Content)
            {
                throw new InvalidDataException($"the added token '{token.Content}' has the id {token.Id} of '{other}'");
            }

            tokenOf[token.Id] = listed.Content;
            if (!checkedTokens.TryAdd(listed.Content, token))
            {
                throw new InvalidDataException($"the added token '{token.Content}' is listed twice");
            }
        }

        return [.. checkedTokens.Values];
    }

    private static void CheckId(string token, int id)
    {
        if (id is < 0 or >= MaxId)
        {
            throw new InvalidDataException(
                $"the token '{token}' has the id {id.ToString(CultureInfo.InvariantCulture)}; ids are from 0 to {MaxId - 1}");
        }
    }

    /// <summary>The merges as "left right".</summary>
    private List<string> CheckMerges(BpeJson model)
    {
        var merges = new List<string>(model.Merges!.Count);
        var seen = new HashSet<string>();
        foreach (var merge in model.Merges)
        {
            var parts = merge.ValueKind switch
            {
                JsonValueKind.String => Read(merge).Split(' '),
                JsonValueKind.Array => [.. merge.EnumerateArray().Select(p => p.ValueKind == JsonValueKind.String ? Read(p) : "")],
                _ => [],
            };
            if (parts.Length != 2 || !parts.All(_vocabulary.ContainsKey) || !_vocabulary.ContainsKey(parts[0] + parts[1])
                || parts.Any(p => p.Contains(' ')))
            {
                throw new InvalidDataException(
                    $"merge {merges.Count} is {merge.GetRawText()}; expected two tokens of the vocab whose joined text is one too");
            }

            var line = string.Join(' ', parts);
            if (!seen.Add(line))
            {
                throw new InvalidDataException($"the merge '{line}' is listed twice");
            }

            merges.Add(line);
        }

        return merges;

        static string Read(JsonElement element)
        {
            try
            {
                return element.GetString()!;
            }
            catch (InvalidOperationException e)
            {
                throw new InvalidDataException("a merge is not Unicode text", e);
            }
        }
    }

    /// <summary>
    /// The byte-level alphabet: printable Latin-1 characters stand for themselves, the other bytes for characters from U+0100 on.
    /// </summary>
    private static char[] MapBytes()
    {
        var next = 0x100;
        return [.. Enumerable.Range(0, 256).Select(
            b => b is (>= '!' and <= '~') or (>= 0xA1 and <= 0xAC) or (>= 0xAE and <= 0xFF) ? (char)b : (char)next++)];
    }
}
