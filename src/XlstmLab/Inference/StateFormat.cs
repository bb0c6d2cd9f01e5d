using XlstmLab.Models;
using XlstmLab.Operations;
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
    private const string Kept = "memories are kept in bfloat16 ";

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

    /// <summary>
    /// Why memories of texts side by side cannot be kept in a format while a model generates, in words; null where they can.
    /// </summary>
    /// <param name="format">The format.</param>
    /// <param name="model">The model.</param>
    /// <param name="texts">How many texts.</param>
    public static string? Fault(this StateFormat format, LanguageModel model, int texts) => format switch
    {
        StateFormat.Float32 => null,
        StateFormat.BFloat16 => format.Fault(model.parameters().First())
            ?? (FaultOfHalves(model, texts) is { } fault ? Kept + fault : null),
        _ => throw UnknownValue.Of(format),
    };

    /// <summary>
    /// Why memories cannot be kept in a format on the device of a model's weight, whatever the model; null where they can.
    /// </summary>
    public static string? Fault(this StateFormat format, Tensor weight) => format switch
    {
        StateFormat.Float32 => null,
        StateFormat.BFloat16 => Kernel.RecorderAbsence(weight) is { } absence
            ? $"{Kept}by the kernels of a GPU that records graphs; here {absence}" : null,
        _ => throw UnknownValue.Of(format),
    };

    /// <summary>Whether a tensor of such a state is an mLSTM's memory C.</summary>
    public static bool IsMemory(string name) => name.EndsWith(".c", StringComparison.Ordinal);

    private static string? FaultOfHalves(LanguageModel model, int texts)
    {
        var weight = model.parameters().First();
        var computed = model.ComputeType ?? weight.dtype;
        return model.Observer is not null ? "while nobody looks at a model's activations; somebody does"
            : computed != ScalarType.BFloat16 ? $"of a model that computes in bfloat16; this one computes in {computed}"
            : texts > TokenStepKernels.MostSequences
                ? FormattableString.Invariant($"of up to {TokenStepKernels.MostSequences} texts side by side; these are {texts}")
            : !XlstmGpuStep.MayRead(model, texts, StateFormat.BFloat16)
                ? $"of an xLSTM in the 7B's shape with heads of a multiple of 8 values; {model.GetName()} is none, or its weights are apart"
            : null;
    }

    private static ModelState WithMemories(ModelState state, ScalarType type) =>
        state.Map((name, tensor) => tensor.detach().to(IsMemory(name) ? type : tensor.dtype, copy: true));
}
