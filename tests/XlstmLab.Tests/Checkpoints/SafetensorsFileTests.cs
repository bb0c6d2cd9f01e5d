using System.Text;
using TorchSharp;
using XlstmLab.Checkpoints;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Checkpoints;

public sealed class SafetensorsFileTests : IDisposable
{
    private readonly TempFolder _temp = new();
    private readonly DisposeScope _scope = NewDisposeScope();

    public void Dispose()
    {
        _scope.Dispose();
        _temp.Dispose();
    }

    public static TheoryData<ScalarType> AllDtypes =>
    [
        ScalarType.Float64, ScalarType.Float32, ScalarType.Float16, ScalarType.BFloat16, ScalarType.Int64, ScalarType.Int32,
        ScalarType.Int16, ScalarType.Int8, ScalarType.Byte, ScalarType.Bool,
    ];

    [Theory]
    [MemberData(nameof(AllDtypes))]
    public void Read_EveryTypeAndLayout_GivesWhatWasWritten(ScalarType dtype)
    {
        var matrix = (randn(7, 5) * 50).abs().to(dtype);
        var tensors = new Dictionary<string, Tensor>
        {
            ["matrix"] = matrix,
            ["transposed"] = matrix.t(),
            ["every other"] = matrix[.., TensorIndex.Slice(null, null, 2)],
            ["offset"] = matrix[3],
            ["expanded"] = matrix[0].expand(4, 5),
            ["scalar"] = matrix[1, 1],
            ["empty"] = empty(new long[] { 0 }, dtype),
            ["empty with sizes"] = empty(new long[] { 3, 0, 2 }, dtype),
            ["ä \"quoted\"\n𝄞"] = matrix,
        };
        Safetensors.Write(_temp["a.safetensors"], tensors);

        foreach (var pieceBytes in new[] { 1, 24, SafetensorsFile.DefaultPieceBytes })
        {
            using var file = SafetensorsFile.Open(_temp["a.safetensors"], pieceBytes);
            Assert.Equal(tensors.Keys.Order(StringComparer.Ordinal), file.Names);
            foreach (var (name, expected) in tensors)
            {
                AssertSame(expected, file.Read(name));
            }
        }
    }

    [Fact]
    public void Read_OtherType_Casts()
    {
        var source = randn(33, 3);
        Safetensors.Write(_temp["a"], new Dictionary<string, Tensor> { ["x"] = source });
        using var file = SafetensorsFile.Open(_temp["a"], 64);
        AssertSame(source.to(ScalarType.BFloat16), file.Read("x", dtype: ScalarType.BFloat16));
        AssertSame(source.to(ScalarType.Float64), file.Read("x", CPU, ScalarType.Float64));
    }

    [Theory]
    [InlineData(ScalarType.Float32)]
    [InlineData(ScalarType.BFloat16)]
    public void Read_FileThatBecomesShorter_IsRefused(ScalarType dtype)
    {
        Safetensors.Write(_temp["a"], new Dictionary<string, Tensor> { ["x"] = randn(100, 100) });
        using var file = SafetensorsFile.Open(_temp["a"], 1000);
        using (var other = File.OpenHandle(_temp["a"], FileMode.Open, FileAccess.Write, FileShare.ReadWrite))
        {
            RandomAccess.SetLength(other, 20_000);
        }

        Assert.Contains(
            "has become shorter", Assert.Throws<CheckpointException>(() => file.Read("x", dtype: dtype)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void ReadInto_ParametersAndViews_AreFilled()
    {
        var source = randn(6, 4);
        Safetensors.Write(_temp["a"], new Dictionary<string, Tensor> { ["x"] = source });
        using var file = SafetensorsFile.Open(_temp["a"], 16);

        var parameter = nn.Parameter(zeros(6, 4));
        file.ReadInto("x", parameter);
        AssertSame(source, parameter.detach());
        Assert.True(parameter.requires_grad);
        Assert.True(parameter.is_leaf);

        var frame = zeros(8, 8, ScalarType.Float64);
        file.ReadInto("x", frame.t()[TensorIndex.Slice(1, 7), TensorIndex.Slice(2, 6)]);
        AssertSame(source.to(ScalarType.Float64), frame.t()[1..7, 2..6]);
        Assert.Equal(source.to(ScalarType.Float64).sum().item<double>(), frame.sum().item<double>(), 1e-9);
    }

    [Fact]
    public void ReadInto_OtherShape_IsRefused()
    {
        Safetensors.Write(_temp["a"], new Dictionary<string, Tensor> { ["x"] = ones(6, 4) });
        using var file = SafetensorsFile.Open(_temp["a"]);
        var e = Assert.Throws<CheckpointException>(() => file.ReadInto("x", zeros(4, 6)));
        Assert.Contains("'x'", e.Message, StringComparison.Ordinal);
        Assert.Contains("[6, 4]", e.Message, StringComparison.Ordinal);
        Assert.Contains("[4, 6]", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Read_UnknownName_NamesWhatIsThere()
    {
        Safetensors.Write(_temp["a"], new Dictionary<string, Tensor> { ["x"] = ones(1) });
        using var file = SafetensorsFile.Open(_temp["a"]);
        var e = Assert.Throws<CheckpointException>(() => file.Read("y"));
        Assert.Contains("'y'", e.Message, StringComparison.Ordinal);
        Assert.Contains("'x'", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Read_AfterDispose_Throws()
    {
        Safetensors.Write(_temp["a"], new Dictionary<string, Tensor> { ["x"] = ones(1) });
        var file = SafetensorsFile.Open(_temp["a"]);
        file.Dispose();
        Assert.Throws<ObjectDisposedException>(() => file.Read("x"));
    }

    [Fact]
    public void Read_TruthValuesOtherThanOne_BecomeTrue()
    {
        Write("""{"x":{"dtype":"BOOL","shape":[3],"data_offsets":[0,3]}}""", [0, 2, 255]);
        using var file = SafetensorsFile.Open(_temp["a"]);
        var x = file.Read("x");
        Assert.Equal([0, 1, 1], x.bytes.ToArray());
    }

    [Fact]
    public void Read_ManyTensors_LeavesNoneBehind()
    {
        Safetensors.Write(_temp["a"], new Dictionary<string, Tensor> { ["x"] = ones(64, 3), ["b"] = ones(9) > 0 });
        var before = DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount;
        for (var i = 0; i < 10; i++)
        {
            using var file = SafetensorsFile.Open(_temp["a"], 32);
            using var x = file.Read("x", dtype: ScalarType.Float64);
            using var b = file.Read("b");
            Assert.Throws<CheckpointException>(() => file.ReadInto("b", x));
            Safetensors.Write(_temp["b"], new Dictionary<string, Tensor> { ["x"] = x }, dtype: ScalarType.BFloat16);
        }

        Assert.Equal(before, DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount);
    }

    [Fact]
    public void Open_GoldenFile_HasItsTensors()
    {
        using var file = SafetensorsFile.Open(TestSetup.Golden("hf_xlstm_io.safetensors"));
        Assert.Equal(["greedy", "input_ids", "logits"], file.Names);
        Assert.Equal(ScalarType.Int64, file.Info("input_ids").Dtype);
        Assert.Equal([2, 37, 89], file.Info("logits").Shape);
        Assert.Equal(26344, file.Info("logits").SizeInBytes);
        Assert.Empty(file.Metadata);
        Assert.InRange(file.Read("logits").abs().max().item<float>(), 0.01f, 30f);
        Assert.InRange(file.Read("input_ids").max().item<long>(), 1, 88);
    }

    [Theory]
    [InlineData("{}", "", null)]
    [InlineData("{}", "x", "end at 0, but 1 bytes")]
    [InlineData("[]", "", "no JSON object")]
    [InlineData(" {}", "", "no JSON object")]
    [InlineData("{", "", "no valid JSON")]
    [InlineData("""{"a":1}""", "", "is a number")]
    [InlineData("""{"a":{}}""", "", "no dtype")]
    [InlineData("""{"a":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}}""", "x", "'F8_E4M3'; known are")]
    [InlineData("""{"a":{"dtype":"U8","data_offsets":[0,1]}}""", "x", "shape is not a list")]
    [InlineData("""{"a":{"dtype":"U8","shape":[1.5],"data_offsets":[0,1]}}""", "x", "shape is not a list")]
    [InlineData("""{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}}""", "x", "negative size")]
    [InlineData("""{"a":{"dtype":"U8","shape":[-1,-1],"data_offsets":[0,1]}}""", "x", "negative size")]
    [InlineData("""{"a":{"dtype":"F32","shape":[9223372036854775807],"data_offsets":[0,1]}}""", "x", "64 bits can count")]
    [InlineData("""{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}""", "", "64 bits can count")]
    [InlineData("""{"a":{"dtype":"F32","shape":[0,4294967296,4294967296],"data_offsets":[0,0]}}""", "", "64 bits can count")]
    [InlineData("""{"a":{"dtype":"U8","shape":[18446744073709551616],"data_offsets":[0,0]}}""", "", "shape is not a list")]
    [InlineData("""{"a":{"dtype":"U8","shape":[1],"data_offsets":[0]}}""", "x", "data_offsets are not two")]
    [InlineData("""{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,0]}}""", "x", "not within the 1 bytes")]
    [InlineData("""{"a":{"dtype":"U8","shape":[1],"data_offsets":[-1,0]}}""", "x", "not within the 1 bytes")]
    [InlineData("""{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}""", "x", "not within the 1 bytes")]
    [InlineData("""{"a":{"dtype":"U8","shape":[1],"data_offsets":[9223372036854775806,9223372036854775807]}}""", "x", "not within")]
    [InlineData("""{"a":{"dtype":"F16","shape":[1],"data_offsets":[0,1]}}""", "x", "hold 1 bytes, but its dtype F16 and shape [1] need 2")]
    [InlineData("""{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}""", "xx", "no gap")]
    [InlineData(
        """{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}""",
        "xxx", "not overlap")]
    [InlineData(
        """{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}""",
        "xx", "no valid JSON")]
    [InlineData("""{"__metadata__":{"a":1}}""", "", "expected a text")]
    [InlineData("""{"__metadata__":3}""", "", "expected an object of texts")]
    [InlineData("""{"\ud800":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}""", "x", "no Unicode")]
    [InlineData(
        """{"b":{"dtype":"U8","shape":[1],"data_offsets":[1,2],"more":[]},"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}   """,
        "xx", null)]
    public void Open_Header_IsAcceptedOrRefusedWithTheReason(string header, string data, string? reason)
    {
        Write(header, Encoding.UTF8.GetBytes(data));
        if (reason is null)
        {
            using var file = SafetensorsFile.Open(_temp["a"]);
            Assert.Equal(data.Length, file.SizeInBytes);
            return;
        }

        var e = Assert.Throws<CheckpointException>(() => SafetensorsFile.Open(_temp["a"]));
        Assert.StartsWith(_temp["a"], e.Message, StringComparison.Ordinal);
        Assert.Contains(reason, e.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(0UL)]
    [InlineData(3UL)]
    [InlineData(100_000_001UL)]
    [InlineData(1UL << 32)]
    [InlineData((1UL << 63) - 8)]
    [InlineData(1UL << 63)]
    [InlineData(ulong.MaxValue)]
    public void Open_LyingHeaderLength_IsRefused(ulong length)
    {
        File.WriteAllBytes(_temp["a"], [.. BitConverter.GetBytes(length), (byte)'{', (byte)'}']);
        Assert.Throws<CheckpointException>(() => SafetensorsFile.Open(_temp["a"]));
    }

    [Fact]
    public void Open_NoFileOrFolder_SaysSo()
    {
        Assert.Contains(
            "cannot be opened", Assert.Throws<CheckpointException>(() => SafetensorsFile.Open(_temp["none"])).Message,
            StringComparison.Ordinal);
        Assert.Contains(
            "cannot be opened", Assert.Throws<CheckpointException>(() => SafetensorsFile.Open(_temp["."])).Message,
            StringComparison.Ordinal);
    }

    [Fact]
    public void Open_CutOffAtAnyLength_IsRefused()
    {
        var whole = SmallFile();
        for (var length = 0; length < whole.Length; length++)
        {
            File.WriteAllBytes(_temp["a"], whole[..length]);
            Assert.Throws<CheckpointException>(() => SafetensorsFile.Open(_temp["a"]));
        }

        File.WriteAllBytes(_temp["a"], [.. whole, 0]);
        Assert.Throws<CheckpointException>(() => SafetensorsFile.Open(_temp["a"]));
    }

    [Fact]
    public void Open_FlippedBits_IsRefusedOrStaysInsideTheFile()
    {
        var whole = SmallFile();
        var headerEnd = 8 + (int)BitConverter.ToInt64(whole);
        var refused = 0;
        for (var bit = 0; bit < headerEnd * 8; bit++)
        {
            var bytes = whole.ToArray();
            bytes[bit / 8] ^= (byte)(1 << (bit % 8));
            refused += Refused(bytes);
        }

        Assert.InRange(refused, headerEnd * 3, headerEnd * 8);
    }

    [Fact]
    public void Open_RandomDamage_IsRefusedOrStaysInsideTheFile()
    {
        var whole = SmallFile();
        var headerEnd = 8 + (int)BitConverter.ToInt64(whole);
        var random = new Random(7);
        string[] tokens = ["{", "}", "[", "]", ",", ":", "\"", "-", "0", "99999999999999999999", "1e400",
            "null", "\\ud800", "\"BF16\"", "F64", "4611686018427387904"];
        for (var i = 0; i < 6000; i++)
        {
            var bytes = whole.ToList();
            for (var change = random.Next(1, 4); change > 0; change--)
            {
                var at = random.Next(8, headerEnd);
                var token = random.Next(4) == 0 ? [(byte)random.Next(256)] : Encoding.UTF8.GetBytes(tokens[random.Next(tokens.Length)]);
                bytes.RemoveRange(at, Math.Min(token.Length, bytes.Count - at));
                bytes.InsertRange(at, token);
            }

            Refused([.. bytes]);
        }
    }

    internal static void AssertSame(Tensor expected, Tensor actual)
    {
        Assert.Equal(expected.dtype, actual.dtype);
        Assert.Equal(expected.shape, actual.shape);
        Assert.True(expected.contiguous().bytes.SequenceEqual(actual.contiguous().bytes));
    }

    /// <summary>Opens and reads damaged bytes: 1 if they are refused, 0 if they read as tensors; anything else fails the test.</summary>
    private static int Refused(byte[] bytes)
    {
        try
        {
            var header = SafetensorsHeader.Parse(
                bytes.AsMemory(8, SafetensorsHeader.ParseLength(bytes.AsSpan(0, 8), bytes.Length, "damaged")), bytes.Length, "damaged");
            foreach (var entry in header.Entries)
            {
                Assert.InRange(entry.Begin, 8, bytes.Length);
                Assert.InRange(entry.End, entry.Begin, bytes.Length);
                using var tensor = empty(entry.Shape, entry.Dtype);
                Assert.Equal(entry.SizeInBytes, tensor.NumberOfElements * tensor.ElementSize);
            }

            return 0;
        }
        catch (CheckpointException e)
        {
            Assert.StartsWith("damaged: ", e.Message, StringComparison.Ordinal);
            return 1;
        }
    }

    private byte[] SmallFile()
    {
        var tensors = new Dictionary<string, Tensor>
        {
            ["w"] = arange(6).to(ScalarType.Float32).view(2, 3),
            ["n"] = tensor(5L),
            ["b"] = ones(3) > 0,
        };
        Safetensors.Write(_temp["small"], tensors, [KeyValuePair.Create("format", "pt")]);
        return File.ReadAllBytes(_temp["small"]);
    }

    private void Write(string header, byte[] data)
    {
        var text = Encoding.UTF8.GetBytes(header);
        File.WriteAllBytes(_temp["a"], [.. BitConverter.GetBytes((long)text.Length), .. text, .. data]);
    }
}
