namespace XlstmLab.Models;

/// <summary>Where a block widens the stream.</summary>
public enum BlockStyle
{
    /// <summary>The mixer works in the stream's width, and a feed-forward layer follows it (xLSTM 7B, section 3.2; figure 8).</summary>
    PostUp,

    /// <summary>
    /// The mLSTM works inside an up-projection, with a causal convolution, block-diagonal q k v, a learnable skip and a SiLU gate, and no
    /// feed-forward layer follows (xLSTM, figure 11). Blocks with an sLSTM are post-up in this style too (xLSTM, figure 10).
    /// </summary>
    PreUp,
}
