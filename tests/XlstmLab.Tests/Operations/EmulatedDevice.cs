using System.Collections.Concurrent;
using System.Runtime.InteropServices;
using System.Text;
using XlstmLab.Native.Cuda;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Operations;

/// <summary>Runs CUDA kernels on the CPU, on CPU tensors: their sources become C++ by <c>Emulator.h</c>, which says how.</summary>
internal sealed class EmulatedDevice : IKernelDevice
{
    private static readonly ConcurrentDictionary<string, nint> Libraries = new();
    private static readonly ConcurrentDictionary<nint, (nint Library, string Name)> Functions = new();
    private static readonly Dictionary<nint, int> Stacks = [];
    private static int _count;

    /// <summary>Why there is no emulation here; null where there is.</summary>
    public static string? Absence => OperatingSystem.IsLinux() ? EmulatorBuild.Absence : "the emulator has been tried on Linux only";

    public bool Serves(Tensor tensor) => tensor.device_type == TorchSharp.DeviceType.CPU;

    public int Multiprocessors(int device) => 3;

    public long Memory(int device) => 1L << 30;

    public nint Load(string file, IReadOnlyList<string> defines, int device, string function)
    {
        var key = $"{file} {string.Join(' ', defines)}";
        EmulatorVariants.Use(key);
        var library = Libraries.GetOrAdd(key, _ => NativeLibrary.Load(EmulatorBuild.Library(file, defines)));
        var known = Functions.FirstOrDefault(f => f.Value == (library, function)).Key;
        if (known != 0)
        {
            return known;
        }

        nint handle = Interlocked.Increment(ref _count);
        Functions[handle] = (library, function);
        return handle;
    }

    /// <summary>A source is built when it is first launched: a test may be about to launch nothing.</summary>
    public void Prepare(string file, IReadOnlyList<string> defines, int device)
    {
    }

    public string? RecorderAbsence => null;

    public IWorkRecorder Recorder(int device) => new Repeater();

    public unsafe void Launch(nint function, LaunchShape shape, int index, void** arguments)
    {
        var (library, name) = Functions[function];
        var launch = (delegate* unmanaged<byte*, uint*, uint*, uint, uint, void**, int>)NativeLibrary.GetExport(library, "emulate_launch");
        var error = (delegate* unmanaged<byte*>)NativeLibrary.GetExport(library, "emulate_error");
        var grid = stackalloc uint[] { (uint)shape.Blocks, (uint)shape.BlocksY, (uint)shape.BlocksZ };
        var block = stackalloc uint[] { (uint)shape.Threads, 1, 1 };
        fixed (byte* text = Encoding.UTF8.GetBytes(name + '\0'))
        {
            if (launch(text, grid, block, (uint)shape.Cluster, (uint)shape.SharedBytes, arguments) != 0)
            {
                throw new InvalidOperationException($"{name}: {Marshal.PtrToStringUTF8((nint)error())}");
            }
        }

        KeepStacks(library);
    }

    /// <summary>
    /// Every library keeps the stacks of its threads for its next launch: of all together no more than a process can have, or its next
    /// mapping, of a library or of the runtime itself, fails.
    /// </summary>
    private static unsafe void KeepStacks(nint library)
    {
        const int most = 8192;
        lock (Stacks)
        {
            Stacks[library] = (int)((delegate* unmanaged<nuint>)NativeLibrary.GetExport(library, "emulate_stacks"))();
            if (Stacks.Values.Sum() <= most)
            {
                return;
            }

            foreach (var other in Stacks.Keys.Where(l => l != library && Stacks[l] > 0).ToArray())
            {
                ((delegate* unmanaged<void>)NativeLibrary.GetExport(other, "emulate_release"))();
                Stacks[other] = 0;
            }
        }
    }

    /// <summary>Records nothing, and does the work again at each start.</summary>
    private sealed class Repeater : IWorkRecorder
    {
        public IRecordedWork Record(Action work) => new Work(work);

        public void Dispose()
        {
        }

        private sealed class Work(Action work) : IRecordedWork
        {
            public void Start() => work();

            public void Dispose()
            {
            }
        }
    }
}
