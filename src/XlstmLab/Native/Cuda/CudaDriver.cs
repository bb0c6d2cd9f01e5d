using System.Globalization;
using System.Runtime.InteropServices;

namespace XlstmLab.Native.Cuda;

/// <summary>The functions of the CUDA driver that the library calls, by the driver's names.</summary>
/// <remarks>Loaded when first called: a machine without a driver never gets there.</remarks>
internal static unsafe partial class CudaDriver
{
    /// <summary>The name that the imports below go by; <see cref="NativeNames"/> says which file it is.</summary>
    internal const string Library = "xlstm-cuda-driver";

    /// <summary>The bytes of shared memory that a block may ask for.</summary>
    internal const int FunctionMaxDynamicShared = 8;

    /// <summary>How much of a multiprocessor's memory is to be shared memory, in percent of what can be.</summary>
    internal const int FunctionPreferredSharedPart = 9;

    internal const int DeviceComputeCapabilityMajor = 75;
    internal const int DeviceComputeCapabilityMinor = 76;
    internal const int DeviceMultiprocessors = 16;

    /// <summary>The launch attribute for the blocks of a cluster.</summary>
    internal const int LaunchClusterDimension = 4;

    /// <summary>The launch attribute with which a kernel may be there before the one in front of it in the stream has ended.</summary>
    internal const int LaunchEarly = 6;

    /// <summary>What a stream says that is recorded.</summary>
    internal const int CaptureActive = 1;

    /// <summary>The first version that records such launches.</summary>
    internal const int EarlyLaunchVersion = 12030;

    /// <summary>Passes on what a call returned.</summary>
    /// <exception cref="CudaException">The call failed; the message has the driver's name for the reason.</exception>
    public static void Check(int code, string action)
    {
        if (code == 0)
        {
            return;
        }

        var name = cuGetErrorName(code, out var text) == 0 ? Marshal.PtrToStringUTF8(text) : null;
        var reason = cuGetErrorString(code, out text) == 0 ? Marshal.PtrToStringUTF8(text) : null;
        throw new CudaException(
            string.Create(
                CultureInfo.InvariantCulture,
                $"CUDA could not {action}: {name ?? "error"} ({code}){(reason is null ? "" : ", " + reason)}."));
    }

    /// <summary>Makes the device's primary context, which libtorch uses too, the calling thread's.</summary>
    /// <exception cref="CudaException">There is no such device, or no driver.</exception>
    public static void UseDevice(int device)
    {
        // libtorch sets the context on the threads that it knows; a thread of ours may have none yet.
        if (cuCtxGetDevice(out var current) == 0 && current == device)
        {
            return;
        }

        Check(cuInit(0), "start");
        Check(cuDevicePrimaryCtxRetain(out var context, device), $"open device {device}");
        Check(cuCtxSetCurrent(context), $"use device {device}");
    }

    [LibraryImport(Library)]
    internal static partial int cuInit(uint flags);

    [LibraryImport(Library)]
    internal static partial int cuGetErrorName(int code, out nint text);

    [LibraryImport(Library)]
    internal static partial int cuGetErrorString(int code, out nint text);

    [LibraryImport(Library)]
    internal static partial int cuDevicePrimaryCtxRetain(out nint context, int device);

    [LibraryImport(Library)]
    internal static partial int cuCtxGetDevice(out int device);

    [LibraryImport(Library)]
    internal static partial int cuCtxSetCurrent(nint context);

    [LibraryImport(Library)]
    internal static partial int cuDeviceGetAttribute(out int value, int attribute, int device);

    [LibraryImport(Library)]
    internal static partial int cuDeviceGetName(byte* name, int size, int device);

    [LibraryImport(Library)]
    internal static partial int cuDriverGetVersion(out int version);

    [LibraryImport(Library, EntryPoint = "cuMemGetInfo_v2")]
    internal static partial int cuMemGetInfo(out nuint free, out nuint total);

    [LibraryImport(Library)]
    internal static partial int cuModuleLoadData(out nint module, byte* image);

    [LibraryImport(Library, StringMarshalling = StringMarshalling.Utf8)]
    internal static partial int cuModuleGetFunction(out nint function, nint module, string name);

    [LibraryImport(Library)]
    internal static partial int cuFuncSetAttribute(nint function, int attribute, int value);

    [LibraryImport(Library)]
    internal static partial int cuLaunchKernelEx(LaunchConfig* config, nint function, void** arguments, void** extra);

    /// <summary>CU_EVENT_DISABLE_TIMING.</summary>
    internal const uint EventWithoutTiming = 2;

    [LibraryImport(Library)]
    internal static partial int cuEventCreate(out nint handle, uint flags);

    [LibraryImport(Library, EntryPoint = "cuEventDestroy_v2")]
    internal static partial int cuEventDestroy(nint handle);

    [LibraryImport(Library)]
    internal static partial int cuEventRecord(nint handle, nint stream);

    [LibraryImport(Library)]
    internal static partial int cuEventSynchronize(nint handle);

    [LibraryImport(Library, EntryPoint = "cuEventElapsedTime")]
    internal static partial int cuEventElapsedTime(out float milliseconds, nint start, nint end);

    [LibraryImport(Library)]
    internal static partial int cuStreamSynchronize(nint stream);

    [LibraryImport(Library)]
    internal static partial int cuStreamWaitEvent(nint stream, nint @event, uint flags);

    [LibraryImport(Library)]
    internal static partial int cuStreamQuery(nint stream);

    [LibraryImport(Library, EntryPoint = "cuStreamBeginCapture_v2")]
    internal static partial int cuStreamBeginCapture(nint stream, int mode);

    [LibraryImport(Library)]
    internal static partial int cuStreamEndCapture(nint stream, out nint graph);

    [LibraryImport(Library)]
    internal static partial int cuStreamIsCapturing(nint stream, out int status);

    [LibraryImport(Library)]
    internal static partial int cuGraphGetNodes(nint graph, nint* nodes, nuint* count);

    [LibraryImport(Library, EntryPoint = "cuGraphInstantiateWithFlags")]
    internal static partial int cuGraphInstantiate(out nint executable, nint graph, ulong flags);

    [LibraryImport(Library)]
    internal static partial int cuGraphLaunch(nint executable, nint stream);

    [LibraryImport(Library)]
    internal static partial int cuGraphExecDestroy(nint executable);

    [LibraryImport(Library)]
    internal static partial int cuGraphDestroy(nint graph);

    [LibraryImport(Library, EntryPoint = "cuMemAlloc_v2")]
    internal static partial int cuMemAlloc(out nint address, nuint bytes);

    [LibraryImport(Library, EntryPoint = "cuMemFree_v2")]
    internal static partial int cuMemFree(nint address);

    [LibraryImport(Library)]
    internal static partial int cuMemsetD32Async(nint address, uint value, nuint count, nint stream);

    [LibraryImport(Library)]
    internal static partial int cuMemHostAlloc(out nint address, nuint bytes, uint flags);

    [LibraryImport(Library)]
    internal static partial int cuMemFreeHost(nint address);

    [LibraryImport(Library, EntryPoint = "cuMemcpyHtoDAsync_v2")]
    internal static partial int cuMemcpyHtoDAsync(nint target, nint source, nuint bytes, nint stream);

    [LibraryImport(Library, EntryPoint = "cuMemcpyDtoHAsync_v2")]
    internal static partial int cuMemcpyDtoHAsync(nint target, nint source, nuint bytes, nint stream);

    /// <summary>CUlaunchConfig.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct LaunchConfig
    {
        public uint GridX;
        public uint GridY;
        public uint GridZ;
        public uint BlockX;
        public uint BlockY;
        public uint BlockZ;
        public uint SharedBytes;
        public nint Stream;
        public LaunchAttribute* Attributes;
        public uint AttributeCount;
    }

    /// <summary>CUlaunchAttribute with the dimensions of a cluster or one number for its value.</summary>
    [StructLayout(LayoutKind.Explicit, Size = 72)]
    internal struct LaunchAttribute
    {
        [FieldOffset(0)]
        public int Id;

        [FieldOffset(8)]
        public uint X;

        [FieldOffset(12)]
        public uint Y;

        [FieldOffset(16)]
        public uint Z;
    }
}

/// <summary>The CUDA driver refused a call, or a kernel cannot be had; the message says which and why.</summary>
public sealed class CudaException(string message, Exception? inner = null) : Exception(message, inner);
