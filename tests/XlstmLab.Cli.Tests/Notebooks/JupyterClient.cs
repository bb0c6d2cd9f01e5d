using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using System.Security.Cryptography;
using System.Text;
using System.Text.Json.Nodes;
using NetMQ;
using NetMQ.Sockets;
using Xunit;

namespace XlstmLab.Tests.Notebooks;

/// <summary>What a request came to: the content of the reply, and what was published for it.</summary>
internal sealed record JupyterAnswer(JsonObject Reply, IReadOnlyList<JupyterPublished> Published)
{
    /// <summary>The kinds of what was published, but for the status.</summary>
    public IEnumerable<string> Types => Published.Select(message => message.Type).Where(type => type != "status");

    /// <summary>The content of the only message of a kind.</summary>
    public JsonObject Content(string type) => Published.Single(message => message.Type == type).Content;
}

/// <summary>A message on the broadcast socket.</summary>
internal sealed record JupyterPublished(string Type, JsonObject Content);

/// <summary>A kernel in a process of its own, and a client of it: Jupyter's protocol from the other side.</summary>
internal sealed class JupyterClient : IDisposable
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(90);
    private static readonly string[] Channels = ["shell", "iopub", "stdin", "control", "hb"];

    private readonly TempFolder _folder = new();
    private readonly byte[] _key = Encoding.UTF8.GetBytes($"{Guid.NewGuid():N}");
    private readonly Dictionary<string, NetMQSocket> _sockets = [];
    private readonly Dictionary<string, List<JupyterPublished>> _published = [];
    private readonly Dictionary<string, JsonObject> _replies = [];
    private readonly StringBuilder _errors = new();

    /// <summary>Starts a kernel; it is ready when this returns.</summary>
    public JupyterClient(string language = "csharp")
    {
        var ports = FreePorts();
        JsonObject connection = new()
        {
            ["transport"] = "tcp",
            ["ip"] = "127.0.0.1",
            ["key"] = Encoding.UTF8.GetString(_key),
            ["signature_scheme"] = "hmac-sha256",
        };
        foreach (var (channel, port) in Channels.Zip(ports))
        {
            connection[$"{channel}_port"] = port;
        }

        Process = Start(_folder.Write("connection.json", connection.ToJsonString()), language);
        Process.ErrorDataReceived += (_, line) =>
        {
            lock (_errors)
            {
                _errors.AppendLine(line.Data);
            }
        };
        Process.BeginErrorReadLine();
        byte[] identity = Encoding.ASCII.GetBytes($"{Guid.NewGuid():N}");
        foreach (var (channel, port) in Channels.Zip(ports))
        {
            NetMQSocket socket = channel switch { "iopub" => new SubscriberSocket(), "hb" => new RequestSocket(), _ => new DealerSocket() };
            socket.Options.Linger = TimeSpan.Zero;
            socket.Options.ReceiveHighWatermark = 0;
            if (channel == "stdin" || channel == "shell")
            {
                // The kernel asks who sent the cell: both sockets are of one client.
                socket.Options.Identity = identity;
            }

            socket.Connect($"tcp://127.0.0.1:{port}");
            (socket as SubscriberSocket)?.SubscribeToAnyTopic();
            _sockets[channel] = socket;
        }

        WaitUntilReady();
    }

    public Process Process { get; }

    /// <summary>What the kernel wrote to its errors.</summary>
    public string Errors
    {
        get
        {
            lock (_errors)
            {
                return _errors.ToString();
            }
        }
    }

    /// <summary>Starts a kernel's process.</summary>
    public static Process Start(string connectionFile, string language, string? parent = null)
    {
        ProcessStartInfo start = new(
            "dotnet", [typeof(XlstmLab.Cli.Program).Assembly.Location, "notebook", "kernel", connectionFile, "--language", language])
        {
            RedirectStandardError = true,
            RedirectStandardInput = true,
        };
        start.Environment["JPY_PARENT_PID"] = parent;
        return Process.Start(start)!;
    }

    /// <summary>Five ports that nobody uses.</summary>
    public static int[] FreePorts()
    {
        TcpListener[] listeners = [.. Channels.Select(_ => new TcpListener(IPAddress.Loopback, 0))];
        int[] ports = [.. listeners.Select(listener =>
        {
            listener.Start();
            return ((IPEndPoint)listener.LocalEndpoint).Port;
        })];
        Array.ForEach(listeners, listener => listener.Dispose());
        return ports;
    }

    /// <summary>Sends a request and waits for all that it comes to.</summary>
    public JupyterAnswer Ask(string type, JsonObject content, string channel = "shell") => End(Begin(type, content, channel));

    /// <summary>Runs a cell.</summary>
    public JupyterAnswer Run(string code) => End(Execute(code));

    /// <summary>Begins to run a cell.</summary>
    /// <param name="code">The cell.</param>
    /// <param name="settings">Members of the request.</param>
    /// <returns>The request's identifier.</returns>
    public string Execute(string code, params (string Name, bool Value)[] settings)
    {
        JsonObject content = new()
        {
            ["code"] = code,
            ["silent"] = false,
            ["store_history"] = true,
            ["allow_stdin"] = true,
            ["stop_on_error"] = true,
        };
        foreach (var (name, value) in settings)
        {
            content[name] = value;
        }

        return Begin("execute_request", content);
    }

    /// <summary>Sends a request.</summary>
    /// <returns>Its identifier.</returns>
    public string Begin(string type, JsonObject content, string channel = "shell", byte[]? key = null)
    {
        string id = $"{Guid.NewGuid():N}";
        JsonObject header = new()
        {
            ["msg_id"] = id,
            ["session"] = "test",
            ["username"] = "test",
            ["date"] = DateTime.UtcNow.ToString("O"),
            ["msg_type"] = type,
            ["version"] = "5.3",
        };
        byte[][] parts = [.. new[] { header, [], [], content }.Select(part => Encoding.UTF8.GetBytes(part.ToJsonString()))];
        _sockets[channel].SendMultipartMessage(
            new NetMQMessage([.. new byte[][] { "<IDS|MSG>"u8.ToArray(), Sign(key ?? _key, parts) }, .. parts]));
        _published[id] = [];
        return id;
    }

    /// <summary>Waits for the end of a request.</summary>
    public JupyterAnswer End(string id)
    {
        WaitFor(id, message => message.Type == "status" && (string)message.Content["execution_state"]! == "idle");
        Assert.Equal("busy", (string?)_published[id][0].Content["execution_state"]);
        return new(ReplyTo(id, Patience) ?? throw new TimeoutException($"There was no reply; the kernel says: {Errors}"), _published[id]);
    }

    /// <summary>Waits for a message that belongs to a request.</summary>
    public JupyterPublished WaitFor(string id, Func<JupyterPublished, bool> wanted)
    {
        long start = Stopwatch.GetTimestamp();
        while (true)
        {
            if (_published[id].FirstOrDefault(wanted) is { } found)
            {
                return found;
            }

            bool goesOn = _published[id] is not [.., { Type: "status" } last] || (string)last.Content["execution_state"]! == "busy";
            Assert.True(
                goesOn && Stopwatch.GetElapsedTime(start) < Patience,
                $"The message did not come, but {string.Join(", ", _published[id])}; the kernel says: {Errors}");
            if (Receive("iopub", TimeSpan.FromSeconds(1)) is var (type, parent, content))
            {
                _published.TryAdd(parent, []);
                _published[parent].Add(new(type, content));
            }
        }
    }

    /// <summary>The reply to a request, on whatever socket; null if none comes.</summary>
    public JsonObject? ReplyTo(string id, TimeSpan patience)
    {
        long start = Stopwatch.GetTimestamp();
        while (!_replies.ContainsKey(id) && Stopwatch.GetElapsedTime(start) < patience)
        {
            foreach (string channel in new[] { "shell", "control" })
            {
                if (Receive(channel, TimeSpan.FromMilliseconds(10)) is var (_, parent, content))
                {
                    _replies[parent] = content;
                }
            }
        }

        return _replies.GetValueOrDefault(id);
    }

    /// <summary>Answers what a cell asks.</summary>
    /// <returns>What it asked.</returns>
    public JsonObject Input(string value)
    {
        var (type, _, content) = Receive("stdin", Patience) ?? throw new TimeoutException($"The kernel asked nothing; it says: {Errors}");
        Assert.Equal("input_request", type);
        Begin("input_reply", new() { ["value"] = value }, "stdin");
        return content;
    }

    /// <summary>Whether the heart beats.</summary>
    public bool Beats()
    {
        _sockets["hb"].SendFrame("ping");
        return _sockets["hb"].TryReceiveFrameString(Patience, out string? answer) && answer == "ping";
    }

    public void Dispose()
    {
        if (!Process.HasExited)
        {
            Process.Kill();
        }

        Process.WaitForExit();
        Process.Dispose();
        foreach (var socket in _sockets.Values)
        {
            socket.Dispose();
        }

        _folder.Dispose();
    }

    /// <summary>What is published before the subscription has reached the kernel is lost.</summary>
    private void WaitUntilReady()
    {
        long start = Stopwatch.GetTimestamp();
        while (true)
        {
            string id = Begin("kernel_info_request", []);
            if (ReplyTo(id, TimeSpan.FromSeconds(5)) is not null && Receive("iopub", TimeSpan.FromSeconds(1)) is not null)
            {
                return;
            }

            Assert.True(Stopwatch.GetElapsedTime(start) < Patience && !Process.HasExited, $"The kernel did not start: {Errors}");
        }
    }

    private (string Type, string Parent, JsonObject Content)? Receive(string channel, TimeSpan patience)
    {
        NetMQMessage? message = [];
        if (!_sockets[channel].TryReceiveMultipartMessage(patience, ref message))
        {
            return null;
        }

        byte[][] frames = [.. message!.Select(frame => frame.ToByteArray()).SkipWhile(
            frame => !frame.AsSpan().SequenceEqual("<IDS|MSG>"u8))];
        Assert.Equal(Sign(_key, frames[2..6]), frames[1]);
        JsonObject[] parts = [.. frames[2..6].Select(frame => JsonNode.Parse(frame)!.AsObject())];
        return ((string)parts[0]["msg_type"]!, (string?)parts[1]["msg_id"] ?? "", parts[3]);
    }

    private static byte[] Sign(byte[] key, byte[][] parts) =>
        Encoding.ASCII.GetBytes(Convert.ToHexStringLower(HMACSHA256.HashData(key, parts.SelectMany(part => part).ToArray())));
}
