using XlstmLab.Text;

namespace XlstmLab.Evaluation.LogLikelihood;

/// <summary>A request as tokens.</summary>
/// <param name="Context">The tokens before, C of them, at least one.</param>
/// <param name="Continuation">The tokens to score, K of them, at least one.</param>
/// <param name="TokensCut">The number of tokens that the context lost from the left.</param>
internal sealed record TokenizedRequest(int[] Context, int[] Continuation, int TokensCut)
{
    /// <summary>Encodes a request as lm-evaluation-harness does (TemplateLM._encode_pair).</summary>
    /// <remarks>
    /// White space that ends the context goes over to the continuation. The context is encoded alone; the continuation is what the encoding
    /// of the joined text has beyond as many tokens. The model reads C + K - 1 tokens; where that is more than the limit the context, the
    /// end of document that opens it included, is cut from the left.
    /// </remarks>
    /// <exception cref="ArgumentException">The continuation has no tokens of its own, or more than the limit.</exception>
    public static TokenizedRequest Encode(ScoreRequest request, ITokenizer tokenizer, ScoringOptions options)
    {
        var (context, before, whole) = Tokens(request, tokenizer);
        if (whole.Length <= before.Length)
        {
            throw new ArgumentException(
                $"The continuation '{request.Continuation}' has no token of its own after '{Tail(context)}': "
                + "expected text that the tokenizer does not merge into the context; begin it with a space, "
                + $"or leave such questions of a task out by --skip-joined ({nameof(TaskOptions)}.{nameof(TaskOptions.SkipJoined)}).",
                nameof(request));
        }

        int[] scored = whole[before.Length..];
        if (options.Prefix == DocumentPrefix.Always || before.Length == 0)
        {
            before = [tokenizer.EndOfDocument, .. before];
        }

        if (scored.Length > options.MaxTokens)
        {
            throw new ArgumentException(
                $"The continuation '{request.Continuation}' has {scored.Length} tokens, and {nameof(ScoringOptions.MaxTokens)} is "
                + $"{options.MaxTokens}: only contexts are cut; allow at least as many tokens as the longest continuation has.",
                nameof(request));
        }

        var cut = Math.Max(0, before.Length + scored.Length - 1 - (options.MaxTokens ?? int.MaxValue));
        return new(before[cut..], scored, cut);
    }

    /// <summary>Whether the tokenizer merges the continuation into the context, so that it has no token of its own.</summary>
    public static bool IsJoined(ScoreRequest request, ITokenizer tokenizer)
    {
        var (_, before, whole) = Tokens(request, tokenizer);
        return whole.Length <= before.Length;
    }

    private static (string Context, int[] Before, int[] Whole) Tokens(ScoreRequest request, ITokenizer tokenizer)
    {
        var context = request.Context.TrimEnd();
        return (context, tokenizer.Encode(context), tokenizer.Encode(request.Context + request.Continuation));
    }

    private static string Tail(string text) => text.Length <= 40 ? text : $"...{text[^40..]}";
}
