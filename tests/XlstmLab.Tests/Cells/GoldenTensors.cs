using System.Text.Json.Nodes;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Cells;

internal static class GoldenTensors
{
    public static Dictionary<string, Tensor> Read(string path)
    {
        var bytes = File.ReadAllBytes(path);
        var length = (int)BitConverter.ToInt64(bytes);
        var header = JsonNode.Parse(bytes.AsSpan(8, length))!.AsObject();
        var result = new Dictionary<string, Tensor>();
        foreach (var (name, info) in header)
        {
            if (name == "__metadata__") continue;
            var shape = info!["shape"]!.AsArray().Select(x => (long)x!).ToArray();
            var begin = (int)(long)info["data_offsets"]![0]!;
            var end = (int)(long)info["data_offsets"]![1]!;
            var type = (string)info["dtype"]! switch { "F64" => ScalarType.Float64, "F32" => ScalarType.Float32, _ => ScalarType.Int64 };
            var t = empty(shape, dtype: type);
            t.bytes = bytes.AsSpan(8 + length + begin, end - begin);
            result[name] = t;
        }
        return result;
    }

    public static JsonNode About(string path)
    {
        var bytes = File.ReadAllBytes(path);
        var header = JsonNode.Parse(bytes.AsSpan(8, (int)BitConverter.ToInt64(bytes)))!;
        return JsonNode.Parse((string)header["__metadata__"]!["about"]!)!;
    }
}
