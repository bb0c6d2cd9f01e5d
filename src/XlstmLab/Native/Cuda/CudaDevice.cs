using System.Collections.Concurrent;
using System.Globalization;
using System.Security.Cryptography;
using System.Text;
using TorchSharp;

namespace XlstmLab.Native.Cuda;

/// <summary>GPUs of NVIDIA, through NVRTC and the driver.</summary>
/// <remarks>
/// Machine code is kept in the user's cache folder by source, options, compiler and kind of device: only the first run compiles.
/// </remarks>
internal sealed unsafe class CudaDevice : IKernelDevice
{
    private readonly ConcurrentDictionary<(string File, string Options, int Device), nint> _modules = new();
    private readonly ConcurrentDictionary<(string File, string Options, int Device), Lazy<byte[]>> _images = new();
    private readonly ConcurrentDictionary<(string File, string Options, int Device, string Function), nint> _functions = new();
    private readonly ConcurrentDictionary<nint, int> _sharedBytes = new();
    private readonly ConcurrentDictionary<nint, bool> _mostlyShared = new();
    private readonly ConcurrentDictionary<int, int> _multiprocessors = new();
    private readonly ConcurrentDictionary<int, long> _memory = new();
    private readonly ConcurrentDictionary<int, bool> _earlyLaunch = new();
    private readonly Lock _gate = new();

    /// <inheritdoc/>
    public bool Serves(torch.Tensor tensor) => tensor.device_type == DeviceType.CUDA;

    /// <inheritdoc/>
    public int Multiprocessors(int device) => _multiprocessors.GetOrAdd(device, static d => Attribute(CudaDriver.DeviceMultiprocessors, d));

    /// <inheritdoc/>
    public long Memory(int device) => _memory.GetOrAdd(device, static d => Gpu.Memory(d).Total);

    /// <inheritdoc/>
    public string? RecorderAbsence => CudaGraph.Absence;

    /// <inheritdoc/>
    public IWorkRecorder Recorder(int device) => new CudaGraphRecorder(device);

    /// <inheritdoc/>
    public nint Load(string file, IReadOnlyList<string> defines, int device, string function)
    {
        CudaDriver.UseDevice(device);
        var options = string.Join(' ', defines);
        if (!_functions.TryGetValue((file, options, device, function), out var handle))
        {
            var module = Module(file, options, defines, device);
            CudaDriver.Check(CudaDriver.cuModuleGetFunction(out handle, module, function), $"find the kernel {function} in {file}");
            _functions[(file, options, device, function)] = handle;
        }

        return handle;
    }

    /// <inheritdoc/>
    public void Prepare(string file, IReadOnlyList<string> defines, int device)
    {
        var key = (file, string.Join(' ', defines), device);
        if (_modules.ContainsKey(key) || _images.ContainsKey(key))
        {
            return;
        }

        var image = _images.GetOrAdd(key, _ => new(() => Image(file, defines, device)));
        ThreadPool.UnsafeQueueUserWorkItem(
            static image =>
            {
                try
                {
                    _ = image.Value;
                }
                catch (Exception)
                {
                    // Who loads it is told.
                }
            },
            image,
            preferLocal: false);
    }

    /// <inheritdoc/>
    public void Launch(nint function, LaunchShape shape, int device, void** arguments)
    {
        const int free = 48 << 10; // more than this a kernel has to ask for
        if (shape.SharedBytes > free && (!_sharedBytes.TryGetValue(function, out var allowed) || allowed < shape.SharedBytes))
        {
            CudaDriver.Check(
                CudaDriver.cuFuncSetAttribute(function, CudaDriver.FunctionMaxDynamicShared, shape.SharedBytes),
                string.Create(CultureInfo.InvariantCulture, $"give a block {shape.SharedBytes:N0} bytes of shared memory"));
            _sharedBytes[function] = shape.SharedBytes;
        }

        if (shape.MostlyShared && _mostlyShared.TryAdd(function, true))
        {
            CudaDriver.Check(
                CudaDriver.cuFuncSetAttribute(function, CudaDriver.FunctionPreferredSharedPart, 100), "divide a multiprocessor's memory");
        }

        var attributes = stackalloc CudaDriver.LaunchAttribute[2];
        var count = 0u;
        if (shape.Cluster > 1)
        {
            attributes[count++] = new() { Id = CudaDriver.LaunchClusterDimension, X = (uint)shape.Cluster, Y = 1, Z = 1 };
        }

        // Every kernel waits for those in front of it before it touches memory: what it takes to start one is over by then. In a graph that
        // costs nothing; of kernels that the host starts one by one it makes every start slower.
        var stream = CudaStream.CurrentHandle(device);
        if (_earlyLaunch.GetOrAdd(device, static d => StartsEarly(d))
            && CudaDriver.cuStreamIsCapturing(stream, out var capturing) == 0 && capturing == CudaDriver.CaptureActive)
        {
            attributes[count++] = new() { Id = CudaDriver.LaunchEarly, X = 1 };
        }

        var config = new CudaDriver.LaunchConfig
        {
            GridX = checked((uint)shape.Blocks),
            GridY = (uint)shape.BlocksY,
            GridZ = (uint)shape.BlocksZ,
            BlockX = (uint)shape.Threads,
            BlockY = 1,
            BlockZ = 1,
            SharedBytes = (uint)shape.SharedBytes,
            Stream = stream,
            Attributes = attributes,
            AttributeCount = count,
        };
        var code = CudaDriver.cuLaunchKernelEx(&config, function, arguments, null);
        if (code != 0)
        {
            CudaDriver.Check(
                code, $"launch a kernel of {shape.Blocks} x {shape.BlocksY} x {shape.BlocksZ} blocks with {shape.Threads} threads");
        }
    }

    private nint Module(string file, string options, IReadOnlyList<string> defines, int device)
    {
        // Outside of the lock: several sources are compiled at once.
        var key = (file, options, device);
        if (_modules.TryGetValue(key, out var module))
        {
            return module;
        }

        try
        {
            var machineCode = _images.GetOrAdd(key, _ => new(() => Image(file, defines, device))).Value;
            lock (_gate)
            {
                if (!_modules.TryGetValue(key, out module))
                {
                    fixed (byte* image = machineCode)
                    {
                        CudaDriver.Check(CudaDriver.cuModuleLoadData(out module, image), $"load the kernels of {file}");
                    }

                    _modules[key] = module;
                }
            }

            return module;
        }
        finally
        {
            _images.TryRemove(key, out _); // loaded, or to be tried again
        }
    }

    private static bool StartsEarly(int device)
    {
        CudaDriver.Check(CudaDriver.cuDriverGetVersion(out var version), "tell its version");
        return version >= CudaDriver.EarlyLaunchVersion && Attribute(CudaDriver.DeviceComputeCapabilityMajor, device) >= 9;
    }

    private static int Attribute(int attribute, int device)
    {
        CudaDriver.UseDevice(device);
        CudaDriver.Check(
            CudaDriver.cuDeviceGetAttribute(out var value, attribute, device), $"tell attribute {attribute} of device {device}");
        return value;
    }

    private static byte[] Image(string file, IReadOnlyList<string> defines, int device)
    {
        var source = KernelSources.Read(file);
        var major = Attribute(CudaDriver.DeviceComputeCapabilityMajor, device);
        var minor = Attribute(CudaDriver.DeviceComputeCapabilityMinor, device);

        // The letter unlocks what only that one architecture has.
        var architecture = string.Create(CultureInfo.InvariantCulture, $"sm_{major}{minor}{(major >= 9 ? "a" : "")}");
        string[] options = ["--std=c++17", $"--gpu-architecture={architecture}", .. defines.Select(d => "-D" + d)];
        var key = Convert.ToHexStringLower(
            SHA256.HashData(Encoding.UTF8.GetBytes($"{Nvrtc.Version}\n{string.Join('\n', options)}\n{source}")))[..32];
        var cached = Path.Combine(UserCache.Folder("kernels"), $"{Path.GetFileNameWithoutExtension(file)}-{architecture}-{key}.cubin");
        if (File.Exists(cached))
        {
            return File.ReadAllBytes(cached);
        }

        var image = Nvrtc.Compile(source, file, options);
        AtomicFile.Write(cached, stream => stream.Write(image));
        return image;
    }
}
