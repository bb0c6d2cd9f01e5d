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
    /// <summary>A copy of a state whose memories are of a format; wider ones than float32 stay so, unless they are to be bfloat16.</summary>
    public static ModelState Of(this StateFormat format, ModelState state) =>
        state.Map((name, tensor) => tensor.detach().to(IsMemory(name) ? TypeOf(format, tensor.dtype) : tensor.dtype, copy: true));

    /// <summary>Whether a tensor of a state is an mLSTM's memory C.</summary>
    public static bool IsMemory(string name) => name.EndsWith(".c", StringComparison.Ordinal);

    private static ScalarType TypeOf(StateFormat format, ScalarType now) => format switch
    {
        StateFormat.Float32 => now == ScalarType.BFloat16 ? ScalarType.Float32 : now,
        StateFormat.BFloat16 => ScalarType.BFloat16,
        _ => throw UnknownValue.Of(format),
    };
}
