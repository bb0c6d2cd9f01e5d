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

/// <summary>States of a model that <see cref="XlstmGpuStep"/> reads, in a format.</summary>
internal static class StateFormats
{
    /// <summary>A copy of a state as the model itself has it, with memories in a format.</summary>
    public static ModelState Keep(this StateFormat format, ModelState state) => format switch
    {
        StateFormat.Float32 => state.Clone(),
        StateFormat.BFloat16 => WithMemories(state, ScalarType.BFloat16),
        _ => throw UnknownValue.Of(format),
    };

    /// <summary>A copy of a state whose memories are in a format, as the model itself has it.</summary>
    public static ModelState Restore(this StateFormat format, ModelState state) => format switch
    {
        StateFormat.Float32 => state.Clone(),
        StateFormat.BFloat16 => WithMemories(state, ScalarType.Float32),
        _ => throw UnknownValue.Of(format),
    };

    /// <summary>Whether a tensor of such a state is an mLSTM's memory C.</summary>
    public static bool IsMemory(string name) => name.EndsWith(".c", StringComparison.Ordinal);

    private static ModelState WithMemories(ModelState state, ScalarType type) =>
        state.Map((name, tensor) => tensor.detach().to(IsMemory(name) ? type : tensor.dtype, copy: true));
}
