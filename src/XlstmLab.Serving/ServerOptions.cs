using System.Net;
using XlstmLab.Inference;

namespace XlstmLab.Serving;

/// <summary>Where a server listens, whom it serves, and how much of what it takes.</summary>
public sealed record ServerOptions
{
    /// <summary>The default of <see cref="Port"/>.</summary>
    public const int DefaultPort = 8080;

    /// <summary>The default of <see cref="MaxPromptTokens"/>.</summary>
    public const int DefaultMaxPromptTokens = 32_768;

    /// <summary>The default of <see cref="MaxTokens"/>.</summary>
    public const int DefaultMaxTokens = 2048;

    /// <summary>The default of <see cref="MaxBodyBytes"/>.</summary>
    public const int DefaultMaxBodyBytes = 1 << 20;

    /// <summary>The default of <see cref="RequestTime"/>, in seconds.</summary>
    public const double DefaultRequestSeconds = 600;

    /// <summary>The default of <see cref="ShutdownTime"/>, in seconds.</summary>
    public const double DefaultShutdownSeconds = 30;

    /// <summary>The address to listen at; only this machine's own programs reach the default.</summary>
    public IPAddress Address { get; init; } = IPAddress.Loopback;

    /// <summary>The port; 0 takes a free one, which <see cref="ApiServer.Url"/> tells.</summary>
    public int Port { get; init; } = DefaultPort;

    /// <summary>
    /// What clients have to send as <c>Authorization: Bearer KEY</c>; null where none is asked for, which takes a loopback address.
    /// </summary>
    public string? ApiKey { get; init; }

    /// <summary>What the model is called in requests and answers.</summary>
    public string ModelName { get; init; } = "xlstm";

    /// <summary>How a conversation becomes a text; null refuses conversations, for <see cref="ChatFault"/>.</summary>
    public ChatTemplate? Chat { get; init; } = ChatTemplate.Plain;

    /// <summary>Why there is no <see cref="Chat"/>.</summary>
    public string? ChatFault { get; init; }

    /// <summary>The most tokens that a prompt may have.</summary>
    public int MaxPromptTokens { get; init; } = DefaultMaxPromptTokens;

    /// <summary>
    /// The most tokens that may be generated for a choice; a conversation's answer that asks for no number gets this one.
    /// </summary>
    public int MaxTokens { get; init; } = DefaultMaxTokens;

    /// <summary>The most choices of a request, over all of its prompts.</summary>
    public int MaxChoices { get; init; } = 8;

    /// <summary>The most bytes of a request's body.</summary>
    public int MaxBodyBytes { get; init; } = DefaultMaxBodyBytes;

    /// <summary>The most connections at a time.</summary>
    public int MaxConnections { get; init; } = 1024;

    /// <summary>The time that a request may take, its waiting included.</summary>
    public TimeSpan RequestTime { get; init; } = TimeSpan.FromSeconds(DefaultRequestSeconds);

    /// <summary>The time that running requests have to end once the server is to stop; then they are cut.</summary>
    public TimeSpan ShutdownTime { get; init; } = TimeSpan.FromSeconds(DefaultShutdownSeconds);

    /// <summary>Looks at every option.</summary>
    /// <exception cref="ArgumentException">An option makes no sense; the message says which and what is expected.</exception>
    public void Validate()
    {
        Require(Port is >= 0 and <= 65_535, nameof(Port), "from 0 (any) to 65535", Port);
        Require(!string.IsNullOrWhiteSpace(ModelName), nameof(ModelName), "a name that requests can give", $"'{ModelName}'");
        Require(MaxPromptTokens >= 1, nameof(MaxPromptTokens), "at least 1", MaxPromptTokens);
        Require(MaxTokens >= 1, nameof(MaxTokens), "at least 1", MaxTokens);
        Require(MaxChoices >= 1, nameof(MaxChoices), "at least 1", MaxChoices);
        Require(MaxBodyBytes >= 1, nameof(MaxBodyBytes), "at least 1", MaxBodyBytes);
        Require(MaxConnections >= 1, nameof(MaxConnections), "at least 1", MaxConnections);
        Require(RequestTime > TimeSpan.Zero, nameof(RequestTime), "more than 0", RequestTime);
        Require(ShutdownTime >= TimeSpan.Zero, nameof(ShutdownTime), "0 or more", ShutdownTime);
        if (ApiKey is { } key && (key.Length == 0 || key.Any(c => c is <= ' ' or > '~')))
        {
            throw new ArgumentException($"Expected {nameof(ApiKey)} of printable ASCII without spaces: it is sent in a header.");
        }

        if (ApiKey is null && !IPAddress.IsLoopback(Address))
        {
            throw new ArgumentException(
                $"Listening at {Address} lets other machines in: that takes an API key. "
                + $"Or listen at {IPAddress.Loopback}, which only this machine reaches.");
        }
    }

    private static void Require(bool holds, string name, string expected, object value)
    {
        if (!holds)
        {
            throw new ArgumentException(FormattableString.Invariant($"Expected {name} to be {expected}, got {value}."));
        }
    }
}
