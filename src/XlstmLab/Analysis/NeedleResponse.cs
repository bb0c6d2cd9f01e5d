using XlstmLab.Models;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Analysis;

/// <summary>What a needle changed in one head, some tokens after it: the text with the needle against the same text without.</summary>
/// <param name="Layer">The block, from 0.</param>
/// <param name="Head">The head, from 0.</param>
/// <param name="Age">The tokens read since the needle; at 0 only states can be compared.</param>
/// <param name="Distance">The Frobenius distance of the two memories in units of 1, |exp(m) C - exp(m') C'|.</param>
/// <param name="RelativeDistance">The distance over the norm of the memory without the needle.</param>
/// <param name="InputChange">The logarithm of the input gate with the needle less without, in nats; NaN at age 0.</param>
/// <param name="ForgetChange">The logarithm of the forget gate with the needle less without, in nats; NaN at age 0.</param>
public sealed record NeedleEffect(
    int Layer, int Head, int Age, double Distance, double RelativeDistance, double InputChange, double ForgetChange);

/// <summary>What one head makes of a needle.</summary>
/// <param name="Layer">The block, from 0.</param>
/// <param name="Head">The head, from 0.</param>
/// <param name="InputExcess">
/// The mean logarithm of the input gate over the needle's tokens less that over the tokens before, in nats.
/// </param>
/// <param name="ForgetExcess">The same of the forget gate, in nats.</param>
/// <param name="Written">The relative distance of the memories just after the needle.</param>
/// <param name="Lifetime">
/// The tokens after the needle from which on the relative distance stays below 1/e of <paramref name="Written"/>, exponential between two
/// tokens; infinite where the text ends before, 0 where nothing was written. Other than a <see cref="TraceLifetime"/> it follows the
/// memory, not the gates: what is written after the needle in another way counts too.
/// </param>
public sealed record NeedleSummary(int Layer, int Head, double InputExcess, double ForgetExcess, double Written, double Lifetime);

/// <summary>What a needle does to gates and memories.</summary>
/// <remarks>
/// The model reads a text twice, with and without the needle, each time from an empty state. Since nothing in an mLSTM knows positions, the
/// tokens after the needle are the same to it but for what the needle left.
/// </remarks>
/// <param name="Effects">By block, head and age.</param>
/// <param name="Heads">By block and head.</param>
public sealed record NeedleResponse(IReadOnlyList<NeedleEffect> Effects, IReadOnlyList<NeedleSummary> Heads)
{
    /// <summary>Reads the text with and without the needle.</summary>
    /// <param name="model">The model; it is left as it is, its observer too.</param>
    /// <param name="before">The tokens before the needle, at least one.</param>
    /// <param name="needle">The needle's tokens, at least one.</param>
    /// <param name="after">The tokens after the needle, at least one.</param>
    /// <param name="cell">
    /// What the model's mLSTM computes; null takes it from an <see cref="XlstmLanguageModel"/>, or the 7B model's.
    /// </param>
    /// <exception cref="ArgumentException">A part is empty, or the model does not know a token.</exception>
    /// <exception cref="InvalidOperationException">The model has no mLSTM block.</exception>
    public static NeedleResponse Measure(
        LanguageModel model, ReadOnlySpan<int> before, ReadOnlySpan<int> needle, ReadOnlySpan<int> after, MLstmOptions? cell = null)
    {
        ArgumentNullException.ThrowIfNull(model);
        if (before.IsEmpty || needle.IsEmpty || after.IsEmpty)
        {
            throw new ArgumentException(
                $"Expected tokens before, in and after the needle, got {before.Length}, {needle.Length} and {after.Length} of them.");
        }

        var with = Read(model, [.. before, .. needle, .. after]);
        var without = Read(model, [.. before, .. after]);
        if (with.Count == 0)
        {
            throw new InvalidOperationException(
                "The model showed no mLSTM to its observer: a needle's traces are sought in their memories.");
        }

        var effects = new List<NeedleEffect>();
        var heads = new List<NeedleSummary>();
        foreach (var (a, b) in with.Zip(without))
        {
            for (var head = 0; head < a.HeadCount; head++)
            {
                var (summary, ages) = Compare(
                    a, b, head, before.Length, needle.Length, after.Length, cell ?? BlockActivations.CellOf(model, a.Layer));
                heads.Add(summary);
                effects.AddRange(ages);
            }
        }

        return new(effects, heads);
    }

    private static (NeedleSummary Summary, NeedleEffect[] Ages) Compare(
        Activations with, Activations without, int head, int before, int needle, int after, MLstmOptions cell)
    {
        var (a, b) = (with.Memory(cell), without.Memory(cell));
        double input = 0, forget = 0;
        for (var t = 0; t < before; t++)
        {
            with.Read(a, head, t);
            without.Read(b, head, t);
            input -= a.LogInput / before;
            forget -= a.LogForget / before;
        }

        for (var t = before; t < before + needle; t++)
        {
            with.Read(a, head, t);
            input += a.LogInput / needle;
            forget += a.LogForget / needle;
        }

        var ages = new NeedleEffect[after + 1];
        ages[0] = Effect(double.NaN, double.NaN);
        for (var age = 1; age <= after; age++)
        {
            with.Read(a, head, before + needle + age - 1);
            without.Read(b, head, before + age - 1);
            ages[age] = Effect(a.LogInput - b.LogInput, a.LogForget - b.LogForget) with { Age = age };
        }

        return (new(with.Layer, head, input, forget, ages[0].RelativeDistance, Lifetime(ages)), ages);

        NeedleEffect Effect(double inputChange, double forgetChange)
        {
            var distance = a.LogDistanceTo(b);
            return new(with.Layer, head, 0, Math.Exp(distance), Math.Exp(distance - b.LogNormInUnits), inputChange, forgetChange);
        }
    }

    private static double Lifetime(NeedleEffect[] ages)
    {
        var level = ages[0].RelativeDistance / Math.E;
        if (level == 0)
        {
            return 0;
        }

        var last = Array.FindLastIndex(ages, e => e.RelativeDistance >= level);
        if (last == ages.Length - 1)
        {
            return double.PositiveInfinity;
        }

        var (above, below) = (ages[last].RelativeDistance, ages[last + 1].RelativeDistance);
        return last + Math.Log(above / level) / Math.Log(above / below);
    }

    private static List<Activations> Read(LanguageModel model, int[] tokens)
    {
        using var scope = NewDisposeScope();
        var layers = new List<Activations>();
        BlockActivations.Observe(model, BlockActivations.Sequence(model, tokens), null, GateCapture.OfMLstm, ["h"], (block, seen) =>
        {
            if (GateCapture.IsMLstm(seen))
            {
                layers.Add(new(block, seen));
            }
        });
        return layers;
    }

    /// <summary>What the memories of one block read of one sequence.</summary>
    private sealed class Activations(int layer, IReadOnlyDictionary<string, Tensor> seen)
    {
        private readonly int _length = (int)seen["q"].shape[2];
        private readonly int _dk = (int)seen["q"].shape[3];
        private readonly int _dv = (int)seen["v"].shape[3];
        private readonly float[] _q = BlockActivations.ToArray(seen["q"]);
        private readonly float[] _k = BlockActivations.ToArray(seen["k"]);
        private readonly float[] _v = BlockActivations.ToArray(seen["v"]);
        private readonly float[] _i = BlockActivations.ToArray(seen["igate_preact"]);
        private readonly float[] _f = BlockActivations.ToArray(seen["fgate_preact"]);

        public int Layer { get; } = layer;

        public int HeadCount { get; } = (int)seen["q"].shape[1];

        public MemoryOfHead Memory(MLstmOptions cell) => new(_dk, _dv, cell);

        public void Read(MemoryOfHead memory, int head, int token)
        {
            var at = head * _length + token;
            memory.Read(_q.AsSpan(at * _dk, _dk), _k.AsSpan(at * _dk, _dk), _v.AsSpan(at * _dv, _dv), _i[at], _f[at]);
        }
    }
}
