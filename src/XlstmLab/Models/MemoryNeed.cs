using System.Globalization;
using TorchSharp;
using XlstmLab.Native;
using XlstmLab.Native.Cuda;

namespace XlstmLab.Models;

/// <summary>Refuses what does not fit into memory before anything of it is there.</summary>
/// <remarks>All is counted in floating point, where the largest sizes that a file can name do not overflow.</remarks>
internal static class MemoryNeed
{
    /// <summary>
    /// Refuses a model whose parameters do not fit into the machine's memory, where models are made, or that of the device they will be
    /// loaded to.
    /// </summary>
    /// <exception cref="ConfigException">They do not; the message says what they need and what there is.</exception>
    public static void RequireModel(LanguageModelConfig config)
    {
        var (parameters, least) = Parameters(config);
        var place = Layers.Parameters.ToBeLoaded;
        var isHalf = place?.Projections == torch.ScalarType.BFloat16;
        var bytes = (isHalf ? 2 : sizeof(float)) * parameters;
        var (has, where) = Memory(place?.Device ?? torch.CPU);
        if (bytes > has)
        {
            throw new ConfigException(
                $"The model does not fit into memory: {least}{Count(parameters)} parameters need {least}{Readable.Size(bytes)} in "
                + $"{(isHalf ? "bfloat16" : "float32")}, and {where} has {Readable.Size(has)}. Choose a smaller width, "
                + "fewer blocks or a smaller vocabulary.");
        }
    }

    /// <summary>Refuses what needs more than a device has.</summary>
    /// <param name="what">What needs it, in words that begin a sentence.</param>
    /// <param name="bytes">What it needs at least.</param>
    /// <param name="device">Where it shall be.</param>
    /// <param name="advice">What helps.</param>
    /// <exception cref="ConfigException">It needs more; the message says how much.</exception>
    public static void Require(string what, double bytes, torch.Device device, string advice)
    {
        var (has, where) = Memory(device);
        if (bytes > has)
        {
            throw new ConfigException(
                $"{what} does not fit into memory: it needs at least {Readable.Size(bytes)}, and {where} has "
                + $"{Readable.Size(has)}. {advice}");
        }
    }

    /// <summary>
    /// The number of parameters; where even the embedding and a row a block are too many for memory, the number of those.
    /// </summary>
    public static (double Count, string AtLeast) Parameters(LanguageModelConfig config)
    {
        var least = config.EmbeddingDim * ((config.TieWordEmbeddings ? 1.0 : 2.0) * config.VocabularySize + config.BlockCount);
        if (sizeof(float) * least > SystemMemory.Total)
        {
            return (least, "at least ");
        }

        try
        {
            var counted = config.CountParameters();
            return counted >= least ? (counted, "") : (least, "at least ");
        }
        catch (OverflowException)
        {
            return (Math.Pow(2, 63), "at least ");
        }
    }

    /// <summary>A number of parameters, in full or, where nobody could read that, as a power of ten.</summary>
    public static string Count(double number) => number.ToString(number < 1e15 ? "N0" : "0.0E+0", CultureInfo.InvariantCulture);

    private static (double Bytes, string Where) Memory(torch.Device device) =>
        device.type == DeviceType.CUDA && GpuBytes(device.index) is { } gpu ? (gpu, "the GPU") : (SystemMemory.Total, "the machine");

    private static double? GpuBytes(int index)
    {
        try
        {
            return Gpu.Memory(Math.Max(0, index)).Total;
        }
        catch (CudaException)
        {
            return null;
        }
    }
}
