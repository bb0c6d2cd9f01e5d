using System.Diagnostics;
using System.Globalization;
using System.Text.Json.Nodes;
using System.Threading.Channels;
using NetMQ;

namespace XlstmLab.Notebooks.Jupyter;

/// <summary>
/// Serves <see cref="CellEngine"/> to Jupyter's clients: nbconvert, the console, Notebook, JupyterLab, VS Code.
/// </summary>
/// <remarks>
/// It listens on this machine alone and takes only messages that are signed with the key of its connection file. There is one in a
/// process: it replaces the process's console input.
/// </remarks>
public sealed class JupyterKernel : IDisposable
{
    /// <summary>How long a cell that runs when the kernel is to end has for it: a training writes its checkpoint.</summary>
    private static readonly TimeSpan ShutdownPatience = TimeSpan.FromSeconds(3);

    /// <summary>How long clients wait at most for what the language services know.</summary>
    private static readonly TimeSpan QuestionPatience = TimeSpan.FromSeconds(20);

    private readonly string _language;
    private readonly TextWriter _log = Console.Error;
    private readonly JupyterSockets _sockets;
    private readonly JupyterHistory _history = new();
    private readonly Channel<JupyterMessage> _requests = Channel.CreateUnbounded<JupyterMessage>();
    private readonly TaskCompletionSource<JupyterMessage?> _end = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly Task<CellEngine> _engine;
    private TaskCompletionSource<string>? _input;
    private JupyterMessage? _running;
    private CancellationTokenSource? _interruption;
    private Task _cell = Task.CompletedTask;
    private long _aborted;
    private int _count;

    /// <summary>Opens the sockets and begins to start the engine.</summary>
    /// <param name="connectionFile">The file in which Jupyter says where to listen.</param>
    /// <param name="language">The language of cells that name none: <c>csharp</c> or <c>fsharp</c>.</param>
    /// <exception cref="NotebookException">
    /// The file cannot be read, or asks for an address that other machines reach or for unsigned messages.
    /// </exception>
    /// <exception cref="ArgumentException">There is no such language.</exception>
    public JupyterKernel(string connectionFile, string language)
    {
        _language = CellLanguage.Kernel(language) ?? throw new ArgumentException(CellLanguage.Refusal(language), nameof(language));
        _sockets = new JupyterSockets(JupyterConnection.Read(connectionFile), Receive, _log.WriteLine);
        Console.SetIn(new InputReader(this));
        _engine = Task.Run(StartAsync);
    }

    /// <summary>Interrupts the cell that is running, if one is; what was declared stays.</summary>
    public void Interrupt()
    {
        var interruption = Volatile.Read(ref _interruption);
        _ = Task.Run(() => interruption?.Cancel());
    }

    /// <summary>Serves until a client says that the kernel is to end, the client's process is gone, or the token is cancelled.</summary>
    /// <param name="cancellationToken">Ends the kernel.</param>
    public async Task RunAsync(CancellationToken cancellationToken = default)
    {
        string mark = CellProcesses.NewMark();
        Environment.SetEnvironmentVariable(CellProcesses.Variable, mark);

        // A cell may end this process, and Jupyter kills one that does not answer.
        using var end = CellProcesses.EndAfterThisProcess(mark);
        try
        {
            await using var cancelled = cancellationToken.Register(() => _end.TrySetResult(null)).ConfigureAwait(false);
            await using var orphaned = WatchParent().ConfigureAwait(false);
            _sockets.Start();
            _sockets.Publish(null, "status", new() { ["execution_state"] = "starting" });
            _ = ServeAsync();
            var request = await _end.Task.ConfigureAwait(false);
            Interrupt();
            await Task.WhenAny(_cell, Task.Delay(ShutdownPatience, CancellationToken.None)).ConfigureAwait(false);
            if (request is not null)
            {
                Answer(request, () => new() { ["status"] = "ok", ["restart"] = request.Flag("restart", false) });
            }
        }
        finally
        {
            CellProcesses.End(mark);
        }
    }

    /// <summary>Closes the sockets; the last answers still go out.</summary>
    public void Dispose()
    {
        _sockets.Dispose();
        NetMQConfig.Cleanup(block: true);
    }

    /// <summary>
    /// Starts the engine and has it compile something: the first cell need not wait for what clients do before they send it.
    /// </summary>
    private async Task<CellEngine> StartAsync()
    {
        CellEngine engine = new(language: _language) { Asker = AskAsync };
        await engine.RunAsync("0", new CellOutputs(null), language: null, isCounted: false, CancellationToken.None).ConfigureAwait(false);
        return engine;
    }

    /// <summary>Ends the kernel when Jupyter has died without a word.</summary>
    private Timer WatchParent()
    {
        bool isKnown = int.TryParse(
            Environment.GetEnvironmentVariable("JPY_PARENT_PID"), NumberStyles.None, CultureInfo.InvariantCulture, out int parent);
        var period = isKnown ? TimeSpan.FromSeconds(2) : Timeout.InfiniteTimeSpan;
        return new Timer(
            _ =>
            {
                try
                {
                    Process.GetProcessById(parent).Dispose();
                }
                catch (ArgumentException)
                {
                    _end.TrySetResult(null);
                }
            },
            null,
            period,
            period);
    }

    /// <summary>Takes a request on the sockets' thread: what cannot wait for the cell that is running is answered at once.</summary>
    private void Receive(JupyterMessage request)
    {
        switch (request.Channel, request.Type)
        {
            case (JupyterConnection.Input, _):
                Volatile.Read(ref _input)?.TrySetResult(request.Text("value"));
                break;
            case (_, "shutdown_request"):
                _end.TrySetResult(request);
                break;
            case (JupyterConnection.Control, "interrupt_request"):
                Interrupt();
                Answer(request, () => new() { ["status"] = "ok" });
                break;
            case (JupyterConnection.Control, "kernel_info_request"):
                Answer(request, KernelInfo);
                break;
            default:
                _requests.Writer.TryWrite(request);
                break;
        }
    }

    private async Task ServeAsync()
    {
        await foreach (var request in _requests.Reader.ReadAllAsync().ConfigureAwait(false))
        {
            JsonObject? content;
            Status(request, "busy");
            try
            {
                content = await AnswerAsync(request).ConfigureAwait(false);
            }
            catch (Exception e)
            {
                // Whatever it is, the client is told, and the kernel serves on.
                content = Failure(new CellError(_count, null, e.GetType().FullName!, e.Message, [e.Message]));
            }

            if (content is not null)
            {
                Reply(request, content);
            }

            Status(request, "idle");
        }
    }

    private async Task<JsonObject?> AnswerAsync(JupyterMessage request)
    {
        switch (request.Type)
        {
            case "execute_request":
                var cell = ExecuteAsync(request);
                _cell = cell;
                return await cell.ConfigureAwait(false);
            case "complete_request":
                return await QuestionAsync(root =>
                    CodeQuestions.CompleteAsync(root, request.Text("code"), request.Number("cursor_pos") ?? 0)).ConfigureAwait(false);
            case "inspect_request":
                return await QuestionAsync(root =>
                    CodeQuestions.InspectAsync(root, request.Text("code"), request.Number("cursor_pos") ?? 0)).ConfigureAwait(false);
            case "is_complete_request":
                return CodeQuestions.IsComplete(request.Text("code"), _language);
            case "kernel_info_request":
                return KernelInfo();
            case "history_request":
                return _history.Answer(request);
            case "comm_info_request":
                return new() { ["status"] = "ok", ["comms"] = new JsonObject() };
            case "comm_open":
                // There are no comms here; the protocol has a kernel close those that it does not know.
                _sockets.Publish(request, "comm_close", new() { ["comm_id"] = request.Text("comm_id"), ["data"] = new JsonObject() });
                return null;
            default:
                return null;
        }
    }

    private async Task<JsonObject> QuestionAsync(Func<Microsoft.DotNet.Interactive.CompositeKernel, Task<JsonObject>> ask) =>
        await ask((await _engine.ConfigureAwait(false)).Root).WaitAsync(QuestionPatience).ConfigureAwait(false);

    private async Task<JsonObject?> ExecuteAsync(JupyterMessage request)
    {
        // Cells that were sent before one failed are not run: they may rest on it.
        if (request.Received <= _aborted)
        {
            return new() { ["status"] = "aborted", ["execution_count"] = _count };
        }

        string source = request.Text("code");
        bool isSilent = request.Flag("silent", false);
        bool isCounted = !isSilent && request.Flag("store_history", true);
        var engine = await _engine.ConfigureAwait(false);
        JupyterOutput output = new(_sockets, request, () => Volatile.Read(ref _running));
        if (!isSilent)
        {
            _sockets.Publish(
                request, "execute_input", new() { ["code"] = source, ["execution_count"] = engine.ExecutionCount + (isCounted ? 1 : 0) });
        }

        // Never disposed: an interrupt may come as the cell ends.
        CancellationTokenSource interruption = new();
        Volatile.Write(ref _running, request);
        Volatile.Write(ref _interruption, interruption);
        CellResult result;
        try
        {
            CellOutputs outputs = isSilent ? new(null) : new(output.Write, output.Show);
            result = await engine.RunAsync(source, outputs, language: null, isCounted, interruption.Token).ConfigureAwait(false);
        }
        finally
        {
            Volatile.Write(ref _interruption, null);
            Volatile.Write(ref _running, null);
            Volatile.Write(ref _input, null);
            output.Flush();
            _count = engine.ExecutionCount;
        }

        if (isCounted)
        {
            var value = result.Outputs.FirstOrDefault(o => o!["output_type"]!.GetValue<string>() == "execute_result");
            _history.Add(_count, source, value is null ? null : MultilineText.Join(value["data"]!["text/plain"]));
        }

        if (result.Error is not { } error)
        {
            return new()
            {
                ["status"] = "ok",
                ["execution_count"] = _count,
                ["payload"] = new JsonArray(),
                ["user_expressions"] = new JsonObject(),
            };
        }

        if (request.Flag("stop_on_error", true))
        {
            _aborted = Stopwatch.GetTimestamp();
        }

        return Failure(error);
    }

    private JsonObject Failure(CellError error)
    {
        var content = CellOutputs.Json(error);
        content.Remove("output_type");
        content["status"] = "error";
        content["execution_count"] = _count;
        return content;
    }

    /// <summary>Asks the person at the client that sent the cell.</summary>
    private async Task<string> AskAsync(string prompt, string kind, CancellationToken cancellationToken)
    {
        if (Volatile.Read(ref _running) is not { } request || !request.Flag("allow_stdin", false))
        {
            throw new InvalidOperationException(
                $"The cell asks '{prompt}', and nobody is there to answer: the client takes no input. Make it a parameter.");
        }

        TaskCompletionSource<string> input = new(TaskCreationOptions.RunContinuationsAsynchronously);
        Volatile.Write(ref _input, input);
        _sockets.Ask(request, new() { ["prompt"] = prompt, ["password"] = kind == "password" });
        return await input.Task.WaitAsync(cancellationToken).ConfigureAwait(false);
    }

    private JsonObject KernelInfo()
    {
        bool isFSharp = _language == CellLanguage.FSharp;
        string version = typeof(JupyterKernel).Assembly.GetName().Version!.ToString(3);
        return new()
        {
            ["status"] = "ok",
            ["protocol_version"] = JupyterSockets.ProtocolVersion,
            ["implementation"] = "xlstm",
            ["implementation_version"] = version,
            ["banner"] = $"XlstmLab {version}: {(isFSharp ? "F#" : "C#")} on .NET {Environment.Version}. #!lsmagic lists the magics.",
            ["help_links"] = new JsonArray(),
            ["language_info"] = new JsonObject
            {
                ["name"] = isFSharp ? "F#" : "C#",
                ["version"] = isFSharp ? "10.0" : "14.0",
                ["mimetype"] = isFSharp ? "text/x-fsharp" : "text/x-csharp",
                ["file_extension"] = isFSharp ? ".fs" : ".cs",
                ["pygments_lexer"] = isFSharp ? "fsharp" : "csharp",
                ["codemirror_mode"] = isFSharp ? "text/x-fsharp" : "text/x-csharp",
            },
        };
    }

    private void Answer(JupyterMessage request, Func<JsonObject> content)
    {
        Status(request, "busy");
        Reply(request, content());
        Status(request, "idle");
    }

    private void Reply(JupyterMessage request, JsonObject content) =>
        _sockets.Reply(request, request.Type.Replace("_request", "_reply", StringComparison.Ordinal), content);

    private void Status(JupyterMessage request, string state) => _sockets.Publish(request, "status", new() { ["execution_state"] = state });

    /// <summary>What <c>Console.ReadLine()</c> reads in a cell: a line of the person at the client.</summary>
    private sealed class InputReader(JupyterKernel kernel) : TextReader
    {
        public override string? ReadLine() =>
            kernel.AskAsync("", "text", CellContext.Current?.Cancellation ?? CancellationToken.None).GetAwaiter().GetResult();
    }
}
