using System.Collections.Concurrent;
using TorchSharp;
using XlstmLab.Models;
using XlstmLab.Native;
using XlstmLab.Native.Cuda;
using XlstmLab.Operations;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Operations;

/// <summary>
/// While it lives, tensors are made where kernels run: on the GPU if there is one, else on the CPU, with the kernels emulated.
/// </summary>
internal sealed class KernelRun : IDisposable
{
    private static readonly EmulatedDevice Emulator = new();
    private static readonly CudaDevice Gpu = new();

    private readonly Device _before = get_default_device();
    private readonly RecordingDevice _device;

    private KernelRun()
    {
        if (NativeTorch.IsCudaAvailable && Kernel.Absence is null)
        {
            set_default_device(CUDA);
            Poison();
        }

        Kernel.Device = _device = new(get_default_device().type == DeviceType.CUDA ? Gpu : Emulator);
    }

    /// <summary>The kernels that were launched since it began: a test of what takes the kernels looks whether it does.</summary>
    public IReadOnlyCollection<string> Launched => _device.Launched;

    /// <summary>Sources with their macros that were loaded though nothing had asked for their compilation before.</summary>
    public IReadOnlyCollection<string> Unprepared => _device.Unprepared;

    /// <summary>What kernels are told to be the device's; null tells how many there are.</summary>
    public int? Multiprocessors
    {
        get => _device.ToldMultiprocessors;
        set => _device.ToldMultiprocessors = value;
    }

    /// <summary>What becomes graphs from now on, or in an emulation is done again; without it nothing is recorded.</summary>
    public Recordings Record() => _device.Recordings = new();

    /// <summary>Begins on a GPU; a test is skipped, with the reason, where there is none.</summary>
    public static KernelRun BeginOnGpu()
    {
        Assert.SkipWhen(
            !NativeTorch.IsCudaAvailable || Kernel.Absence is not null,
            $"Only a GPU computes this in a reasonable time: {Kernel.Absence}.");
        return new();
    }

    /// <summary>Begins; a test is skipped, with the reason, where kernels can be neither run nor emulated.</summary>
    public static KernelRun Begin()
    {
        var hasGpu = NativeTorch.IsCudaAvailable && Kernel.Absence is null;
        Assert.SkipWhen(
            !hasGpu && EmulatedDevice.Absence is not null,
            $"Kernels run neither on a GPU ({Kernel.Absence}) nor emulated ({EmulatedDevice.Absence}).");
        return new();
    }

    public void Dispose()
    {
        Kernel.Device = null;
        set_default_device(_before);
    }

    /// <summary>The seed of all numbers that are drawn afterwards, wherever.</summary>
    public static void Seed(long seed)
    {
        random.manual_seed(seed).Dispose();
        if (get_default_device().type == DeviceType.CUDA)
        {
            cuda.manual_seed_all(seed);
        }
    }

    /// <summary>Fills the memory that libtorch will give out next with NaN, so that what a kernel forgets to write is seen.</summary>
    private static void Poison()
    {
        using var scope = NewDisposeScope();
        foreach (var bytes in Enumerable.Repeat(512 << 10, 64).Concat(Enumerable.Repeat(16 << 20, 16)))
        {
            _ = full(bytes / 4, double.NaN, ScalarType.Float32);
        }
    }

    /// <summary>A model whose weights are drawn on the CPU, where its generator is, and then moved to where kernels run.</summary>
    public static LanguageModel Model(LanguageModelConfig config) => Model(() => config.CreateModel(seed: 1));

    /// <inheritdoc cref="Model(LanguageModelConfig)"/>
    public static LanguageModel Model(Func<LanguageModel> create)
    {
        // The default device is the whole process's.
        lock (Emulator)
        {
            return OnCpuFirst(create);
        }
    }

    private static LanguageModel OnCpuFirst(Func<LanguageModel> create)
    {
        var device = get_default_device();
        set_default_device(CPU);
        try
        {
            var model = create();
            model.to(device);
            return model;
        }
        finally
        {
            set_default_device(device);
        }
    }

    /// <summary>What was recorded, and how often that was started.</summary>
    internal sealed class Recordings
    {
        public int Recorded { get; set; }

        public int Started { get; set; }

        /// <summary>What keeps work from being recorded, half-way.</summary>
        public string? Fault { get; set; }

        /// <summary>The kernels that are launched before it does.</summary>
        public int FaultAfter { get; set; }

        /// <summary>The launches that are left until the fault; null while none is to come.</summary>
        public int? LaunchesLeft { get; set; }

        /// <summary>How often the fault came in the midst of work.</summary>
        public int Interrupted { get; set; }
    }

    private sealed class CountingRecorder(IWorkRecorder recorder, Recordings counts) : IWorkRecorder
    {
        public IRecordedWork Record(Action work)
        {
            if (counts.Fault is { } fault)
            {
                try
                {
                    // A GPU does the work while it records it, the emulator when it starts it.
                    using var broken = recorder.Record(() => Interrupt(work, fault));
                    broken.Start();
                }
                catch (Exception e) when (e is not CudaException)
                {
                    throw new CudaException($"The work cannot be recorded: {fault}", e);
                }

                throw new InvalidOperationException("Work with a fault was recorded.");
            }

            counts.Recorded++;
            return new CountingWork(recorder.Record(work), counts);
        }

        public void Dispose() => recorder.Dispose();

        private void Interrupt(Action work, string fault)
        {
            counts.LaunchesLeft = counts.FaultAfter;
            try
            {
                work();
            }
            finally
            {
                counts.LaunchesLeft = null;
            }

            throw new NotSupportedException(fault);
        }
    }

    private sealed class CountingWork(IRecordedWork work, Recordings counts) : IRecordedWork
    {
        public void Start()
        {
            counts.Started++;
            work.Start();
        }

        public void Dispose() => work.Dispose();
    }

    /// <summary>A device that notes the names of the kernels it is given.</summary>
    private sealed unsafe class RecordingDevice(IKernelDevice device) : IKernelDevice
    {
        private readonly ConcurrentDictionary<nint, string> _names = new();
        private readonly ConcurrentDictionary<string, bool> _launched = new();
        private readonly ConcurrentDictionary<string, bool> _prepared = new();
        private readonly ConcurrentDictionary<string, bool> _unprepared = new();

        public IReadOnlyCollection<string> Launched => [.. _launched.Keys.Order(StringComparer.Ordinal)];

        public IReadOnlyCollection<string> Unprepared => [.. _unprepared.Keys.Order(StringComparer.Ordinal)];

        public bool Serves(Tensor tensor) => device.Serves(tensor);

        public string? RecorderAbsence => Recordings is null ? "the test records nothing" : device.RecorderAbsence;

        /// <summary>Counts what is recorded and started; null while nothing is to be recorded.</summary>
        public Recordings? Recordings { get; set; }

        public IWorkRecorder Recorder(int index) => new CountingRecorder(device.Recorder(index), Recordings!);

        public int? ToldMultiprocessors { get; set; }

        public int Multiprocessors(int index) => ToldMultiprocessors ?? device.Multiprocessors(index);

        public long Memory(int index) => device.Memory(index);

        public nint Load(string file, IReadOnlyList<string> defines, int index, string function)
        {
            var handle = device.Load(file, defines, index, function);
            _names[handle] = function;
            var source = $"{file} {string.Join(' ', defines)}";
            if (!_prepared.ContainsKey(source))
            {
                _unprepared[source] = true;
            }

            return handle;
        }

        public void Prepare(string file, IReadOnlyList<string> defines, int index)
        {
            _prepared[$"{file} {string.Join(' ', defines)}"] = true;
            device.Prepare(file, defines, index);
        }

        public void Launch(nint function, LaunchShape shape, int index, void** arguments)
        {
            if (Recordings is { LaunchesLeft: { } left, Fault: { } fault } recordings)
            {
                recordings.LaunchesLeft = left - 1;
                if (left == 0)
                {
                    recordings.Interrupted++;
                    throw new NotSupportedException(fault);
                }
            }

            _launched[_names[function]] = true;
            device.Launch(function, shape, index, arguments);
        }
    }

    /// <summary>‖actual − expected‖ / ‖expected‖, in double precision; NaN if an element is. ‖actual‖ where nothing is expected.</summary>
    public static double Error(Tensor actual, Tensor expected)
    {
        using var scope = NewDisposeScope();
        var (a, e) = (actual.to(float64), expected.to(float64));
        var scale = e.norm().item<double>();
        return (a - e).norm().item<double>() / (scale == 0 ? 1 : scale);
    }
}
