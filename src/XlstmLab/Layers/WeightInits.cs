namespace XlstmLab.Layers;

/// <summary>The standard deviations that projections are drawn with.</summary>
public static class WeightInits
{
    /// <summary>The standard deviation of an initialisation.</summary>
    /// <param name="init">The initialisation.</param>
    /// <param name="dim">The width of the stream, d.</param>
    /// <param name="blockCount">The number of blocks, L.</param>
    /// <param name="normal">That of <see cref="WeightInit.Normal"/>.</param>
    public static double StandardDeviation(WeightInit init, int dim, int blockCount, double normal) => init switch
    {
        WeightInit.Small => Math.Sqrt(2.0 / (5 * dim)),
        WeightInit.Wang => 2.0 / (blockCount * Math.Sqrt(dim)),
        WeightInit.Wang2 => 1.0 / (blockCount * Math.Sqrt(dim)),
        WeightInit.Normal => normal,
        _ => throw UnknownValue.Of(init),
    };
}
