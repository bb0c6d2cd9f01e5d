using System.Globalization;
using XlstmLab.Models;
using static TorchSharp.torch;

namespace XlstmLab.Checkpoints;

/// <summary>A model's state in a safetensors file: reading goes on from it as from the tokens themselves.</summary>
public static class ModelStateFile
{
    private const string FormatKey = "format";
    private const string Format = "xlstm-lab-state";
    private const string TokensKey = "tokens";
    private const string ConfigKey = "model_config_sha256";
    private const string WeightsKey = "model_weights_sha256";
    private const string NextKey = "next_token";
    private const string SeedKey = "seed";
    private const string DrawsKey = "draws";
    private const string SeenKey = "tokens_seen";
    private const string OpenKey = "open_bytes";

    /// <summary>Writes a state. The file is whole or absent.</summary>
    /// <param name="state">The state.</param>
    /// <param name="path">The file, replaced if it is there.</param>
    /// <param name="tokenCount">The number of tokens it has read, if known.</param>
    /// <exception cref="IOException">The file cannot be written.</exception>
    /// <remarks>
    /// It does not say whose state it is; <see cref="Save(ModelState, string, ModelStateNotes)"/> does, with a <see cref="ModelIdentity"/>.
    /// </remarks>
    public static void Save(ModelState state, string path, long? tokenCount = null) =>
        Save(state, path, new ModelStateNotes { TokenCount = tokenCount });

    /// <summary>Writes a state with notes. The file is whole or absent.</summary>
    /// <param name="state">The state; one without tensors has read nothing yet.</param>
    /// <param name="path">The file, replaced if it is there.</param>
    /// <param name="notes">What else is known.</param>
    /// <exception cref="IOException">The file cannot be written.</exception>
    /// <exception cref="ObjectDisposedException">The state was disposed.</exception>
    public static void Save(ModelState state, string path, ModelStateNotes notes)
    {
        ArgumentNullException.ThrowIfNull(state);
        ArgumentNullException.ThrowIfNull(notes);
        var metadata = new Dictionary<string, string> { [FormatKey] = Format };
        Add(TokensKey, notes.TokenCount);
        Add(ConfigKey, notes.Model?.Config);
        Add(WeightsKey, notes.Model?.Weights);
        Add(NextKey, notes.NextToken);
        Add(SeedKey, notes.Seed);
        Add(DrawsKey, notes.Draws == 0 ? null : notes.Draws);
        Add(SeenKey, notes.TokensSeen.Count == 0 ? null : string.Join(',', notes.TokensSeen));
        Add(OpenKey, notes.OpenBytes.Count == 0 ? null : Convert.ToHexStringLower([.. notes.OpenBytes]));
        Safetensors.Write(path, state.Tensors, metadata);

        void Add(string key, IConvertible? value)
        {
            if (value is not null)
            {
                metadata.Add(key, value.ToString(CultureInfo.InvariantCulture));
            }
        }
    }

    /// <summary>
    /// Reads a state, which the caller owns, without a look at whose it is: <see cref="ModelStateNotes.RequireModel"/> looks.
    /// </summary>
    /// <param name="path">The file.</param>
    /// <param name="device">Where its tensors shall be; null is the CPU.</param>
    /// <exception cref="CheckpointException">The file is no whole file of a state.</exception>
    public static ModelState Load(string path, Device? device = null)
    {
        using var file = Open(path);
        using var scope = NewDisposeScope();
        return new ModelState([.. file.Names.Select(name => KeyValuePair.Create(name, file.Read(name, device)))]);
    }

    /// <summary>The number of tokens that a saved state has read; null if it was saved without.</summary>
    /// <exception cref="CheckpointException">The file is no whole file of a state.</exception>
    public static long? ReadTokenCount(string path)
    {
        using var file = Open(path);
        return Number(file, TokensKey, "number of tokens");
    }

    /// <summary>What a file says of its state.</summary>
    /// <exception cref="CheckpointException">The file is no whole file of a state, or a note is damaged.</exception>
    public static ModelStateNotes ReadNotes(string path)
    {
        using var file = Open(path);
        try
        {
            return new()
            {
                TokenCount = Number(file, TokensKey, "number of tokens"),
                Model = file.Metadata.TryGetValue(ConfigKey, out var config) && file.Metadata.TryGetValue(WeightsKey, out var weights)
                    ? new(config, weights)
                    : null,
                NextToken = checked((int?)Number(file, NextKey, "next token")),
                Seed = Number(file, SeedKey, "seed", NumberStyles.AllowLeadingSign),
                Draws = Number(file, DrawsKey, "number of draws") ?? 0,
                TokensSeen = file.Metadata.TryGetValue(SeenKey, out var seen)
                    ? [.. seen.Split(',').Select(id => int.Parse(id, NumberStyles.None, CultureInfo.InvariantCulture))]
                    : [],
                OpenBytes = file.Metadata.TryGetValue(OpenKey, out var open) ? Convert.FromHexString(open) : [],
            };
        }
        catch (Exception e) when (e is FormatException or OverflowException)
        {
            throw new CheckpointException($"{path}: the notes beside the state are damaged: {e.Message}", e);
        }
    }

    private static long? Number(SafetensorsFile file, string key, string name, NumberStyles style = NumberStyles.None) =>
        !file.Metadata.TryGetValue(key, out var text) ? null
        : long.TryParse(text, style, CultureInfo.InvariantCulture, out var number) ? number
        : throw new CheckpointException($"{file.Path}: the {name} is {CheckpointException.Quote(text)}; expected a whole number.");

    private static SafetensorsFile Open(string path)
    {
        var file = SafetensorsFile.Open(path);
        try
        {
            if (file.Metadata.GetValueOrDefault(FormatKey) != Format)
            {
                throw new CheckpointException(
                    $"{path}: the file holds tensors but no model's state (its metadata lacks {FormatKey} = {Format}).");
            }

            var batches = file.Names.Select(name => file.Info(name).Shape.FirstOrDefault(-1)).Distinct().ToList();
            if (batches.Count > 1 || batches.Contains(-1))
            {
                throw new CheckpointException(
                    $"{path}: the tensors of a state have the batch as their first dimension, but theirs differ.");
            }

            return file;
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }
}
