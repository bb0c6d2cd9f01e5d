using System.CommandLine;
using System.Globalization;
using System.Net;
using XlstmLab.Cli.Terminals;
using XlstmLab.Inference;
using XlstmLab.Runs;
using XlstmLab.Serving;

namespace XlstmLab.Cli.Commands;

/// <summary><c>xlstm serve</c>: a model behind HTTP, as OpenAI's API has it.</summary>
internal static class ServeCommand
{
    /// <summary>The variable of the environment that holds the API key.</summary>
    private const string KeyVariable = "XLSTM_API_KEY";

    /// <summary>The command.</summary>
    public static Command Create()
    {
        var model = new ModelOptions();
        var host = new Option<string>("--host")
        {
            Description = "The address to listen at. Any but this machine's own takes an API key.",
            HelpName = "ADDRESS",
            DefaultValueFactory = _ => "127.0.0.1",
        };
        var port = NumberOption.Whole(new Option<int>("--port")
        {
            Description = "The port; 0 takes a free one.",
            HelpName = "N",
            DefaultValueFactory = _ => ServerOptions.DefaultPort,
        }, 0);
        var keyFile = new Option<string?>("--api-key-file")
        {
            Description = $"Holds the key that clients have to send. Default: the variable {KeyVariable}, else none is asked for.",
            HelpName = "FILE",
        };
        var name = new Option<string?>("--name") { Description = "What the model is called. Default: its folder.", HelpName = "NAME" };
        var template = ChatOptionsOfCommands.Template();
        var slots = NumberOption.Whole(new Option<int>("--slots")
        {
            Description = "Texts that are generated at a time.",
            HelpName = "N",
            DefaultValueFactory = _ => 16,
        }, 1);
        var queue = NumberOption.Whole(new Option<int>("--queue")
        {
            Description = "Texts that may wait for a slot; more are refused with 429.",
            HelpName = "N",
            DefaultValueFactory = _ => 64,
        }, 0);
        var cache = NumberOption.Whole(new Option<int>("--cache")
        {
            Description = "MiB of states that are kept, so that a prompt that begins like an earlier one is read from there on.",
            HelpName = "MIB",
            DefaultValueFactory = _ => 256,
        }, 0);
        var prefill = NumberOption.Whole(new Option<int?>("--prefill")
        {
            Description = "Tokens of prompts that are read between two tokens of running texts. Default: 256, on a GPU 2048.",
            HelpName = "N",
        }, 1);
        var maxTokens = NumberOption.Whole(new Option<int>("--max-tokens")
        {
            Description = "The most tokens of an answer.",
            HelpName = "N",
            DefaultValueFactory = _ => ServerOptions.DefaultMaxTokens,
        }, 1);
        var maxPrompt = NumberOption.Whole(new Option<int>("--max-prompt-tokens")
        {
            Description = "The most tokens of a prompt.",
            HelpName = "N",
            DefaultValueFactory = _ => ServerOptions.DefaultMaxPromptTokens,
        }, 1);
        var maxBody = NumberOption.Whole(new Option<int>("--max-body")
        {
            Description = "The most bytes of a request's body.",
            HelpName = "BYTES",
            DefaultValueFactory = _ => ServerOptions.DefaultMaxBodyBytes,
        }, 1);
        var time = NumberOption.Real(new Option<double>("--time-limit")
        {
            Description = "The time that a request may take, in seconds.",
            HelpName = "S",
            DefaultValueFactory = _ => ServerOptions.DefaultRequestSeconds,
        }, NumberRange.Seconds);
        var shutdown = NumberOption.Real(new Option<double>("--shutdown-time")
        {
            Description = "The time that running requests have to end after Ctrl-C, in seconds.",
            HelpName = "S",
            DefaultValueFactory = _ => ServerOptions.DefaultShutdownSeconds,
        }, NumberRange.Seconds);
        var weights = WeightOptions.Create();
        var stateFormat = StateOptions.Create();
        var command = new ExampleCommand(
            "serve",
            "Serves a model over HTTP by OpenAI's API: completions, chat completions, models; /health and /metrics. "
            + "Ctrl-C stops it gracefully.",
            "xlstm serve runs/first",
            "xlstm serve runs/first --slots 64 --queue 256 --threads 8",
            "xlstm serve NX-AI_xLSTM-7b --device cuda --compute bf16 --slots 64 --weights fp8 --states bf16",
            "xlstm serve NX-AI_xLSTM-7b --device cuda --host 0.0.0.0 --api-key-file key.txt --chat-template plain")
        {
            model.Folder, host, port, keyFile, name, template, slots, queue, cache, prefill, maxTokens,
            maxPrompt, maxBody, time, shutdown, weights, stateFormat, model,
        };
        command.SetAction(async (parsed, cancellationToken) =>
        {
            var terminal = new Terminal(parsed);
            var folder = parsed.GetValue(model.Folder)!;
            var options = new ServerOptions
            {
                Address = Address(parsed.GetValue(host)!),
                Port = parsed.GetValue(port),
                ApiKey = await KeyAsync(parsed.GetValue(keyFile), cancellationToken),
                ModelName = parsed.GetValue(name) ?? Path.GetFileName(Path.TrimEndingDirectorySeparator(Path.GetFullPath(folder))),
                MaxTokens = parsed.GetValue(maxTokens),
                MaxPromptTokens = parsed.GetValue(maxPrompt),
                MaxBodyBytes = parsed.GetValue(maxBody),
                RequestTime = TimeSpan.FromSeconds(parsed.GetValue(time)),
                ShutdownTime = TimeSpan.FromSeconds(parsed.GetValue(shutdown)),
            };
            try
            {
                options.Validate();
            }
            catch (ArgumentException e)
            {
                throw new UsageException(e.Message);
            }

            model.RequireReadable(parsed, weights, stateFormat);
            using var run = await model.OpenAsync(parsed, terminal, cancellationToken);
            var (chat, fault) = ChatOf(run, parsed.GetValue(template), terminal);
            options = options with { Chat = chat, ChatFault = fault };
            using var states = new StateCache((long)parsed.GetValue(cache) << 20);
            var batch = new BatchOptions
            {
                Slots = parsed.GetValue(slots),
                PrefillLength = parsed.GetValue(prefill),
                Cache = states,
                States = StateOptions.ForGeneration(run.Model, parsed.GetValue(stateFormat), parsed.GetValue(slots)),
                Weights = WeightOptions.ForGeneration(run, parsed.GetValue(weights)),
            };
            await using var generator = new BatchedGenerator(run.Model, run.Tokenizer, batch, parsed.GetValue(queue));
            if (!generator.IsShared)
            {
                terminal.Note(
                    $"warning: The state of {run.Model.GetType().Name} grows with the tokens: its texts are computed one by one, "
                    + "not as rows of a batch.");
            }

            await using var server = await ApiServer.StartAsync(generator, options);
            if (!IPAddress.IsLoopback(options.Address))
            {
                terminal.Note(
                    $"warning: Other machines reach {options.Address}, and what they send, the key too, is not encrypted: "
                    + "let a proxy with TLS stand before it.");
            }

            terminal.Line($"Listening on {server.Url.ToString().TrimEnd('/')}");
            terminal.Note(string.Create(
                CultureInfo.InvariantCulture,
                $"{batch.Slots} slots, each with a state of {Readable.Size(generator.StateBytes)}; "
                + $"the cache has room for {states.CapacityInBytes / Math.Max(1, generator.StateBytes):N0}. Ctrl-C stops."));
            var stopped = new TaskCompletionSource();
            await using (cancellationToken.Register(stopped.SetResult))
            {
                await stopped.Task;
            }

            await server.StopAsync();
            return ExitCode.Success;
        });
        return command;
    }

    private static (ChatTemplate? Template, string? Fault) ChatOf(TrainedRun run, string? chosen, Terminal terminal)
    {
        try
        {
            return (ChatOptionsOfCommands.Find(run, chosen), null);
        }
        catch (NotSupportedException e)
        {
            terminal.Note($"warning: {e.Message} Until then chat completions are refused.");
            return (null, e.Message);
        }
    }

    private static IPAddress Address(string text) => text == "localhost" ? IPAddress.Loopback
        : IPAddress.TryParse(text, out var address) ? address
        : throw new UsageException($"--host: expected an address such as 127.0.0.1, 0.0.0.0 or ::1, got '{text}'.");

    private static async Task<string?> KeyAsync(string? file, CancellationToken cancellationToken)
    {
        var key = file is null ? Environment.GetEnvironmentVariable(KeyVariable)
            : (await File.ReadAllTextAsync(file, cancellationToken)).Trim();
        return file is null && string.IsNullOrEmpty(key) ? null : key;
    }
}

/// <summary>What commands have in common that hold conversations.</summary>
internal static class ChatOptionsOfCommands
{
    /// <summary>The option for the template.</summary>
    public static Option<string?> Template() =>
        new Option<string?>("--chat-template")
        {
            Description = "How a conversation becomes a text. Default: the model's, plain where it has none.",
        }.OneOf("plain", "chatml");

    /// <summary>The template that was chosen, or the model's.</summary>
    /// <exception cref="NotSupportedException">The model's is not known here.</exception>
    public static ChatTemplate Find(TrainedRun run, string? chosen) =>
        chosen is not null ? ChatTemplate.ByName(chosen) : ChatTemplate.OfFolder(run.Checkpoint);
}
