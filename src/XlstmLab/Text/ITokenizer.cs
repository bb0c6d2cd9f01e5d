using System.Buffers.Binary;
using System.Security.Cryptography;

namespace XlstmLab.Text;

/// <summary>Text to token ids and back.</summary>
public interface ITokenizer
{
    /// <summary>The number of token ids.</summary>
    int VocabularySize { get; }

    /// <summary>The token that opens every document and so ends the one before.</summary>
    int EndOfDocument { get; }

    /// <summary>32 hexadecimal digits that tell tokenizers apart: equal ones give equal ids.</summary>
    /// <remarks>Without a tokenizer's own, it is a hash of all that ids spell.</remarks>
    string Fingerprint
    {
        get
        {
            using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
            var number = new byte[sizeof(int)];
            Append(EndOfDocument);
            for (var id = 0; id < VocabularySize; id++)
            {
                Append(Bytes(id).Length);
                hash.AppendData(Bytes(id));
            }

            return Convert.ToHexStringLower(hash.GetHashAndReset().AsSpan(0, 16));

            void Append(int value)
            {
                BinaryPrimitives.WriteInt32LittleEndian(number, value);
                hash.AppendData(number);
            }
        }
    }

    /// <summary>
    /// Whether tokens may spell other bytes than those of the text they were made of, as where it is normalized or a space is put before
    /// it: bits per byte then cannot be told from tokens alone.
    /// </summary>
    bool ChangesText => false;

    /// <summary>The ids of a text, without any that the text does not spell.</summary>
    int[] Encode(string text);

    /// <summary>The text of ids; ids that spell no text, such as the end of document, are left out.</summary>
    string Decode(IEnumerable<int> ids);

    /// <summary>The bytes that one id spells, none for special tokens: a character may be spread over several ids.</summary>
    ReadOnlySpan<byte> Bytes(int id);
}
