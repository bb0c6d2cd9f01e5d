using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>What kernels read of tokens that lie in a wider product: rows at equal distances, each in one piece.</summary>
internal static class TokenRows
{
    /// <summary>The tensor itself if it is such rows, with starts and distances that are multiples of some elements; else a copy.</summary>
    /// <param name="x">[B, S, C].</param>
    /// <param name="multiple">The elements.</param>
    public static Tensor Of(Tensor x, int multiple)
    {
        var (shape, strides) = (x.shape, x.stride());
        var fits = strides[2] == 1 && strides[0] == shape[1] * strides[1] && strides[1] % multiple == 0
            && x.storage_offset() % multiple == 0;
        return fits ? x : x.contiguous();
    }

    /// <summary>The elements from one token to the next.</summary>
    public static int Distance(Tensor rows) => (int)rows.stride(1);
}
