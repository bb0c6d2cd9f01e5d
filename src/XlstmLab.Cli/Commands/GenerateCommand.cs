using System.CommandLine;
using System.Diagnostics;
using System.Globalization;
using XlstmLab.Checkpoints;
using XlstmLab.Cli.Machine;
using XlstmLab.Cli.Terminals;
using XlstmLab.Inference;
using XlstmLab.Models;

namespace XlstmLab.Cli.Commands;

/// <summary><c>xlstm generate</c>: lets a model write.</summary>
internal static class GenerateCommand
{
    private static readonly Argument<string> Folder = new("MODEL") { Description = "A run's folder, one of its checkpoints, or a Hugging Face folder." };
    private static readonly Option<string?> Prompt = new("--prompt") { Description = "The text to go on from. Default: the start of a document.", HelpName = "TEXT" };
    private static readonly Option<string?> PromptFile = new("--prompt-file") { Description = "The same from a file; - is stdin.", HelpName = "FILE" };
    private static readonly Option<int> MaxTokens = NumberOption.Whole(new Option<int>("--max-tokens") { Description = "The most tokens to generate.", DefaultValueFactory = _ => 256, HelpName = "N" }, 0);
    private static readonly Option<double> Temperature = NumberOption.Real(new Option<double>("--temperature") { Description = "What logits are divided by; 0 is greedy.", DefaultValueFactory = _ => 0.8, HelpName = "T" }, NumberRange.NotNegative);
    private static readonly Option<bool> Greedy = new("--greedy") { Description = "Always take the likeliest token." };
    private static readonly Option<int?> TopK = NumberOption.Whole(new Option<int?>("--top-k") { Description = "Keep the K likeliest tokens.", HelpName = "K" }, 1);
    private static readonly Option<double?> TopP = NumberOption.Real(new Option<double?>("--top-p") { Description = "Keep the likeliest tokens that make up this probability.", HelpName = "P" }, NumberRange.PositiveShare);
    private static readonly Option<double?> MinP = NumberOption.Real(new Option<double?>("--min-p") { Description = "Keep tokens of at least this share of the likeliest one's probability.", HelpName = "P" }, NumberRange.Share);
    private static readonly Option<double> Penalty = NumberOption.Real(new Option<double>("--repetition-penalty") { Description = "Above 1, makes tokens that occurred less likely.", DefaultValueFactory = _ => 1, HelpName = "R" }, NumberRange.Positive);
    private static readonly Option<long> Seed = NumberOption.Whole(new Option<long>("--seed") { Description = "The seed of the draws.", DefaultValueFactory = _ => 0, HelpName = "N" });
    private static readonly Option<string[]> Stop = new("--stop") { Description = "End where the text holds this; may be given several times.", HelpName = "TEXT" };
    private static readonly Option<bool> IgnoreEnd = new("--ignore-end") { Description = "Go on past the end of a document." };
    private static readonly Option<string?> StateIn = new("--state-in") { Description = "Go on from a saved state instead of an empty one.", HelpName = "FILE" };
    private static readonly Option<string?> StateOut = new("--state-out") { Description = "Save the state after the last token.", HelpName = "FILE" };
    private static readonly Option<string?> Tokenizer = TextOptions.TokenizerOption("Default: the model's.");
    private static readonly Option<string?> EndOfDocument = TextOptions.EndOfDocumentOption();
    private static readonly Option<string?> ComputeType =
        new Option<string?>("--compute") { Description = "What matrix products are computed in. Default: the weights' type." }.OneOf("bf16", "float32");

    private static readonly Option<int?> Threads = Compute.ThreadsOption();
    private static readonly Option<string> Device = Compute.DeviceOption();
    private static readonly Option<bool> Json = new("--json") { Description = "Print one JSON document when the text is complete." };

    /// <summary>The command.</summary>
    public static Command Create()
    {
        var command = new ExampleCommand(
            "generate",
            "Writes on from a prompt; the text goes to stdout as it comes.",
            "xlstm generate runs/first --prompt \"Fellow citizens\"",
            "xlstm generate runs/first --prompt \"The year\" --temperature 0.7 --top-p 0.9 --seed 3 --stop \".\"",
            "xlstm generate runs/first --prompt-file long.txt --max-tokens 0 --state-out long.safetensors",
            "xlstm generate runs/first --state-in long.safetensors --prompt \" Therefore\" --greedy")
        {
            Folder, Prompt, PromptFile, MaxTokens, Temperature, Greedy, TopK, TopP, MinP, Penalty, Seed, Stop, IgnoreEnd, StateIn, StateOut, Tokenizer,
            EndOfDocument, ComputeType, Threads, Device, Json,
        };
        command.Validators.Add(result =>
        {
            foreach (var (one, other) in new (Option, Option)[] { (Prompt, PromptFile), (Greedy, Temperature) })
            {
                if (result.GetResult(one) is { Implicit: false } && result.GetResult(other) is { Implicit: false })
                {
                    result.AddError($"{one.Name} and {other.Name} do not go together.");
                }
            }
        });
        command.SetAction((parsed, cancellationToken) => RunAsync(new(parsed), parsed, cancellationToken));
        return command;
    }

    private static async Task<int> RunAsync(Terminal terminal, ParseResult parsed, CancellationToken cancellationToken)
    {
        var options = new GenerationOptions
        {
            MaxNewTokens = parsed.GetValue(MaxTokens),
            Temperature = parsed.GetValue(Greedy) ? 0 : parsed.GetValue(Temperature),
            TopK = parsed.GetValue(TopK),
            TopP = parsed.GetValue(TopP),
            MinP = parsed.GetValue(MinP),
            RepetitionPenalty = parsed.GetValue(Penalty),
            Seed = parsed.GetValue(Seed),
            StopStrings = parsed.GetValue(Stop) ?? [],
            StopAtEndOfDocument = !parsed.GetValue(IgnoreEnd),
        };
        options.Validate();
        var prompt = parsed.GetValue(Prompt) ?? parsed.GetValue(PromptFile) switch
        {
            null => "",
            "-" => await Console.In.ReadToEndAsync(cancellationToken),
            var file => await File.ReadAllTextAsync(file, cancellationToken),
        };
        Compute.Begin(parsed.GetValue(Threads));
        var device = Compute.Device(parsed.GetValue(Device)!);
        using var loaded = await LoadedModel.LoadAsync(
            parsed.GetValue(Folder)!, parsed.GetValue(Tokenizer), parsed.GetValue(EndOfDocument), device,
            Compute.Type(parsed.GetValue(ComputeType)), terminal, cancellationToken);
        using var state = parsed.GetValue(StateIn) is { } stateFile ? ModelStateFile.Load(stateFile, device) : null;
        var generator = new TextGenerator(loaded.Model, loaded.Tokenizer);
        var watch = Stopwatch.StartNew();
        if (parsed.GetValue(Json))
        {
            WriteJson(terminal, generator, loaded, prompt, options, state, parsed.GetValue(StateOut), cancellationToken);
            return ExitCode.Success;
        }

        Action<ModelState>? save = parsed.GetValue(StateOut) is { } path ? last => Save(last, path) : null;
        var characters = 0;
        try
        {
            await foreach (var piece in generator.StreamTextAsync(prompt, options, state, save, cancellationToken))
            {
                await terminal.Out.WriteAsync(piece);
                await terminal.Out.FlushAsync(cancellationToken);
                characters += piece.Length;
            }
        }
        finally
        {
            if (characters > 0)
            {
                await terminal.Out.WriteLineAsync();
            }
        }

        terminal.Note(string.Create(CultureInfo.InvariantCulture, $"{characters:N0} characters in {Terminal.Duration(watch.Elapsed.TotalSeconds)}."));
        return ExitCode.Success;
    }

    private static void WriteJson(
        Terminal terminal, TextGenerator generator, LoadedModel loaded, string prompt, GenerationOptions options, ModelState? state, string? stateOut,
        CancellationToken cancellationToken)
    {
        var watch = Stopwatch.StartNew();
        var end = loaded.Tokenizer.EndOfDocument;
        var ids = loaded.Tokenizer.Encode(prompt);
        int[] read = state is null ? [end, .. ids] : ids;
        var result = generator.Generate([read], options, state, stateOut is not null, null, cancellationToken);
        var sequence = result.Sequences[0];
        var seconds = watch.Elapsed.TotalSeconds;
        if (stateOut is not null)
        {
            // The generator has not read its own last token, and the end of a document is where the next text begins.
            var last = result.State!;
            if (sequence.Tokens.Length > 0 && sequence.Tokens[^1] != end)
            {
                using var before = last;
                last = generator.Read([sequence.Tokens[^1]], before, cancellationToken);
            }

            Save(last, stateOut);
        }

        terminal.WriteJson(new
        {
            Model = loaded.Checkpoint,
            Prompt = prompt,
            sequence.Text,
            sequence.Tokens,
            sequence.LogProbability,
            sequence.FinishReason,
            PromptTokens = read.Length,
            Seconds = seconds,
            TokensPerSecond = sequence.Tokens.Length / seconds,
            options.Seed,
        });
    }

    private static void Save(ModelState state, string path)
    {
        using (state)
        {
            ModelStateFile.Save(state, path);
        }
    }
}
