using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Serialization;
using Microsoft.AspNetCore.Http;
using XlstmLab.Inference;
using XlstmLab.Text;

namespace XlstmLab.Serving;

/// <summary>The answer to a request for texts, in the form of OpenAI's API: whole, or piece by piece as server-sent events.</summary>
internal sealed class ApiAnswer(
    ApiRequest request, IReadOnlyList<StreamedText> streams, ServerOptions server, ITokenizer tokenizer, Action firstToken)
{
    /// <summary>How documents are spelt.</summary>
    public static readonly JsonSerializerOptions Json = new()
    {
        PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower,
        DefaultIgnoreCondition = JsonIgnoreCondition.Never,

        // Quotes and letters beyond ASCII stay readable: what is sent is JSON, and says so, and no part of a page.
        Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
    };

    private readonly string _id = (request.IsChat ? "chatcmpl-" : "cmpl-") + Guid.NewGuid().ToString("N");
    private readonly long _created = DateTimeOffset.UtcNow.ToUnixTimeSeconds();
    private int _tokens;

    /// <summary>Waits for all choices.</summary>
    public async Task<object> WholeAsync(CancellationToken cancellationToken)
    {
        var choices = await Task.WhenAll(streams.Select(async (stream, index) =>
        {
            var (text, steps) = (new StringBuilder(Repeated(index)), new List<GeneratedToken>());
            await foreach (var (token, piece) in StepsAsync(stream, cancellationToken).ConfigureAwait(false))
            {
                text.Append(piece);
                steps.Add(token);
            }

            return Choice(index, text.ToString(), isPiece: false, steps, Reason(steps[^1].FinishReason), 0);
        })).ConfigureAwait(false);
        return Document(request.IsChat ? "chat.completion" : "text_completion", choices, Usage());
    }

    /// <summary>Writes the choices as they come, one event a token.</summary>
    /// <param name="response">Where to.</param>
    /// <param name="cancellationToken">Ends it between two events: a write that is given up takes the connection with it.</param>
    public async Task StreamAsync(HttpResponse response, CancellationToken cancellationToken)
    {
        var vanished = response.HttpContext.RequestAborted;
        response.ContentType = "text/event-stream; charset=utf-8";
        response.Headers.CacheControl = "no-cache";
        using var turn = new SemaphoreSlim(1);
        await response.StartAsync(vanished).ConfigureAwait(false);
        await Task.WhenAll(streams.Select((stream, index) => StreamAsync(stream, index, WriteAsync, cancellationToken)))
            .ConfigureAwait(false);
        if (request.IncludesUsage)
        {
            await WriteAsync(JsonSerializer.Serialize(Piece([], Usage()), Json)).ConfigureAwait(false);
        }

        await WriteAsync("[DONE]").ConfigureAwait(false);

        async Task WriteAsync(string data)
        {
            await turn.WaitAsync(vanished).ConfigureAwait(false);
            try
            {
                await response.WriteAsync($"data: {data}\n\n", vanished).ConfigureAwait(false);
                await response.Body.FlushAsync(vanished).ConfigureAwait(false);
            }
            finally
            {
                turn.Release();
            }
        }
    }

    private async Task StreamAsync(StreamedText stream, int index, Func<string, Task> write, CancellationToken cancellationToken)
    {
        var (isFirst, offset) = (true, 0);
        await foreach (var (token, piece) in StepsAsync(stream, cancellationToken).ConfigureAwait(false))
        {
            if (isFirst && (request.IsChat || request.Echoes))
            {
                await write(JsonSerializer.Serialize(Piece([Opening(index)], null), Json)).ConfigureAwait(false);
            }

            isFirst = false;
            if (piece.Length > 0 || token.FinishReason is not null || request.LogProbabilities)
            {
                var choice = Choice(index, piece, isPiece: true, [token], Reason(token.FinishReason), offset);
                await write(JsonSerializer.Serialize(Piece([choice], null), Json)).ConfigureAwait(false);
            }

            offset += Spelt(token.Id).Length;
        }
    }

    /// <summary>The tokens of a choice; a conversation's answer is shown without the white space before it.</summary>
    private async IAsyncEnumerable<(GeneratedToken Token, string Piece)> StepsAsync(
        StreamedText stream, [System.Runtime.CompilerServices.EnumeratorCancellation] CancellationToken cancellationToken)
    {
        var (isFirst, start) = (true, new AnswerStart());
        await foreach (var (token, piece) in stream.ReadAllAsync(cancellationToken).ConfigureAwait(false))
        {
            // What came before is given out though it was cancelled.
            cancellationToken.ThrowIfCancellationRequested();
            if (isFirst)
            {
                firstToken();
                isFirst = false;
            }

            _ = Interlocked.Increment(ref _tokens);
            yield return (token, request.IsChat ? start.Push(piece) : piece);
        }
    }

    private static string? Reason(FinishReason? reason) => reason switch
    {
        null => null,
        FinishReason.Length => "length",
        FinishReason.EndOfDocument or FinishReason.StopString => "stop",
        _ => throw UnknownValue.Of(reason.Value),
    };

    /// <summary>What comes before the first token: whose turn it is, or the prompt.</summary>
    private object Opening(int index)
    {
        var (logs, reason) = ((object?)null, (string?)null);
        return request.IsChat
            ? new { Index = index, Delta = new { Role = "assistant", Content = "" }, Logprobs = logs, FinishReason = reason }
            : new { Index = index, Text = Repeated(index), Logprobs = logs, FinishReason = reason };
    }

    /// <summary>The prompt where it is to be repeated before a choice's text; else nothing.</summary>
    private string Repeated(int index) => !request.Echoes ? ""
        : Encoding.UTF8.GetString([.. request.Texts[index].Prompt.SelectMany(id => tokenizer.Bytes(id).ToArray())]);

    private object Choice(int index, string text, bool isPiece, IReadOnlyList<GeneratedToken> steps, string? reason, int offset)
    {
        if (!request.IsChat)
        {
            var lists = request.LogProbabilities ? TextLogProbabilities(steps, offset) : null;
            return new { Index = index, Text = text, Logprobs = lists, FinishReason = reason };
        }

        var logs = request.LogProbabilities ? new { Content = steps.Select(Log).ToArray(), Refusal = (object?)null } : null;
        return isPiece
            ? new { Index = index, Delta = new { Content = text }, Logprobs = logs, FinishReason = reason }
            : new
            {
                Index = index,
                Message = new { Role = "assistant", Content = text, Refusal = (string?)null },
                Logprobs = logs,
                FinishReason = reason,
            };
    }

    private object Log(GeneratedToken step) => new
    {
        Token = Spelt(step.Id),
        Logprob = step.LogProbability,
        Bytes = BytesOf(step.Id),
        TopLogprobs = (step.Likeliest ?? []).Select(t => new { Token = Spelt(t.Id), Logprob = t.LogProbability, Bytes = BytesOf(t.Id) }),
    };

    /// <summary>
    /// The older form: lists beside each other. Of tokens that are spelt alike, such as parts of characters, the likeliest is shown.
    /// </summary>
    private object TextLogProbabilities(IReadOnlyList<GeneratedToken> steps, int offset)
    {
        var offsets = new List<int>();
        foreach (var step in steps)
        {
            offsets.Add(offset);
            offset += Spelt(step.Id).Length;
        }

        return new
        {
            Tokens = steps.Select(step => Spelt(step.Id)),
            TokenLogprobs = steps.Select(step => step.LogProbability),
            TopLogprobs = steps.Select(step => step.Likeliest?
                .DistinctBy(t => Spelt(t.Id)).ToDictionary(t => Spelt(t.Id), t => t.LogProbability)),
            TextOffset = offsets,
        };
    }

    private int[] BytesOf(int id) => [.. tokenizer.Bytes(id)];

    private string Spelt(int id) => Encoding.UTF8.GetString(tokenizer.Bytes(id));

    private object Piece(object[] choices, object? usage) => Document(
        request.IsChat ? "chat.completion.chunk" : "text_completion", choices, usage);

    private object Document(string kind, object[] choices, object? usage) => request.Streams && !request.IncludesUsage
        ? new { Id = _id, Object = kind, Created = _created, Model = server.ModelName, Choices = choices }
        : new { Id = _id, Object = kind, Created = _created, Model = server.ModelName, Choices = choices, Usage = usage };

    private object Usage()
    {
        // Choices of one prompt are asked for once.
        var prompts = streams.Zip(request.Texts).DistinctBy(pair => pair.Second.Prompt).Select(pair => pair.First).ToArray();
        var (prompt, cached) = (prompts.Sum(stream => stream.PromptTokens), prompts.Sum(stream => stream.CachedTokens));
        return new
        {
            PromptTokens = prompt,
            CompletionTokens = _tokens,
            TotalTokens = prompt + _tokens,
            PromptTokensDetails = new { CachedTokens = cached },
        };
    }
}
