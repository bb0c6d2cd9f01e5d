using System.Globalization;
using System.Net.Sockets;
using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using NetMQ;
using NetMQ.Sockets;

namespace XlstmLab.Notebooks.Jupyter;

/// <summary>
/// Jupyter's five sockets and its signed messages, by version 5.3 of its protocol. One thread owns the sockets; any thread may send.
/// </summary>
internal sealed class JupyterSockets : IDisposable
{
    public const string ProtocolVersion = "5.3";

    /// <summary>How long messages that were sent may take to reach a client when the kernel ends.</summary>
    private static readonly TimeSpan Linger = TimeSpan.FromSeconds(1);

    private static readonly byte[] Delimiter = "<IDS|MSG>"u8.ToArray();

    private readonly Lock _gate = new();
    private readonly byte[] _key;
    private readonly Action<JupyterMessage> _received;
    private readonly Action<string> _refused;
    private readonly string _session = $"{Guid.NewGuid():N}";
    private readonly Dictionary<string, NetMQSocket> _sockets = [];
    private readonly Dictionary<string, NetMQQueue<NetMQMessage>> _outgoing = [];
    private readonly NetMQPoller _poller = [];
    private bool _isClosed;

    /// <summary>Opens the sockets; nothing is received before <see cref="Start"/>.</summary>
    /// <param name="connection">Where, and the key.</param>
    /// <param name="received">Told of requests on the thread of the sockets: it must not block.</param>
    /// <param name="refused">Told why a message was not taken.</param>
    /// <exception cref="NotebookException">A port is taken.</exception>
    public JupyterSockets(JupyterConnection connection, Action<JupyterMessage> received, Action<string> refused)
    {
        (_key, _received, _refused) = (connection.Key, received, refused);
        try
        {
            foreach (string channel in JupyterConnection.Channels)
            {
                Open(channel, connection);
            }
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>Begins to receive.</summary>
    public void Start() => _poller.RunAsync("jupyter", isBackgroundThread: true);

    /// <summary>Tells all clients.</summary>
    /// <param name="parent">The request that it belongs to, if there is one.</param>
    /// <param name="type">What it is, such as <c>stream</c>.</param>
    /// <param name="content">What is said.</param>
    public void Publish(JupyterMessage? parent, string type, JsonObject content) =>
        Send(JupyterConnection.Broadcast, [Encoding.UTF8.GetBytes(type)], parent, type, content);

    /// <summary>Answers a request.</summary>
    public void Reply(JupyterMessage request, string type, JsonObject content) => Send(
        request.Channel, request.Identities, request, type, content);

    /// <summary>Asks the person whose request is running.</summary>
    public void Ask(JupyterMessage request, JsonObject content) => Send(
        JupyterConnection.Input, request.Identities, request, "input_request", content);

    /// <summary>Closes the sockets; what has been sent still goes out.</summary>
    public void Dispose()
    {
        lock (_gate)
        {
            if (_isClosed)
            {
                return;
            }

            _isClosed = true;
        }

        if (_poller.IsRunning)
        {
            _poller.Stop();
        }

        foreach (var (channel, queue) in _outgoing)
        {
            Send(queue, _sockets[channel]);
        }

        _poller.Dispose();
        foreach (IDisposable owned in _outgoing.Values.Concat<IDisposable>(_sockets.Values))
        {
            owned.Dispose();
        }
    }

    private void Open(string channel, JupyterConnection connection)
    {
        NetMQSocket socket = channel switch
        {
            JupyterConnection.Heartbeat => new ResponseSocket(),
            JupyterConnection.Broadcast => new PublisherSocket(),
            _ => new RouterSocket(),
        };
        _sockets[channel] = socket;

        // By default outputs are dropped once a thousand of them wait.
        socket.Options.SendHighWatermark = 0;
        socket.Options.Linger = Linger;
        socket.Options.IPv4Only = connection.Address.AddressFamily == AddressFamily.InterNetwork;
        try
        {
            socket.Bind(connection.Endpoint(channel));
        }
        catch (Exception e) when (e is NetMQException or SocketException)
        {
            throw new NotebookException(
                $"The kernel cannot listen at {connection.Endpoint(channel)} ({channel}): {e.Message} Is the port taken?", e);
        }

        if (socket is ResponseSocket)
        {
            socket.ReceiveReady += (_, e) => e.Socket.SendMultipartMessage(e.Socket.ReceiveMultipartMessage());
            _poller.Add(socket);
            return;
        }

        NetMQQueue<NetMQMessage> queue = new();
        queue.ReceiveReady += (_, e) => Send(e.Queue, socket);
        _outgoing[channel] = queue;
        _poller.Add(queue);
        if (socket is RouterSocket)
        {
            socket.ReceiveReady += (_, e) => Receive(channel, e.Socket.ReceiveMultipartMessage());
            _poller.Add(socket);
        }
    }

    private static void Send(NetMQQueue<NetMQMessage> queue, NetMQSocket socket)
    {
        while (queue.TryDequeue(out var message, TimeSpan.Zero))
        {
            socket.SendMultipartMessage(message);
        }
    }

    private void Send(string channel, IEnumerable<byte[]> identities, JupyterMessage? parent, string type, JsonObject content)
    {
        JsonObject header = new()
        {
            ["msg_id"] = $"{Guid.NewGuid():N}",
            ["session"] = _session,
            ["username"] = "kernel",
            ["date"] = DateTime.UtcNow.ToString("O", CultureInfo.InvariantCulture),
            ["msg_type"] = type,
            ["version"] = ProtocolVersion,
        };
        byte[][] parts = [.. new[] { header, parent?.Header ?? [], [], content }.Select(
            part => Encoding.UTF8.GetBytes(part.ToJsonString()))];
        NetMQMessage message = new([.. identities, Delimiter, Encoding.ASCII.GetBytes(Sign(parts)), .. parts]);

        // A thread that a cell left behind may write after the end.
        lock (_gate)
        {
            if (!_isClosed)
            {
                _outgoing[channel].Enqueue(message);
            }
        }
    }

    private void Receive(string channel, NetMQMessage message)
    {
        byte[][] frames = [.. message.Select(frame => frame.ToByteArray())];
        int at = Array.FindIndex(frames, frame => frame.AsSpan().SequenceEqual(Delimiter));
        if (at < 0 || frames.Length < at + 6)
        {
            _refused($"A message on {channel} was refused: it has not the parts of a message of Jupyter.");
        }
        else if (!CryptographicOperations.FixedTimeEquals(frames[at + 1], Encoding.ASCII.GetBytes(Sign(frames[(at + 2)..(at + 6)]))))
        {
            _refused($"A message on {channel} was refused: it is not signed with the key of this kernel's connection file.");
        }
        else if (Parse(channel, frames, at) is { } request)
        {
            _received(request);
        }
        else
        {
            _refused($"A message on {channel} was refused: its header or its content is no JSON object.");
        }
    }

    private static JupyterMessage? Parse(string channel, byte[][] frames, int at)
    {
        try
        {
            return JsonNode.Parse(frames[at + 2]) is JsonObject header && JsonNode.Parse(frames[at + 5]) is JsonObject content
                ? new(channel, frames[..at], header, content)
                : null;
        }
        catch (JsonException)
        {
            return null;
        }
    }

    /// <summary>The signature of a message's four parts, in hexadecimal.</summary>
    private string Sign(byte[][] parts)
    {
        using var hash = IncrementalHash.CreateHMAC(HashAlgorithmName.SHA256, _key);
        foreach (byte[] part in parts)
        {
            hash.AppendData(part);
        }

        return Convert.ToHexStringLower(hash.GetHashAndReset());
    }
}
