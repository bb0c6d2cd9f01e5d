using System.Text;
using System.Text.Json.Nodes;
using TorchSharp;
using XlstmLab.Checkpoints;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Checkpoints;

public sealed class SafetensorsTests : IDisposable
{
    private readonly TempFolder _temp = new();
    private readonly DisposeScope _scope = NewDisposeScope();

    public void Dispose()
    {
        _scope.Dispose();
        _temp.Dispose();
    }

    [Fact]
    public void Write_SmallCase_GivesTheFormatsBytes()
    {
        var tensors = new Dictionary<string, Tensor>
        {
            ["b.flag"] = tensor(new[] { true, false }),
            ["a.half"] = tensor(new[] { 1f }).to(ScalarType.BFloat16),
            ["z"] = tensor(new[] { 1f, -2f }).view(2, 1),
            ["c"] = tensor(258L),
        };
        Safetensors.Write(_temp["a"], tensors, [KeyValuePair.Create("format", "pt")]);

        // Wider types first, names in order within a type, and spaces up to a multiple of eight.
        var header =
            """{"__metadata__":{"format":"pt"},"c":{"dtype":"I64","shape":[],"data_offsets":[0,8]},"z":{"dtype":"F32","shape":[2,1],"data_offsets":[8,16]},"a.half":{"dtype":"BF16","shape":[1],"data_offsets":[16,18]},"b.flag":{"dtype":"BOOL","shape":[2],"data_offsets":[18,20]}}""";
        var padded = header.PadRight((header.Length + 7) / 8 * 8);
        byte[] expected =
        [
            .. BitConverter.GetBytes((long)padded.Length), .. Encoding.ASCII.GetBytes(padded),
            2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0, 0x80, 0x3f, 1, 0,
        ];
        Assert.Equal(expected, File.ReadAllBytes(_temp["a"]));
    }

    [Fact]
    public void Write_NoTensors_GivesTheFormatsBytes()
    {
        Safetensors.Write(_temp["a"], []);
        Assert.Equal([8, 0, 0, 0, 0, 0, 0, 0, .. "{}      "u8], File.ReadAllBytes(_temp["a"]));
        using var file = SafetensorsFile.Open(_temp["a"]);
        Assert.Empty(file.Names);
    }

    [Theory]
    [InlineData("hf_xlstm/model.safetensors")]
    [InlineData("hf_xlstm_io.safetensors")]
    public void Write_TensorsOfAPythonFile_GivesThatFile(string name)
    {
        using var file = SafetensorsFile.Open(TestSetup.Golden(name));
        Safetensors.Write(_temp["a"], file.Names.Reverse().ToDictionary(n => n, n => file.Read(n)), file.Metadata);
        Assert.Equal(File.ReadAllBytes(TestSetup.Golden(name)), File.ReadAllBytes(_temp["a"]));
    }

    [Fact]
    public void Write_Dtype_CastsFloatingPointOnly()
    {
        var weights = nn.Parameter(randn(40, 3));
        Safetensors.Write(
            _temp["a"], new Dictionary<string, Tensor> { ["w"] = weights, ["n"] = arange(4) }, null,
            ScalarType.BFloat16, null, 16, default);
        using var file = SafetensorsFile.Open(_temp["a"]);
        SafetensorsFileTests.AssertSame(weights.detach().to(ScalarType.BFloat16), file.Read("w"));
        SafetensorsFileTests.AssertSame(arange(4), file.Read("n"));
    }

    [Fact]
    public void Write_Progress_EndsAtTheTotal()
    {
        var reports = new List<ByteProgress>();
        Safetensors.Write(_temp["a"], Two(), null, null, new ImmediateProgress<ByteProgress>(reports.Add), 100, default);
        Assert.True(reports.Count > 10);
        Assert.Equal(reports.Select(r => r.Done).Order(), reports.Select(r => r.Done));
        Assert.Equal(new ByteProgress(1600, 1600), reports[^1]);
    }

    [Fact]
    public void Write_EnumerationFails_LeavesNoFile()
    {
        static IEnumerable<KeyValuePair<string, Tensor>> Failing()
        {
            yield return KeyValuePair.Create("a", ones(3));
            throw new InvalidDataException("no more");
        }

        Assert.Throws<InvalidDataException>(() => Safetensors.Write(_temp["a"], Failing()));
        Assert.Empty(_temp.Entries);
    }

    [Fact]
    public void Write_FailsOrIsCancelledInTheMiddle_LeavesTheOldFile()
    {
        File.WriteAllText(_temp["a"], "old");
        var failing = new ImmediateProgress<ByteProgress>(p => throw new InvalidDataException());
        Assert.Throws<InvalidDataException>(() => Safetensors.Write(_temp["a"], Two(), null, null, failing, 100, default));

        using var source = new CancellationTokenSource();
        var cancelling = new ImmediateProgress<ByteProgress>(p =>
        {
            Assert.Contains(_temp.Entries, name => name.StartsWith("a.tmp-", StringComparison.Ordinal));
            if (p.Done > 500)
            {
                source.Cancel();
            }
        });
        Assert.Throws<OperationCanceledException>(() => Safetensors.Write(_temp["a"], Two(), null, null, cancelling, 100, source.Token));

        Assert.Equal(["a"], _temp.Entries);
        Assert.Equal("old", File.ReadAllText(_temp["a"]));
    }

    [Fact]
    public void Write_WhatTheFormatLacks_IsRefusedBeforeAByteIsWritten()
    {
        var one = ones(1);
        KeyValuePair<string, Tensor>[] Named(Tensor t) => [KeyValuePair.Create("x", t)];
        Assert.Contains(
            "'x'", Assert.Throws<ArgumentException>(() => Safetensors.Write(_temp["a"], [.. Named(one), .. Named(one)])).Message,
            StringComparison.Ordinal);
        Assert.Throws<ArgumentException>(() => Safetensors.Write(_temp["a"], [KeyValuePair.Create("__metadata__", one)]));
        Assert.Throws<ArgumentException>(() => Safetensors.Write(_temp["a"], Named(zeros(2, ScalarType.ComplexFloat32))));
        Assert.Throws<ArgumentException>(() => Safetensors.Write(_temp["a"], Named(zeros(2, device: META))));
        Assert.Throws<ArgumentException>(() => Safetensors.Write(_temp["a"], Named(one), dtype: ScalarType.Int32));
        Assert.Empty(_temp.Entries);
    }

    [Fact]
    public void WriteSharded_SmallModel_IsOneFile()
    {
        Safetensors.WriteSharded(_temp["m"], Two(), maxShardBytes: 1600);
        Assert.Equal([_temp["m", "model.safetensors"]], Directory.GetFiles(_temp["m"]));
    }

    [Theory]
    [InlineData(1)]
    [InlineData(400)]
    [InlineData(1000)]
    public void WriteSharded_LargeModel_ReadsAsOneSet(int maxShardBytes)
    {
        var tensors = Enumerable.Range(0, 11).ToDictionary(i => $"t{i}", i => i == 4 ? randn(300) : randn(i, 5));
        var last = default(ByteProgress);
        Safetensors.WriteSharded(_temp["m"], tensors, maxShardBytes, progress: new ImmediateProgress<ByteProgress>(p => last = p));

        var files = Directory.GetFiles(_temp["m"], "*.safetensors").Order(StringComparer.Ordinal).ToArray();
        Assert.Equal(
            Enumerable.Range(1, files.Length).Select(i => $"model-{i:D5}-of-{files.Length:D5}.safetensors"),
            files.Select(f => Path.GetFileName(f)!));
        var index = JsonNode.Parse(File.ReadAllText(_temp["m", "model.safetensors.index.json"]))!;
        var total = tensors.Values.Sum(t => t.NumberOfElements * 4);
        Assert.Equal(total, index["metadata"]!["total_size"]!.GetValue<long>());
        Assert.Equal(tensors.Keys.Order(StringComparer.Ordinal), index["weight_map"]!.AsObject().Select(p => p.Key));
        Assert.Equal(new ByteProgress(total, total), last);

        using var folder = SafetensorsFolder.Open(_temp["m"]);
        Assert.Equal(tensors.Keys.Order(StringComparer.Ordinal), folder.Names);
        foreach (var (name, expected) in tensors)
        {
            SafetensorsFileTests.AssertSame(expected, folder.Read(name));
            Assert.Equal(index["weight_map"]![name]!.GetValue<string>(), Path.GetFileName(folder.FileOf(name).Path));
        }

        foreach (var file in files)
        {
            using var shard = SafetensorsFile.Open(file);
            Assert.True(shard.SizeInBytes <= maxShardBytes || shard.Names.Count(n => shard.Info(n).SizeInBytes > 0) == 1);
        }
    }

    [Fact]
    public void WriteSharded_CancelledInALaterShard_LeavesNoFile()
    {
        using var source = new CancellationTokenSource();
        var progress = new ImmediateProgress<ByteProgress>(p => source.Cancel());
        Assert.Throws<OperationCanceledException>(
            () => Safetensors.WriteSharded(_temp["m"], Two(), 800, progress: progress, cancellationToken: source.Token));
        Assert.Empty(Directory.EnumerateFileSystemEntries(_temp["m"]));
    }

    [Fact]
    public void WriteSharded_FolderWithWeights_IsRefused()
    {
        Safetensors.WriteSharded(_temp["m"], Two());
        Assert.Throws<CheckpointException>(() => Safetensors.WriteSharded(_temp["m"], Two(), 800));
        Assert.Single(Directory.GetFiles(_temp["m"]));
    }

    [Theory]
    [InlineData("{", "cannot be read")]
    [InlineData("[]", "no object 'weight_map'")]
    [InlineData("""{"weight_map":[]}""", "no object 'weight_map'")]
    [InlineData("""{"weight_map":{"a":1}}""", "expected the name of a file")]
    [InlineData("""{"weight_map":{"a":"../other/model.safetensors"}}""", "expected the name of a file")]
    [InlineData("""{"weight_map":{"a":"/etc/passwd"}}""", "expected the name of a file")]
    [InlineData("""{"weight_map":{"a":".."}}""", "expected the name of a file")]
    [InlineData("""{"weight_map":{"\ud800":"one"}}""", "cannot be read")]
    [InlineData("""{"weight_map":{"a":"one","a":"one"}}""", "cannot be read")]
    [InlineData("""{"weight_map":{"a":"one","b":"gone","c":"lost"}}""", "not there: 'gone', 'lost'")]
    [InlineData("""{"weight_map":{"a":"one","b":"one","c":"one"}}""", "do not have: 'b in one', 'c in one'")]
    [InlineData("""{"weight_map":{"a":"damaged"}}""", "damaged: the file has 3 bytes")]
    public void OpenFolder_WrongIndex_SaysWhatIsWrong(string index, string reason)
    {
        Safetensors.Write(_temp["one"], new Dictionary<string, Tensor> { ["a"] = ones(1) });
        File.WriteAllText(_temp["damaged"], "abc");
        File.WriteAllText(_temp["model.safetensors.index.json"], index);
        var e = Assert.Throws<CheckpointException>(() => SafetensorsFolder.Open(_temp["."]));
        Assert.Contains(reason, e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void OpenFolder_NoWeightsOrNoFolder_SaysSo()
    {
        Assert.Contains(
            "neither model.safetensors nor",
            Assert.Throws<CheckpointException>(() => SafetensorsFolder.Open(_temp["."])).Message, StringComparison.Ordinal);
        Assert.Contains(
            "no such folder", Assert.Throws<CheckpointException>(() => SafetensorsFolder.Open(_temp["none"])).Message,
            StringComparison.Ordinal);
    }

    private static Dictionary<string, Tensor> Two() => new() { ["x"] = randn(10, 20), ["y"] = randn(20, 10).t() };
}
