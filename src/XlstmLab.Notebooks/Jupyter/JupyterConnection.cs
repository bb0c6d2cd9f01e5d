using System.Net;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace XlstmLab.Notebooks.Jupyter;

/// <summary>Where a kernel listens and how messages are signed, as Jupyter wrote it into the connection file.</summary>
/// <param name="Address">An address of this machine that others do not reach.</param>
/// <param name="Ports">The port of each of <see cref="Channels"/>.</param>
/// <param name="Key">The key of the signatures.</param>
internal sealed record JupyterConnection(IPAddress Address, IReadOnlyDictionary<string, int> Ports, byte[] Key)
{
    public const string Shell = "shell";
    public const string Control = "control";
    public const string Input = "stdin";
    public const string Broadcast = "iopub";
    public const string Heartbeat = "hb";

    /// <summary>The names of the five sockets.</summary>
    public static readonly IReadOnlyList<string> Channels = [Shell, Control, Input, Broadcast, Heartbeat];

    private const string Scheme = "hmac-sha256";

    /// <summary>Reads a connection file.</summary>
    /// <param name="path">The file.</param>
    /// <exception cref="NotebookException">
    /// It is no such file, or asks for what would be unsafe; the message says what was expected.
    /// </exception>
    public static JupyterConnection Read(string path)
    {
        JsonObject file;
        try
        {
            file = JsonNode.Parse(File.ReadAllText(path)) as JsonObject ?? throw new JsonException("it is no object");
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or JsonException)
        {
            throw new NotebookException($"{path} is no connection file of Jupyter: {e.Message}", e);
        }

        string transport = Text(file, "transport") ?? "tcp";
        if (transport != "tcp")
        {
            throw new NotebookException($"{path}: the transport is '{transport}'; this kernel knows 'tcp' alone.");
        }

        string ip = Text(file, "ip") ?? "";
        var address = ip == "localhost" ? IPAddress.Loopback : IPAddress.TryParse(ip, out var parsed) ? parsed : null;
        if (address is null || !IPAddress.IsLoopback(address))
        {
            throw new NotebookException(
                $"{path}: the kernel is to listen on '{ip}', which other machines may reach. It runs whatever code is sent to it and "
                + "listens on this machine alone: give 127.0.0.1, ::1 or localhost as ip, and use a tunnel (ssh -L) from elsewhere.");
        }

        string scheme = Text(file, "signature_scheme") ?? Scheme;
        if (scheme != Scheme)
        {
            throw new NotebookException($"{path}: the signature scheme is '{scheme}'; this kernel knows '{Scheme}' alone.");
        }

        if (Text(file, "key") is not { Length: > 0 } key)
        {
            throw new NotebookException(
                $"{path}: there is no key, and without one any user of this machine could send code. Jupyter writes one unless "
                + "it is told not to.");
        }

        return new(address, Channels.ToDictionary(channel => channel, channel => Port(file, channel, path)), Encoding.UTF8.GetBytes(key));
    }

    /// <summary>What a socket binds to.</summary>
    public string Endpoint(string channel) => $"tcp://{new IPEndPoint(Address, Ports[channel])}";

    private static int Port(JsonObject file, string channel, string path) =>
        file[$"{channel}_port"] is JsonValue value && value.TryGetValue(out int port) && port is > 0 and <= IPEndPoint.MaxPort
            ? port
            : throw new NotebookException(
                $"{path}: '{channel}_port' is {file[$"{channel}_port"]?.ToJsonString() ?? "missing"}; "
                + $"expected a port from 1 to {IPEndPoint.MaxPort}.");

    private static string? Text(JsonObject file, string name) => MultilineText.IsString(file[name]) ? file[name]!.GetValue<string>() : null;
}
