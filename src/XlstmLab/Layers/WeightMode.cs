namespace XlstmLab.Layers;

/// <summary>How a layer's projections are stored.</summary>
public enum WeightMode
{
    /// <summary>One matrix for each of q, k, v, o, the two gates and the two halves of a gated feed-forward layer.</summary>
    Single,

    /// <summary>
    /// One matrix for q, k, v and o, one for both gates if they are of one kind, one for a gated feed-forward layer's input side.
    /// </summary>
    Fused,
}
