using static TorchSharp.torch;

namespace XlstmLab.Mixers;

/// <summary>What mixes the tokens of a sequence in a block: an mLSTM, attention, or a recurrence of one's own.</summary>
/// <remarks>
/// A mixer is written once and stands in every block of every model. It begins where <see cref="MixerPass.Before"/> says, or empty, and
/// gives what it remembers to <see cref="MixerPass.Keep"/>: read whole or in pieces, a sequence then gives the same. No token may see a
/// later one or another document's, and padding leaves the memory as it is (<see cref="MixerPass.Recur"/> sees to all that for a
/// recurrence). Modules and parameters are fields, as in every module of TorchSharp; tensors that are neither are none.
/// </remarks>
/// <param name="name">The module's name.</param>
public abstract class Mixer(string name = nameof(Mixer)) : nn.Module(name)
{
    /// <summary>Mixes a sequence.</summary>
    /// <param name="x">[B, S, d].</param>
    /// <param name="convolved">
    /// [B, S, d] what queries and keys, or whatever is like them, look at: SiLU(conv(x)) where a convolution stands before, else x itself.
    /// A mixer with a single input reads this one.
    /// </param>
    /// <param name="pass">The memory before and after, document starts and padding, and who looks on.</param>
    /// <returns>[B, S, d] in the type of x.</returns>
    public abstract Tensor Forward(Tensor x, Tensor convolved, MixerPass pass);

    /// <summary>Draws fresh weights, in place; called under <c>no_grad</c>.</summary>
    /// <param name="inputStd">The standard deviation of what reads the stream.</param>
    /// <param name="outputStd">That of what writes into it.</param>
    /// <param name="generator">Where chance comes from: nothing else may be drawn from.</param>
    public abstract void Initialize(double inputStd, double outputStd, Generator generator);

    /// <summary>Whether it keeps memory that all blocks share.</summary>
    internal virtual bool SharesState => false;

    /// <summary>One memory of all sequences of several, in their order; only what grows with the tokens needs more than this.</summary>
    /// <param name="states">What was kept, by name, each [B, ...].</param>
    public virtual IReadOnlyDictionary<string, Tensor> JoinStates(IReadOnlyList<IReadOnlyDictionary<string, Tensor>> states)
    {
        ArgumentNullException.ThrowIfNull(states);
        return states[0].Keys.ToDictionary(name => name, name => cat([.. states.Select(s => s[name])], 0));
    }
}

/// <summary>The place in a model that a mixer is made for.</summary>
/// <param name="Width">The width of what it reads and gives, d.</param>
/// <param name="Block">The index of its block, from 0.</param>
/// <param name="BlockCount">The number of blocks, L.</param>
public sealed record MixerSite(int Width, int Block = 0, int BlockCount = 1)
{
    /// <summary>The width of the residual stream: in a pre-up block, whose mixer stands inside an up-projection, another one.</summary>
    public int StreamWidth { get; init; } = Width;

    /// <summary>The number of heads for mixers that do not say their own.</summary>
    public int HeadCount { get; init; } = 1;

    /// <summary>The epsilon of norms for mixers that do not say their own.</summary>
    public double NormEpsilon { get; init; } = 1e-6;
}
