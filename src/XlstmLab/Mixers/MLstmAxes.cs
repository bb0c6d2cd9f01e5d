namespace XlstmLab.Mixers;

/// <summary>What an mLSTM gate's pre-activation is made of (xLSTM, table 2, lower part; xLSTM 7B, figure 13).</summary>
public enum GatePreactivation
{
    /// <summary>Weights and a bias, both learned.</summary>
    Learned,

    /// <summary>A learned bias alone: every token gets the same.</summary>
    BiasOnly,

    /// <summary>
    /// The bias as it is initialised, never trained. The soft cap acts on it as on all: at a cap of 15, -10 becomes -8.7.
    /// </summary>
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
