namespace XlstmLab.Operations;

/// <summary>What makes the mLSTM's input gate out of its pre-activation.</summary>
public enum InputGate
{
    /// <summary>exp(i~), stabilised by a running maximum (xLSTM 7B, eq. 4).</summary>
    Exponential,

    /// <summary>sigmoid(i~), which needs no maximum (mLSTMsig, Beck et al. 2025b).</summary>
    Sigmoid,

    /// <summary>1, whatever the pre-activation: everything is let in (xLSTM, table 2).</summary>
    None,
}

/// <summary>What makes the forget gate out of its pre-activation.</summary>
public enum ForgetGate
{
    /// <summary>sigmoid(f~) (xLSTM 7B, eq. 5).</summary>
    Sigmoid,

    /// <summary>
    /// exp(f~), stabilised by the running maximum (xLSTM, eqs. 14 and 26). Above f~ = 0 the past outgrows the present: biases belong at or
    /// below 0, not at a sigmoid's 3 to 6.
    /// </summary>
    Exponential,

    /// <summary>1, whatever the pre-activation: nothing is forgotten (xLSTM, table 2).</summary>
    None,
}

/// <summary>The three ways to compute one and the same mLSTM.</summary>
public enum MLstmForm
{
    /// <summary>Parallel inside a chunk, recurrent between chunks: time linear in the length. For training.</summary>
    Chunkwise,

    /// <summary>Token by token. For generation, and the reference for the others.</summary>
    Recurrent,

    /// <summary>All tokens at once: time quadratic in the length.</summary>
    Parallel,
}

/// <summary>How gradients pass the mLSTM's denominator max(|n q|, exp(-m)).</summary>
public enum NormalizerGradient
{
    /// <summary>The derivative of what is computed.</summary>
    Exact,

    /// <summary>
    /// The denominator counts as a constant, the rule of the published kernels. It equals the exact gradient where a
    /// scale-invariant norm follows the cell (the head norm, up to its epsilon), and differs elsewhere.
    /// </summary>
    Constant,
}

/// <summary>What an mLSTM computes, and how.</summary>
public sealed record MLstmOptions
{
    /// <summary>The input gate.</summary>
    public InputGate InputGate { get; init; }

    /// <summary>The forget gate.</summary>
    public ForgetGate ForgetGate { get; init; }

    /// <summary>
    /// Whether h is divided by max(|n q|, exp(-m)) + epsilon. If it is not, and a gate is exponential, h counts in units of exp(m), which
    /// a norm within each head takes out, and gradients count m as a constant.
    /// </summary>
    public bool Normalize { get; init; } = true;

    /// <summary>The epsilon of the denominator.</summary>
    public double Epsilon { get; init; } = 1e-6;

    /// <summary>The form of the computation.</summary>
    public MLstmForm Form { get; init; }

    /// <summary>The chunkwise form's number of tokens in a chunk, L.</summary>
    public int ChunkSize { get; init; } = 64;

    /// <summary>How gradients pass the denominator.</summary>
    public NormalizerGradient NormalizerGradient { get; init; }

    /// <summary>Whether there is a running maximum m: an exponential gate may exceed 1, the others' products never do.</summary>
    public bool Stabilizes => InputGate.MayExceedOne() || ForgetGate.MayExceedOne();

    /// <summary>Whether gradients count m as a constant.</summary>
    internal bool DetachesStabilizer => !Normalize || NormalizerGradient == NormalizerGradient.Constant;

    /// <summary>Whether there is an m that gradients pass.</summary>
    internal bool HasPathThroughScale => Stabilizes && !DetachesStabilizer;
}
