using static TorchSharp.torch;

namespace XlstmLab.Checkpoints;

/// <summary>A tensor of a safetensors file.</summary>
/// <param name="Name">Its name.</param>
/// <param name="Dtype">The type of its elements.</param>
/// <param name="Shape">Its sizes; none for a scalar.</param>
/// <param name="Begin">The first byte of its data, counted from the file's beginning.</param>
/// <param name="End">The byte after its data.</param>
public sealed record SafetensorsEntry(string Name, ScalarType Dtype, long[] Shape, long Begin, long End)
{
    /// <summary>The size of its data in bytes.</summary>
    public long SizeInBytes => End - Begin;
}
