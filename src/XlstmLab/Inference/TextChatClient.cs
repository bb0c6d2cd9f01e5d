using System.Globalization;
using System.Runtime.CompilerServices;
using Microsoft.Extensions.AI;
using XlstmLab.Text;

namespace XlstmLab.Inference;

/// <summary>A model of the lab as Microsoft.Extensions.AI knows chat clients.</summary>
/// <remarks>
/// Every call gives the whole conversation; with a <see cref="StateCache"/> in the generator's options only what is new is read. Calls may
/// come from any thread, and are answered side by side.
/// </remarks>
/// <param name="generator">What generates the answers; it stays the caller's.</param>
/// <param name="template">How a conversation becomes a text.</param>
/// <param name="modelName">What answers say they come from.</param>
/// <param name="defaults">How tokens are chosen where a call does not say; null is the default.</param>
public sealed class TextChatClient(BatchedGenerator generator, ChatTemplate template, string modelName, GenerationOptions? defaults = null)
    : IChatClient
{
    private readonly ChatClientMetadata _metadata = new("xlstm", null, modelName);

    /// <inheritdoc/>
    /// <exception cref="ArgumentException">Messages or options make no sense; the message says why.</exception>
    /// <exception cref="NotSupportedException">A message holds other things than text, or options ask for tools or a format.</exception>
    public Task<ChatResponse> GetResponseAsync(
        IEnumerable<ChatMessage> messages, ChatOptions? options = null, CancellationToken cancellationToken = default) =>
        GetStreamingResponseAsync(messages, options, cancellationToken).ToChatResponseAsync(cancellationToken);

    /// <inheritdoc/>
    /// <exception cref="ArgumentException">Messages or options make no sense; the message says why.</exception>
    /// <exception cref="NotSupportedException">A message holds other things than text, or options ask for tools or a format.</exception>
    /// <exception cref="InvalidOperationException">The generator's queue is full.</exception>
    public async IAsyncEnumerable<ChatResponseUpdate> GetStreamingResponseAsync(
        IEnumerable<ChatMessage> messages, ChatOptions? options = null,
        [EnumeratorCancellation] CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(messages);
        var turns = messages.Select(Turn).ToList();
        if (options?.Instructions is { Length: > 0 } instructions)
        {
            turns.Insert(0, new("system", instructions));
        }

        var (id, start) = (Guid.NewGuid().ToString("N"), new AnswerStart());
        var created = DateTimeOffset.UtcNow;
        var prompt = generator.Tokenizer.EncodeDocument(template.Render(turns));
        var count = 0;
        await foreach (var (token, piece) in generator.StreamAsync(prompt, Chosen(options), cancellationToken).ConfigureAwait(false))
        {
            count++;
            if (start.Push(piece) is { Length: > 0 } shown)
            {
                yield return Update([new TextContent(shown)]);
            }

            if (token.FinishReason is { } reason)
            {
                var usage = new UsageDetails
                {
                    InputTokenCount = prompt.Length,
                    OutputTokenCount = count,
                    TotalTokenCount = prompt.Length + count,
                };
                var last = Update([new UsageContent(usage)]);
                last.FinishReason = reason switch
                {
                    FinishReason.Length => ChatFinishReason.Length,
                    FinishReason.EndOfDocument or FinishReason.StopString => ChatFinishReason.Stop,
                    _ => throw UnknownValue.Of(reason),
                };
                yield return last;
            }
        }

        ChatResponseUpdate Update(IList<AIContent> contents) =>
            new(ChatRole.Assistant, contents) { ResponseId = id, MessageId = id, ModelId = modelName, CreatedAt = created };
    }

    /// <inheritdoc/>
    public object? GetService(Type serviceType, object? serviceKey = null)
    {
        ArgumentNullException.ThrowIfNull(serviceType);
        return serviceKey is not null ? null
            : serviceType.IsInstanceOfType(this) ? this
            : serviceType.IsInstanceOfType(generator) ? generator
            : serviceType.IsInstanceOfType(_metadata) ? _metadata
            : null;
    }

    /// <summary>Does nothing: the generator is the caller's.</summary>
    public void Dispose()
    {
    }

    private static ChatTurn Turn(ChatMessage message, int index)
    {
        if (message.Contents.FirstOrDefault(content => content is not TextContent) is { } other)
        {
            throw new NotSupportedException(
                FormattableString.Invariant($"Message {index} holds {other.GetType().Name}; this model reads text only."));
        }

        return new(message.Role.Value, message.Text);
    }

    private GenerationOptions Chosen(ChatOptions? options)
    {
        var chosen = defaults ?? new();
        if (options is null)
        {
            return chosen with { StopStrings = [.. chosen.StopStrings, .. template.StopStrings] };
        }

        if (options.Tools is { Count: > 0 })
        {
            throw new NotSupportedException("The options name tools; this model calls none.");
        }

        if (options.ResponseFormat is not (null or ChatResponseFormatText))
        {
            throw new NotSupportedException("The options ask for a response format; this model gives text only.");
        }

        return chosen with
        {
            MaxNewTokens = options.MaxOutputTokens ?? chosen.MaxNewTokens,
            Temperature = Exact(options.Temperature) ?? chosen.Temperature,
            TopP = Exact(options.TopP) ?? chosen.TopP,
            TopK = options.TopK ?? chosen.TopK,
            FrequencyPenalty = Exact(options.FrequencyPenalty) ?? chosen.FrequencyPenalty,
            PresencePenalty = Exact(options.PresencePenalty) ?? chosen.PresencePenalty,
            Seed = options.Seed ?? chosen.Seed,
            StopStrings = [.. chosen.StopStrings, .. options.StopSequences ?? [], .. template.StopStrings],
        };
    }

    /// <summary>The number that was written: 0.7 and not the float32 next to it.</summary>
    private static double? Exact(float? value) =>
        value is { } number ? double.Parse(number.ToString(CultureInfo.InvariantCulture), CultureInfo.InvariantCulture) : null;
}
