using System.CommandLine;
using System.Diagnostics;
using System.Globalization;
using XlstmLab.Cli.Machine;
using XlstmLab.Cli.Terminals;
using XlstmLab.Evaluation;
using XlstmLab.Text;

namespace XlstmLab.Cli.Commands;

/// <summary><c>xlstm eval</c>: how well a model predicts text.</summary>
internal static class EvalCommand
{
    /// <summary>The command.</summary>
    public static Command Create()
    {
        var folder = new Argument<string>("MODEL") { Description = "A run's folder, one of its checkpoints, or a Hugging Face folder." };
        var data = new Option<string?>("--data") { Description = "A dataset's name, a file of text or a folder of such, or a token folder. Default: the run's.", HelpName = "NAME|PATH" };
        var split = TextOptions.SplitOption("validation");
        var field = new Option<string?>("--text-field") { Description = "The field of a JSON line, or the column of a Parquet file, that holds the text. Default: the run's, or text.", HelpName = "NAME" };
        var policy = new Option<string>("--policy")
        {
            Description = "What the model has read when it predicts: windows from the empty state (fresh), all of the document (carried), overlapping windows (sliding).",
            DefaultValueFactory = _ => "carried",
        }.AcceptOnlyFromAmong("fresh", "carried", "sliding");
        var context = Compute.Positive(new Option<int?>("--context") { Description = "Tokens of a window, or read at a time. Default: 512.", HelpName = "N" });
        var stride = Compute.Positive(new Option<int?>("--stride") { Description = "Tokens from one sliding window to the next. Default: half a window.", HelpName = "N" });
        var batch = Compute.Positive(new Option<int?>("--batch-size") { Description = "Windows or documents read side by side. Default: 8.", HelpName = "N" });
        var buckets = new Option<bool>("--buckets") { Description = "Also show the loss by position, in powers of two." };
        var documents = Compute.Positive(new Option<int?>("--documents") { Description = "Only the first documents of the part.", HelpName = "N" });
        var tokenizer = TextOptions.TokenizerOption("Default: the model's.");
        var end = TextOptions.EndOfDocumentOption();
        var compute = new Option<string?>("--compute") { Description = "What matrix products are computed in. Default: the weights' type." }.AcceptOnlyFromAmong("bf16", "float32");
        var (threads, device) = (Compute.ThreadsOption(), Compute.DeviceOption());
        var json = new Option<bool>("--json") { Description = "Print one JSON document." };
        var command = new ExampleCommand(
            "eval",
            "Measures loss, perplexity and bits per byte of a model on a part of a text.",
            "xlstm eval runs/first --split test",
            "xlstm eval runs/first --split test --policy fresh --context 256 --buckets",
            "xlstm eval NX-AI_xLSTM-7b --data my-texts/ --json")
        {
            folder, data, split, field, policy, context, stride, batch, buckets, documents, tokenizer, end, compute, threads, device, json,
        };
        command.SetAction(async (parsed, cancellationToken) =>
        {
            var terminal = new Terminal(parsed);
            Compute.Begin(parsed.GetValue(threads));
            using var loaded = await LoadedModel.LoadAsync(
                parsed.GetValue(folder)!, parsed.GetValue(tokenizer), parsed.GetValue(end), Compute.Device(parsed.GetValue(device)!),
                Compute.Type(parsed.GetValue(compute)), terminal, cancellationToken);
            var length = parsed.GetValue(context) ?? 512;
            var options = new EvaluationOptions
            {
                Policy = Enum.Parse<ContextPolicy>(parsed.GetValue(policy)!, ignoreCase: true),
                ContextLength = length,
                Stride = parsed.GetValue(stride) ?? Math.Max(1, length / 2),
                BatchSize = parsed.GetValue(batch) ?? 8,
            };
            options.Validate();
            var source = parsed.GetValue(data) ?? loaded.Text?.Data
                ?? throw new UsageException("The folder does not say what the model was trained on: name the text by --data.");
            using var tokenData = TokenData.Open(source);
            tokenData?.RequireTokenizer(loaded.Tokenizer);
            var part = TextOptions.Split(parsed.GetValue(split)!);
            var count = parsed.GetValue(documents) ?? int.MaxValue;
            var corpus = tokenData is null
                ? Corpus.Open(source, new CorpusOptions { TextField = parsed.GetValue(field) ?? loaded.Text?.TextField ?? "text" }, cancellationToken)
                : null;
            var watch = Stopwatch.StartNew();
            EvaluationResult? result = null;
            await terminal.TrackAsync("Evaluating", tracker =>
            {
                var tokens = corpus is null
                    ? [.. tokenData!.Documents(part).Take(count)]
                    : loaded.Tokenizer.EncodeDocuments([.. corpus[part].Take(count)], null, cancellationToken);
                result = PerplexityEvaluator.Evaluate(
                    loaded.Model, tokens, loaded.Tokenizer, options, new ImmediateProgress<EvaluationProgress>(p => tracker.Report(
                        p.Tokens / (double)p.TotalTokens,
                        string.Create(CultureInfo.InvariantCulture, $"{p.Loss:F3} nats a token, {p.Tokens / watch.Elapsed.TotalSeconds:N0} tokens/s"))),
                    cancellationToken);
                return Task.CompletedTask;
            });
            Write(terminal, loaded.Checkpoint, corpus?.Name ?? source, parsed.GetValue(split)!, result!, watch.Elapsed.TotalSeconds, parsed.GetValue(buckets), parsed.GetValue(json));
            return ExitCode.Success;
        });
        return command;
    }

    private static void Write(
        Terminal terminal, string checkpoint, string data, string split, EvaluationResult result, double seconds, bool buckets, bool json)
    {
        if (json)
        {
            terminal.WriteJson(new
            {
                Checkpoint = checkpoint,
                Data = data,
                Split = split,
                result.Options.Policy,
                result.Options.ContextLength,
                Stride = result.Options.Policy == ContextPolicy.Sliding ? result.Options.Stride : (int?)null,
                result.Loss,
                result.Perplexity,
                result.BitsPerByte,
                result.Tokens,
                result.Bytes,
                result.Documents,
                Seconds = seconds,
                Buckets = buckets ? result.Buckets : null,
            });
            return;
        }

        terminal.WritePairs(
        [
            ("model", checkpoint),
            ("text", string.Create(CultureInfo.InvariantCulture, $"{data}, {split} part: {result.Documents:N0} documents, {result.Bytes:N0} bytes, {result.Tokens:N0} tokens")),
            ("context", $"{result.Options.Policy.ToString().ToLowerInvariant()}, {result.Options.ContextLength} tokens"),
            ("loss", string.Create(CultureInfo.InvariantCulture, $"{result.Loss:F4} nats a token")),
            ("perplexity", string.Create(CultureInfo.InvariantCulture, $"{result.Perplexity:F3}")),
            ("bits per byte", string.Create(CultureInfo.InvariantCulture, $"{result.BitsPerByte:F4}")),
            ("time", string.Create(CultureInfo.InvariantCulture, $"{Terminal.Duration(seconds)}, {result.Tokens / seconds:N0} tokens/s")),
        ]);
        if (buckets)
        {
            terminal.Line();
            terminal.WriteTable(
                [">positions", ">tokens", ">loss", ">perplexity"],
                result.Buckets.Select(b => new[]
                {
                    b.End is { } end ? string.Create(CultureInfo.InvariantCulture, $"{b.Start}-{end - 1}") : $"{b.Start}-",
                    b.Tokens.ToString("N0", CultureInfo.InvariantCulture),
                    b.Loss.ToString("F4", CultureInfo.InvariantCulture),
                    b.Perplexity.ToString("F3", CultureInfo.InvariantCulture),
                }));
        }
    }
}
