namespace XlstmLab.Layers;

/// <summary>The standard deviation that weights are drawn with.</summary>
public enum WeightInit
{
    /// <summary>sqrt(2 / (5 d)).</summary>
    Small,

    /// <summary>2 / (L sqrt(d)) for L blocks.</summary>
    Wang,

    /// <summary>1 / (L sqrt(d)): Wang's for twice the number of blocks.</summary>
    Wang2,

    /// <summary>One that is given.</summary>
    Normal,
}
