namespace XlstmLab.Mixers;

/// <summary>What the sLSTM's recurrent weights start as.</summary>
public enum RecurrentInit
{
    /// <summary>Zero: at first no token sees the one before through R (the first paper's code).</summary>
    Zeros,

    /// <summary>Uniform between -1/sqrt(D) and 1/sqrt(D), D the width of a head.</summary>
    Uniform,

    /// <summary>Normal with standard deviation 1/sqrt(D), D the width of a head.</summary>
    Normal,
}

/// <summary>What the sLSTM's forget-gate biases start as.</summary>
public enum SLstmForgetBias
{
    /// <summary>
    /// 5 - 12 (j / (D - 1))^(0.3 + 1.3 l / (L - 1)) for unit j of D and block l of L: from 5 down to -7 (the first paper's code).
    /// </summary>
    PowerLaw,

    /// <summary>Evenly from the first to the last forget-gate bias of the configuration over a head's units.</summary>
    Linear,
}
