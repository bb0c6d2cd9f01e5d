namespace XlstmLab.Text;

/// <summary>Text to token ids and back.</summary>
public interface ITokenizer
{
    /// <summary>The number of token ids.</summary>
    int VocabularySize { get; }

    /// <summary>The token that opens every document and so ends the one before.</summary>
    int EndOfDocument { get; }

    /// <summary>The ids of a text, without any that the text does not spell.</summary>
    int[] Encode(string text);

    /// <summary>The text of ids; ids that spell no text, such as the end of document, are left out.</summary>
    string Decode(IEnumerable<int> ids);

    /// <summary>The bytes that one id spells, none for special tokens: a character may be spread over several ids.</summary>
    ReadOnlySpan<byte> Bytes(int id);
}
