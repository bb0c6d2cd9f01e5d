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

    /// <summary>Writes a state. The file is whole or absent.</summary>
    /// <param name="state">The state.</param>
    /// <param name="path">The file, replaced if it is there.</param>
    /// <param name="tokenCount">The number of tokens it has read, if known.</param>
    /// <exception cref="IOException">The file cannot be written.</exception>
    public static void Save(ModelState state, string path, long? tokenCount = null)
    {
        ArgumentNullException.ThrowIfNull(state);
        var metadata = new Dictionary<string, string> { [FormatKey] = Format };
        if (tokenCount is { } count)
        {
            metadata.Add(TokensKey, count.ToString(CultureInfo.InvariantCulture));
        }

        Safetensors.Write(path, state.Tensors, metadata);
    }

    /// <summary>Reads a state, which the caller owns.</summary>
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
        return !file.Metadata.TryGetValue(TokensKey, out var text) ? null
            : long.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out var count) ? count
            : throw new CheckpointException($"{path}: the number of tokens is {CheckpointException.Quote(text)}; expected a whole number.");
    }

    private static SafetensorsFile Open(string path)
    {
        var file = SafetensorsFile.Open(path);
        try
        {
            if (file.Metadata.GetValueOrDefault(FormatKey) != Format)
            {
                throw new CheckpointException($"{path}: the file holds tensors but no model's state (its metadata lacks {FormatKey} = {Format}).");
            }

            var batches = file.Names.Select(name => file.Info(name).Shape.FirstOrDefault(-1)).Distinct().ToList();
            if (batches.Count > 1 || batches.Contains(-1))
            {
                throw new CheckpointException($"{path}: the tensors of a state have the batch as their first dimension, but theirs differ.");
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
