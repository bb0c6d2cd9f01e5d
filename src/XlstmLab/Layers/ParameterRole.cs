namespace XlstmLab.Layers;

/// <summary>What a parameter is in its model, which decides how it is updated.</summary>
public enum ParameterRole
{
    /// <summary>
    /// The weight [output, input] of a projection or a recurrent layer inside a block: Muon's, where that is asked for; it decays.
    /// </summary>
    HiddenMatrix,

    /// <summary>The weight of a projection outside of blocks, as a language model's head; it decays.</summary>
    Head,

    /// <summary>
    /// Another weight of two dimensions or more, as of a convolution, head-wise matrices, an mLSTM's gates of one number a head, or an
    /// sLSTM's recurrent kernel; it decays.
    /// </summary>
    Weight,

    /// <summary>A table of embeddings, and a head that is tied to it: it does not decay.</summary>
    Embedding,

    /// <summary>All else, as norms, biases of any shape, learnable skips and the rates of Mamba's states: it does not decay.</summary>
    Vector,
}

/// <summary>Says what a parameter that a module holds itself is.</summary>
/// <example><code>
/// [Role(ParameterRole.Vector), ComponentName(Name = "A_log")]
/// private readonly Parameter _logRates;
/// </code></example>
/// <param name="role">The role; <see cref="ParameterRole.HiddenMatrix"/> outside of a block is <see cref="ParameterRole.Head"/>.</param>
[AttributeUsage(AttributeTargets.Field)]
public sealed class RoleAttribute(ParameterRole role) : Attribute
{
    /// <summary>The role.</summary>
    public ParameterRole Role { get; } = role;
}
