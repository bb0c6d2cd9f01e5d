namespace XlstmLab.Operations;

/// <summary>What an sLSTM computes, and how it is trained.</summary>
public sealed record SLstmOptions
{
    /// <summary>The forget gate, sigmoid or exponential (the first paper, eq. 14).</summary>
    public ForgetGate ForgetGate { get; init; }

    /// <summary>
    /// The largest absolute value of each element of the gradient that goes back through the recurrent kernel from one token to
    /// the one before (the first paper uses 10); null leaves it as it is. Gradients of the last state are not clipped.
    /// </summary>
    public double? RecurrentGradientClip { get; init; }
}
