using System.Reflection;
using System.Runtime.Loader;
using System.Text.Json;
using System.Text.RegularExpressions;

namespace XlstmLab.Notebooks;

/// <summary>
/// What cells have without a reference: the assemblies and packages of the program that runs them. A <c>#r</c> of one of these is taken
/// out, since types of two copies of one assembly do not mix (FSharp.Core, of which Plotly.NET and Deedle need one and the same, is the
/// usual victim).
/// </summary>
internal static partial class HostPackages
{
    /// <summary>The engine's own parts: cells hardly need them, and each costs the compilers time.</summary>
    private static readonly string[] Hidden =
    [
        "FSharp.Compiler", "FSharp.DependencyManager", "Humanizer", "Microsoft.Bcl", "Microsoft.CodeAnalysis", "Microsoft.DiaSymReader",
        "Microsoft.DotNet.Interactive.PackageManagement", "NetMQ", "AsyncIO", "NaCl", "Spectre.Console", "System.CommandLine",
        "System.Composition", "xunit", "Microsoft.Testing",
    ];

    private static readonly Lazy<Dictionary<string, string>> Assemblies = new(FindAssemblies);
    private static readonly Lazy<HashSet<string>> Packages = new(ReadPackages);

    /// <summary>The files that cells may use without <c>#r</c>, the framework's aside.</summary>
    public static IEnumerable<string> References()
    {
        string framework = Path.GetDirectoryName(typeof(object).Assembly.Location)!;
        return Assemblies.Value.Values.Where(path => !path.StartsWith(framework, StringComparison.Ordinal)
            && !Hidden.Any(name => Path.GetFileName(path).StartsWith(name, StringComparison.OrdinalIgnoreCase)));
    }

    /// <summary>
    /// A cell's text without the references to what is there anyhow, and with whole paths in the others; lines stay where they are.
    /// </summary>
    /// <param name="source">The cell's text.</param>
    /// <param name="language">The kernel it starts in.</param>
    /// <param name="folder">What relative paths start from.</param>
    /// <exception cref="CompilationException">A reference leads nowhere.</exception>
    public static string Prepare(string source, string language, string folder)
    {
        if (!source.Contains('#', StringComparison.Ordinal))
        {
            return source;
        }

        string[] lines = source.Split('\n');
        for (int i = 0; i < lines.Length; i++)
        {
            if (Magic().Match(lines[i]) is { Success: true } magic)
            {
                language = CellLanguage.Kernel(magic.Groups["name"].Value) ?? language;
                if (CellLanguage.IsKnownElsewhere(magic.Groups["name"].Value))
                {
                    throw new CompilationException(i + 1, CellLanguage.Refusal(magic.Value.Trim()), []);
                }
            }
            else if (language is CellLanguage.CSharp or CellLanguage.FSharp && Reference().Match(lines[i]) is { Success: true } reference)
            {
                lines[i] = Resolve(reference, lines[i], i + 1, folder);
            }
        }

        return string.Join('\n', lines);
    }

    private static string Resolve(Match directive, string line, int number, string folder)
    {
        string reference = directive.Groups["what"].Value;
        if (directive.Groups["kind"].Value == "load")
        {
            return line.Replace(
                reference, Path.GetFullPath(reference.Replace('\\', '/'), folder).Replace('\\', '/'), StringComparison.Ordinal);
        }

        if (reference.StartsWith("nuget:", StringComparison.OrdinalIgnoreCase))
        {
            return Has(reference["nuget:".Length..].Split(',')[0].Trim()) ? "" : line;
        }

        bool isFile = reference.EndsWith(".dll", StringComparison.OrdinalIgnoreCase) || reference.EndsWith(
            ".exe", StringComparison.OrdinalIgnoreCase);
        string name = isFile ? Path.GetFileNameWithoutExtension(reference.Replace('\\', '/')) : reference.Split(',')[0].Trim();
        if (Assemblies.Value.ContainsKey(name))
        {
            return "";
        }

        if (!isFile)
        {
            throw new CompilationException(
                number,
                $"#r \"{reference}\": the host has no assembly of that name. Give the path of a .dll file, "
                + "or \"nuget: name, version\".", []);
        }

        string path = Path.GetFullPath(reference.Replace('\\', '/'), folder).Replace('\\', '/');
        if (!File.Exists(path))
        {
            throw new CompilationException(
                number, $"#r \"{reference}\": there is no file {path}. Paths are relative to the notebook's folder; is the project built?",
                []);
        }

        try
        {
            AssemblyName.GetAssemblyName(path);
        }
        catch (BadImageFormatException)
        {
            throw new CompilationException(number, $"#r \"{reference}\": {path} is no .NET assembly.", []);
        }

        return line.Replace(reference, path, StringComparison.Ordinal);
    }

    /// <summary>
    /// Packages that only bring native libraries, and bundles of them with TorchSharp, count as there: the host loads libtorch itself.
    /// </summary>
    private static bool Has(string package) =>
        Assemblies.Value.ContainsKey(package) || Packages.Value.Contains(package)
        || package.StartsWith("TorchSharp-", StringComparison.OrdinalIgnoreCase)
        || package.StartsWith("libtorch-", StringComparison.OrdinalIgnoreCase);

    private static Dictionary<string, string> FindAssemblies()
    {
        var paths = ((string?)AppContext.GetData("TRUSTED_PLATFORM_ASSEMBLIES") ?? "").Split(
            Path.PathSeparator, StringSplitOptions.RemoveEmptyEntries);

        // Plugins were loaded after the program.
        var loaded = AssemblyLoadContext.Default.Assemblies.Where(assembly => !assembly.IsDynamic).Select(assembly => assembly.Location);
        return paths.Concat(loaded).Where(File.Exists)
            .DistinctBy(Path.GetFileNameWithoutExtension, StringComparer.OrdinalIgnoreCase)
            .ToDictionary(path => Path.GetFileNameWithoutExtension(path), StringComparer.OrdinalIgnoreCase);
    }

    /// <summary>The packages the host was built with, from the <c>.deps.json</c> beside it.</summary>
    private static HashSet<string> ReadPackages()
    {
        HashSet<string> packages = new(StringComparer.OrdinalIgnoreCase);
        foreach (string path in ((string?)AppContext.GetData("APP_CONTEXT_DEPS_FILES") ?? "").Split(';').Where(File.Exists))
        {
            using var json = JsonDocument.Parse(File.ReadAllBytes(path));
            foreach (var library in json.RootElement.GetProperty("libraries").EnumerateObject())
            {
                packages.Add(library.Name.Split('/')[0]);
            }
        }

        return packages;
    }

    [GeneratedRegex(@"^#!(?<name>\S+).*$")]
    private static partial Regex Magic();

    [GeneratedRegex("""^\s*#(?<kind>r|load)\s+"(?<what>[^"]+)""")]
    private static partial Regex Reference();
}
