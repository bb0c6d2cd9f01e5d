using TorchSharp;
using XlstmLab.Checkpoints;
using XlstmLab.Cli.Terminals;
using XlstmLab.Models;
using XlstmLab.Text;
using XlstmLab.Training;

namespace XlstmLab.Cli;

/// <summary>A model with the tokenizer it was trained with.</summary>
/// <param name="Model">The model, in evaluation mode.</param>
/// <param name="Tokenizer">The tokenizer.</param>
/// <param name="Checkpoint">The folder of its weights.</param>
/// <param name="Text">What its run was trained on; null for a folder that is no run's.</param>
internal sealed record LoadedModel(LanguageModel Model, ITokenizer Tokenizer, string Checkpoint, RunText? Text) : IDisposable
{
    /// <summary>Loads the last checkpoint of a run, a checkpoint of a run, or a Hugging Face folder.</summary>
    /// <param name="folder">The folder.</param>
    /// <param name="tokenizer">The tokenizer to use instead of the one that is found; null to find it.</param>
    /// <param name="endOfDocument">The token of a tokenizer's file that opens documents, where it is not the usual one.</param>
    /// <param name="device">Where the model shall be.</param>
    /// <param name="compute">The type of the activations; null is that of the weights.</param>
    /// <param name="terminal">Shows how far the loading is.</param>
    /// <param name="cancellationToken">Stops the loading.</param>
    /// <exception cref="FileNotFoundException">The folder holds no model, or no tokenizer was found; the message says what to do.</exception>
    public static async Task<LoadedModel> LoadAsync(
        string folder, string? tokenizer, string? endOfDocument, torch.Device device, torch.ScalarType? compute, Terminal terminal, CancellationToken cancellationToken)
    {
        if (!Directory.Exists(folder))
        {
            throw new FileNotFoundException($"There is no folder '{folder}'; expected a run's folder or a model's.");
        }

        var checkpoint = RunFolder.LatestCheckpoint(folder) ?? folder;
        if (checkpoint == folder && (Directory.Exists(Path.Combine(folder, "checkpoints")) || RunFolder.IsOne(folder)))
        {
            throw new FileNotFoundException($"The run in '{folder}' has no checkpoint yet: wait for its first one, or stop it by Ctrl-C, which writes one.");
        }

        // A checkpoint that was named itself lies two folders below its run.
        var run = checkpoint != folder ? folder : Path.GetDirectoryName(Path.GetDirectoryName(Path.GetFullPath(folder))) ?? folder;
        var text = RunText.Read(run);
        using var weights = HuggingFaceFolder.Open(checkpoint);
        var found = FindTokenizer(folder, run, text, weights.Config.VocabularySize, tokenizer, endOfDocument);
        RequireTokenizer(run, tokenizer is null ? null : text, found, weights.Config.VocabularySize, terminal);
        var model = weights.Config.CreateModel();
        try
        {
            await terminal.TrackAsync("Loading", tracker =>
            {
                weights.LoadInto(model, new ImmediateProgress<ByteProgress>(p => tracker.Report(p.Done / (double)p.Total, Terminal.Size(p.Total))), cancellationToken);
                return Task.CompletedTask;
            });
            model.to(device);
            model.ComputeType = compute;
            model.eval();
            return new(model, found, checkpoint, text);
        }
        catch
        {
            model.Dispose();
            throw;
        }
    }

    /// <inheritdoc/>
    public void Dispose() => Model.Dispose();

    /// <summary>Refuses a tokenizer whose ids are not the model's, as far as that can be known.</summary>
    private static void RequireTokenizer(string run, RunText? text, ITokenizer tokenizer, int vocabulary, Terminal terminal)
    {
        if (text is not null && (text.Bytes || File.Exists(text.TokenizerFile(run))) && text.OpenTokenizer(run) is var trained && trained.Fingerprint != tokenizer.Fingerprint)
        {
            throw new UsageException(
                $"The run in {run} was trained with another tokenizer (fingerprint {trained.Fingerprint}, the one given has {tokenizer.Fingerprint}): "
                + "its ids mean other texts to the model. Leave out --tokenizer and --end-of-document.");
        }

        if (tokenizer.VocabularySize > vocabulary)
        {
            throw new UsageException(
                $"The tokenizer has {tokenizer.VocabularySize} ids and the model only {vocabulary}: give the tokenizer that the model was trained with, by --tokenizer.");
        }

        // Models are padded to round numbers of ids, not by a tenth.
        if (tokenizer.VocabularySize < 0.9 * vocabulary)
        {
            terminal.Note(
                $"warning: The tokenizer has {tokenizer.VocabularySize} ids and the model {vocabulary}: the tokenizer may be another model's, and results mean nothing then.");
        }
    }

    private static ITokenizer FindTokenizer(string folder, string run, RunText? text, int vocabulary, string? tokenizer, string? endOfDocument)
    {
        if (tokenizer is not null)
        {
            return TextOptions.Tokenizer(tokenizer, endOfDocument);
        }

        if (text is not null)
        {
            return text.OpenTokenizer(run);
        }

        var beside = TextOptions.TokenizerFile(folder);
        return File.Exists(beside) ? TextOptions.Tokenizer(beside, endOfDocument)
            : vocabulary == 257 ? new ByteTokenizer()
            : throw new FileNotFoundException($"'{folder}' holds no tokenizer.json, and {vocabulary} token ids are not bytes: name the tokenizer by --tokenizer.");
    }
}
