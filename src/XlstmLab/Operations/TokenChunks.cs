using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>A sequence of S tokens cut into NC chunks of L, the last filled up.</summary>
internal sealed class TokenChunks
{
    private readonly long _length;

    /// <summary>Cuts a sequence into chunks of a size; into one chunk where it is shorter than that.</summary>
    public TokenChunks(long length, long size)
    {
        _length = length;
        Size = Math.Min(size, length);
        Count = (length + Size - 1) / Size;
    }

    /// <summary>The number of tokens in a chunk, L.</summary>
    public long Size { get; }

    /// <summary>The number of chunks, NC.</summary>
    public long Count { get; }

    /// <summary>(B, NH, S, ...) to (B, NH, NC, L, ...), the last chunk filled up.</summary>
    public Tensor Split(Tensor x, double filling = 0)
    {
        var padded = Count * Size;
        if (padded != _length)
        {
            var shape = x.shape;
            shape[2] = padded - _length;
            x = cat([x, full(shape, filling, dtype: x.dtype, device: x.device)], 2);
        }

        return x.unflatten(2, [Count, Size]);
    }

    /// <summary>(B, NH, NC, L, ...) to (B, NH, S, ...), contiguous.</summary>
    public Tensor Flatten(Tensor x) => x.flatten(2, 3).narrow(2, 0, _length).contiguous();
}
