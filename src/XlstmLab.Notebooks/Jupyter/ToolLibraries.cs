using System.Text.Json;
using System.Text.Json.Nodes;

namespace XlstmLab.Notebooks.Jupyter;

/// <summary>
/// The .NET Interactive tool, and the libraries of this program that it lacks. The tool brings an older FSharp.Core, with which charts and
/// frames do not run; .NET's host takes a newer one, and all else, from a file of additional dependencies.
/// </summary>
public static class ToolLibraries
{
    private const string Package = "microsoft.dotnet-interactive";
    private const string Program = "Microsoft.DotNet.Interactive.App.dll";
    private const string FSharpCore = "FSharp.Core.dll";

    /// <summary>The host appends paths to the tool's folder: so many steps lead to the root from any.</summary>
    private const int StepsToRoot = 24;

    /// <summary>Looks for the tool where NuGet and <c>dotnet tool install</c> put it; of several versions the last one.</summary>
    /// <returns>The tool's program.</returns>
    /// <exception cref="NotebookException">It is nowhere.</exception>
    public static string Find()
    {
        string home = Environment.GetFolderPath(Environment.SpecialFolder.UserProfile);
        string cache = Environment.GetEnvironmentVariable("NUGET_PACKAGES") is { Length: > 0 } set ? set
            : Path.Combine(home, ".nuget", "packages");
        string[] folders = [Path.Combine(cache, Package), Path.Combine(home, ".dotnet", "tools", ".store", Package)];
        return folders.Where(Directory.Exists)
            .SelectMany(folder => Directory.EnumerateFiles(folder, Program, SearchOption.AllDirectories))
            .OrderBy(
                path => Version(Path.GetRelativePath(folders.First(folder => path.StartsWith(folder, StringComparison.Ordinal)), path)))
            .LastOrDefault() ?? throw new NotebookException(
                $"The .NET Interactive tool is neither in {string.Join(" nor in ", folders)}. "
                + "'dotnet tool install --global Microsoft.dotnet-interactive' brings it; or name its Microsoft.DotNet.Interactive.App.dll "
                + "after --official-tool.");
    }

    /// <summary>The file of additional dependencies.</summary>
    /// <param name="tool">The tool's program.</param>
    internal static JsonObject Describe(string tool)
    {
        if (!File.Exists(tool))
        {
            throw new NotebookException($"There is no file {tool}; expected the tool's {Program}.");
        }

        HashSet<string> has =
            [.. Directory.EnumerateFiles(Path.GetDirectoryName(Path.GetFullPath(tool))!, "*.dll").Select(path => Path.GetFileName(path))];
        JsonObject targets = [];
        JsonObject libraries = [];
        foreach (var (name, files) in OwnLibraries())
        {
            JsonObject runtime = [];
            foreach (var (path, version) in files)
            {
                string file = Path.GetFileName(path);
                string here = Path.Combine(AppContext.BaseDirectory, file);
                if ((!has.Add(file) && file != FSharpCore) || !File.Exists(here))
                {
                    continue;
                }

                var entry = version?.DeepClone().AsObject() ?? [];
                entry["localPath"] = string.Concat(Enumerable.Repeat("../", StepsToRoot))
                    + here[Path.GetPathRoot(here)!.Length..].Replace('\\', '/');
                runtime[$"lib/{file}"] = entry;
            }

            if (runtime.Count > 0)
            {
                targets[name] = new JsonObject { ["runtime"] = runtime };
                libraries[name] = new JsonObject
                {
                    ["type"] = "package",
                    ["serviceable"] = false,
                    ["sha512"] = "",
                    ["path"] = name.ToLowerInvariant(),
                };
            }
        }

        string framework = $".NETCoreApp,Version=v{Environment.Version.ToString(2)}";
        return new()
        {
            ["runtimeTarget"] = new JsonObject { ["name"] = framework, ["signature"] = "" },
            ["targets"] = new JsonObject { [framework] = targets },
            ["libraries"] = libraries,
        };
    }

    /// <summary>What this program was built with: the libraries, and their files with the versions.</summary>
    private static IEnumerable<(string Name, IEnumerable<KeyValuePair<string, JsonNode?>> Files)> OwnLibraries()
    {
        string path = ((string?)AppContext.GetData("APP_CONTEXT_DEPS_FILES") ?? "").Split(';').FirstOrDefault(File.Exists)
            ?? throw new NotebookException("This program has no .deps.json beside it, from which the tool could learn of its libraries.");
        var targets =
            (JsonNode.Parse(File.ReadAllText(path))?["targets"] ?? throw new JsonException($"{path} names no targets.")).AsObject();
        return targets.SelectMany(target => target.Value!.AsObject())
            .Select(library => (library.Key, (IEnumerable<KeyValuePair<string, JsonNode?>>)(library.Value!["runtime"]?.AsObject() ?? [])));
    }

    private static Version Version(string relativePath) =>
        System.Version.TryParse(relativePath.Split('/', '\\')[0].Split('-')[0], out var version) ? version : new Version();
}
