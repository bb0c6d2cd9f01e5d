using XlstmLab.Models;

namespace XlstmLab.Inference;

/// <summary>Why a text ended.</summary>
public enum FinishReason
{
    /// <summary>It has as many tokens as were allowed.</summary>
    Length,

    /// <summary>The model ended the document.</summary>
    EndOfDocument,

    /// <summary>It holds a stop string.</summary>
    StopString,
}

/// <summary>One generated token.</summary>
/// <param name="Id">Its id.</param>
/// <param name="LogProbability">
/// The natural logarithm of the probability that the model itself gives it, before penalty, temperature and filters.
/// </param>
/// <param name="FinishReason">Why it is the last one; null if others follow.</param>
/// <param name="Likeliest">
/// The model's likeliest tokens in its place, the likeliest first and of equals the lowest id: as many as
/// <see cref="GenerationOptions.TopLogProbabilities"/> asked for; null if that is none.
/// </param>
public readonly record struct GeneratedToken(
    int Id, double LogProbability, FinishReason? FinishReason, IReadOnlyList<TokenLogProbability>? Likeliest = null);

/// <summary>A token and what the model gives it.</summary>
/// <param name="Id">Its id.</param>
/// <param name="LogProbability">The natural logarithm of its probability, before penalty, temperature and filters.</param>
public readonly record struct TokenLogProbability(int Id, double LogProbability);

/// <summary>What was generated after one prompt.</summary>
/// <param name="Tokens">All ids, an end of document or the tokens of a stop string at the end included.</param>
/// <param name="Text">Their text, up to the stop string.</param>
/// <param name="LogProbability">The sum of the tokens' logarithms of probability.</param>
/// <param name="FinishReason">Why it ended.</param>
public sealed record GeneratedSequence(int[] Tokens, string Text, double LogProbability, FinishReason FinishReason)
{
    /// <summary>The tokens one by one, with a logarithm of probability each.</summary>
    public IReadOnlyList<GeneratedToken> Steps { get; init; } = [];
}

/// <summary>What was generated after several prompts.</summary>
/// <param name="Sequences">One for each prompt, in their order.</param>
/// <param name="State">
/// If it was asked for: row r has read prompt r and all of its generated tokens but the last, which would be the first token of a
/// prompt that goes on. The caller owns it.
/// </param>
public sealed record GenerationResult(IReadOnlyList<GeneratedSequence> Sequences, ModelState? State);
