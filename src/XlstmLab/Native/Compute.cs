using System.Globalization;
using TorchSharp;

namespace XlstmLab.Native;

/// <summary>Threads, types and devices by the names that command lines have for them.</summary>
internal static class Compute
{
    /// <summary>Loads libtorch and sets its threads, once for the process.</summary>
    /// <param name="threads">Threads of one operation; null for OMP_NUM_THREADS or, without it, the physical cores.</param>
    /// <exception cref="NativeTorchException">libtorch cannot be loaded.</exception>
    public static void Begin(int? threads)
    {
        NativeTorch.EnsureLoaded();
        if (threads is not null || Environment.GetEnvironmentVariable("OMP_NUM_THREADS") is null or "")
        {
            torch.set_num_threads(threads ?? Processor.Current.PhysicalCores);
        }
    }

    /// <summary>The type of that name; null for none.</summary>
    public static torch.ScalarType? Type(string? name) => name switch
    {
        "bf16" => torch.ScalarType.BFloat16,
        "float32" => torch.ScalarType.Float32,
        _ => null,
    };

    /// <summary>The device of that name: cpu, cuda or cuda:1.</summary>
    /// <exception cref="ArgumentException">There is no device of such a name.</exception>
    /// <exception cref="NotSupportedException">The libtorch in use has no such device.</exception>
    public static torch.Device Device(string name)
    {
        if (name == "cpu")
        {
            return torch.CPU;
        }

        var index = 0;
        if (name != "cuda" && !(name.StartsWith("cuda:", StringComparison.Ordinal) && int.TryParse(
            name.AsSpan(5), NumberStyles.None, CultureInfo.InvariantCulture, out index)))
        {
            throw new ArgumentException($"There is no device '{name}'; expected cpu, cuda or cuda:1.");
        }

        return !NativeTorch.IsCudaAvailable
            ? throw new NotSupportedException(
                $"The libtorch in {NativeTorch.Folder} sees no CUDA device. Set {NativeTorch.FolderVariable} to the folder of one that "
                + "does, such as site-packages/torch/lib of a PyTorch with CUDA; 'xlstm doctor' shows what there is.")
            : index >= torch.cuda.device_count()
                ? throw new NotSupportedException($"There is no CUDA device {index}; there are {torch.cuda.device_count()}.")
                : torch.device(DeviceType.CUDA, index);
    }
}
