using System.Globalization;
using System.Text.Json;
using XlstmLab.Analysis;
using XlstmLab.Checkpoints;
using XlstmLab.Models;
using static TorchSharp.torch;

namespace XlstmLab.Exports;

/// <summary>Recordings and states as files: arrays in NumPy's <c>.npz</c> and safetensors, long tables in CSV and Parquet.</summary>
public static class ArrayFiles
{
    /// <summary>Writes gates and memory in the format that the file's ending names. The file is whole or absent.</summary>
    /// <remarks>
    /// As arrays <c>blocks.0.input_gate</c> and so on, [B, NH, S] float32 with NaN at padding, a block and <see cref="GateQuantity"/> each,
    /// and <c>document_starts</c> and <c>padding</c> [B, S]; as a table a row a block, head and token.
    /// </remarks>
    /// <param name="recording">The recording.</param>
    /// <param name="path">A file that ends in .csv, .parquet, .npz or .safetensors; replaced if it is there.</param>
    /// <exception cref="ArgumentException">It ends otherwise.</exception>
    /// <exception cref="IOException">It cannot be written.</exception>
    public static void Save(this GateRecording recording, string path)
    {
        ArgumentNullException.ThrowIfNull(recording);
        var (sequences, length) = (recording.SequenceCount, recording.Length);
        Save(
            path,
            () =>
            [
                .. recording.Layers.SelectMany(layer => Enum.GetValues<GateQuantity>().Select(quantity => new NamedArray(
                    $"blocks.{layer.Layer}.{JsonNamingPolicy.SnakeCaseLower.ConvertName(quantity.ToString())}",
                    layer[quantity],
                    sequences,
                    layer.HeadCount,
                    length))),
                new("document_starts", Flags(recording.IsDocumentStart), sequences, length),
                new("padding", Flags(recording.IsPadding), sequences, length),
            ],
            () => MetricsTable.From(recording.Rows()));

        bool[] Flags(Func<int, int, bool> flag) => [.. Enumerable.Range(0, sequences * length).Select(k => flag(k / length, k % length))];
    }

    /// <summary>Writes matrices by which heads read, in the format that the file's ending names. The file is whole or absent.</summary>
    /// <remarks>
    /// As arrays <c>blocks.0.attention</c> and so on, [B, NH, S, S] float32, and <c>padding</c> [B, S]; as a table a row a block, head,
    /// reading token and token read, without weights of 0.
    /// </remarks>
    /// <inheritdoc cref="Save(GateRecording, string)"/>
    public static void Save(this AttentionRecording recording, string path)
    {
        ArgumentNullException.ThrowIfNull(recording);
        var (sequences, length) = (recording.SequenceCount, recording.Length);
        Save(
            path,
            () =>
            [
                .. recording.Layers.Select(layer => new NamedArray(
                    $"blocks.{layer.Layer}.attention", layer.Weights, sequences, layer.HeadCount, length, length)),
                new(
                    "padding",
                    Enumerable.Range(0, sequences * length).Select(k => recording.IsPadding(k / length, k % length)).ToArray(),
                    sequences,
                    length),
            ],
            () => MetricsTable.From(recording.Rows()));
    }

    /// <summary>Writes a state in the format that the file's ending names. The file is whole or absent.</summary>
    /// <remarks>
    /// As arrays by the names of its tensors, bfloat16 as float32; as a table a row a number, with its place in the tensor row by row. To
    /// go on from a state, save it by <see cref="ModelStateFile"/>, which says whose it is.
    /// </remarks>
    /// <param name="state">The state.</param>
    /// <param name="path">A file that ends in .csv, .parquet, .npz or .safetensors; replaced if it is there.</param>
    /// <exception cref="ArgumentException">It ends otherwise.</exception>
    /// <exception cref="IOException">It cannot be written.</exception>
    public static void Save(this ModelState state, string path)
    {
        ArgumentNullException.ThrowIfNull(state);
        Save(
            path,
            () => [.. state.Tensors.Select(t => Of(t.Key, t.Value))],
            () => MetricsTable.From(state.Tensors.SelectMany(t => Numbers(t.Key, t.Value))));
    }

    /// <summary>A tensor as an array.</summary>
    /// <param name="name">The array's name.</param>
    /// <param name="tensor">A tensor of numbers or truth values, on any device.</param>
    /// <exception cref="ArgumentException">It holds neither.</exception>
    public static NamedArray Of(string name, Tensor tensor)
    {
        ArgumentNullException.ThrowIfNull(tensor);
        using var scope = NewDisposeScope();
        var values = tensor.detach().cpu();
        values = values.dtype is ScalarType.BFloat16 or ScalarType.Float16 ? values.to(ScalarType.Float32)
            : values.dtype is ScalarType.Byte or ScalarType.Int8 or ScalarType.Int16 ? values.to(ScalarType.Int32) : values;
        values = values.contiguous();
        Array array = values.dtype switch
        {
            ScalarType.Float32 => values.data<float>().ToArray(),
            ScalarType.Float64 => values.data<double>().ToArray(),
            ScalarType.Int32 => values.data<int>().ToArray(),
            ScalarType.Int64 => values.data<long>().ToArray(),
            ScalarType.Bool => values.data<bool>().ToArray(),
            _ => throw new ArgumentException($"'{name}' is of type {values.dtype}, which no array here holds.", nameof(tensor)),
        };
        return new(name, array, [.. tensor.shape.Select(n => checked((int)n))]);
    }

    /// <summary>Writes arrays as tensors.</summary>
    internal static void WriteSafetensors(
        string path, IEnumerable<NamedArray> arrays, IEnumerable<KeyValuePair<string, string>>? metadata = null)
    {
        using var scope = NewDisposeScope();
        Safetensors.Write(path, arrays.Select(a => KeyValuePair.Create(a.Name, Tensor(a))), metadata);
    }

    private static void Save(string path, Func<IReadOnlyList<NamedArray>> arrays, Func<MetricsTable> table)
    {
        switch (ExportFormats.Of(path))
        {
            case ExportFormat.Numpy:
                NumpyFile.Write(path, arrays());
                break;
            case ExportFormat.Safetensors:
                WriteSafetensors(path, arrays());
                break;
            case ExportFormat.Csv or ExportFormat.Parquet:
                table().Save(path);
                break;
            default:
                throw UnknownValue.Of(ExportFormats.Of(path));
        }
    }

    private static Tensor Tensor(NamedArray array)
    {
        long[] shape = [.. array.Shape.Select(n => (long)n)];
        return array.Values switch
        {
            float[] values => tensor(values, shape),
            double[] values => tensor(values, shape),
            int[] values => tensor(values, shape),
            long[] values => tensor(values, shape),
            bool[] values => tensor(values, shape),
            _ => throw new ArgumentException($"'{array.Name}' is a {array.Values.GetType().Name}, which no tensor holds."),
        };
    }

    private static IEnumerable<StateNumber> Numbers(string name, Tensor tensor)
    {
        var array = Of(name, tensor);
        var row = array.Shape.Count == 0 ? 1 : array.Shape.Skip(1).Aggregate(1, (product, length) => product * length);
        for (var at = 0; at < array.Values.Length; at++)
        {
            yield return new(name, at / row, at % row, Convert.ToDouble(array.Values.GetValue(at), CultureInfo.InvariantCulture));
        }
    }

    /// <summary>One number of a state.</summary>
    private sealed record StateNumber(string Tensor, int Sequence, int Index, double Value);
}
