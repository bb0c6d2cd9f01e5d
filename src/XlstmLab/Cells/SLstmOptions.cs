namespace XlstmLab.Cells;

/// <summary>How an sLSTM is trained.</summary>
public sealed record SLstmOptions
{
    /// <summary>
    /// The largest absolute value of each element of the gradient that goes back through the recurrent kernel from one token to
    /// the one before (the first paper uses 10); null leaves it as it is. Gradients of the last state are not clipped.
    /// </summary>
    public double? RecurrentGradientClip { get; init; }
}
