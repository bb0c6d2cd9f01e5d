using System.Net;
using System.Net.Http.Headers;
using System.Net.Sockets;
using System.Text;
using System.Text.Json.Nodes;
using XlstmLab.Inference;
using XlstmLab.Models;
using XlstmLab.Serving;
using XlstmLab.Tests.Inference;
using XlstmLab.Text;

namespace XlstmLab.Tests.Serving;

/// <summary>A small model behind a server of a test's own, on a free port.</summary>
internal sealed class ServedModel : IAsyncDisposable
{
    private readonly LanguageModel _model;
    private readonly BatchedGenerator _generator;
    private readonly ApiServer _server;
    private readonly StateCache _cache;

    private ServedModel(LanguageModel model, BatchedGenerator generator, ApiServer server, StateCache cache)
    {
        (_model, _generator, _server, _cache) = (model, generator, server, cache);
        Client = new() { BaseAddress = server.Url };
    }

    public HttpClient Client { get; }

    public Uri Url => _server.Url;

    public BatchedGenerator Generator => _generator;

    public static ByteTokenizer Bytes { get; } = new();

    public static async Task<ServedModel> StartAsync(
        ServerOptions? options = null, BatchOptions? batch = null, int queueLength = 64, LanguageModel? model = null)
    {
        model ??= WritingModel.Create();
        var cache = new StateCache(1 << 20);
        var generator = new BatchedGenerator(model, Bytes, (batch ?? new()) with { Cache = cache }, queueLength);
        return new(model, generator, await ApiServer.StartAsync(generator, (options ?? new()) with { Port = 0 }), cache);
    }

    /// <summary>What the model writes by itself.</summary>
    public GeneratedSequence Alone(string prompt, GenerationOptions options) => new TextGenerator(_model, Bytes).Generate(prompt, options);

    public async Task<(HttpStatusCode Status, JsonNode Body, HttpResponseHeaders Headers)> PostAsync(
        string path, string json, string contentType = "application/json")
    {
        using var content = new StringContent(json, Encoding.UTF8, contentType);
        using var response = await Client.PostAsync(new Uri(path, UriKind.Relative), content);
        return (response.StatusCode, JsonNode.Parse(await response.Content.ReadAsStringAsync())!, response.Headers);
    }

    /// <summary>The events of a stream, <c>[DONE]</c> and all.</summary>
    public async Task<List<string>> EventsAsync(string path, string json)
    {
        using var request =
            new HttpRequestMessage(HttpMethod.Post, path) { Content = new StringContent(json, Encoding.UTF8, "application/json") };
        using var response = await Client.SendAsync(request, HttpCompletionOption.ResponseHeadersRead);
        response.EnsureSuccessStatusCode();
        var body = await response.Content.ReadAsStringAsync();
        return [.. body.Split("\n\n", StringSplitOptions.RemoveEmptyEntries).Select(e => e["data: ".Length..])];
    }

    /// <summary>Sends a request by a socket of its own, and leaves the reading to the caller.</summary>
    public async Task<TcpClient> SendRawAsync(string request)
    {
        var socket = new TcpClient();
        await socket.ConnectAsync(IPAddress.Loopback, Url.Port);
        await socket.GetStream().WriteAsync(Encoding.UTF8.GetBytes(request));
        return socket;
    }

    /// <summary>A request as it goes over the wire.</summary>
    public static string Raw(string path, string json) =>
        $"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        + $"Content-Length: {Encoding.UTF8.GetByteCount(json)}\r\n\r\n{json}";

    public Task StopAsync() => _server.StopAsync();

    public async ValueTask DisposeAsync()
    {
        Client.Dispose();
        await _server.DisposeAsync();
        await _generator.DisposeAsync();
        _cache.Dispose();
        _model.Dispose();
    }
}
