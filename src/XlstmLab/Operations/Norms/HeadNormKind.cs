namespace XlstmLab.Operations;

/// <summary>The norm of the mLSTM's output h (xLSTM 7B, figure 9).</summary>
public enum HeadNormKind
{
    /// <summary>A LayerNorm within each head.</summary>
    Layer,

    /// <summary>An RMSNorm within each head.</summary>
    Rms,

    /// <summary>A GroupNorm over groups of neighbouring channels.</summary>
    Group,

    /// <summary>No norm.</summary>
    None,
}
