namespace XlstmLab.Layers;

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
