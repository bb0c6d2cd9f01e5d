using XlstmLab.Models;
using static TorchSharp.torch;

namespace XlstmLab.Inference;

/// <summary>What the memories C of mLSTMs are kept as while tokens are generated; all else of a state is float32.</summary>
public enum StateFormat
{
    /// <summary>32 bits.</summary>
    Float32,

    /// <summary>bfloat16: 16 bits, by chance rounded up or down, so that what is lost in one token is not in many.</summary>
    BFloat16,
}

/// <summary>States in a format.</summary>
internal static class StateFormats
{
    /// <summary>A copy of a state whose memories are of a format.</summary>
    public static ModelState Of(this StateFormat format, ModelState state)
    {
        var type = format switch
        {
            StateFormat.Float32 => ScalarType.Float32,
            StateFormat.BFloat16 => ScalarType.BFloat16,
            _ => throw UnknownValue.Of(format),
        };
        return new(state.Tensors.Select(pair => KeyValuePair.Create(
            pair.Key, IsMemory(pair.Key) && pair.Value.dtype != type ? pair.Value.to(type) : pair.Value.detach().clone())));
    }

    /// <summary>Whether a tensor of a state is an mLSTM's memory C.</summary>
    public static bool IsMemory(string name) => name.EndsWith(".c", StringComparison.Ordinal);
}
