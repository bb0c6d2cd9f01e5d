using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>A sequence with the tokens before it, for what looks back a fixed number of tokens of the same document.</summary>
/// <param name="All">[B, P + S, C], the P tokens before and the sequence.</param>
/// <param name="Documents">[B, S], the documents of the sequence's tokens by number; null where no document begins.</param>
/// <param name="AllDocuments">[B, P + S], those of all; null as well.</param>
internal readonly record struct PastTokens(Tensor All, Tensor? Documents, Tensor? AllDocuments)
{
    /// <summary>Puts the tokens before in front of a sequence.</summary>
    /// <param name="x">[B, S, C].</param>
    /// <param name="before">[B, P, C], zero where a document had none; or null.</param>
    /// <param name="past">P.</param>
    /// <param name="starts">[B, S] bool, true where a document begins; or null.</param>
    public static PastTokens Of(Tensor x, Tensor? before, long past, Tensor? starts)
    {
        var batch = x.shape[0];
        var all = cat([before?.to(x.dtype) ?? zeros(batch, past, x.shape[2], dtype: x.dtype, device: x.device), x], 1);
        if (starts is null)
        {
            return new(all, null, null);
        }

        var documents = starts.to(ScalarType.Int64).cumsum(1);
        return new(all, documents, cat([zeros(batch, past, dtype: ScalarType.Int64, device: x.device), documents], 1));
    }

    /// <summary>The last P tokens, which the next token follows, [B, P, C]; zero where they are another document's.</summary>
    /// <param name="past">P.</param>
    /// <param name="real">[B, S] bool, true for tokens, which come first; or null.</param>
    public Tensor Last(long past, Tensor? real)
    {
        var (batch, length, device) = (All.shape[0], All.shape[1] - past, All.device);
        var count = real?.to(ScalarType.Int64).sum(1, keepdim: true) ?? full([batch, 1], length, dtype: ScalarType.Int64, device: device);
        var index = count + arange(past, device: device); // (B, P)
        var last = All.gather(1, index.unsqueeze(2).expand(-1, -1, All.shape[2]));
        return Documents is null ? last : last * AllDocuments!.gather(1, index).eq(Documents.narrow(1, length - 1, 1)).unsqueeze(2);
    }
}
