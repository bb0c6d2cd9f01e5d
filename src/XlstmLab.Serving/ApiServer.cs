using System.Buffers;
using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Connections;
using Microsoft.AspNetCore.Hosting;
using Microsoft.AspNetCore.Hosting.Server;
using Microsoft.AspNetCore.Hosting.Server.Features;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Server.Kestrel.Core;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Hosting;
using XlstmLab.Inference;
using BadHttpRequestException = Microsoft.AspNetCore.Http.BadHttpRequestException;

namespace XlstmLab.Serving;

/// <summary>
/// A model behind HTTP, by OpenAI's requests and answers: completions, chat completions, models; and <c>/health</c> and <c>/metrics</c>.
/// </summary>
/// <remarks>
/// Nothing of the process' environment or of files configures it: it listens at the one address of its options, which is this machine's own
/// unless told otherwise. It writes no log.
/// </remarks>
public sealed class ApiServer : IAsyncDisposable
{
    private readonly ServerOptions _options;
    private readonly BatchedGenerator _generator;
    private readonly WebApplication _app;
    private readonly ServerMetrics _metrics = new();
    private readonly CancellationTokenSource _cut = new();
    private readonly long _created = DateTimeOffset.UtcNow.ToUnixTimeSeconds();
    private readonly byte[]? _key;
    private volatile bool _stops;

    /// <summary>How many requests for texts are being answered, their last bytes included.</summary>
    private int _answering;

    private ApiServer(BatchedGenerator generator, ServerOptions options)
    {
        (_generator, _options) = (generator, options);
        _key = options.ApiKey is { } key ? Hash(key) : null;
        var builder = WebApplication.CreateEmptyBuilder(new());
        builder.WebHost.UseKestrelCore().ConfigureKestrel(kestrel =>
        {
            kestrel.AddServerHeader = false;
            kestrel.Limits.MaxRequestBodySize = options.MaxBodyBytes;
            kestrel.Limits.MaxConcurrentConnections = options.MaxConnections;
            kestrel.Limits.MaxRequestHeadersTotalSize = 16 * 1024;
            kestrel.Limits.RequestHeadersTimeout = TimeSpan.FromSeconds(15);

            // Whoever sends his request, or takes his answer, slower than this is cut off; what he has not taken is kept here meanwhile,
            // and nobody waits for him.
            kestrel.Limits.MinRequestBodyDataRate = new MinDataRate(bytesPerSecond: 100, gracePeriod: TimeSpan.FromSeconds(5));
            kestrel.Limits.MinResponseDataRate = new MinDataRate(bytesPerSecond: 100, gracePeriod: TimeSpan.FromSeconds(30));
            kestrel.Listen(options.Address, options.Port);
        });
        builder.Services.Configure<HostOptions>(host => host.ShutdownTimeout = TimeSpan.FromSeconds(5));

        // ASP.NET's own would answer Ctrl-C in place of the process, whose second Ctrl-C then aborts nothing.
        builder.Services.AddSingleton<IHostLifetime, CallersLifetime>();
        _app = builder.Build();
        _app.Run(AnswerAsync);
    }

    /// <summary>Where it listens, such as <c>http://127.0.0.1:8080</c>.</summary>
    public Uri Url { get; private set; } = null!;

    /// <summary>Begins to listen.</summary>
    /// <param name="generator">What generates the texts; it stays the caller's.</param>
    /// <param name="options">Where to listen, and the limits.</param>
    /// <exception cref="ArgumentException">An option makes no sense; the message says which.</exception>
    /// <exception cref="IOException">The port is taken.</exception>
    public static async Task<ApiServer> StartAsync(BatchedGenerator generator, ServerOptions options)
    {
        ArgumentNullException.ThrowIfNull(generator);
        ArgumentNullException.ThrowIfNull(options);
        options.Validate();
        var server = new ApiServer(generator, options);
        try
        {
            await server._app.StartAsync().ConfigureAwait(false);
            server.Url = new(
                server._app.Services.GetRequiredService<IServer>().Features.Get<IServerAddressesFeature>()!.Addresses.Single());
            return server;
        }
        catch
        {
            await server.DisposeAsync().ConfigureAwait(false);
            throw;
        }
    }

    /// <summary>
    /// Refuses further requests, waits until the running ones are answered, to a client that reads slowly too, cuts those that are not in
    /// time, and stops to listen.
    /// </summary>
    public async Task StopAsync()
    {
        _stops = true;
        var watch = Stopwatch.StartNew();
        while (Volatile.Read(ref _answering) > 0 && watch.Elapsed < _options.ShutdownTime)
        {
            await Task.Delay(TimeSpan.FromMilliseconds(20)).ConfigureAwait(false);
        }

        await _cut.CancelAsync().ConfigureAwait(false);
        await _app.StopAsync().ConfigureAwait(false);
    }

    /// <inheritdoc/>
    public async ValueTask DisposeAsync()
    {
        await _app.DisposeAsync().ConfigureAwait(false);
        _cut.Dispose();
    }

    private static byte[] Hash(string text) => SHA256.HashData(Encoding.UTF8.GetBytes(text));

    private async Task AnswerAsync(HttpContext context)
    {
        var path = context.Request.Path.Value ?? "";

        // A counter for each path that somebody thinks of would grow without end.
        var endpoint = path is "/health" or "/metrics" or "/v1/models" or "/v1/completions" or "/v1/chat/completions" ? path : "other";
        try
        {
            RequireAccess(context.Request, path);
            await DispatchAsync(context, path).ConfigureAwait(false);
        }
        catch (ApiError e)
        {
            await FailAsync(context, e).ConfigureAwait(false);
        }
        catch (BadHttpRequestException e)
        {
            await FailAsync(context, e.StatusCode == 413
                ? new(
                    413,
                    "invalid_request_error",
                    FormattableString.Invariant($"The body has more than the {_options.MaxBodyBytes} bytes that this server takes."),
                    null,
                    "body_too_large")
                : new(e.StatusCode, "invalid_request_error", e.Message)).ConfigureAwait(false);
        }
        catch (Exception e) when (context.RequestAborted.IsCancellationRequested
            || e is ConnectionResetException or ConnectionAbortedException)
        {
            _metrics.Vanished();
            context.Abort();
            return;
        }
#pragma warning disable CA1031 // The client is told that it was not his fault, whatever it was; other requests go on.
        catch (Exception e)
        {
            await FailAsync(context, new(500, "server_error", $"The model failed: {e.Message}")).ConfigureAwait(false);
        }
#pragma warning restore CA1031

        _metrics.Answered(endpoint, context.Response.StatusCode);
    }

    private async Task DispatchAsync(HttpContext context, string path)
    {
        switch (path)
        {
            case "/health":
                RequireMethod(context.Request, "GET");
                await WriteJsonAsync(context, _stops ? 503 : 200, new { Status = _stops ? "stopping" : "ok" }).ConfigureAwait(false);
                break;
            case "/metrics":
                RequireMethod(context.Request, "GET");
                context.Response.ContentType = "text/plain; version=0.0.4; charset=utf-8";
                await context.Response.WriteAsync(_metrics.Text(_generator), context.RequestAborted).ConfigureAwait(false);
                break;
            case "/v1/models":
                RequireMethod(context.Request, "GET");
                await WriteJsonAsync(context, 200, new { Object = "list", Data = new[] { Model() } }).ConfigureAwait(false);
                break;
            case "/v1/completions":
                RequireMethod(context.Request, "POST");
                await CompleteAsync(context, isChat: false).ConfigureAwait(false);
                break;
            case "/v1/chat/completions":
                RequireMethod(context.Request, "POST");
                await CompleteAsync(context, isChat: true).ConfigureAwait(false);
                break;
            default:
                if (path.StartsWith("/v1/models/", StringComparison.Ordinal))
                {
                    RequireMethod(context.Request, "GET");

                    // Of all that is escaped in a path, ASP.NET leaves slashes alone.
                    RequireModel(path["/v1/models/".Length..].Replace("%2F", "/", StringComparison.OrdinalIgnoreCase));
                    await WriteJsonAsync(context, 200, Model()).ConfigureAwait(false);
                    break;
                }

                throw new ApiError(
                    404, "invalid_request_error", $"Unknown request URL: {context.Request.Method} {path}.", null, "unknown_url");
        }
    }

    private object Model() => new { Id = _options.ModelName, Object = "model", Created = _created, OwnedBy = "xlstm" };

    private void RequireModel(string name)
    {
        if (name != _options.ModelName)
        {
            var message = $"The model '{name}' does not exist; this server has '{_options.ModelName}'.";
            throw new ApiError(404, "invalid_request_error", message, "model", "model_not_found");
        }
    }

    private static void RequireMethod(HttpRequest request, string method)
    {
        if (request.Method != method && !(request.Method == "HEAD" && method == "GET"))
        {
            var message = $"Not allowed: {request.Method} {request.Path}; expected {method}.";
            throw new ApiError(405, "invalid_request_error", message, null, "method_not_allowed")
            {
                Allow = method == "GET" ? "GET, HEAD" : method,
            };
        }
    }

    /// <summary>
    /// Refuses who has no key; and web pages of others, which a browser on this machine would let in: they name another host, or send no
    /// JSON.
    /// </summary>
    private void RequireAccess(HttpRequest request, string path)
    {
        if (_key is null && !IsLoopback(request.Host.Host))
        {
            var message = $"Without an API key this server answers to its loopback address only, not to '{request.Host.Host}'.";
            throw new ApiError(403, "invalid_request_error", message, null, "host_not_allowed");
        }

        if (_key is not null && path != "/health")
        {
            var header = request.Headers.Authorization.ToString();
            if (!header.StartsWith("Bearer ", StringComparison.OrdinalIgnoreCase)
                || !CryptographicOperations.FixedTimeEquals(Hash(header["Bearer ".Length..].Trim()), _key))
            {
                var message = header.Length == 0 ? "No API key was provided: send it as 'Authorization: Bearer KEY'."
                    : "Incorrect API key provided.";
                throw new ApiError(401, "invalid_request_error", message, null, "invalid_api_key");
            }
        }

        if (request.Method == "POST" && !request.HasJsonContentType())
        {
            throw new ApiError(415, "invalid_request_error", $"Expected the content type application/json, got '{request.ContentType}'.");
        }
    }

    private static bool IsLoopback(string host) =>
        host.Equals("localhost", StringComparison.OrdinalIgnoreCase)
        || (IPAddress.TryParse(host.Trim('[', ']'), out var address) && IPAddress.IsLoopback(address));

    private async Task CompleteAsync(HttpContext context, bool isChat)
    {
        var watch = Stopwatch.StartNew();
        using var limit = CancellationTokenSource.CreateLinkedTokenSource(context.RequestAborted, _cut.Token);
        limit.CancelAfter(_options.RequestTime);
        var body = new ArrayBufferWriter<byte>();
        try
        {
            await ReadBodyAsync(context.Request, body, limit.Token).ConfigureAwait(false);
        }
        catch (OperationCanceledException) when (limit.IsCancellationRequested && !context.RequestAborted.IsCancellationRequested)
        {
            throw Cut();
        }

        var request = ApiRequest.Read(RequestFields.Parse(body.WrittenMemory), isChat, _options, _generator.Tokenizer);
        if (request.Model is { } name)
        {
            RequireModel(name);
        }

        IReadOnlyList<StreamedText> streams = [];
        try
        {
            // Before it looks whether the server stops, so that the server waits for it where it does not.
            _ = Interlocked.Increment(ref _answering);
            if (_stops)
            {
                throw Stopping();
            }

            streams = _generator.TryStart(request.Texts) ?? throw Full();

            // Their slots do not wait for a client that takes its time to read what there is.
            using var leave = limit.Token.Register(() => Leave(streams));
            var answer = new ApiAnswer(request, streams, _options, _generator.Tokenizer, () => _metrics.FirstToken(watch.Elapsed));
            if (request.Streams)
            {
                await answer.StreamAsync(context.Response, limit.Token).ConfigureAwait(false);
            }
            else
            {
                await WriteJsonAsync(context, 200, await answer.WholeAsync(limit.Token).ConfigureAwait(false)).ConfigureAwait(false);
            }
        }
        catch (OperationCanceledException) when (!context.RequestAborted.IsCancellationRequested)
        {
            throw Cut();
        }
        finally
        {
            Leave(streams);
            if (streams.Count > 0)
            {
                _metrics.Whole(watch.Elapsed);
            }

            _ = Interlocked.Decrement(ref _answering);
        }
    }

    private static void Leave(IReadOnlyList<StreamedText> streams)
    {
        foreach (var stream in streams)
        {
            stream.Leave();
        }
    }

    private static async Task ReadBodyAsync(HttpRequest request, ArrayBufferWriter<byte> body, CancellationToken cancellationToken)
    {
        while (await request.Body.ReadAsync(body.GetMemory(16 * 1024), cancellationToken).ConfigureAwait(false) is var count and > 0)
        {
            body.Advance(count);
        }
    }

    private ApiError Cut() => _stops ? Stopping() : TooLong();

    private static ApiError Stopping() => new(503, "server_error", "The server is stopping.", null, "stopping") { RetryAfter = 5 };

    private ApiError Full()
    {
        var message = FormattableString.Invariant(
            $"All {_generator.Options.Slots} slots are taken and the queue is full: ask again later.");
        return new(429, "requests", message, null, "queue_full") { RetryAfter = 1 };
    }

    private ApiError TooLong()
    {
        var seconds = _options.RequestTime.TotalSeconds;
        var message = FormattableString.Invariant($"The request took longer than the {seconds} s that this server gives one.");
        return new(504, "server_error", message, null, "timeout");
    }

    /// <summary>Tells an error: as the answer, or as the last event of one that has begun.</summary>
    private static async Task FailAsync(HttpContext context, ApiError error)
    {
        try
        {
            if (context.Response.HasStarted)
            {
                var data = JsonSerializer.Serialize(error.Body, ApiAnswer.Json);
                await context.Response.WriteAsync($"data: {data}\n\n", context.RequestAborted).ConfigureAwait(false);
                return;
            }

            if (error.RetryAfter is { } seconds)
            {
                context.Response.Headers.RetryAfter = seconds.ToString(CultureInfo.InvariantCulture);
            }

            if (error.Allow is { } methods)
            {
                context.Response.Headers.Allow = methods;
            }

            if (error.Status == 401)
            {
                context.Response.Headers.WWWAuthenticate = "Bearer";
            }

            await WriteJsonAsync(context, error.Status, error.Body).ConfigureAwait(false);
        }
        catch (OperationCanceledException)
        {
            context.Abort();
        }
    }

    private static async Task WriteJsonAsync(HttpContext context, int status, object document)
    {
        var bytes = JsonSerializer.SerializeToUtf8Bytes(document, ApiAnswer.Json);
        var response = context.Response;
        (response.StatusCode, response.ContentType, response.ContentLength) = (status, "application/json; charset=utf-8", bytes.Length);
        await response.Body.WriteAsync(bytes, context.RequestAborted).ConfigureAwait(false);
    }

    /// <summary>The server begins and ends when its caller says so.</summary>
    private sealed class CallersLifetime : IHostLifetime
    {
        public Task WaitForStartAsync(CancellationToken cancellationToken) => Task.CompletedTask;

        public Task StopAsync(CancellationToken cancellationToken) => Task.CompletedTask;
    }
}
