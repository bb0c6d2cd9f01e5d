using static TorchSharp.torch;

namespace XlstmLab.Text;

/// <summary>Rows of packed tokens, one longer than the model reads: the last column is only a target.</summary>
/// <remarks>
/// A document is its end-of-document token (EOD) followed by its text: the EOD that opens a document is the target that ends the
/// one before. <see cref="DocumentStarts"/> is true at each EOD, where a model resets its state.
/// </remarks>
/// <param name="Tokens">[Rows, Columns] token ids, row by row.</param>
/// <param name="DocumentStarts">[Rows, Columns], true at the first token of a document.</param>
/// <param name="Rows">The number of sequences, B.</param>
/// <param name="Columns">The number of tokens of a row, S + 1.</param>
public sealed record TokenBatch(int[] Tokens, bool[] DocumentStarts, int Rows, int Columns)
{
    /// <summary>The tokens as a tensor [Rows, Columns] int64.</summary>
    public Tensor ToTokenTensor(Device? device = null) =>
        tensor(Tokens, [Rows, Columns], int64, device);

    /// <summary>The document starts as a tensor [Rows, Columns] bool.</summary>
    public Tensor ToDocumentStartTensor(Device? device = null) =>
        tensor(DocumentStarts, [Rows, Columns], @bool, device);
}
