using System.Collections.Immutable;
using System.Reflection;
using System.Runtime.InteropServices;
using System.Runtime.Loader;
using System.Text.Json;
using Microsoft.CodeAnalysis;

namespace XlstmLab.Notebooks;

/// <summary>
/// Resolves <c>#r</c>. An assembly that the host carries always wins over a file of the same name: types of two copies of one
/// assembly do not mix (FSharp.Core, of which Plotly.NET and Deedle need one and the same, is the usual victim).
/// </summary>
internal sealed class HostReferences : MetadataReferenceResolver
{
    private static readonly Lazy<ImmutableDictionary<string, PortableExecutableReference>> HostAssemblies = new(FindHostAssemblies);
    private static readonly Lazy<HashSet<string>> HostPackages = new(ReadHostPackages);

    private readonly string _folder;
    private readonly AssemblyLoadContext _context = new("notebook cells");
    private readonly Dictionary<string, PortableExecutableReference> _files = new(StringComparer.OrdinalIgnoreCase);
    private readonly List<string> _probed = [];

    /// <summary>Creates a resolver with a load context for the cells and the files they refer to.</summary>
    /// <param name="folder">What relative paths start from.</param>
    public HostReferences(string folder)
    {
        _folder = folder;
        _context.Resolving += (_, name) => Probe(name.Name + ".dll") is { } path ? _context.LoadFromAssemblyPath(path) : null;
        _context.ResolvingUnmanagedDll += (_, name) =>
            new[] { name, $"lib{name}.so", $"{name}.so", $"lib{name}.dylib", $"{name}.dll" }.Select(Probe).FirstOrDefault(path => path is not null)
                is { } path ? NativeLibrary.Load(path) : IntPtr.Zero;
    }

    /// <summary>Everything that the host carries, by simple name.</summary>
    public static IEnumerable<MetadataReference> Host => HostAssemblies.Value.Values;

    /// <summary>Why references of the current cell could not be resolved, in words.</summary>
    public List<string> Failures { get; } = [];

    public override bool ResolveMissingAssemblies => true;

    public Assembly Load(Stream image, Stream symbols) => _context.LoadFromStream(image, symbols);

    public override ImmutableArray<PortableExecutableReference> ResolveReference(
        string reference, string? baseFilePath, MetadataReferenceProperties properties)
    {
        try
        {
            return [reference.StartsWith("nuget:", StringComparison.OrdinalIgnoreCase)
                ? Package(reference["nuget:".Length..])
                : AssemblyFile(reference, baseFilePath)];
        }
        catch (NotebookException e)
        {
            Failures.Add(e.Message);
            return [];
        }
    }

    public override PortableExecutableReference? ResolveMissingAssembly(MetadataReference definition, AssemblyIdentity referenceIdentity) =>
        HostAssemblies.Value.GetValueOrDefault(referenceIdentity.Name)
        ?? (Probe(referenceIdentity.Name + ".dll") is { } path ? MetadataReference.CreateFromFile(path) : null);

    public override bool Equals(object? other) => ReferenceEquals(this, other);

    public override int GetHashCode() => System.Runtime.CompilerServices.RuntimeHelpers.GetHashCode(this);

    private PortableExecutableReference AssemblyFile(string reference, string? baseFilePath)
    {
        bool isFile = reference.EndsWith(".dll", StringComparison.OrdinalIgnoreCase) || reference.EndsWith(".exe", StringComparison.OrdinalIgnoreCase);
        string name = isFile ? Path.GetFileNameWithoutExtension(reference.Replace('\\', '/')) : reference.Split(',')[0].Trim();
        if (HostAssemblies.Value.TryGetValue(name, out var carried))
        {
            return carried;
        }

        if (!isFile)
        {
            throw new NotebookException($"#r \"{reference}\": the host has no assembly of that name. Give the path of a .dll file.");
        }

        string start = Path.IsPathRooted(baseFilePath) ? Path.GetDirectoryName(baseFilePath)! : _folder;
        string path = Path.GetFullPath(reference.Replace('\\', '/'), start);
        if (_files.TryGetValue(path, out var known))
        {
            return known;
        }

        if (!File.Exists(path))
        {
            throw new NotebookException($"#r \"{reference}\": there is no file {path}. Paths are relative to the notebook's folder; is the project built?");
        }

        try
        {
            AssemblyName.GetAssemblyName(path);
        }
        catch (BadImageFormatException e)
        {
            throw new NotebookException($"#r \"{reference}\": {path} is no .NET assembly.", e);
        }

        _probed.Add(Path.GetDirectoryName(path)!);
        return _files[path] = MetadataReference.CreateFromFile(path);
    }

    private static PortableExecutableReference Package(string reference)
    {
        string id = reference.Split(',')[0].Trim();
        if (HostAssemblies.Value.TryGetValue(id, out var assembly))
        {
            return assembly;
        }

        // Packages that only bring native libraries, and bundles of them with TorchSharp: the host loads libtorch itself.
        if (id.StartsWith("TorchSharp-", StringComparison.OrdinalIgnoreCase) || id.StartsWith("libtorch-", StringComparison.OrdinalIgnoreCase))
        {
            return HostAssemblies.Value["TorchSharp"];
        }

        if (HostPackages.Value.Contains(id))
        {
            return HostAssemblies.Value["System.Runtime"];
        }

        throw new NotebookException(
            $"#r \"nuget: {id}\": notebooks run here with the packages of the host, and it does not carry '{id}'. "
            + "Add a PackageReference to src/XlstmLab/XlstmLab.csproj (its version to Directory.Packages.props) and build, or #r the path of a .dll.");
    }

    private string? Probe(string file) => _probed.Select(folder => Path.Combine(folder, file)).FirstOrDefault(File.Exists);

    private static ImmutableDictionary<string, PortableExecutableReference> FindHostAssemblies()
    {
        var paths = ((string?)AppContext.GetData("TRUSTED_PLATFORM_ASSEMBLIES") ?? "").Split(Path.PathSeparator, StringSplitOptions.RemoveEmptyEntries);

        // Plugins were loaded after the program.
        var loaded = AssemblyLoadContext.Default.Assemblies.Where(assembly => !assembly.IsDynamic).Select(assembly => assembly.Location);
        return paths.Concat(loaded).Where(File.Exists)
            .DistinctBy(Path.GetFileNameWithoutExtension, StringComparer.OrdinalIgnoreCase)
            .ToImmutableDictionary(path => Path.GetFileNameWithoutExtension(path), path => MetadataReference.CreateFromFile(path), StringComparer.OrdinalIgnoreCase);
    }

    /// <summary>The packages the host was built with, from the <c>.deps.json</c> beside it.</summary>
    private static HashSet<string> ReadHostPackages()
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
}
