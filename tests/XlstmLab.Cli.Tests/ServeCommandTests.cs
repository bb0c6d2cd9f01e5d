using System.Diagnostics;
using System.Globalization;
using System.Net.Http.Json;
using System.Text.Json.Nodes;
using Microsoft.Extensions.AI;
using XlstmLab.Checkpoints;
using XlstmLab.Cli;
using XlstmLab.Cli.Commands;
using XlstmLab.Cli.Terminals;
using XlstmLab.Models;
using Xunit;

namespace XlstmLab.Tests.Cli;

/// <summary><c>serve</c> and <c>chat</c>.</summary>
[Collection(nameof(ProcessCollection))]
public sealed class ServeCommandTests : IDisposable
{
    private readonly TempFolder _temp = new();

    public ServeCommandTests()
    {
        var config = new XlstmConfig { VocabularySize = 257, EmbeddingDim = 16, BlockCount = 1, HeadCount = 2, ChunkSize = 16 };
        using var model = config.CreateModel(1);
        HuggingFaceFolder.Save(_temp["tiny"], config, model.state_dict());
    }

    public void Dispose() => _temp.Dispose();

    [Fact]
    public async Task Serve_UntilItIsToldToEnd_ListensOnLoopbackOnlyAndEndsWithSuccess()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "Only Linux lists a process' sockets in /proc, and has its signals.");
        var cancel = TestContext.Current.CancellationToken;
        using var process = Start(
            "serve", _temp["tiny"], "--tokenizer", "bytes", "--port", "0", "--threads", "1", "--shutdown-time", "0.2");
        var line = await process.StandardOutput.ReadLineAsync(cancel);
        Assert.NotNull(line);
        var url = new Uri(line["Listening on ".Length..]);
        using var client = new HttpClient { BaseAddress = url };
        using var answer = await client.PostAsJsonAsync(
            new Uri("/v1/completions", UriKind.Relative), new { prompt = "a", max_tokens = 3, ignore_eos = true }, cancel);
        var body = JsonNode.Parse(await answer.Content.ReadAsStringAsync(cancel))!;
        Assert.Equal(("tiny", 3), ((string?)body["model"], (int)body["usage"]!["completion_tokens"]!));

        var own = Directory.EnumerateFileSystemEntries($"/proc/{process.Id}/fd").Select(fd => new FileInfo(fd).LinkTarget)
            .OfType<string>().ToHashSet();
        var listening = new[] { "tcp", "tcp6" }.Select(kind => $"/proc/{process.Id}/net/{kind}").Where(File.Exists).SelectMany(
            file => File.ReadAllLines(file).Skip(1))
            .Select(entry => entry.Split(' ', StringSplitOptions.RemoveEmptyEntries))
            .Where(parts => parts[3] == "0A" && own.Contains($"socket:[{parts[9]}]")).Select(parts => parts[1]);
        Assert.Equal([$"0100007F:{url.Port.ToString("X4", CultureInfo.InvariantCulture)}"], listening);

        using var signal = Process.Start("kill", ["-TERM", process.Id.ToString(CultureInfo.InvariantCulture)]);
        await process.WaitForExitAsync(cancel);
        Assert.Equal(0, process.ExitCode);
    }

    [Fact]
    public async Task Serve_ToldToEndTwice_EndsThoughATextIsBeingGenerated()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "Only Linux has these signals.");
        var cancel = TestContext.Current.CancellationToken;
        using var process = Start(
            "serve", _temp["tiny"], "--tokenizer", "bytes", "--port", "0", "--threads", "1", "--shutdown-time", "1000", "--max-tokens",
            "2000000000");
        var line = await process.StandardOutput.ReadLineAsync(cancel);
        using var client = new HttpClient { BaseAddress = new Uri(line!["Listening on ".Length..]) };
        using var request = new HttpRequestMessage(HttpMethod.Post, "/v1/completions")
        {
            Content = JsonContent.Create(new { prompt = "a", max_tokens = 2_000_000_000, ignore_eos = true, stream = true }),
        };
        using var answer = await client.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, cancel);
        await TerminateAsync();
        while (true)
        {
            using var health = await client.GetAsync(new Uri("/health", UriKind.Relative), cancel);
            if (!health.IsSuccessStatusCode)
            {
                break;
            }
        }

        Assert.False(process.HasExited);
        await TerminateAsync();
        try
        {
            await process.WaitForExitAsync(cancel).WaitAsync(TimeSpan.FromMinutes(1), cancel);
        }
        finally
        {
            process.Kill();
        }

        Assert.NotEqual(0, process.ExitCode);

        async Task TerminateAsync()
        {
            using var kill = Process.Start("kill", ["-TERM", process.Id.ToString(CultureInfo.InvariantCulture)]);
            await kill.WaitForExitAsync(cancel);
        }
    }

    [Fact]
    public async Task Serve_BeyondLoopback_TakesAKey()
    {
        var open = await CommandLine.RunAsync("serve", _temp["tiny"], "--host", "0.0.0.0", "--port", "0");
        Assert.Equal(2, open.Code);
        Assert.Contains("takes an API key", open.Error, StringComparison.Ordinal);
        Assert.Contains(
            "expected an address", (await CommandLine.RunAsync("serve", _temp["tiny"], "--host", "here")).Error, StringComparison.Ordinal);
        Assert.Contains(
            "ModelName", (await CommandLine.RunAsync("serve", _temp["tiny"], "--name", "")).Error, StringComparison.Ordinal);
        File.WriteAllText(_temp["key.txt"], "\n");
        Assert.Contains(
            "ApiKey", (await CommandLine.RunAsync("serve", _temp["tiny"], "--api-key-file", _temp["key.txt"])).Error,
            StringComparison.Ordinal);
    }

    [Fact]
    public async Task Generate_TopLogProbabilities_AreOfEachTokenAndForJsonOnly()
    {
        string[] generate = ["generate", _temp["tiny"], "--tokenizer", "bytes", "--greedy", "--ignore-end",
            "--max-tokens", "3", "--threads", "1", "--top-logprobs", "2"];
        var tokens = (await CommandLine.RunAsync([.. generate, "--json"])).Json["log_probabilities"]!.AsArray();
        Assert.Equal(3, tokens.Count);
        Assert.All(tokens, token =>
        {
            Assert.Equal(2, token!["likeliest"]!.AsArray().Count);
            Assert.Equal((int)token["id"]!, (int)token["likeliest"]![0]!["id"]!);
        });
        var empty = await CommandLine.RunAsync([.. generate, "--json", "--stop", ""]);
        Assert.Equal(2, empty.Code);
        Assert.Contains("--stop: expected at least one character", empty.Error, StringComparison.Ordinal);
        Assert.Contains("is for --json", (await CommandLine.RunAsync(generate)).Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Chat_LinesOfAPipe_AreAnsweredAlikeAfterSavingAndLoading()
    {
        var cancel = TestContext.Current.CancellationToken;
        string[] chat = ["chat", _temp["tiny"], "--tokenizer", "bytes", "--greedy", "--max-tokens", "12", "--threads", "1"];
        var (first, notes) = await PipeAsync(chat, $"Hi\n\n/save {_temp["talk.json"]}\nAnd?\n/wibble\n/reset\nHi\n/exit\nnever\n");
        var answers = first.TrimEnd('\n').Split('\n');
        Assert.Contains("There is no '/wibble'", notes, StringComparison.Ordinal);
        Assert.StartsWith(answers[0], answers[^1], StringComparison.Ordinal);
        var saved = JsonNode.Parse(await File.ReadAllTextAsync(_temp["talk.json"], cancel))!["messages"]!.AsArray();
        Assert.Equal(["user", "assistant"], saved.Select(m => (string?)m!["role"]));
        var (again, _) = await PipeAsync([.. chat, "--load", _temp["talk.json"]], "And?\n");
        Assert.Contains(again, first, StringComparison.Ordinal);

        File.WriteAllText(_temp["talk.json"], """{"messages":[{"role":"user"}]}""");
        var (_, wrong) = await PipeAsync(chat, $"/load {_temp["talk.json"]}\n/load {_temp["none.json"]}\n/save {_temp.Path}\n");
        Assert.Contains("is not the file of a conversation", wrong, StringComparison.Ordinal);
        Assert.Equal(3, wrong.Split("error: ").Length - 1);
    }

    [Fact]
    public async Task Chat_CtrlC_StopsTheAnswerAndNotTheProgram()
    {
        using var stdout = new StringWriter();
        using var stderr = new StringWriter();
        var parsed = Program.CreateRoot().Parse(["chat", "x"]);
        (parsed.InvocationConfiguration.Output, parsed.InvocationConfiguration.Error) = (stdout, stderr);
        var terminal = new Terminal(parsed);
        using var client = new EndlessClient();
        var conversation = new Conversation(client, terminal, null);
        client.AfterThree = () => Interrupts.Instead!();
        await conversation.RunAsync(new StringReader("One\nTwo\n"), prompts: false, TestContext.Current.CancellationToken);
        Assert.Equal("aaa" + Environment.NewLine + "aaa" + Environment.NewLine, stdout.ToString());
        Assert.Equal(["One", "aaa", "Two", "aaa"], conversation.Messages.Select(m => m.Text));
        Assert.Null(Interrupts.Instead);
        Assert.Contains("(stopped)", stderr.ToString(), StringComparison.Ordinal);
    }

    private static Process Start(params string[] line)
    {
        var program = Path.ChangeExtension(typeof(Program).Assembly.Location, ".dll");
        return Process.Start(new ProcessStartInfo("dotnet", [program, .. line])
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        })!;
    }

    private static async Task<(string Out, string Error)> PipeAsync(string[] line, string input)
    {
        using var process = Start(line);
        var (output, error) = (process.StandardOutput.ReadToEndAsync(), process.StandardError.ReadToEndAsync());
        await process.StandardInput.WriteAsync(input);
        process.StandardInput.Close();
        await process.WaitForExitAsync(TestContext.Current.CancellationToken);
        Assert.True(process.ExitCode == 0, await error);
        return (await output, await error);
    }

    /// <summary>Answers with the letter a for ever.</summary>
    private sealed class EndlessClient : IChatClient
    {
        public Action? AfterThree { get; set; }

        public async IAsyncEnumerable<ChatResponseUpdate> GetStreamingResponseAsync(
            IEnumerable<ChatMessage> messages, ChatOptions? options = null,
            [System.Runtime.CompilerServices.EnumeratorCancellation] CancellationToken cancellationToken = default)
        {
            for (var k = 0; ; k++)
            {
                if (k == 3)
                {
                    AfterThree!();
                }

                await Task.Yield();
                cancellationToken.ThrowIfCancellationRequested();
                yield return new(ChatRole.Assistant, "a");
            }
        }

        public Task<ChatResponse> GetResponseAsync(
            IEnumerable<ChatMessage> messages, ChatOptions? options = null, CancellationToken cancellationToken = default) =>
            throw new NotSupportedException();

        public object? GetService(Type serviceType, object? serviceKey = null) => null;

        public void Dispose()
        {
        }
    }
}
