using System.Buffers;
using System.Globalization;
using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Unicode;
using static TorchSharp.torch;

namespace XlstmLab.Checkpoints;

/// <summary>The header of a safetensors file: eight bytes with its length, little endian, and a JSON object.</summary>
/// <param name="Entries">The tensors in the order of their data.</param>
/// <param name="Metadata">The texts under <c>__metadata__</c>.</param>
internal sealed record SafetensorsHeader(IReadOnlyList<SafetensorsEntry> Entries, IReadOnlyDictionary<string, string> Metadata)
{
    /// <summary>The size of the length before the JSON text, in bytes.</summary>
    public const int PrefixBytes = 8;

    /// <summary>The longest JSON text that the format's reference implementation reads, in bytes.</summary>
    public const int MaxBytes = 100_000_000;

    /// <summary>The most dimensions that libtorch copies.</summary>
    public const int MaxDimensions = 64;

    private const string MetadataKey = "__metadata__";

    /// <summary>The format's element types in the order of their data, which keeps each tensor aligned.</summary>
    private static readonly (string Name, ScalarType Dtype, int Bytes)[] Dtypes =
    [
        ("I64", ScalarType.Int64, 8),
        ("F64", ScalarType.Float64, 8),
        ("F32", ScalarType.Float32, 4),
        ("I32", ScalarType.Int32, 4),
        ("BF16", ScalarType.BFloat16, 2),
        ("F16", ScalarType.Float16, 2),
        ("I16", ScalarType.Int16, 2),
        ("I8", ScalarType.Int8, 1),
        ("U8", ScalarType.Byte, 1),
        ("BOOL", ScalarType.Bool, 1),
    ];

    /// <summary>The size of one element in bytes.</summary>
    /// <exception cref="ArgumentException">The format has no such type.</exception>
    public static int ElementBytes(ScalarType dtype) => Dtypes[Rank(dtype)].Bytes;

    /// <summary>
    /// The header of tensors laid out one after the other, as the reference implementation orders them. Its entries' places are counted
    /// from the data's beginning, which is known only when the header is text.
    /// </summary>
    /// <exception cref="ArgumentException">A name occurs twice or is reserved, or a type is not one of the format's.</exception>
    public static SafetensorsHeader Plan(
        IEnumerable<(string Name, ScalarType Dtype, long[] Shape)> tensors, IEnumerable<KeyValuePair<string, string>>? metadata)
    {
        var names = new HashSet<string>(StringComparer.Ordinal);
        var entries = new List<SafetensorsEntry>();
        var begin = 0L;
        foreach (var (name, dtype, shape) in tensors.OrderBy(t => Rank(t.Dtype)).ThenBy(t => t.Name, StringComparer.Ordinal))
        {
            if (name == MetadataKey || !names.Add(name))
            {
                throw new ArgumentException(name == MetadataKey
                    ? $"A tensor is named {MetadataKey}, which the format reserves. Give it another name."
                    : $"Two tensors are named {CheckpointException.Quote(name)}. Each name can be written once.");
            }

            var end = checked(begin + shape.Aggregate(1L, (product, size) => checked(product * size)) * ElementBytes(dtype));
            entries.Add(new SafetensorsEntry(name, dtype, shape, begin, end));
            begin = end;
        }

        var texts = new SortedDictionary<string, string>(StringComparer.Ordinal);
        foreach (var (key, text) in metadata ?? [])
        {
            texts.Add(key, text);
        }

        return new SafetensorsHeader(entries, texts);
    }

    /// <summary>The header's bytes, filled up with spaces so that the data begins at a multiple of eight.</summary>
    /// <exception cref="ArgumentException">Names and metadata are longer than readers of the format accept.</exception>
    public byte[] ToBytes()
    {
        var buffer = new ArrayBufferWriter<byte>();
        using (var json = new Utf8JsonWriter(buffer, new JsonWriterOptions { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping }))
        {
            json.WriteStartObject();
            if (Metadata.Count > 0)
            {
                json.WriteStartObject(MetadataKey);
                foreach (var (key, text) in Metadata)
                {
                    json.WriteString(key, text);
                }

                json.WriteEndObject();
            }

            foreach (var entry in Entries)
            {
                json.WriteStartObject(entry.Name);
                json.WriteString("dtype", Dtypes[Rank(entry.Dtype)].Name);
                WriteNumbers(json, "shape", entry.Shape);
                WriteNumbers(json, "data_offsets", [entry.Begin, entry.End]);
                json.WriteEndObject();
            }

            json.WriteEndObject();
        }

        var length = (buffer.WrittenCount + 7) / 8 * 8;
        if (length > MaxBytes)
        {
            throw new ArgumentException(
                string.Create(
                    CultureInfo.InvariantCulture,
                    $"The names and metadata take {length:N0} bytes; a safetensors header has at most {MaxBytes:N0}. "
                    + $"Write fewer tensors to a file."));
        }

        var bytes = new byte[PrefixBytes + length];
        BitConverter.TryWriteBytes(bytes, (long)length);
        buffer.WrittenSpan.CopyTo(bytes.AsSpan(PrefixBytes));
        bytes.AsSpan(PrefixBytes + buffer.WrittenCount).Fill((byte)' ');
        return bytes;
    }

    /// <summary>The length of the JSON text.</summary>
    /// <param name="prefix">The file's first bytes.</param>
    /// <param name="fileBytes">The size of the file in bytes.</param>
    /// <param name="file">The file's name, for messages.</param>
    /// <exception cref="CheckpointException">The length cannot be.</exception>
    public static int ParseLength(ReadOnlySpan<byte> prefix, long fileBytes, string file)
    {
        if (fileBytes < PrefixBytes || prefix.Length < PrefixBytes)
        {
            throw new CheckpointException(
                $"{file}: the file has {fileBytes} bytes; a safetensors file has at least {PrefixBytes}, the length of its header. "
                + "It was cut off or is another kind of file.");
        }

        var length = BitConverter.ToUInt64(prefix);
        if (length > MaxBytes)
        {
            throw new CheckpointException(
                string.Create(
                    CultureInfo.InvariantCulture,
                    $"{file}: the header claims {length:N0} bytes; at most {MaxBytes:N0} are read. The file is damaged or "
                    + $"no safetensors file."));
        }

        if ((long)length > fileBytes - PrefixBytes)
        {
            throw new CheckpointException(
                FormattableString.Invariant(
                    $"{file}: the header claims {length:N0} bytes, but only {fileBytes - PrefixBytes:N0} follow. The file was cut off."));
        }

        return (int)length;
    }

    /// <summary>Reads the JSON text and checks that its tensors cover the file's data exactly.</summary>
    /// <param name="text">The JSON text.</param>
    /// <param name="fileBytes">The size of the file in bytes.</param>
    /// <param name="file">The file's name, for messages.</param>
    /// <exception cref="CheckpointException">The header is not what the format demands.</exception>
    public static SafetensorsHeader Parse(ReadOnlyMemory<byte> text, long fileBytes, string file)
    {
        if (text.IsEmpty || text.Span[0] != '{' || !Utf8.IsValid(text.Span))
        {
            throw new CheckpointException($"{file}: the header is no JSON object in UTF-8. The file is damaged or no safetensors file.");
        }

        try
        {
            using var document = JsonDocument.Parse(text, new JsonDocumentOptions { AllowDuplicateProperties = false });
            var metadata = new SortedDictionary<string, string>(StringComparer.Ordinal);
            var entries = new List<SafetensorsEntry>();
            var dataBegin = (long)PrefixBytes + text.Length;
            foreach (var property in document.RootElement.EnumerateObject())
            {
                if (property.NameEquals(MetadataKey))
                {
                    ParseMetadata(property.Value, metadata, file);
                }
                else
                {
                    entries.Add(ParseEntry(property.Name, property.Value, dataBegin, fileBytes, file));
                }
            }

            entries.Sort((a, b) => (a.Begin, a.End).CompareTo((b.Begin, b.End)));
            CheckCoverage(entries, dataBegin, fileBytes, file);
            return new SafetensorsHeader(entries, metadata);
        }
        catch (JsonException e)
        {
            throw new CheckpointException($"{file}: the header is no valid JSON: {e.Message}", e);
        }
        catch (InvalidOperationException e)
        {
            // System.Text.Json says so of an escaped half of a surrogate pair, when the string is asked for.
            throw new CheckpointException($"{file}: the header has a text that is no Unicode: {e.Message}", e);
        }
    }

    private static void ParseMetadata(JsonElement value, SortedDictionary<string, string> metadata, string file)
    {
        if (value.ValueKind != JsonValueKind.Object)
        {
            throw new CheckpointException($"{file}: {MetadataKey} is {Kind(value)}; expected an object of texts.");
        }

        foreach (var item in value.EnumerateObject())
        {
            if (item.Value.ValueKind != JsonValueKind.String)
            {
                throw new CheckpointException(
                    $"{file}: {MetadataKey} has {Kind(item.Value)} under {CheckpointException.Quote(item.Name)}; expected a text.");
            }

            metadata.Add(item.Name, item.Value.GetString()!);
        }
    }

    private static SafetensorsEntry ParseEntry(string name, JsonElement value, long dataBegin, long fileBytes, string file)
    {
        CheckpointException Refuse(string what) => new($"{file}: tensor {CheckpointException.Quote(name)}: {what}");

        if (value.ValueKind != JsonValueKind.Object)
        {
            throw Refuse($"is {Kind(value)}; expected an object with dtype, shape and data_offsets.");
        }

        if (!value.TryGetProperty("dtype", out var dtypeValue) || dtypeValue.ValueKind != JsonValueKind.String)
        {
            throw Refuse("has no dtype.");
        }

        var dtypeName = dtypeValue.GetString()!;
        var rank = Array.FindIndex(Dtypes, d => d.Name == dtypeName);
        if (rank < 0)
        {
            throw Refuse(
                $"its dtype is {CheckpointException.Quote(dtypeName)}; known are {string.Join(", ", Dtypes.Select(d => d.Name))}.");
        }

        if (!value.TryGetProperty("shape", out var shapeValue) || Numbers(shapeValue) is not { } shape || shape.Length > MaxDimensions)
        {
            throw Refuse($"its shape is not a list of at most {MaxDimensions} whole numbers of 64 bits.");
        }

        if (!value.TryGetProperty("data_offsets", out var offsetsValue) || Numbers(offsetsValue) is not [var begin, var end])
        {
            throw Refuse("its data_offsets are not two whole numbers of 64 bits.");
        }

        // Sizes of zero count as one: libtorch computes strides from the others, and those must not overflow either.
        Int128 span = Dtypes[rank].Bytes;
        foreach (var size in shape)
        {
            if (size < 0)
            {
                throw Refuse($"its shape [{string.Join(", ", shape)}] has a negative size.");
            }

            span *= Math.Max(size, 1);
            if (span > long.MaxValue)
            {
                throw Refuse($"its shape [{string.Join(", ", shape)}] has more bytes than 64 bits can count.");
            }
        }

        if (begin < 0 || end < begin || end > fileBytes - dataBegin)
        {
            throw Refuse(
                $"its data_offsets [{begin}, {end}] are not within the {fileBytes - dataBegin} bytes of data. "
                + "The file was cut off or is damaged.");
        }

        var bytes = shape.Contains(0) ? 0 : (long)span;
        if (end - begin != bytes)
        {
            throw Refuse(
                $"its data_offsets [{begin}, {end}] hold {end - begin} bytes, but its dtype {dtypeName} and shape "
                + $"[{string.Join(", ", shape)}] need {bytes}.");
        }

        return new SafetensorsEntry(name, Dtypes[rank].Dtype, shape, dataBegin + begin, dataBegin + end);
    }

    private static void CheckCoverage(List<SafetensorsEntry> entries, long dataBegin, long fileBytes, string file)
    {
        var expected = dataBegin;
        foreach (var entry in entries)
        {
            if (entry.Begin != expected)
            {
                throw new CheckpointException(
                    $"{file}: tensor {CheckpointException.Quote(entry.Name)}: its data begins at {entry.Begin - dataBegin}, "
                    + $"but the tensors before it end at {expected - dataBegin}. "
                    + (entry.Begin < expected ? "Tensors must not overlap." : "There must be no gap between tensors."));
            }

            expected = entry.End;
        }

        if (expected != fileBytes)
        {
            throw new CheckpointException(
                $"{file}: the tensors end at {expected - dataBegin}, but {fileBytes - dataBegin} bytes of data are there. "
                + "The file is damaged.");
        }
    }

    private static long[]? Numbers(JsonElement value)
    {
        if (value.ValueKind != JsonValueKind.Array)
        {
            return null;
        }

        var numbers = new List<long>();
        foreach (var item in value.EnumerateArray())
        {
            if (item.ValueKind != JsonValueKind.Number || !item.TryGetInt64(out var number))
            {
                return null;
            }

            numbers.Add(number);
        }

        return [.. numbers];
    }

    private static void WriteNumbers(Utf8JsonWriter json, string name, long[] numbers)
    {
        json.WriteStartArray(name);
        foreach (var number in numbers)
        {
            json.WriteNumberValue(number);
        }

        json.WriteEndArray();
    }

    private static string Kind(JsonElement value) => value.ValueKind switch
    {
        JsonValueKind.Object => "an object",
        JsonValueKind.Array => "a list",
        JsonValueKind.String => "a text",
        JsonValueKind.Number => "a number",
        JsonValueKind.Null => "null",
        _ => "a truth value",
    };

    private static int Rank(ScalarType dtype)
    {
        var rank = Array.FindIndex(Dtypes, d => d.Dtype == dtype);
        return rank >= 0
            ? rank
            : throw new ArgumentException(
                $"A tensor's type is {dtype}; safetensors files hold {string.Join(", ", Dtypes.Select(d => d.Dtype))}. Convert it first.");
    }
}
