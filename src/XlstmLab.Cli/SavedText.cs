using TorchSharp;
using XlstmLab.Checkpoints;
using XlstmLab.Cli.Terminals;
using XlstmLab.Inference;
using XlstmLab.Models;

namespace XlstmLab.Cli;

/// <summary>A text that was begun, from a state's file.</summary>
internal sealed class SavedText : IDisposable
{
    private readonly ModelState _state;
    private readonly ModelStateNotes _notes;

    private SavedText(ModelState state, ModelStateNotes notes) => (_state, _notes) = (state, notes);

    /// <summary>What the model has read; null if that is nothing yet.</summary>
    public ModelState? State => _state.Tensors.Count == 0 ? null : _state;

    /// <summary>The number of tokens read, if known.</summary>
    public long? TokenCount => _notes.TokenCount;

    /// <summary>The token that is to be read first; none in files of older versions.</summary>
    public int[] Next => _notes.NextToken is { } next ? [next] : [];

    /// <summary>Reads a file.</summary>
    /// <param name="path">The file.</param>
    /// <param name="model">The model that is to go on.</param>
    /// <param name="anyModel">Whether the state of another model, or of an unknown one, is taken too.</param>
    /// <param name="device">Where the state shall be.</param>
    /// <param name="terminal">Told of a state that is taken all the same.</param>
    /// <exception cref="CheckpointException">The file is damaged, or the state of another model.</exception>
    public static SavedText Load(string path, ModelIdentity model, bool anyModel, torch.Device device, Terminal terminal)
    {
        var notes = ModelStateFile.ReadNotes(path);
        try
        {
            notes.RequireModel(model, path);
        }
        catch (CheckpointException e) when (anyModel)
        {
            terminal.Note($"warning: {e.Message} It is taken all the same, since --state-any-model was given.");
        }
        catch (CheckpointException e)
        {
            throw new CheckpointException($"{e.Message} Or give --state-any-model.", e);
        }

        return new(ModelStateFile.Load(path, device), notes);
    }

    /// <summary>How tokens are chosen where the text goes on.</summary>
    /// <param name="options">What was asked for.</param>
    /// <param name="simply">Whether nothing comes between, so that the draws go on too.</param>
    /// <param name="seedGiven">Whether the seed was asked for: another one than before begins other draws.</param>
    public GenerationOptions Continue(GenerationOptions options, bool simply, bool seedGiven)
    {
        var seed = simply && !seedGiven ? _notes.Seed ?? options.Seed : options.Seed;
        return options with
        {
            Seed = seed,
            EarlierDraws = simply && seed == _notes.Seed ? _notes.Draws : 0,
            EarlierTokens = _notes.TokensSeen,
            EarlierBytes = simply ? _notes.OpenBytes : [],
        };
    }

    /// <inheritdoc/>
    public void Dispose() => _state.Dispose();
}
