using System.Runtime.InteropServices;
using XlstmLab.Native;
using XlstmLab.Native.Cuda;
using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>One argument of a kernel: a tensor's address, or a number.</summary>
internal readonly struct KernelArgument
{
    private readonly long _bits;

    private KernelArgument(long bits) => _bits = bits;

    /// <summary>The address of the tensor's first element; 0 for none.</summary>
    public static implicit operator KernelArgument(Tensor? tensor) => new(tensor is null ? 0 : Kernel.Address(tensor));

    /// <summary>A 32-bit integer.</summary>
    public static implicit operator KernelArgument(int number) => new(number);

    /// <summary>A 64-bit integer.</summary>
    public static implicit operator KernelArgument(long number) => new(number);

    /// <summary>A single-precision number.</summary>
    public static implicit operator KernelArgument(float number) => new(BitConverter.SingleToInt32Bits(number));
}

/// <summary>Launches the kernels that the library carries as CUDA C++.</summary>
/// <remarks>
/// A layer asks <see cref="Serve"/> whether it may, and takes libtorch's operations otherwise. Kernels run in the order of libtorch's own,
/// and nothing here waits for them.
/// </remarks>
public static unsafe partial class Kernel
{
    /// <summary>The environment variable that turns the kernels off when it is <c>off</c>.</summary>
    public const string Variable = "XLSTM_KERNELS";

    private static readonly Lazy<string?> Obstacle = new(FindObstacle);

    [ThreadStatic]
    private static bool _prepares;

    [ThreadStatic]
    private static bool _records;

    /// <summary>Why there are no kernels on this machine's GPUs; null where there are.</summary>
    public static string? Absence => Obstacle.Value;

    /// <summary>Why a training's updates are no graphs on this machine's GPUs; null where they can be.</summary>
    public static string? GraphAbsence => Absence ?? CudaGraph.Absence;

    /// <summary>What the kernels run on: null is this machine's GPUs.</summary>
    internal static IKernelDevice? Device { get; set; }

    private static IKernelDevice Gpu { get; } = new CudaDevice();

    /// <summary>Whether there are kernels for this tensor: where it is, and of its type, bfloat16.</summary>
    internal static bool Serve(Tensor tensor) => tensor.dtype == ScalarType.BFloat16 && Reaches(tensor);

    /// <summary>Whether kernels can be launched on this tensor's memory.</summary>
    internal static bool Reaches(Tensor tensor) =>
        Device is { } device ? device.Serves(tensor) : tensor.device_type == TorchSharp.DeviceType.CUDA && Absence is null;

    /// <summary>Why work on this tensor's device cannot be recorded; null where it can.</summary>
    internal static string? RecorderAbsence(Tensor tensor) =>
        Reaches(tensor) ? (Device ?? Gpu).RecorderAbsence
        : tensor.device_type == TorchSharp.DeviceType.CUDA ? Absence
        : "the CPU computes";

    /// <summary>What records work on this tensor's device (<see cref="IKernelDevice.Recorder"/>).</summary>
    internal static IWorkRecorder Recorder(Tensor tensor) => new MarkingRecorder(
        (Device ?? Gpu).Recorder(Math.Max(0, tensor.device_index)));

    /// <summary>
    /// Whether the calling thread's work is recorded: it is done again with other numbers in the same memory, so nothing may be read from
    /// there, which a device refuses.
    /// </summary>
    internal static bool Records => _records;

    /// <summary>Does work as it is recorded.</summary>
    internal static void AsRecorded(Action work)
    {
        var before = _records;
        _records = true;
        try
        {
            work();
        }
        finally
        {
            _records = before;
        }
    }

    /// <summary>Whether the calling thread's launches start nothing (<see cref="Prepare"/>).</summary>
    internal static bool Prepares => _prepares;

    /// <summary>
    /// Does work whose launches start nothing, but have their kernels compiled, one beside the other: what they would have written is
    /// arbitrary, and the work does not wait for them.
    /// </summary>
    /// <param name="prepares">Whether it does; false does the work as it is.</param>
    /// <param name="work">The work; backward passes of this library's operations in it belong to it, on whichever thread.</param>
    internal static void Prepare(bool prepares, Action work)
    {
        var before = _prepares;
        _prepares = prepares;
        try
        {
            work();
        }
        finally
        {
            _prepares = before;
        }
    }

    /// <summary>Starts a kernel.</summary>
    /// <param name="file">The source, such as <c>RmsNorm.cu</c>.</param>
    /// <param name="function">The kernel in it.</param>
    /// <param name="defines">Macros that the source is compiled with, <c>NAME=VALUE</c>.</param>
    /// <param name="shape">Blocks and threads.</param>
    /// <param name="on">A tensor on the device that it is to run on.</param>
    /// <param name="arguments">The kernel's arguments, in its order.</param>
    /// <exception cref="CudaException">It cannot be compiled or launched.</exception>
    internal static void Launch(
        string file, string function, string[] defines, LaunchShape shape, Tensor on, params ReadOnlySpan<KernelArgument> arguments)
    {
        var device = Device ?? Gpu;
        var index = Math.Max(0, on.device_index);
        if (_prepares)
        {
            device.Prepare(file, defines, index);
            return;
        }

        var handle = device.Load(file, defines, index, function);
        fixed (KernelArgument* first = arguments)
        {
            var addresses = stackalloc void*[arguments.Length];
            for (var i = 0; i < arguments.Length; i++)
            {
                addresses[i] = first + i;
            }

            device.Launch(handle, shape, index, addresses);
        }
    }

    /// <summary>Starts a kernel whose one argument is a structure.</summary>
    /// <inheritdoc cref="Launch(string, string, string[], LaunchShape, Tensor, ReadOnlySpan{KernelArgument})"/>
    internal static void Launch<T>(string file, string function, string[] defines, LaunchShape shape, Tensor on, ref T argument)
        where T : unmanaged
    {
        var device = Device ?? Gpu;
        var index = Math.Max(0, on.device_index);
        if (_prepares)
        {
            device.Prepare(file, defines, index);
            return;
        }

        var handle = device.Load(file, defines, index, function);
        fixed (T* first = &argument)
        {
            void* address = first;
            device.Launch(handle, shape, index, &address);
        }
    }

    /// <summary>The number of multiprocessors of the tensor's device.</summary>
    internal static int Multiprocessors(Tensor tensor) => (Device ?? Gpu).Multiprocessors(Math.Max(0, tensor.device_index));

    /// <summary>The bytes of the memory of the tensor's device.</summary>
    internal static long Memory(Tensor tensor) => (Device ?? Gpu).Memory(Math.Max(0, tensor.device_index));

    /// <summary>Where a tensor's first element is, on its device.</summary>
    internal static nint Address(Tensor tensor) => THSTensor_data(tensor.Handle);

    private static string? FindObstacle()
    {
        if (Environment.GetEnvironmentVariable(Variable) == "off")
        {
            return $"{Variable} is off";
        }

        if (!NativeTorch.IsCudaAvailable)
        {
            return "libtorch sees no CUDA device";
        }

        try
        {
            Nvrtc.Load();
            return null;
        }
        catch (CudaException e)
        {
            return e.Message;
        }
    }

    [LibraryImport(NativeNames.Bridge)]
    private static partial nint THSTensor_data(nint tensor);

    /// <summary>Has what it records know that it is recorded.</summary>
    private sealed class MarkingRecorder(IWorkRecorder recorder) : IWorkRecorder
    {
        public IRecordedWork Record(Action work) => recorder.Record(() => AsRecorded(work));

        public void Dispose() => recorder.Dispose();
    }
}
