using TorchSharp;
using XlstmLab.Native;
using XlstmLab.Native.Cuda;
using static TorchSharp.torch;

namespace XlstmLab.Benchmarks;

/// <summary>The memory that work takes at its peak: of the process on the CPU, of the device as its driver sees it on a GPU.</summary>
internal sealed class MemoryGrowth
{
    private readonly Device _device;
    private readonly long _before;

    public MemoryGrowth(Device device)
    {
        _device = device;
        if (device.type != DeviceType.CUDA)
        {
            GC.Collect();
            SystemMemory.ResetPeak();
            _before = SystemMemory.Resident;
            return;
        }

        // Half a gigabyte goes to the context and the libraries, whatever is computed.
        using var one = ones([256, 256], ScalarType.BFloat16, device);
        using var product = one.matmul(one);
        cuda.synchronize();
        _before = Used;
    }

    /// <summary>The peak so far. libtorch's allocator gives nothing back to the driver: what it holds is the most that it held.</summary>
    public long Bytes => Math.Max(0, (_device.type == DeviceType.CUDA ? Used : SystemMemory.PeakResident) - _before);

    private long Used
    {
        get
        {
            var (free, total) = Gpu.Memory(Math.Max(0, _device.index));
            return total - free;
        }
    }
}
