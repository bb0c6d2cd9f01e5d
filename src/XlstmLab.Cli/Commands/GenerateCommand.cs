using System.CommandLine;
using System.Diagnostics;
using System.Globalization;
using XlstmLab.Checkpoints;
using XlstmLab.Cli.Terminals;
using XlstmLab.Inference;
using XlstmLab.Models;
using XlstmLab.Runs;
using XlstmLab.Text;

namespace XlstmLab.Cli.Commands;

/// <summary><c>xlstm generate</c>: lets a model write.</summary>
internal static class GenerateCommand
{
    private static readonly ModelOptions Model = new();
    private static readonly Option<string?> Prompt = new("--prompt")
    {
        Description = "The text to go on from. Default: the start of a document.",
        HelpName = "TEXT",
    };
    private static readonly Option<string?> PromptFile = new("--prompt-file")
    {
        Description = "The same from a file; - is stdin.",
        HelpName = "FILE",
    };
    private static readonly Option<int> MaxTokens = NumberOption.Whole(new Option<int>("--max-tokens")
    {
        Description = "The most tokens to generate.",
        DefaultValueFactory = _ => LabDefaults.GeneratedTokens,
        HelpName = "N",
    }, 0);
    private static readonly SamplingOptions Sampling = new();
    private static readonly Option<int?> TopLogProbabilities = NumberOption.Whole(new Option<int?>("--top-logprobs")
    {
        Description = "With --json: tokens with their logarithms of probability, and of each place those of the N likeliest.",
        HelpName = "N",
    }, 0);
    private static readonly Option<bool> IgnoreEnd = new("--ignore-end") { Description = "Go on past the end of a document." };
    private static readonly Option<string?> StateIn = new("--state-in")
    {
        Description = "Go on with a text whose state was saved, by this model only. Without a prompt and a --seed it goes on as if it "
            + "had never stopped.",
        HelpName = "FILE",
    };

    private static readonly Option<string?> StateOut = new("--state-out")
    {
        Description = "Save where the text stands: the state, and the last token, which it has not read.",
        HelpName = "FILE",
    };
    private static readonly Option<bool> AnyModel = new("--state-any-model")
    {
        Description = "Take the state of another model, or a file that does not say whose it is, as those of older versions: "
            + "what comes of it is your responsibility.",
    };

    private static readonly Option<string?> Weights = WeightOptions.Create();
    private static readonly Option<string?> States = StateOptions.Create();
    private static readonly Option<bool> Json = new("--json") { Description = "Print one JSON document when the text is complete." };

    /// <summary>The command.</summary>
    public static Command Create()
    {
        var command = new ExampleCommand(
            "generate",
            "Writes on from a prompt; the text goes to stdout as it comes.",
            "xlstm generate runs/first --prompt \"Fellow citizens\"",
            "xlstm generate runs/first --prompt \"The year\" --temperature 0.7 --top-p 0.9 --seed 3 --stop \".\"",
            "xlstm generate runs/first --prompt \"The year\" --weights int8",
            "xlstm generate NX-AI_xLSTM-7b --device cuda --compute bf16 --weights fp8 --states bf16",
            "xlstm generate runs/first --prompt-file long.txt --max-tokens 0 --state-out long.safetensors",
            "xlstm generate runs/first --state-in long.safetensors --prompt \" Therefore\" --greedy",
            "xlstm generate runs/first --state-in long.safetensors --state-out longer.safetensors")
        {
            Model.Folder, Prompt, PromptFile, MaxTokens,
        };
        Sampling.AddTo(command);
        foreach (var option in new Option[] { IgnoreEnd, StateIn, StateOut, AnyModel, Weights, States })
        {
            command.Options.Add(option);
        }

        command.Add(Model);
        command.Options.Add(TopLogProbabilities);
        command.Options.Add(Json);
        command.RefuseTogether((Prompt, PromptFile));
        command.Validators.Add(result =>
        {
            if (result.GetValue(AnyModel) && result.GetResult(StateIn) is null)
            {
                result.AddError($"{AnyModel.Name} is for {StateIn.Name}.");
            }
        });
        command.SetAction((parsed, cancellationToken) => RunAsync(new(parsed), parsed, cancellationToken));
        return command;
    }

    private static async Task<int> RunAsync(Terminal terminal, ParseResult parsed, CancellationToken cancellationToken)
    {
        if (parsed.GetValue(TopLogProbabilities) is not null && !parsed.GetValue(Json))
        {
            throw new UsageException($"{TopLogProbabilities.Name} is for {Json.Name}.");
        }

        var options = Sampling.Read(parsed) with
        {
            MaxNewTokens = parsed.GetValue(MaxTokens),
            TopLogProbabilities = parsed.GetValue(TopLogProbabilities) ?? 0,
            StopAtEndOfDocument = !parsed.GetValue(IgnoreEnd),
            GoesOn = parsed.GetValue(StateOut) is not null,
        };
        options.Validate();
        var prompt = parsed.GetValue(Prompt) ?? parsed.GetValue(PromptFile) switch
        {
            null => "",
            "-" => await Console.In.ReadToEndAsync(cancellationToken),
            var file => await File.ReadAllTextAsync(file, cancellationToken),
        };
        Model.RequireReadable(parsed, Weights, States);
        using var loaded = await Model.OpenAsync(parsed, terminal, cancellationToken);
        options = options with
        {
            States = StateOptions.ForGeneration(loaded.Model, parsed.GetValue(States), 1),
            Weights = WeightOptions.ForGeneration(loaded, parsed.GetValue(Weights)),
        };
        var (stateIn, stateOut) = (parsed.GetValue(StateIn), parsed.GetValue(StateOut));
        var identity = stateIn is null && stateOut is null ? null : ModelIdentity.Of(loaded.Model);
        using var saved = stateIn is null ? null : SavedText.Load(
            stateIn, identity!, parsed.GetValue(AnyModel), Model.Device(parsed), terminal);
        var ids = loaded.Tokenizer.Encode(prompt);
        int[] read = saved is null ? [loaded.Tokenizer.EndOfDocument, .. ids] : [.. saved.Next, .. ids];
        if (read.Length == 0)
        {
            throw new UsageException(
                $"{stateIn} does not say which token comes next, as files of older versions do not: give a prompt to go on with.");
        }

        if (saved is not null)
        {
            options = saved.Continue(options, ids.Length == 0, parsed.GetResult(Sampling.Seed) is { Implicit: false });
        }

        var run = new TextRun(loaded, identity, options, read, saved);
        var generator = new TextGenerator(loaded.Model, loaded.Tokenizer);
        if (parsed.GetValue(Json))
        {
            WriteJson(terminal, generator, run, prompt, stateOut, parsed.GetValue(TopLogProbabilities) is not null, cancellationToken);
            return ExitCode.Success;
        }

        var watch = Stopwatch.StartNew();
        if (options.MaxNewTokens == 0 && stateOut is not null)
        {
            SaveUnread(generator, run, stateOut, cancellationToken);
            terminal.Note(string.Create(
                CultureInfo.InvariantCulture, $"{read.Length:N0} tokens read in {Readable.Duration(watch.Elapsed.TotalSeconds)}."));
            return ExitCode.Success;
        }

        ModelState? last = null;
        Action<ModelState>? take = stateOut is null ? null : state => last = state;

        var characters = 0;
        var tokens = new List<int>();
        try
        {
            await foreach (var (token, piece) in generator.StreamPiecesAsync(read, options, saved?.State, take, cancellationToken))
            {
                tokens.Add(token.Id);
                await terminal.Out.WriteAsync(piece);
                await terminal.Out.FlushAsync(cancellationToken);
                characters += piece.Length;
            }

            if (last is not null)
            {
                run.Save(last, tokens, stateOut!);
            }
        }
        finally
        {
            last?.Dispose();
            if (characters > 0)
            {
                await terminal.Out.WriteLineAsync();
            }
        }

        terminal.Note(
            string.Create(CultureInfo.InvariantCulture, $"{characters:N0} characters in {Readable.Duration(watch.Elapsed.TotalSeconds)}."));
        return ExitCode.Success;
    }

    private static void WriteJson(
        Terminal terminal, TextGenerator generator, TextRun run, string prompt, string? stateOut, bool showsTokens,
        CancellationToken cancellationToken)
    {
        var watch = Stopwatch.StartNew();
        GeneratedSequence sequence;
        if (run.Options.MaxNewTokens == 0 && stateOut is not null)
        {
            SaveUnread(generator, run, stateOut, cancellationToken);
            sequence = new([], "", 0, FinishReason.Length);
        }
        else
        {
            var result = generator.Generate([run.Read], run.Options, run.Before?.State, stateOut is not null, null, cancellationToken);
            using var state = result.State;
            sequence = result.Sequences[0];
            if (state is not null)
            {
                run.Save(state, sequence.Tokens, stateOut!);
            }
        }

        var seconds = watch.Elapsed.TotalSeconds;
        terminal.WriteJson(new
        {
            Model = run.Loaded.Checkpoint,
            Prompt = prompt,
            sequence.Text,
            sequence.Tokens,
            sequence.LogProbability,
            LogProbabilities = showsTokens
                ? sequence.Steps.Select(step => new { step.Id, step.LogProbability, Likeliest = step.Likeliest ?? [] }) : null,
            sequence.FinishReason,
            PromptTokens = run.Read.Length,
            Seconds = seconds,
            TokensPerSecond = sequence.Tokens.Length / seconds,
            run.Options.Seed,
        });
    }

    /// <summary>
    /// Saves what was read but for its last token, which is the next one: what follows it is asked for when the text goes on.
    /// </summary>
    private static void SaveUnread(TextGenerator generator, TextRun run, string path, CancellationToken cancellationToken)
    {
        using var state = run.Read.Length > 1 ? generator.Read(run.Read[..^1], run.Before?.State, cancellationToken)
            : run.Before?.State?.Clone() ?? new ModelState([]);
        run.Save(state, [], path);
    }

    /// <summary>A text before it is generated.</summary>
    /// <param name="Loaded">The model.</param>
    /// <param name="Identity">The model's identity where a state is read or written.</param>
    /// <param name="Options">How tokens are chosen.</param>
    /// <param name="Read">The ids that are read first.</param>
    /// <param name="Before">Where the text goes on from; null at its start.</param>
    private sealed record TextRun(TrainedRun Loaded, ModelIdentity? Identity, GenerationOptions Options, int[] Read, SavedText? Before)
    {
        /// <summary>
        /// Writes the state, which has read all but the last of the tokens, or of those that were read where there are none.
        /// </summary>
        public void Save(ModelState state, IReadOnlyList<int> tokens, string path)
        {
            var draws = Options.Temperature == 0 ? 0 : tokens.Count;
            byte[] bytes = [.. Options.EarlierBytes, .. tokens.SelectMany(id => Loaded.Tokenizer.Bytes(id).ToArray())];
            ModelStateFile.Save(state, path, new ModelStateNotes
            {
                TokenCount = Before is { TokenCount: null } ? null : (Before?.TokenCount ?? 0) + Read.Length + tokens.Count - 1,
                Model = Identity,
                NextToken = tokens.Count > 0 ? tokens[^1] : Read[^1],
                Seed = Options.Seed,
                Draws = Options.EarlierDraws + draws,
                TokensSeen = [.. Options.EarlierTokens.Concat(Read).Concat(tokens).Distinct().Order()],
                OpenBytes = Utf8StreamDecoder.OpenBytes(bytes).ToArray(),
            });
        }
    }
}
