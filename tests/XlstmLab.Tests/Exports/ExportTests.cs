using System.IO.Compression;
using System.Runtime.InteropServices;
using System.Text;
using System.Text.RegularExpressions;
using Parquet;
using XlstmLab.Analysis;
using XlstmLab.Checkpoints;
using XlstmLab.Exports;
using XlstmLab.Models;
using XlstmLab.Tests.Runs;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Exports;

public sealed partial class ExportTests : IDisposable
{
    private static readonly MetricsTable Table = MetricsTable.Of(
        new TableColumn("step", typeof(int), [1, 2, 3]),
        new TableColumn("loss", typeof(double), [1.5, null, double.NaN]),
        new TableColumn("tokens", typeof(long), [10L, 20L, 1L << 40]),
        new TableColumn("note", typeof(string), ["a,\"b\"", null, "ä\n𝄞"]),
        new TableColumn("good", typeof(bool), [true, false, true]));

    private readonly TempFolder _temp = new();

    public void Dispose() => _temp.Dispose();

    [Fact]
    public void Csv_EscapesAndLeavesMissingEmpty() =>
        Assert.Equal(
            "step,loss,tokens,note,good\n1,1.5,10,\"a,\"\"b\"\"\",true\n2,,20,,false\n3,NaN,1099511627776,\"ä\n𝄞\",true\n",
            TableFiles.Csv(Table));

    [Fact]
    public async Task Parquet_ReadsBack()
    {
        Table.Save(_temp["t.parquet"]);
        await using var file = File.OpenRead(_temp["t.parquet"]);
        await using var reader = await ParquetReader.CreateAsync(file, cancellationToken: TestContext.Current.CancellationToken);
        var fields = reader.Schema.GetDataFields().ToDictionary(f => f.Name);
        using var group = reader.OpenRowGroupReader(0);
        Assert.Equal(3, group.RowCount);
        var (steps, losses, notes) = (new int[3], new double?[3], new string?[3]);
        await group.ReadAsync<int>(fields["step"], steps.AsMemory(), null, TestContext.Current.CancellationToken);
        await group.ReadAsync<double>(fields["loss"], losses.AsMemory(), null, TestContext.Current.CancellationToken);
        await group.ReadAsync(fields["note"], notes.AsMemory(), null, TestContext.Current.CancellationToken);
        Assert.Equal([1, 2, 3], steps);
        Assert.Equal([1.5, null, double.NaN], losses);
        Assert.Equal(["a,\"b\"", null, "ä\n𝄞"], notes);
    }

    [Fact]
    public void Numpy_ReadsBack()
    {
        Table.Save(_temp["t.npz"]);
        var arrays = ReadNumpy(_temp["t.npz"]);
        Assert.Equal(
            ("<i4", "3,", (int[])[1, 2, 3]),
            (arrays["step"].Type, arrays["step"].Shape, MemoryMarshal.Cast<byte, int>(arrays["step"].Data).ToArray()), Same<int>());
        Assert.Equal([1.5, double.NaN, double.NaN], MemoryMarshal.Cast<byte, double>(arrays["loss"].Data).ToArray());
        Assert.Equal("<U5", arrays["note"].Type);
        Assert.Equal("ä\n𝄞", Encoding.UTF32.GetString(arrays["note"].Data.AsSpan(2 * 5 * 4)).TrimEnd('\0'));
        Assert.Equal([1, 0, 1], arrays["good"].Data);
        Assert.Throws<ArgumentException>(() => NumpyFile.Write(_temp["x.npz"], [new("a", new float[3], 2)]));
        Assert.False(File.Exists(_temp["x.npz"]));
    }

    [Fact]
    public void Safetensors_ReadsBack()
    {
        Table.Save(_temp["t.safetensors"]);
        using var file = SafetensorsFile.Open(_temp["t.safetensors"]);
        using var tokens = file.Read("tokens");
        Assert.Equal([10L, 20L, 1L << 40], tokens.data<long>().ToArray());
        Assert.Contains("a,", file.Metadata["note"], StringComparison.Ordinal);
    }

    [Fact]
    public void GatesAndState_AreTheSameInEveryFormat()
    {
        using var model = new XlstmLanguageModel(Tiny.Config, 1);
        int[] ids = [256, 1, 2, 3, 4];
        var gates = GateCapture.Run(model, ids);
        gates.Save(_temp["g.npz"]);
        gates.Save(_temp["g.safetensors"]);
        gates.Save(_temp["g.csv"]);
        gates.Save(_temp["g.parquet"]);
        var expected = gates.Layers[0][GateQuantity.InputGate];
        var array = ReadNumpy(_temp["g.npz"])["blocks.0.input_gate"];
        Assert.Equal("1, 2, 5", array.Shape);
        Assert.Equal(expected, MemoryMarshal.Cast<byte, float>(array.Data).ToArray());
        using (var file = SafetensorsFile.Open(_temp["g.safetensors"]))
        {
            using var read = file.Read("blocks.0.input_gate");
            Assert.Equal(expected, read.data<float>().ToArray());
            Assert.Equal([1, 5], file.Info("padding").Shape);
        }

        var lines = File.ReadAllLines(_temp["g.csv"]);
        Assert.Equal(1 + 10, lines.Length);
        var at = Array.IndexOf(lines[0].Split(','), "input_gate");
        Assert.Equal(expected, lines[1..].Select(l => float.Parse(l.Split(',')[at], System.Globalization.CultureInfo.InvariantCulture)));

        AttentionCapture.Run(model, ids).Save(_temp["a.npz"]);
        Assert.Equal("1, 2, 5, 5", ReadNumpy(_temp["a.npz"])["blocks.0.attention"].Shape);

        using var input = tensor(ids.Select(i => (long)i).ToArray(), [1, 5]);
        using var state = model.Forward(input, returnState: true).State!;
        state.Save(_temp["s.npz"]);
        state.Save(_temp["s.safetensors"]);
        state.Save(_temp["s.csv"]);
        using var back = SafetensorsFile.Open(_temp["s.safetensors"]);
        foreach (var (name, value) in state.Tensors)
        {
            using var same = back.Read(name);
            Assert.True(same.equal(value.detach()).all().item<bool>());
            Assert.Equal(
                value.detach().contiguous().data<float>().ToArray(),
                MemoryMarshal.Cast<byte, float>(ReadNumpy(_temp["s.npz"])[name].Data).ToArray());
        }

        Assert.Equal(1 + state.Tensors.Values.Sum(t => t.NumberOfElements), File.ReadAllLines(_temp["s.csv"]).Length);
    }

    [Theory]
    [InlineData("x.xlsx")]
    [InlineData("x")]
    public void Save_OtherEnding_IsRefused(string name) =>
        Assert.Contains(".parquet", Assert.Throws<ArgumentException>(() => Table.Save(_temp[name])).Message, StringComparison.Ordinal);

    private static Dictionary<string, (string Type, string Shape, byte[] Data)> ReadNumpy(string path)
    {
        using var zip = ZipFile.OpenRead(path);
        return zip.Entries.ToDictionary(e => Path.GetFileNameWithoutExtension(e.Name), entry =>
        {
            using var stream = entry.Open();
            using var memory = new MemoryStream();
            stream.CopyTo(memory);
            var bytes = memory.ToArray();
            Assert.Equal([0x93, .. "NUMPY"u8, 1, 0], bytes[..8]);
            var start = 10 + BitConverter.ToUInt16(bytes, 8);
            Assert.Equal(0, start % 64);
            var header = Header().Match(Encoding.ASCII.GetString(bytes, 10, start - 10));
            return (header.Groups[1].Value, header.Groups[2].Value, bytes[start..]);
        });
    }

    private static EqualityComparer<(string, string, T[])> Same<T>() =>
        EqualityComparer<(string, string, T[])>.Create(
            (a, b) => a.Item1 == b.Item1 && a.Item2 == b.Item2 && a.Item3.SequenceEqual(b.Item3), _ => 0);

    [GeneratedRegex(@"^\{'descr': '([^']+)', 'fortran_order': False, 'shape': \(([^)]*)\), \} *\n$")]
    private static partial Regex Header();
}
