using XlstmLab.Checkpoints;
using XlstmLab.Models;
using XlstmLab.Training;

namespace XlstmLab.Runs;

/// <summary>Architectures by what names them on a command line.</summary>
internal static class NamedModels
{
    /// <summary>
    /// The architecture of a preset, a run's folder, a Hugging Face folder or a <c>config.json</c>; null where the name is none of these.
    /// </summary>
    /// <exception cref="CheckpointException">The file cannot be read.</exception>
    /// <exception cref="InvalidDataException">The run's <c>config.json</c> does not hold one.</exception>
    /// <exception cref="ConfigException">It is no configuration of a model that this library knows, or one that cannot be.</exception>
    public static LanguageModelConfig? Find(string name) =>
        Presets.All.TryGetValue(name, out var preset) ? preset
        : RunFolder.IsOne(name) ? RunFolder.ReadModelConfig(name)
        : Directory.Exists(name) ? ModelConfigJson.Read(Path.Combine(name, HuggingFaceFolder.ConfigFileName))
        : File.Exists(name) ? ModelConfigJson.Read(name)
        : null;
}
