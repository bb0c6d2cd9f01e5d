namespace XlstmLab.Text;

/// <summary>Counts the bytes of text that the tokens of documents stand for, in their order.</summary>
/// <remarks>
/// The bytes of a text are shared out among its tokens in proportion to the bytes that each spells: exact where the tokenizer leaves texts
/// as they are, and for whole documents always.
/// </remarks>
internal sealed class TextByteCounter(ITokenizer tokenizer, IEnumerable<(int[] Tokens, long TextBytes)> documents) : IDisposable
{
    private readonly IEnumerator<(int[] Tokens, long TextBytes)> _documents = documents.GetEnumerator();
    private int[] _tokens = [];
    private long _textBytes;
    private long _total;
    private long _spelt;
    private int _next;

    /// <summary>The bytes of text of the next tokens.</summary>
    /// <param name="count">How many tokens; there must be so many.</param>
    public long Next(long count)
    {
        var bytes = 0L;
        for (; count > 0; count--)
        {
            while (_next == _tokens.Length)
            {
                Open();
            }

            var before = Share(_next);
            _spelt += tokenizer.Bytes(_tokens[_next]).Length;
            _next++;
            bytes += Share(_next) - before;
        }

        return bytes;
    }

    /// <inheritdoc/>
    public void Dispose() => _documents.Dispose();

    private void Open()
    {
        if (!_documents.MoveNext())
        {
            throw new InvalidOperationException("There are fewer tokens in the documents than are counted.");
        }

        (_tokens, _textBytes) = _documents.Current;
        (_next, _spelt, _total) = (0, 0, _tokens.Sum(id => (long)tokenizer.Bytes(id).Length));
    }

    /// <summary>The bytes of text of a document's first tokens.</summary>
    private long Share(int tokens) =>
        tokens == _tokens.Length ? _textBytes : _total == 0 ? 0 : (long)((Int128)_textBytes * _spelt / _total);
}
