using Microsoft.Extensions.Logging;
using XlstmLab.Text;
using XlstmLab.Training;
using static TorchSharp.torch;

namespace XlstmLab.Runs;

/// <summary>Where and how <see cref="Lab"/> trains.</summary>
public sealed record LabOptions
{
    /// <summary>
    /// The run's folder; null for one in <c>runs</c> that is named after the model and tells configurations and texts apart.
    /// </summary>
    public string? Folder { get; init; }

    /// <summary>Whether a run that is in the folder already is deleted, instead of continued.</summary>
    public bool StartOver { get; init; }

    /// <summary>The tokenizer; null for that of a token folder, and bytes for text.</summary>
    public ITokenizer? Tokenizer { get; init; }

    /// <summary>The device; null is the CPU.</summary>
    public Device? Device { get; init; }

    /// <summary>A run, a checkpoint or a Hugging Face folder whose weights the model starts from; null for fresh ones.</summary>
    public string? InitialWeights { get; init; }

    /// <summary>What the training calls on its way: to look, to save, to stop.</summary>
    public TrainingHooks Hooks { get; init; } = new();

    /// <summary>Told what also goes to the run's <c>log.txt</c>.</summary>
    public ILogger? Logger { get; init; }
}
