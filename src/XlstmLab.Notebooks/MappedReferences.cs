using System.IO.MemoryMappedFiles;
using System.Reflection.PortableExecutable;
using Microsoft.CodeAnalysis;

namespace XlstmLab.Notebooks;

/// <summary>
/// The libraries of the framework and of the program, as the compiler reads them. It would copy each file into memory, a hundred megabytes
/// in all, most of which it never looks at; mapped, a file takes what is looked at.
/// </summary>
/// <remarks>
/// They are mapped for as long as the process lives, as the runtime has them itself: files that users build anew are not for this.
/// </remarks>
internal static class MappedReferences
{
    private static readonly Lazy<Dictionary<string, string>> Trusted = new(() =>
        ((string?)AppContext.GetData("TRUSTED_PLATFORM_ASSEMBLIES") ?? "").Split(Path.PathSeparator, StringSplitOptions.RemoveEmptyEntries)
            .DistinctBy(Path.GetFileNameWithoutExtension, StringComparer.OrdinalIgnoreCase)
            .ToDictionary(path => Path.GetFileNameWithoutExtension(path), StringComparer.OrdinalIgnoreCase));

    /// <summary>A library that the runtime finds by its name; null if it finds none.</summary>
    /// <param name="name">The assembly's name.</param>
    /// <param name="properties">How it is referred to.</param>
    public static PortableExecutableReference? Named(string name, MetadataReferenceProperties properties) =>
        Trusted.Value.TryGetValue(name, out string? path) && File.Exists(path) ? Of(path, properties, documentation: null) : null;

    /// <summary>A library in a file that stays as it is.</summary>
    /// <param name="path">The file.</param>
    /// <param name="properties">How it is referred to.</param>
    /// <param name="documentation">What is written about it.</param>
    public static unsafe PortableExecutableReference Of(
        string path, MetadataReferenceProperties properties, DocumentationProvider? documentation)
    {
        var view = MemoryMappedFile.CreateFromFile(path, FileMode.Open, mapName: null, capacity: 0, MemoryMappedFileAccess.Read)
            .CreateViewAccessor(0, 0, MemoryMappedFileAccess.Read);
        byte* start = null;

        // Never released.
        view.SafeMemoryMappedViewHandle.AcquirePointer(ref start);
        PEReader reader = new(start, checked((int)view.Capacity));
        var metadata = reader.GetMetadata();
        return AssemblyMetadata.Create(ModuleMetadata.CreateFromMetadata((nint)metadata.Pointer, metadata.Length))
            .GetReference(documentation, properties.Aliases, properties.EmbedInteropTypes, path);
    }
}
