using System.CommandLine;
using System.Text;
using System.Text.Json;
using Microsoft.Extensions.AI;
using XlstmLab.Cli.Terminals;
using XlstmLab.Inference;

namespace XlstmLab.Cli.Commands;

/// <summary><c>xlstm chat</c>: a conversation in the terminal.</summary>
internal static class ChatCommand
{
    /// <summary>The command.</summary>
    public static Command Create()
    {
        var model = new ModelOptions();
        var sampling = new SamplingOptions();
        var system = new Option<string?>("--system") { Description = "What stands before the conversation.", HelpName = "TEXT" };
        var load = new Option<string?>("--load") { Description = "Go on with a conversation that /save wrote.", HelpName = "FILE" };
        var template = ChatOptionsOfCommands.Template();
        var maxTokens = NumberOption.Whole(new Option<int>("--max-tokens")
        {
            Description = "The most tokens of an answer.",
            HelpName = "N",
            DefaultValueFactory = _ => 512,
        }, 1);
        var weights = WeightOptions.Create();
        var stateFormat = StateOptions.Create();
        var command = new ExampleCommand(
            "chat",
            "Holds a conversation, a line a turn; answers come as they are made, and Ctrl-C stops one. /help shows what else there is.",
            "xlstm chat runs/first",
            "xlstm chat runs/first --system \"You answer briefly.\" --temperature 0.7",
            "echo \"Who are you?\" | xlstm chat runs/first --greedy")
        {
            model.Folder, system, load, template, maxTokens, weights, stateFormat,
        };
        sampling.AddTo(command);
        command.Add(model);
        command.SetAction(async (parsed, cancellationToken) =>
        {
            var terminal = new Terminal(parsed);
            model.RequireReadable(parsed, weights, stateFormat);
            using var run = await model.OpenAsync(parsed, terminal, cancellationToken);
            using var states = new StateCache(256 << 20);
            var options = sampling.Read(parsed) with { MaxNewTokens = parsed.GetValue(maxTokens) };
            options.Validate();
            var batch = new BatchOptions
            {
                Slots = 1,
                Cache = states,
                States = StateOptions.ForGeneration(run.Model, parsed.GetValue(stateFormat), 1),
                Weights = WeightOptions.ForGeneration(run, parsed.GetValue(weights)),
            };
            await using var generator = new BatchedGenerator(run.Model, run.Tokenizer, batch);
            using var client = new TextChatClient(
                generator, ChatOptionsOfCommands.Find(run, parsed.GetValue(template)), run.Checkpoint, options);
            var conversation = new Conversation(client, terminal, parsed.GetValue(system));
            if (parsed.GetValue(load) is { } file)
            {
                conversation.Load(file);
            }

            await conversation.RunAsync(Console.In, !Console.IsInputRedirected && terminal.IsInteractive, cancellationToken);
            return ExitCode.Success;
        });
        return command;
    }
}

/// <summary>A conversation: reads lines, writes answers.</summary>
/// <param name="client">Who answers.</param>
/// <param name="terminal">Where answers go.</param>
/// <param name="system">What stands before the conversation; null for nothing.</param>
internal sealed class Conversation(IChatClient client, Terminal terminal, string? system)
{
    private static readonly JsonSerializerOptions Json = ResultJson.Options;

    /// <summary>What was said so far.</summary>
    public List<ChatMessage> Messages { get; private set; } = Begun(system);

    /// <summary>Reads turns until the input ends or <c>/exit</c>.</summary>
    /// <param name="input">A turn a line.</param>
    /// <param name="prompts">Whether a person types the lines, and is shown where.</param>
    /// <param name="cancellationToken">Ends the program; an answer alone is stopped by Ctrl-C.</param>
    public async Task RunAsync(TextReader input, bool prompts, CancellationToken cancellationToken)
    {
        while (true)
        {
            if (prompts)
            {
                await terminal.Error.WriteAsync("> ");
            }

            // A console's reader cannot be cancelled: the wait for it can.
            var line = await Task.Run(input.ReadLine, cancellationToken).WaitAsync(cancellationToken);
            if (line is null || line.Trim() is "/exit" or "/quit")
            {
                return;
            }

            if (line.StartsWith('/'))
            {
                Command(line.Trim());
            }
            else if (line.Trim().Length > 0)
            {
                await AnswerAsync(line, cancellationToken);
            }
        }
    }

    /// <summary>Goes on with what a file holds.</summary>
    /// <exception cref="InvalidDataException">It is not the file of a conversation.</exception>
    public void Load(string path)
    {
        try
        {
            var saved = StrictJson.Read<SavedConversation>(File.ReadAllText(path), Json);
            Messages = [.. saved.Messages.Select(turn => new ChatMessage(new ChatRole(turn.Role), turn.Content))];
        }
        catch (JsonException e)
        {
            throw new InvalidDataException($"{path} is not the file of a conversation: {e.Message}", e);
        }
    }

    private async Task AnswerAsync(string line, CancellationToken cancellationToken)
    {
        Messages.Add(new(ChatRole.User, line));
        var answer = new StringBuilder();
        using var stop = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        Interrupts.Instead = stop.Cancel;
        try
        {
            await foreach (var update in client.GetStreamingResponseAsync(Messages, cancellationToken: stop.Token))
            {
                answer.Append(update.Text);
                await terminal.Out.WriteAsync(update.Text);
                await terminal.Out.FlushAsync(stop.Token);
            }
        }
        catch (OperationCanceledException) when (!cancellationToken.IsCancellationRequested)
        {
            terminal.Note(" (stopped)");
        }
        finally
        {
            Interrupts.Instead = null;
            await terminal.Out.WriteLineAsync();
        }

        // What was said before it was stopped was said.
        Messages.Add(new(ChatRole.Assistant, answer.ToString()));
    }

    private void Command(string line)
    {
        var parts = line.Split(' ', 2, StringSplitOptions.TrimEntries);
        try
        {
            switch (parts)
            {
                case ["/reset"]:
                    Messages = Begun(system);
                    terminal.Note("The conversation begins anew.");
                    break;
                case ["/save", { Length: > 0 } path]:
                    var saved = new SavedConversation([.. Messages.Select(message => new ChatTurn(message.Role.Value, message.Text))]);
                    AtomicFile.WriteText(path, JsonSerializer.Serialize(saved, Json));
                    terminal.Note($"{path} holds {Messages.Count} messages.");
                    break;
                case ["/load", { Length: > 0 } path]:
                    Load(path);
                    terminal.Note($"{Messages.Count} messages from {path}.");
                    break;
                case ["/help"]:
                    terminal.Note("/reset begins anew, /save FILE and /load FILE keep a conversation, /exit ends; Ctrl-C stops an answer.");
                    break;
                default:
                    terminal.Note($"There is no '{line}'. Known are /reset, /save FILE, /load FILE, /help and /exit.");
                    break;
            }
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or InvalidDataException)
        {
            // A wrong file name ends no conversation.
            terminal.Note($"error: {Program.Message(e)}");
        }
    }

    private static List<ChatMessage> Begun(string? system) => system is null ? [] : [new(ChatRole.System, system)];

    /// <summary>The file of a conversation.</summary>
    private sealed record SavedConversation(List<ChatTurn> Messages);
}
