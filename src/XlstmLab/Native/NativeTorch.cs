using System.Reflection;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Text;
using TorchSharp;

namespace XlstmLab.Native;

/// <summary>Finds and loads libtorch before TorchSharp first needs it.</summary>
/// <remarks>
/// Looked at in this order: the folder that the environment variable <c>XLSTM_LIBTORCH</c> names, the program's own
/// folder (a published program), the package folder of this build, and the user's NuGet cache. Nothing is copied but, where
/// the system's C++ runtime is older than TorchSharp's build, TorchSharp's own small library, into the user's cache folder.
/// </remarks>
public static class NativeTorch
{
    /// <summary>
    /// The switch of <see cref="AppContext"/> by which a program says that it calls <see cref="EnsureLoaded"/> itself before anything
    /// touches TorchSharp: then the library does not load libtorch when it is first touched.
    /// </summary>
    public const string LateSwitch = "XlstmLab.LoadsTorchLate";

    /// <summary>The environment variable that names a folder with another libtorch.</summary>
    public const string FolderVariable = "XLSTM_LIBTORCH";

    private static readonly Lock Gate = new();
    private static NativeTorchException? _failure;
    private static string? _folder;

    /// <summary>The folder libtorch was loaded from.</summary>
    /// <exception cref="NativeTorchException">libtorch could not be loaded.</exception>
    public static string Folder
    {
        get
        {
            EnsureLoaded();
            return _folder!;
        }
    }

    /// <summary>
    /// The version of the libtorch that was loaded, such as <c>2.11.0+cu130</c>; <c>unknown</c> where nothing beside it tells.
    /// </summary>
    /// <remarks><c>torch.__version__</c> is the version that TorchSharp was built for, whatever was loaded.</remarks>
    /// <exception cref="NativeTorchException">libtorch could not be loaded.</exception>
    public static string Version => VersionOf(Folder);

    /// <summary>Whether the libtorch in use came with CUDA and sees a device.</summary>
    public static bool IsCudaAvailable { get; private set; }

    /// <summary>
    /// Why a tensor or a number of TorchSharp that a finaliser frees may still be in use by libtorch, as it is without this library;
    /// null where such things are freed late, which makes collections in other threads safe.
    /// </summary>
    public static string? LateFreeAbsence => LateFree.Absence;

    /// <summary>TorchSharp's own library, once it is loaded.</summary>
    internal static nint BridgeHandle { get; private set; }

    /// <summary>Where a function of libtorch's begins that TorchSharp does not offer.</summary>
    /// <param name="library">The library it is in, such as <c>torch_cpu</c>.</param>
    /// <param name="symbol">The name that the compiler gave it on Linux.</param>
    /// <returns>0 where the loaded libtorch has none of that name, and why.</returns>
    /// <remarks>
    /// A C++ exception that leaves such a function ends the process: what could make it throw is to be looked at before it is called.
    /// </remarks>
    internal static (nint Address, string? Absence) Function(string library, string symbol)
    {
        var file = Path.Combine(Folder, NativePlatform.Current.FileName(library));
        return !NativeLibrary.TryLoad(file, out var handle) ? (0, $"{file} could not be loaded")
            : !NativeLibrary.TryGetExport(handle, symbol, out var address)
            ? (0, $"{Path.GetFileName(file)} of libtorch {Version} has no {symbol}")
            : (address, null);
    }

    /// <summary>Loads libtorch, once. The library does this by itself when it is first touched.</summary>
    /// <exception cref="NativeTorchException">libtorch could not be loaded; the message lists what was tried.</exception>
    public static void EnsureLoaded()
    {
        lock (Gate)
        {
            if (_folder is null && _failure is null)
            {
                try
                {
                    _folder = Load();
                }
                catch (NativeTorchException e)
                {
                    _failure = e;
                }
            }
        }

        if (_failure is not null)
        {
            throw _failure;
        }
    }

#pragma warning disable CA2255 // A tensor may be a user's first touch of the library: nothing else runs before it.
    [ModuleInitializer]
    internal static void LoadWithLibrary()
    {
        if (AppContext.TryGetSwitch(LateSwitch, out bool isLate) && isLate)
        {
            return;
        }

        try
        {
            EnsureLoaded();
        }
        catch (NativeTorchException)
        {
            // Programs that need no tensor go on; the first that does is told by EnsureLoaded.
        }
    }
#pragma warning restore CA2255

    /// <summary>The folders that may hold libtorch, best first.</summary>
    internal static IEnumerable<string> CandidateFolders(string rid)
    {
        if (Environment.GetEnvironmentVariable(FolderVariable) is { Length: > 0 } chosen)
        {
            // A folder named by the user is meant: falling back would hide a typing error.
            yield return chosen;
            yield break;
        }

        foreach (var home in ProgramFolders())
        {
            yield return home;
            yield return Path.Combine(home, "runtimes", rid, "native");
        }

        if (BuildMetadata("LibTorchPackageFolder") is { } package)
        {
            yield return Path.Combine(package, "runtimes", rid, "native");
        }

        if (BuildMetadata("LibTorchPackage") is { } name)
        {
            var cache = Environment.GetEnvironmentVariable("NUGET_PACKAGES") is { Length: > 0 } set
                ? set
                : Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.UserProfile), ".nuget", "packages");
            yield return Path.Combine(cache, name, "runtimes", rid, "native");
        }
    }

    /// <summary>What the files around a folder of libtorch say of its version.</summary>
    internal static string VersionOf(string folder)
    {
        // site-packages/torch/lib of a PyTorch has version.py above it, an unpacked libtorch/lib build-version.
        var above = Path.GetDirectoryName(Path.TrimEndingDirectorySeparator(folder)) ?? folder;
        if (Path.Combine(above, "version.py") is var script && File.Exists(script)
            && File.ReadLines(script).FirstOrDefault(l => l.StartsWith("__version__", StringComparison.Ordinal)) is { } line)
        {
            return line.Split('=')[^1].Trim().Trim('\'', '"');
        }

        if (Path.Combine(above, "build-version") is var plain && File.Exists(plain))
        {
            return File.ReadAllText(plain).Trim();
        }

        // A package's folder is named by its version; what was published beside the program came from the build's package.
        var parts = folder.Split(Path.DirectorySeparatorChar, Path.AltDirectorySeparatorChar);
        var package = Array.FindIndex(parts, p => p.StartsWith("libtorch-", StringComparison.Ordinal));
        return package >= 0 && package + 1 < parts.Length ? parts[package + 1]
            : folder.StartsWith(AppContext.BaseDirectory, StringComparison.Ordinal)
            ? BuildMetadata("LibTorchPackage")?.Split('/')[^1] ?? "unknown"
            : "unknown";
    }

    private static string Load()
    {
        var platform = NativePlatform.Current;
        var trace = new StringBuilder();
        OpenMp.WaitBriefly();
        MklPath.Choose();
        foreach (var folder in CandidateFolders(platform.Rid).Select(Path.GetFullPath).Distinct())
        {
            var torch = Path.Combine(folder, platform.FileName("torch_cpu"));
            if (!File.Exists(torch))
            {
                trace.AppendLine($"  {folder}: no {Path.GetFileName(torch)}");
                continue;
            }

            if (TryLoadFrom(folder, platform, trace))
            {
                return folder;
            }
        }

        var advice = Environment.GetEnvironmentVariable(FolderVariable) is { Length: > 0 }
            ? $"{FolderVariable} is set, so only its folder is looked into. It has to hold libtorch 2.10 or newer, "
              + "as site-packages/torch/lib of a PyTorch installed by pip does; without the variable the package's libtorch is used."
            : $"Run 'dotnet restore' so that the package {BuildMetadata("LibTorchPackage") ?? "libtorch-cpu"} is there, "
              + $"or set {FolderVariable} to the folder of another libtorch 2.10 or newer, such as site-packages/torch/lib of a "
              + "PyTorch installed by pip.";
        throw new NativeTorchException($"libtorch could not be loaded on {platform.Rid}. Tried:{Environment.NewLine}{trace}{advice}");
    }

    private static bool TryLoadFrom(string folder, NativePlatform platform, StringBuilder trace)
    {
        try
        {
            foreach (var name in platform.LoadOrder)
            {
                var file = Path.Combine(folder, platform.FileName(name));
                if (File.Exists(file))
                {
                    NativeLibrary.Load(file);
                }
            }

            LoadBridge(platform, trace);
            var cuda = File.Exists(Path.Combine(folder, platform.FileName("torch_cuda")));
            torch.InitializeDeviceType(DeviceType.CPU);
            IsCudaAvailable = cuda && torch.TryInitializeDeviceType(DeviceType.CUDA);
            if (IsCudaAvailable)
            {
                // float32 means float32: convolutions would take ten bits of fraction.
                torch.backends.cudnn.allow_tf32 = false;
            }

            return true;
        }
        catch (Exception e) when (e is DllNotFoundException or BadImageFormatException or NotSupportedException or IOException
                                      or UnauthorizedAccessException or EntryPointNotFoundException)
        {
            trace.AppendLine($"  {folder}: {e.Message.Split('\n')[0]}");
            return false;
        }
    }

    /// <summary>Loads TorchSharp's own library, the bridge between C# and libtorch.</summary>
    private static void LoadBridge(NativePlatform platform, StringBuilder trace)
    {
        var name = platform.FileName("LibTorchSharp");
        var bridge = ProgramFolders()
            .SelectMany(home => new[] { Path.Combine(home, name), Path.Combine(home, "runtimes", platform.Rid, "native", name) })
            .FirstOrDefault(File.Exists)
            ?? throw new DllNotFoundException($"{name} of the package TorchSharp is not beside the program ({AppContext.BaseDirectory}).");

        nint handle;
        try
        {
            handle = NativeLibrary.Load(bridge);
        }
        catch (DllNotFoundException e) when (platform.MayWeakenSymbolVersions && e.Message.Contains("GLIBCXX_", StringComparison.Ordinal))
        {
            var weakened = ElfSymbolVersions.WeakenedCopy(bridge, "GLIBCXX_3.4.32");
            trace.AppendLine($"  {bridge}: {e.Message.Split('\n')[0]}; a copy that does not insist on it: {weakened}");
            handle = NativeLibrary.Load(weakened);
        }

        BridgeHandle = handle;

        // TorchSharp asks for the library by its bare name: hand it the one that is loaded.
        NativeLibrary.SetDllImportResolver(
            typeof(torch).Assembly,
            (library, _, _) => library == "LibTorchSharp" ? LateFree.Library(handle) : 0);
        LateFree.Activate(handle);
    }

    private static IEnumerable<string> ProgramFolders()
    {
        yield return AppContext.BaseDirectory;
        if (Path.GetDirectoryName(typeof(NativeTorch).Assembly.Location) is { Length: > 0 } library)
        {
            yield return library;
        }
    }

    private static string? BuildMetadata(string key) =>
        typeof(NativeTorch).Assembly.GetCustomAttributes<AssemblyMetadataAttribute>().FirstOrDefault(a => a.Key == key)?.Value;
}

/// <summary>libtorch could not be found or loaded; the message says what was tried and what to do.</summary>
public sealed class NativeTorchException(string message) : Exception(message);
