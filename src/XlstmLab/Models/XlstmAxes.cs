namespace XlstmLab.Models;

/// <summary>How a layer's projections are stored.</summary>
public enum WeightMode
{
    /// <summary>One matrix for each of q, k, v, o, the two gates and the two halves of a gated feed-forward layer.</summary>
    Single,

    /// <summary>One matrix for q, k, v and o, one for both gates if they are of one kind, one for a gated feed-forward layer's input side.</summary>
    Fused,
}

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

/// <summary>What an mLSTM gate's pre-activation is made of (xLSTM, table 2, lower part; xLSTM 7B, figure 13).</summary>
public enum GatePreactivation
{
    /// <summary>Weights and a bias, both learned.</summary>
    Learned,

    /// <summary>A learned bias alone: every token gets the same.</summary>
    BiasOnly,

    /// <summary>The bias as it is initialised, never trained. The soft cap acts on it as on all: at a cap of 15, -10 becomes -8.7.</summary>
    Fixed,
}

/// <summary>What the mLSTM's gates look at.</summary>
public enum GateSource
{
    /// <summary>The layer's input x (xLSTM 7B, section 3.1).</summary>
    Input,

    /// <summary>q, k and v, concatenated over all heads (the first paper's code).</summary>
    Qkv,
}

/// <summary>A norm of the residual stream (xLSTM 7B, figure 9).</summary>
public enum NormKind
{
    /// <summary>x / sqrt(mean(x^2) + eps).</summary>
    Rms,

    /// <summary>(x - mean(x)) / sqrt(var(x) + eps).</summary>
    Layer,

    /// <summary>No norm.</summary>
    None,
}

/// <summary>The norm of the mLSTM's output h (xLSTM 7B, figure 9).</summary>
public enum HeadNormKind
{
    /// <summary>A LayerNorm within each head.</summary>
    Layer,

    /// <summary>An RMSNorm within each head.</summary>
    Rms,

    /// <summary>A GroupNorm over <see cref="XlstmConfig.HeadNormGroups"/> groups of neighbouring channels.</summary>
    Group,

    /// <summary>No norm.</summary>
    None,
}

/// <summary>The feed-forward layer of a post-up block.</summary>
public enum FeedForwardKind
{
    /// <summary>W_down(SiLU(W_gate x) * W_up x).</summary>
    SwiGlu,

    /// <summary>W_down(GELU(W_gate x) * W_up x).</summary>
    GeGlu,

    /// <summary>W_down GELU(W_up x).</summary>
    Mlp,

    /// <summary>W_down ReLU(W_up x)^2 (xLSTM, table 8).</summary>
    ReluSquared,

    /// <summary>No feed-forward layer.</summary>
    None,
}

/// <summary>The standard deviation that weights are drawn with.</summary>
public enum WeightInit
{
    /// <summary>sqrt(2 / (5 d)).</summary>
    Small,

    /// <summary>2 / (L sqrt(d)) for L blocks.</summary>
    Wang,

    /// <summary>1 / (L sqrt(d)): Wang's for twice the number of blocks.</summary>
    Wang2,

    /// <summary><see cref="XlstmConfig.InitStd"/>.</summary>
    Normal,
}

/// <summary>What the sLSTM's recurrent weights start as.</summary>
public enum RecurrentInit
{
    /// <summary>Zero: at first no token sees the one before through R (the first paper's code).</summary>
    Zeros,

    /// <summary>Uniform between -1/sqrt(D) and 1/sqrt(D), D the width of a head.</summary>
    Uniform,

    /// <summary>Normal with standard deviation 1/sqrt(D), D the width of a head.</summary>
    Normal,
}

/// <summary>What the sLSTM's forget-gate biases start as.</summary>
public enum SLstmForgetBias
{
    /// <summary>5 - 12 (j / (D - 1))^(0.3 + 1.3 l / (L - 1)) for unit j of D and block l of L: from 5 down to -7 (the first paper's code).</summary>
    PowerLaw,

    /// <summary>Evenly from <see cref="XlstmConfig.ForgetGateBiasFirst"/> to <see cref="XlstmConfig.ForgetGateBiasLast"/> over a head's units.</summary>
    Linear,
}
