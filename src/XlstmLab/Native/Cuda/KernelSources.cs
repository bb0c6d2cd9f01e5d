using System.Reflection;

namespace XlstmLab.Native.Cuda;

/// <summary>The CUDA C++ that the library carries.</summary>
internal static class KernelSources
{
    private const string Prefix = "Operations.";

    /// <summary>A source with its includes in their places: NVRTC then needs no folder of headers.</summary>
    /// <param name="file">The source.</param>
    /// <param name="without">An include to leave out, or null.</param>
    /// <exception cref="CudaException">There is no such source.</exception>
    public static string Read(string file, string? without = null) => Expand(file, without is null ? [] : [without]);

    /// <summary>The names of all sources.</summary>
    public static IEnumerable<string> Names() => Assembly.GetExecutingAssembly().GetManifestResourceNames()
        .Where(name => name.StartsWith(Prefix, StringComparison.Ordinal)).Select(name => name[Prefix.Length..]);

    private static string Expand(string file, HashSet<string> included)
    {
        if (!included.Add(file))
        {
            return "";
        }

        using var stream = Assembly.GetExecutingAssembly().GetManifestResourceStream(Prefix + file)
            ?? throw new CudaException($"The library carries no kernel source {file}; it has {string.Join(", ", Names())}.");
        using var reader = new StreamReader(stream);
        var lines = reader.ReadToEnd().Split('\n').Where(line => line.Trim() != "#pragma once").Select(line =>
            line.StartsWith("#include \"", StringComparison.Ordinal) ? Expand(line.Split('"')[1], included) : line);
        return string.Join('\n', lines);
    }
}
