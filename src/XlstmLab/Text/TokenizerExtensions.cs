using System.Text;

namespace XlstmLab.Text;

/// <summary>How far a tokenizer has come.</summary>
/// <param name="Documents">Documents done.</param>
/// <param name="TotalDocuments">All documents.</param>
/// <param name="Tokens">Tokens made so far.</param>
public readonly record struct TokenizingProgress(int Documents, int TotalDocuments, long Tokens);

/// <summary>Documents as tokens.</summary>
public static class TokenizerExtensions
{
    /// <summary>The tokens of a document, or of its beginning, opened by the end of document.</summary>
    /// <exception cref="ArgumentException">The text holds what the tokenizer's vocabulary lacks.</exception>
    public static int[] EncodeDocument(this ITokenizer tokenizer, string text) => [tokenizer.EndOfDocument, .. tokenizer.Encode(text)];

    /// <summary>The tokens of each document, opened by the end of document; documents are encoded in parallel.</summary>
    /// <exception cref="ArgumentException">A text holds what the tokenizer's vocabulary lacks.</exception>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    public static TokenDocuments EncodeDocuments(
        this ITokenizer tokenizer,
        IReadOnlyList<Document> documents,
        IProgress<TokenizingProgress>? progress = null,
        CancellationToken cancellationToken = default)
    {
        var (encoded, textBytes) = (new int[documents.Count][], new long[documents.Count]);
        var (done, tokens) = (0, 0L);
        try
        {
            Parallel.For(0, encoded.Length, new ParallelOptions { CancellationToken = cancellationToken }, k =>
            {
                textBytes[k] = Encoding.UTF8.GetByteCount(documents[k].Text);
                encoded[k] = tokenizer.EncodeDocument(documents[k].Text);
                var total = Interlocked.Add(ref tokens, encoded[k].Length);
                progress?.Report(new TokenizingProgress(Interlocked.Increment(ref done), encoded.Length, total));
            });
        }
        catch (AggregateException e)
        {
            // One cause is enough for the caller, and the same kind of exception that a single text would have given.
            System.Runtime.ExceptionServices.ExceptionDispatchInfo.Throw(e.InnerExceptions[0]);
        }

        return new(tokenizer, encoded, textBytes);
    }
}
