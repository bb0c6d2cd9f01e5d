using System.CommandLine;
using System.Diagnostics;
using System.Globalization;
using XlstmLab.Cli.Terminals;
using XlstmLab.Evaluation;
using XlstmLab.Runs;
using XlstmLab.Text;

namespace XlstmLab.Cli.Commands;

/// <summary><c>xlstm eval</c>: how well a model predicts text.</summary>
internal static class EvalCommand
{
    /// <summary>The command.</summary>
    public static Command Create()
    {
        var model = new ModelOptions();
        var data = new Option<string?>("--data")
        {
            Description = "A dataset's name, a file of text or a folder of such, or a token folder. Default: the run's.",
            HelpName = "NAME|PATH",
        };
        var split = TextOptions.SplitOption("validation");
        var field = new Option<string?>("--text-field")
        {
            Description = "The field of a JSON line, or the column of a Parquet file, that holds the text. Default: the run's, or text.",
            HelpName = "NAME",
        };
        var policy = new Option<string>("--policy")
        {
            Description = "What the model has read when it predicts: windows from the empty state (fresh), all of the document (carried), "
                + "overlapping windows (sliding).",
            DefaultValueFactory = _ => "carried",
        }.OneOf("fresh", "carried", "sliding");
        var context = NumberOption.Whole(new Option<int?>("--context")
        {
            Description = $"Tokens of a window, or read at a time. Default: {LabDefaults.EvaluationContext}.",
            HelpName = "N",
        }, 1);
        var stride = NumberOption.Whole(new Option<int?>("--stride")
        {
            Description = "Tokens from one sliding window to the next. Default: half a window.",
            HelpName = "N",
        }, 1);
        var batch = NumberOption.Whole(new Option<int?>("--batch-size")
        {
            Description = $"Windows or documents read side by side. Default: {LabDefaults.EvaluationBatch}.",
            HelpName = "N",
        }, 1);
        var buckets = new Option<bool>("--buckets") { Description = "Also show the loss by position, in powers of two." };
        var extrapolate = NumberOption.Whole(new Option<int?>("--extrapolate")
        {
            Description = "Instead, the loss by position up to N tokens, within and beyond the training length, "
                + "of the documents that are so long.",
            HelpName = "N",
        }, 1);
        var trained = NumberOption.Whole(new Option<int?>("--trained-length")
        {
            Description = "With --extrapolate: the tokens of a training context. Default: the run's.",
            HelpName = "N",
        }, 1);
        var documents = NumberOption.Whole(
            new Option<int?>("--documents") { Description = "Only the first documents of the part.", HelpName = "N" }, 1);
        var weights = WeightOptions.Create();
        var json = new Option<bool>("--json") { Description = "Print one JSON document." };
        var command = new ExampleCommand(
            "eval",
            "Measures loss, perplexity and bits per byte of a model on a part of a text.",
            "xlstm eval runs/first --split test",
            "xlstm eval runs/first --split test --policy fresh --context 256 --buckets",
            "xlstm eval runs/first --split test --extrapolate 16384",
            "xlstm eval runs/first --split test --weights int8",
            "xlstm eval NX-AI_xLSTM-7b --data my-texts/ --json")
        {
            model.Folder, data, split, field, policy, context, stride, batch, buckets, extrapolate, trained,
            documents, weights, model, json,
        };
        var reading = new ReadingOptions();
        reading.AddTo(command);
        command.SetAction(async (parsed, cancellationToken) =>
        {
            var terminal = new Terminal(parsed);
            if (parsed.GetValue(extrapolate) is null ? parsed.GetValue(trained) is not null
                : parsed.GetValue(buckets) || parsed.GetValue(policy) != "carried")
            {
                throw new UsageException(
                    "--extrapolate carries the state and has a table of its own: --policy and --buckets do not go with it, "
                    + "and --trained-length only with it.");
            }

            using var loaded = await model.OpenAsync(parsed, terminal, cancellationToken);
            _ = WeightOptions.Round(loaded, parsed.GetValue(weights));
            var usual = LabDefaults.Evaluation(parsed.GetValue(context) ?? LabDefaults.EvaluationContext);
            var options = usual with
            {
                Policy = Enum.Parse<ContextPolicy>(parsed.GetValue(policy)!, ignoreCase: true),
                Stride = parsed.GetValue(stride) ?? usual.Stride,
                BatchSize = parsed.GetValue(batch) ?? usual.BatchSize,
            };
            options.Validate();
            if (parsed.GetValue(data) is null && loaded.Text is not { Data.Length: > 0 })
            {
                throw new UsageException("The folder does not say what the model was trained on: name the text by --data.");
            }

            var read = reading.Read(parsed, parsed.GetValue(field) ?? loaded.Text?.TextField ?? "text", loaded.Text);
            using var source = TextOptions.Named(() => loaded.OpenText(parsed.GetValue(data), read, cancellationToken));
            source.RequireTokenizer(loaded.Tokenizer);
            var part = TextOptions.Split(parsed.GetValue(split)!);
            var count = parsed.GetValue(documents) ?? int.MaxValue;
            var name = source.IsTokens ? source.Name : source.Corpus.Name;
            source.RequireDocuments(part);
            if (parsed.GetValue(extrapolate) is { } longest)
            {
                var far = new ExtrapolationOptions
                {
                    TrainedLength = parsed.GetValue(trained) ?? TrainedLength(loaded),
                    Longest = longest,
                    ChunkLength = options.ContextLength,
                    BatchSize = options.BatchSize,
                };
                var reached = await ExtrapolateAsync(terminal, loaded, Tokens, far, cancellationToken);
                WriteExtrapolation(terminal, loaded, name, parsed.GetValue(split)!, reached, parsed.GetValue(json));
                return ExitCode.Of(terminal, "loss", reached.Ranges.Select(r => r.Loss));
            }

            var watch = Stopwatch.StartNew();
            EvaluationResult? result = null;
            await terminal.TrackAsync("Evaluating", tracker =>
            {
                result = loaded.Evaluate(
                    Tokens(), options, new ImmediateProgress<EvaluationProgress>(p => tracker.Report(
                        p.Tokens / (double)p.TotalTokens,
                        string.Create(
                            CultureInfo.InvariantCulture,
                            $"{p.Loss:F3} nats a token, {p.Tokens / watch.Elapsed.TotalSeconds:N0} tokens/s"))),
                    cancellationToken);
                return Task.CompletedTask;
            });
            Write(
                terminal, loaded.Checkpoint, name, parsed.GetValue(split)!, result!, watch.Elapsed.TotalSeconds,
                parsed.GetValue(buckets), parsed.GetValue(json));
            return ExitCode.Of(terminal, "loss", [result!.Loss]);

            TokenDocuments Tokens() => source.Documents(part, loaded.Tokenizer, count, cancellationToken);
        });
        return command;
    }

    /// <summary>The context length of the run that a model comes from.</summary>
    private static int TrainedLength(TrainedRun loaded) => loaded.Training?.ContextLength
        ?? throw new UsageException(
            "The folder is no run's and does not say how long its training contexts were: give it by --trained-length.");

    private static async Task<ExtrapolationResult> ExtrapolateAsync(
        Terminal terminal, TrainedRun loaded, Func<TokenDocuments> tokens, ExtrapolationOptions options,
        CancellationToken cancellationToken)
    {
        ExtrapolationResult? result = null;
        await terminal.TrackAsync("Extrapolating", tracker =>
        {
            result = LengthExtrapolation.Measure(
                loaded.Model, tokens(), loaded.Tokenizer, options, new ImmediateProgress<EvaluationProgress>(p => tracker.Report(
                    p.Tokens / (double)p.TotalTokens, string.Create(CultureInfo.InvariantCulture, $"{p.Loss:F3} nats a token"))),
                cancellationToken);
            return Task.CompletedTask;
        });
        return result!;
    }

    private static void WriteExtrapolation(
        Terminal terminal, TrainedRun loaded, string data, string split, ExtrapolationResult result, bool json)
    {
        if (json)
        {
            terminal.WriteJson(new
            {
                loaded.Checkpoint,
                Data = data,
                Split = split,
                result.TrainedLength,
                result.Longest,
                result.Documents,
                result.TrainedLoss,
                result.BeyondLoss,
                result.Ranges,
            });
            return;
        }

        terminal.WritePairs(
        [
            ("model", loaded.Checkpoint),
            ("text", string.Create(
                CultureInfo.InvariantCulture,
                $"{data}, {split} part: {result.Documents:N0} documents of {result.Longest:N0} tokens or more, read so far")),
            ("trained length", string.Create(CultureInfo.InvariantCulture, $"{result.TrainedLength:N0} tokens")),
        ]);
        terminal.Line();
        terminal.WriteTable(
            [">positions", ">tokens", ">nats a token", ">perplexity a token", "trained"],
            result.Ranges.Select(r => new[]
            {
                string.Create(CultureInfo.InvariantCulture, $"{r.Start}-{r.End - 1}"),
                r.Tokens.ToString("N0", CultureInfo.InvariantCulture),
                r.Loss.ToString("F4", CultureInfo.InvariantCulture),
                r.Perplexity.ToString("F3", CultureInfo.InvariantCulture),
                r.BeyondTraining ? "no" : "yes",
            }));
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
                BitsPerByte = result.Bytes > 0 ? result.BitsPerByte : (double?)null,
                result.Tokens,
                Bytes = result.Bytes > 0 ? result.Bytes : (long?)null,
                result.Documents,
                Seconds = seconds,
                Buckets = buckets ? result.Buckets : null,
            });
            return;
        }

        terminal.WritePairs(
        [
            ("model", checkpoint),
            ("text", string.Create(
                CultureInfo.InvariantCulture,
                $"{data}, {split} part: {result.Documents:N0} documents, {result.Bytes:N0} bytes, {result.Tokens:N0} tokens")),
            ("context", $"{result.Options.Policy.ToString().ToLowerInvariant()}, {result.Options.ContextLength} tokens"),
            ("loss", string.Create(CultureInfo.InvariantCulture, $"{result.Loss:F4} nats a token")),
            ("perplexity", string.Create(CultureInfo.InvariantCulture, $"{result.Perplexity:F3} a token")),
            ("bits per byte", result.Bytes > 0
                ? string.Create(CultureInfo.InvariantCulture, $"{result.BitsPerByte:F4}")
                : "unknown: the token folder does not say how long each text was; tokenize again"),
            ("time", string.Create(CultureInfo.InvariantCulture, $"{Readable.Duration(seconds)}, {result.Tokens / seconds:N0} tokens/s")),
        ]);
        if (buckets)
        {
            terminal.Line();
            terminal.WriteTable(
                [">positions", ">tokens", ">nats a token", ">perplexity a token"],
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
