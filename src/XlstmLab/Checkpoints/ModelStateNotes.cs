namespace XlstmLab.Checkpoints;

/// <summary>What a file of a model's state says of it besides.</summary>
public sealed record ModelStateNotes
{
    /// <summary>The number of tokens that the state has read; null if unknown.</summary>
    public long? TokenCount { get; init; }

    /// <summary>The model whose state it is; null in a file that does not say, as older ones.</summary>
    public ModelIdentity? Model { get; init; }

    /// <summary>The token that comes next and that the state has not read: the last one of a text; null if there is none.</summary>
    public int? NextToken { get; init; }

    /// <summary>The seed that the text's tokens were drawn with; null if none were.</summary>
    public long? Seed { get; init; }

    /// <summary>How many tokens were drawn with that seed.</summary>
    public long Draws { get; init; }

    /// <summary>The different ids that the state has read, in rising order, and the next one.</summary>
    public IReadOnlyList<int> TokensSeen { get; init; } = [];

    /// <summary>The first bytes of a character that the text so far ends in the middle of.</summary>
    public IReadOnlyList<byte> OpenBytes { get; init; } = [];

    /// <summary>Refuses the state of another model, and one that does not say whose it is.</summary>
    /// <param name="model">The model that is to go on from the state.</param>
    /// <param name="path">The state's file, for the message.</param>
    /// <exception cref="CheckpointException">It is another model's, or may be.</exception>
    public void RequireModel(ModelIdentity model, string path)
    {
        ArgumentNullException.ThrowIfNull(model);
        if (Model is null)
        {
            throw new CheckpointException(
                $"{path}: the file does not say which model's state it is: it was written before state files did. "
                + "Write it again, by reading the text once more.");
        }

        if (Model != model)
        {
            var differ = Model.Config == model.Config ? "the weights differ"
                : Model.Weights == model.Weights ? "the configuration differs"
                : "configuration and weights differ";
            throw new CheckpointException(
                $"{path}: the state is another model's ({differ}): what it holds means nothing to this one. "
                + "Give the model and the checkpoint that wrote it.");
        }
    }
}
