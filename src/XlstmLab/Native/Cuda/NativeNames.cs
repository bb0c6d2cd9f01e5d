using System.Reflection;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace XlstmLab.Native.Cuda;

/// <summary>Which files the imports of this folder mean, on this system.</summary>
internal static class NativeNames
{
    /// <summary>TorchSharp's bridge, which is loaded before anything here is called.</summary>
    internal const string Bridge = "LibTorchSharp";

    /// <summary>The driver's library, by the name that the system's loader knows.</summary>
    public static string Driver => OperatingSystem.IsWindows() ? "nvcuda" : "libcuda.so.1";

#pragma warning disable CA2255 // A resolver has to be there before the first import.
    [ModuleInitializer]
    internal static void Register() => NativeLibrary.SetDllImportResolver(typeof(NativeNames).Assembly, Resolve);
#pragma warning restore CA2255

    private static nint Resolve(string library, Assembly assembly, DllImportSearchPath? path) => library switch
    {
        CudaDriver.Library => NativeLibrary.TryLoad(Driver, out var driver)
            ? driver
            : throw new CudaException($"There is no CUDA driver: {Driver} could not be loaded."),
        Nvrtc.Library => Nvrtc.Load(),
        Bridge => NativeTorch.BridgeHandle,
        _ => 0,
    };
}
