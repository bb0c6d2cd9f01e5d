using System.Globalization;
using System.Runtime.InteropServices;

namespace XlstmLab.Native.Cuda;

/// <summary>What NVIDIA's driver tells of a GPU.</summary>
public static unsafe class Gpu
{
    /// <summary>The GPU's name, such as <c>NVIDIA H100 80GB HBM3</c>.</summary>
    /// <param name="device">Its index.</param>
    /// <exception cref="CudaException">There is no such GPU, or no driver.</exception>
    public static string Name(int device = 0)
    {
        const int size = 256;
        CudaDriver.Check(CudaDriver.cuInit(0), "start");
        var name = stackalloc byte[size];
        CudaDriver.Check(CudaDriver.cuDeviceGetName(name, size, device), $"name device {device}");
        return Marshal.PtrToStringUTF8((nint)name)!;
    }

    /// <summary>
    /// The driver's version where the system tells it, and the CUDA version it is for: <c>driver 580.65.06, CUDA 13.0</c>.
    /// </summary>
    /// <exception cref="CudaException">There is no driver.</exception>
    public static string Driver()
    {
        const string file = "/proc/driver/nvidia/version";
        CudaDriver.Check(CudaDriver.cuDriverGetVersion(out var version), "tell its version");
        var words = File.Exists(file) ? File.ReadLines(file).First().Split(' ', StringSplitOptions.RemoveEmptyEntries) : [];
        var number = words.FirstOrDefault(w => w.Contains('.', StringComparison.Ordinal) && w.All(c => char.IsDigit(c) || c == '.'));
        return string.Create(
            CultureInfo.InvariantCulture, $"{(number is null ? "" : $"driver {number}, ")}CUDA {version / 1000}.{version % 1000 / 10}");
    }

    /// <summary>The bytes of the GPU's memory that no process holds, and all of them.</summary>
    /// <remarks>libtorch's allocator keeps what it once took: what it holds at the end is the most that it held.</remarks>
    /// <param name="device">Its index.</param>
    /// <exception cref="CudaException">There is no such GPU, or no driver.</exception>
    public static (long Free, long Total) Memory(int device = 0)
    {
        CudaDriver.UseDevice(device);
        CudaDriver.Check(CudaDriver.cuMemGetInfo(out var free, out var total), $"tell the memory of device {device}");
        return ((long)free, (long)total);
    }
}

/// <summary>Times what a GPU does between two points of the stream that libtorch uses too.</summary>
/// <remarks>Both points only take their place in the stream: the program does not wait, and the GPU does not pause.</remarks>
public sealed class GpuTimer : IDisposable
{
    private readonly int _device;
    private nint _start;
    private nint _end;

    /// <summary>A timer of a device.</summary>
    /// <param name="device">The device's index.</param>
    /// <exception cref="CudaException">There is no such GPU, or no driver.</exception>
    public GpuTimer(int device = 0)
    {
        _device = device;
        CudaDriver.UseDevice(device);
        CudaDriver.Check(CudaDriver.cuEventCreate(out _start, 0), "create an event");
        CudaDriver.Check(CudaDriver.cuEventCreate(out _end, 0), "create an event");
    }

    /// <summary>The time counts from what is launched next.</summary>
    /// <exception cref="CudaException">An earlier kernel failed.</exception>
    public void Start() => CudaDriver.Check(CudaDriver.cuEventRecord(_start, CudaStream.CurrentHandle(_device)), "record an event");

    /// <summary>The time counts to what was launched last.</summary>
    /// <exception cref="CudaException">An earlier kernel failed.</exception>
    public void Stop() => CudaDriver.Check(CudaDriver.cuEventRecord(_end, CudaStream.CurrentHandle(_device)), "record an event");

    /// <summary>The seconds between start and stop; waits until the GPU has come to the latter.</summary>
    /// <exception cref="CudaException">A kernel failed, or the timer was never started and stopped.</exception>
    public double Seconds()
    {
        CudaDriver.Check(CudaDriver.cuEventSynchronize(_end), "wait for an event");
        CudaDriver.Check(CudaDriver.cuEventElapsedTime(out var milliseconds, _start, _end), "tell the time between two events");
        return milliseconds / 1e3;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (var handle in new[] { _start, _end })
        {
            if (handle != 0)
            {
                _ = CudaDriver.cuEventDestroy(handle);
            }
        }

        (_start, _end) = (0, 0);
    }
}
