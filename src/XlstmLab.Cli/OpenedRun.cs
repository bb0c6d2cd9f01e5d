using TorchSharp;
using XlstmLab.Checkpoints;
using XlstmLab.Cli.Terminals;
using XlstmLab.Runs;

namespace XlstmLab.Cli;

/// <summary>Opens what a command's MODEL names.</summary>
internal static class OpenedRun
{
    /// <summary>Opens the last checkpoint of a run, a checkpoint of a run, or a Hugging Face folder, with its tokenizer.</summary>
    /// <param name="folder">The folder.</param>
    /// <param name="tokenizer">The tokenizer to use instead of the one that is found; null to find it.</param>
    /// <param name="endOfDocument">The token of a tokenizer's file that opens documents, where it is not the usual one.</param>
    /// <param name="device">Where the model shall be.</param>
    /// <param name="compute">The type of the activations; null is that of the weights.</param>
    /// <param name="terminal">Shows how far the loading is.</param>
    /// <param name="cancellationToken">Stops the loading.</param>
    /// <exception cref="FileNotFoundException">
    /// The folder holds no model, or no tokenizer was found; the message says what to do.
    /// </exception>
    public static async Task<TrainedRun> OpenAsync(
        string folder, string? tokenizer, string? endOfDocument, torch.Device device, torch.ScalarType? compute, Terminal terminal,
        CancellationToken cancellationToken)
    {
        var options = new OpenOptions
        {
            Tokenizer = tokenizer is null ? null : TextOptions.Tokenizer(tokenizer, endOfDocument),
            EndOfDocument = endOfDocument,
            ComputeType = compute,
            RequiresTokenizer = true,
        };
        TrainedRun? run = null;
        try
        {
            await terminal.TrackAsync("Loading", tracker =>
            {
                var progress = new ImmediateProgress<ByteProgress>(p => tracker.Report(p.Done / (double)p.Total, Readable.Size(p.Total)));
                run = TrainedRun.Open(folder, device, options, progress, cancellationToken);
                return Task.CompletedTask;
            });
        }
        catch (ArgumentException e) when (tokenizer is not null && e is not ConfigException)
        {
            throw new UsageException($"--tokenizer: {e.Message}");
        }

        foreach (var warning in run!.Warnings)
        {
            terminal.Note($"warning: {warning}");
        }

        return run;
    }
}
