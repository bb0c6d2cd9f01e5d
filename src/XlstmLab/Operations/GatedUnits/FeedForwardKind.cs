namespace XlstmLab.Operations;

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
