using System.Globalization;
using System.Text.Json;
using XlstmLab.Checkpoints;
using XlstmLab.Models;
using XlstmLab.Text;
using static TorchSharp.torch;

namespace XlstmLab.Training;

/// <summary>The part of a checkpoint that is no tensor: <c>trainer.json</c>.</summary>
internal sealed record TrainerState
{
    /// <summary>The updates done.</summary>
    public required int Step { get; init; }

    /// <summary>The tokens predicted.</summary>
    public required long Tokens { get; init; }

    /// <summary>The seconds of training.</summary>
    public required double Seconds { get; init; }

    /// <summary>Where the loader stands.</summary>
    public required BatchPosition Loader { get; init; }

    /// <summary>The state of the generator that dropout draws from.</summary>
    public required byte[] RandomState { get; init; }

    /// <summary><see cref="ModelIdentity.HashOf"/> of the model's weights; null in older checkpoints.</summary>
    public string? Weights { get; init; }

    /// <summary>libtorch's threads.</summary>
    public required int Threads { get; init; }

    /// <summary>The latest updates in a row that were left out.</summary>
    public required int BadSteps { get; init; }

    /// <summary>The latest losses, oldest first.</summary>
    public required IReadOnlyList<double> Losses { get; init; }

    /// <summary>The latest gradient norms, oldest first.</summary>
    public required IReadOnlyList<double> GradientNorms { get; init; }
}

/// <summary>The folders <c>checkpoints/step-000500</c> of a run.</summary>
/// <remarks>A folder with such a name is complete; the rest of a killed write or removal has another name and is cleared away.</remarks>
internal static class TrainingCheckpoint
{
    private const string Prefix = "step-";
    private const string OptimizerName = "optimizer.safetensors";
    private const string StateName = "trainer.json";
    private const string WeightsKey = "model_weights_sha256";

    /// <summary>The complete checkpoints of a run, oldest first.</summary>
    public static IReadOnlyList<(int Step, string Folder)> List(string run)
    {
        var folder = Path.Combine(run, "checkpoints");
        return !Directory.Exists(folder)
            ? []
            : [.. Directory.EnumerateDirectories(folder, Prefix + "*")
                .Select(path => (Step: StepOf(Path.GetFileName(path)), path))
                .Where(entry => entry.Step is not null)
                .Select(entry => (entry.Step!.Value, entry.path))
                .OrderBy(entry => entry.Value)];
    }

    /// <summary>Removes what a killed write or removal left.</summary>
    public static void RemoveLeftovers(string run)
    {
        var folder = Path.Combine(run, "checkpoints");
        if (Directory.Exists(folder))
        {
            foreach (var leftover in Directory.EnumerateDirectories(folder, Prefix + "*.tmp-*"))
            {
                Directory.Delete(leftover, recursive: true);
            }
        }
    }

    /// <summary>Removes all checkpoints of a run; killed meanwhile, it leaves none that passes for a complete one.</summary>
    public static void RemoveAll(string run)
    {
        foreach (var (_, folder) in List(run))
        {
            Remove(folder);
        }

        var all = Path.Combine(run, "checkpoints");
        if (Directory.Exists(all))
        {
            Directory.Delete(all, recursive: true);
        }
    }

    /// <summary>Writes a checkpoint, and removes old ones once it is complete.</summary>
    /// <param name="run">The run's folder.</param>
    /// <param name="state">The state of the training.</param>
    /// <param name="model">The model's state dict.</param>
    /// <param name="modelConfig">The model's configuration.</param>
    /// <param name="optimizer">Moments and averages.</param>
    /// <param name="keep">The number of latest checkpoints to keep.</param>
    /// <param name="written">Told each file when it is written; for tests.</param>
    /// <returns>The checkpoint's folder.</returns>
    public static string Write(
        string run,
        TrainerState state,
        IReadOnlyDictionary<string, Tensor> model,
        LanguageModelConfig modelConfig,
        IReadOnlyDictionary<string, Tensor> optimizer,
        int keep,
        Action<string>? written)
    {
        state = state with { Weights = ModelIdentity.HashOf(model) };
        var folder = Path.Combine(run, "checkpoints", string.Create(CultureInfo.InvariantCulture, $"{Prefix}{state.Step:D6}"));
        AtomicFile.WriteFolder(folder, aside =>
        {
            HuggingFaceFolder.WriteInto(aside, modelConfig, model);
            written?.Invoke(Path.Combine(aside, Safetensors.SingleFileName));
            Safetensors.Write(Path.Combine(aside, OptimizerName), optimizer, [KeyValuePair.Create(WeightsKey, state.Weights)]);
            written?.Invoke(Path.Combine(aside, OptimizerName));
            AtomicFile.WriteText(Path.Combine(aside, StateName), JsonSerializer.Serialize(state, RunJson.Line));
            written?.Invoke(Path.Combine(aside, StateName));
        });
        foreach (var (_, old) in List(run).SkipLast(keep))
        {
            Remove(old);
        }

        return folder;
    }

    /// <summary>Reads a checkpoint into tensors that are there.</summary>
    /// <param name="folder">The checkpoint's folder.</param>
    /// <param name="model">The model's state dict.</param>
    /// <param name="optimizer">Moments and averages.</param>
    /// <exception cref="CheckpointException">A file is missing or damaged, or belongs to another model.</exception>
    public static TrainerState Read(string folder, IReadOnlyDictionary<string, Tensor> model, IReadOnlyDictionary<string, Tensor> optimizer)
    {
        try
        {
            var state = ReadState(Path.Combine(folder, StateName));
            using var weights = SafetensorsFolder.Open(folder);
            foreach (var (name, target) in model)
            {
                weights.ReadInto(name, target);
            }

            using var moments = SafetensorsFile.Open(Path.Combine(folder, OptimizerName));
            RequireOneCheckpoint(state, ModelIdentity.HashOf(model), moments);
            foreach (var (name, target) in optimizer)
            {
                moments.ReadInto(name, target);
            }

            return state;
        }
        catch (Exception e) when (e is IOException or JsonException)
        {
            throw new CheckpointException(
                $"The checkpoint {folder} cannot be read ({e.Message.TrimEnd('.')}). "
                + "Remove that folder to go on from the one before it, or start over.",
                e);
        }
    }

    private static TrainerState ReadState(string path)
    {
        try
        {
            return StrictJson.Read<TrainerState>(File.ReadAllText(path), RunJson.Line);
        }
        catch (JsonException e)
        {
            throw new JsonException($"{StateName}: {e.Message}", e);
        }
    }

    /// <summary>Refuses weights or moments of another checkpoint, whose names and shapes may be the same.</summary>
    private static void RequireOneCheckpoint(TrainerState state, string weights, SafetensorsFile moments)
    {
        if (state.Weights is null)
        {
            return;
        }

        if (state.Weights != weights || moments.Metadata.GetValueOrDefault(WeightsKey) != state.Weights)
        {
            throw new CheckpointException(
                $"the {(state.Weights != weights ? "weights" : "optimiser's moments and averages")} are not those that {StateName} was "
                + "written with: a file was changed, or is another checkpoint's");
        }
    }

    private static void Remove(string checkpoint)
    {
        // Renamed first, so that a checkpoint whose removal is interrupted does not pass for a complete one.
        Directory.Move(checkpoint, checkpoint + ".tmp-removed");
        Directory.Delete(checkpoint + ".tmp-removed", recursive: true);
    }

    private static int? StepOf(string name) =>
        int.TryParse(name.AsSpan(Prefix.Length), NumberStyles.None, CultureInfo.InvariantCulture, out var step) ? step : null;
}
