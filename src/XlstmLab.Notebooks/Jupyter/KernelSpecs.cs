using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace XlstmLab.Notebooks.Jupyter;

/// <summary>Tells Jupyter of kernels: a folder each, with a <c>kernel.json</c>, where Jupyter looks for them.</summary>
public static class KernelSpecs
{
    private const string FileName = "kernel.json";

    private static readonly JsonSerializerOptions Json =
        new() { WriteIndented = true, Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    private static readonly (string Language, string Name)[] Languages = [(CellLanguage.CSharp, "C#"), (CellLanguage.FSharp, "F#")];

    /// <summary>
    /// Where Jupyter looks for the kernels of this user: below <c>JUPYTER_DATA_DIR</c>, or in the system's place for a user's data.
    /// </summary>
    public static string UserFolder()
    {
        string Home(params string[] parts) => Path.Combine([Environment.GetFolderPath(Environment.SpecialFolder.UserProfile), .. parts]);
        string data = Variable("JUPYTER_DATA_DIR")
            ?? (OperatingSystem.IsWindows() ? Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.ApplicationData), "jupyter")
                : OperatingSystem.IsMacOS() ? Home("Library", "Jupyter")
                : Path.Combine(Variable("XDG_DATA_HOME") ?? Home(".local", "share"), "jupyter"));
        return Path.Combine(data, "kernels");
    }

    /// <summary>
    /// Where Jupyter looks for kernels that belong to an installation, such as <c>/usr/local</c> or a Python environment.
    /// </summary>
    /// <param name="prefix">The installation's folder.</param>
    public static string PrefixFolder(string prefix) => Path.Combine(prefix, "share", "jupyter", "kernels");

    /// <summary>Installs the kernels of this engine, <c>xlstm-csharp</c> and <c>xlstm-fsharp</c>, or replaces them.</summary>
    /// <param name="folder">The folder of all kernels.</param>
    /// <param name="program">The command line that starts this program.</param>
    /// <param name="withDotnetNames">
    /// Whether to install them as <c>.net-csharp</c> and <c>.net-fsharp</c> too, where others have not these names.
    /// </param>
    /// <param name="arguments">What comes after the arguments of a kernel.</param>
    /// <returns>The folders written.</returns>
    /// <exception cref="NotebookException">The folder cannot be written.</exception>
    public static IReadOnlyList<string> Install(
        string folder, IReadOnlyList<string> program, bool withDotnetNames, params IReadOnlyList<string> arguments)
    {
        List<string> written = [];
        foreach (var (language, name) in Languages)
        {
            JsonObject kernel = new()
            {
                ["argv"] = Strings([.. program, "notebook", "kernel", "{connection_file}", "--language", language, .. arguments]),
                ["display_name"] = $"XlstmLab ({name})",
                ["language"] = name,
                ["interrupt_mode"] = "message",
            };
            written.Add(Write(Path.Combine(folder, $"xlstm-{language}"), kernel));
            if (withDotnetNames && Path.Combine(folder, $".net-{language}") is var other && IsFree(other, $"XlstmLab ({name})"))
            {
                written.Add(Write(other, kernel));
            }
        }

        return written;
    }

    /// <summary>
    /// Installs kernels that run the unaltered .NET Interactive tool with this program's libraries, <c>xlstm-tool-csharp</c> and
    /// <c>xlstm-tool-fsharp</c>, or replaces them.
    /// </summary>
    /// <param name="folder">The folder of all kernels.</param>
    /// <param name="dotnet">The <c>dotnet</c> program.</param>
    /// <param name="tool">The tool's <c>Microsoft.DotNet.Interactive.App.dll</c>.</param>
    /// <returns>The folders of the two.</returns>
    /// <exception cref="NotebookException">There is no tool, or the folder cannot be written.</exception>
    /// <remarks>The tool listens on this machine alone and sends no telemetry.</remarks>
    public static IReadOnlyList<string> InstallForTool(string folder, string dotnet, string tool)
    {
        string libraries = ToolLibraries.Describe(tool).ToJsonString(Json);
        return
        [
            .. Languages.Select(language =>
            {
                string own = Path.Combine(folder, $"xlstm-tool-{language.Language}");
                string file = Path.Combine(own, "xlstm.deps.json");
                Create(own);
                NotebookFile.Write(file, Encoding.UTF8.GetBytes(libraries + "\n"));
                return Write(own, new()
                {
                    ["argv"] = Strings(
                    [
                        dotnet, "exec", "--additional-deps", file, tool,
                        "jupyter", "--default-kernel", language.Language, "{connection_file}", "--http-local-only",
                    ]),
                    ["display_name"] = $".NET Interactive with XlstmLab ({language.Name})",
                    ["language"] = language.Name,
                    ["env"] = new JsonObject
                    {
                        ["DOTNET_INTERACTIVE_CLI_TELEMETRY_OPTOUT"] = "1",
                        ["DOTNET_CLI_TELEMETRY_OPTOUT"] = "1",
                        [StartupHook.Variable] = typeof(StartupHook).Assembly.GetName().Name,
                    },
                });
            }),
        ];
    }

    /// <summary>Whether there is no kernel in a folder, or one of this program.</summary>
    private static bool IsFree(string folder, string displayName)
    {
        string path = Path.Combine(folder, FileName);
        try
        {
            return !File.Exists(path) || (string?)JsonNode.Parse(File.ReadAllText(path))?["display_name"] == displayName;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or JsonException or InvalidOperationException)
        {
            return false;
        }
    }

    private static string Write(string folder, JsonObject kernel)
    {
        Create(folder);
        NotebookFile.Write(Path.Combine(folder, FileName), Encoding.UTF8.GetBytes(kernel.ToJsonString(Json) + "\n"));
        return folder;
    }

    private static void Create(string folder)
    {
        try
        {
            Directory.CreateDirectory(folder);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new NotebookException($"The folder {folder} cannot be made: {e.Message} --path names another one.", e);
        }
    }

    private static JsonArray Strings(IEnumerable<string> texts) => [.. texts.Select(text => (JsonNode)text)];

    private static string? Variable(string name) => Environment.GetEnvironmentVariable(name) is { Length: > 0 } value ? value : null;
}
