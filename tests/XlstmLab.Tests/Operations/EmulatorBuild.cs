using System.Collections.Concurrent;
using System.Diagnostics;
using System.Globalization;
using System.Runtime.CompilerServices;
using System.Security.Cryptography;
using System.Text;
using System.Text.RegularExpressions;
using XlstmLab.Native;
using XlstmLab.Native.Cuda;

namespace XlstmLab.Tests.Operations;

/// <summary>
/// Compiles kernels' sources for the emulator. What was made is kept in the user's cache by source, emulator, compiler and options, so that
/// a second run of the tests compiles nothing; a first one compiles <c>Emulator/variants.txt</c>, and for the long tests
/// <c>Emulator/variants-long.txt</c>, on all cores while other tests run. <see cref="EmulatorVariants"/> holds those lists to what tests
/// use.
/// </summary>
internal static partial class EmulatorBuild
{
    /// <summary>Names what of the command line runs only some of the tests.</summary>
    private static readonly string[] Filters =
        ["class", "method", "namespace", "trait", "filter", "query", "list", "-id", "-run", "assemblyInfo", "client-port"];

    private static readonly string[] Options = ["-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden"];
    private static readonly string Folder = Path.Combine(TestSetup.RepositoryRoot, "tests", "XlstmLab.Tests", "Operations", "Emulator");
    private static readonly ConcurrentDictionary<string, Lazy<string>> Libraries = new(StringComparer.Ordinal);
    private static readonly Lazy<(string? Version, string? Fault)> Compiler = new(() => Run(background: false, "--version"));
    private static readonly Lazy<string> Headers = new(() =>
        string.Join('\n', Directory.EnumerateFiles(Folder, "*.*h").Order(StringComparer.Ordinal).Select(File.ReadAllText)));

    private static readonly Lazy<string> Emulator = new(BuildEmulator);

    /// <summary>The variants that this run compiles beforehand: source and macros of each.</summary>
    public static IEnumerable<string> Listed =>
        LongTests.Cases<string[]>(all: ["variants.txt", "variants-long.txt"], few: ["variants.txt"]).SelectMany(
            name => File.ReadLines(Path.Combine(Folder, name)));

    /// <summary>Whether this run is one of all tests, and so compiles what is listed.</summary>
    public static bool IsOfAllTests { get; } =
        !Environment.GetCommandLineArgs().Skip(1).Any(a => Filters.Any(f => a.Contains(f, StringComparison.OrdinalIgnoreCase)));

    /// <summary>Why nothing can be compiled here; null where it can.</summary>
    public static string? Absence => Compiler.Value.Fault is { } fault ? $"no g++ to compile the kernels with: {fault}" : null;

    /// <summary>The library of a kernel's source, waiting for whoever makes it, or making it at once if nobody does.</summary>
    public static string Library(string file, IReadOnlyList<string> defines) => Library(file, defines, background: false);

    /// <summary>Begins to make all that the tests need, on all cores, where all tests are run and kernels are emulated.</summary>
#pragma warning disable CA2255 // A test assembly is a program: nothing else runs before its first test.
    [ModuleInitializer]
#pragma warning restore CA2255
    internal static void StartAll()
    {
        if (!IsOfAllTests)
        {
            return;
        }

        var variants = new ConcurrentQueue<string[]>(Listed.Select(line => line.Split(' ')));
        for (var core = 0; core < Environment.ProcessorCount; core++)
        {
            new Thread(Work) { IsBackground = true, Name = "emulator build" }.Start();
        }

        void Work()
        {
            if (NativeTorch.IsCudaAvailable || EmulatedDevice.Absence is not null)
            {
                return;
            }

            while (variants.TryDequeue(out var variant))
            {
                try
                {
                    Library(variant[0], variant[1..], background: true);
                }
                catch (Exception)
                {
                    // The test that needs it tells the fault.
                }
            }
        }
    }

    private static string Library(string file, IReadOnlyList<string> defines, bool background) =>
        Libraries.GetOrAdd($"{file} {string.Join(' ', defines)}", _ => new(() => Build(file, defines, background))).Value;

    private static string Build(string file, IReadOnlyList<string> defines, bool background)
    {
        var source = KernelSources.Read(file, without: "Ptx.cuh");
        source = "#include \"Ptx.cuh\"\n" + source + "\n"
            + string.Join('\n', EntryPoint().Matches(source).Select(
                m => $"REGISTER({m.Groups[2].Value}{(m.Groups[1].Success ? ", " + m.Groups[1].Value : "")})"));
        var emulator = Emulator.Value;
        string[] arguments = [.. Options, "-shared", "-I", Folder, .. defines.Select(d => "-D" + d)];
        return Made($"{Path.GetFileNameWithoutExtension(file)}-", ".so",
            [source, Headers.Value, Path.GetFileName(emulator), .. arguments], aside =>
            {
                var code = aside + ".cpp";
                File.WriteAllText(code, source);
                try
                {
                    return Run(background, [.. arguments, code, emulator, "-o", aside]).Fault is { } fault
                        ? $"{file} with {string.Join(' ', defines)}: {fault}" : null;
                }
                finally
                {
                    File.Delete(code);
                }
            });
    }

    /// <summary>What runs the kernels, which all of them are linked with.</summary>
    private static string BuildEmulator()
    {
        var code = Path.Combine(Folder, "Emulator.cpp");
        string[] arguments = [.. Options.Select(o => o == "-O1" ? "-O2" : o), "-c", "-I", Folder];
        return Made(
            "Emulator-", ".o", [File.ReadAllText(code), Headers.Value, .. arguments],
            aside => Run(background: false, [.. arguments, code, "-o", aside]).Fault);
    }

    /// <summary>A file of the cache, made aside and renamed if it is not there: of two processes that make it, either is right.</summary>
    private static string Made(string name, string extension, IEnumerable<string> content, Func<string, string?> make)
    {
        var key = Convert.ToHexStringLower(
            SHA256.HashData(Encoding.UTF8.GetBytes(string.Join('\n', content.Prepend(Compiler.Value.Version)))))[..24];
        var path = Path.Combine(UserCache.Folder("emulator"), name + key + extension);
        if (!File.Exists(path))
        {
            var aside = string.Create(CultureInfo.InvariantCulture, $"{path}.{Environment.ProcessId}");
            if (make(aside) is { } fault)
            {
                throw new InvalidOperationException(fault);
            }

            File.Move(aside, path, overwrite: true);
        }

        return path;
    }

    /// <summary>Runs g++.</summary>
    private static (string? Output, string? Fault) Run(bool background, params string[] arguments)
    {
        var start = new ProcessStartInfo("g++", arguments) { RedirectStandardError = true, RedirectStandardOutput = true };
        start.Environment["LC_ALL"] = "C";
        try
        {
            using var process = Process.Start(start)!;
            if (background)
            {
                Yield(process);
            }

            var output = process.StandardOutput.ReadToEndAsync();
            var errors = process.StandardError.ReadToEnd();
            process.WaitForExit();
            return process.ExitCode == 0 ? (output.Result, null) : (null, errors);
        }
        catch (System.ComponentModel.Win32Exception e)
        {
            return (null, e.Message);
        }
    }

    /// <summary>Lets the tests go first.</summary>
    private static void Yield(Process process)
    {
        try
        {
            process.PriorityClass = ProcessPriorityClass.BelowNormal;
        }
        catch (Exception e) when (e is InvalidOperationException or System.ComponentModel.Win32Exception)
        {
            // It has ended.
        }
    }

    [GeneratedRegex(@"\bKERNEL\s+void\s+(?:__launch_bounds__\s*\(([^{};]*?)\)\s*)?(\w+)\s*\(")]
    private static partial Regex EntryPoint();
}
