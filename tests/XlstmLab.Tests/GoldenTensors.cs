using System.Text.Json.Nodes;
using XlstmLab.Checkpoints;
using static TorchSharp.torch;

namespace XlstmLab.Tests;

/// <summary>Golden files as a test wants them.</summary>
internal static class GoldenTensors
{
    /// <summary>All tensors by name, in the caller's dispose scope.</summary>
    public static Dictionary<string, Tensor> Read(string path)
    {
        using var file = SafetensorsFile.Open(path);
        return file.Names.ToDictionary(name => name, name => file.Read(name));
    }

    /// <summary>What the file says of itself.</summary>
    public static JsonNode About(string path)
    {
        using var file = SafetensorsFile.Open(path);
        return JsonNode.Parse(file.Metadata["about"])!;
    }
}
