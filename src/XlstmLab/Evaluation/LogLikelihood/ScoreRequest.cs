namespace XlstmLab.Evaluation.LogLikelihood;

/// <summary>Asks for log p(continuation | context).</summary>
/// <param name="Context">The text before; may be empty.</param>
/// <param name="Continuation">The text whose probability is asked for; a space between the two belongs to it.</param>
public readonly record struct ScoreRequest(string Context, string Continuation);

/// <summary>What a model makes of a continuation.</summary>
/// <param name="LogLikelihood">log p(continuation | context), the sum over its tokens, in nats.</param>
/// <param name="Tokens">The number of tokens of the continuation, K.</param>
/// <param name="IsGreedy">Whether greedy decoding from the context gives the continuation.</param>
/// <param name="TokensCut">The number of tokens that the context lost from the left.</param>
public readonly record struct ContinuationScore(double LogLikelihood, int Tokens, bool IsGreedy, int TokensCut);

/// <summary>How far scoring has come.</summary>
/// <param name="Requests">Requests scored.</param>
/// <param name="TotalRequests">All requests.</param>
/// <param name="Tokens">Tokens read so far, without padding; fewer than the requests' where contexts are shared.</param>
/// <param name="TotalTokens">All tokens to read.</param>
public readonly record struct ScoringProgress(int Requests, int TotalRequests, long Tokens, long TotalTokens);
