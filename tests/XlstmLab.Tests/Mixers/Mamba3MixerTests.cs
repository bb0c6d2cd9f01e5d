using System.Numerics;
using CsCheck;
using TorchSharp;
using XlstmLab.Mixers;
using XlstmLab.Operations;
using XlstmLab.Tests.Operations;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Mixers;

public sealed class Mamba3MixerTests
{
    private const int Width = 12;

    private static readonly MixerSite Site = new(Width) { HeadCount = 2 };

    /// <summary>The paper's complex state, a token after the other: a pair of channels is one number, turned and decayed.</summary>
    [Theory]
    [InlineData(1, 2, 1)]
    [InlineData(0.5, 2, 2)]
    [InlineData(0, 4, 2)]
    public void Forward_OfDocuments_EqualsTheComplexStateTokenByToken(double rotated, int heads, int groups)
    {
        const int Length = 14, Start = 5, States = 8, Inner = 24;
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        var config = new Mamba3MixerConfig
        {
            HeadCount = heads,
            StateSize = States,
            GroupCount = groups,
            RotatedShare = rotated,
            ChunkSize = 4,
        };
        using var mixer = Drawn(config);
        var weights = mixer.state_dict();
        var x = Input(1, Length);
        var starts = zeros(1, Length, dtype: ScalarType.Bool);
        starts[0, Start] = true;
        var y = mixer.Forward(x, x, new(new SequenceLayout(starts)));

        var (width, pairs) = (Inner / heads, config.Pairs);
        var expected = new double[Length][];
        var states = new Complex[heads, States / 2, Inner / heads];
        double[][]? before = null;
        double[]? valuesBefore = null;
        for (var t = 0; t < Length; t++)
        {
            if (t == Start)
            {
                (states, before, valuesBefore) = (new Complex[heads, States / 2, width], null, null);
            }

            var projected = weights["in_proj.weight"].matmul(x[0, t]).data<double>().ToArray();
            var parts = Split(projected, [Inner, Inner, groups * States, groups * States, heads, heads, heads, pairs]);
            double[] Bc(int part, string name, int head)
            {
                var group = head / (heads / groups);
                var own = parts[part][(group * States)..((group + 1) * States)];
                var size = Math.Sqrt(own.Average(value => value * value) + Site.NormEpsilon);
                var bias = weights[$"{name}_bias"][head];
                return [.. own.Select((value, n) => value / size * Number($"{name}_norm.weight", n) + bias[n].item<double>())];
            }

            var (keys, h) = (new double[heads][], new double[Inner]);
            for (var head = 0; head < heads; head++)
            {
                var (b, c) = (Bc(2, "B", head), Bc(3, "C", head));
                keys[head] = b;
                var dt = Softplus(parts[4][head] + Number("dt_bias", head));
                var decay = Math.Exp(-Math.Max(Softplus(parts[5][head]), 1e-4) * dt);
                var lambda = Sigmoid(parts[6][head]);
                for (var p = 0; p < width; p++)
                {
                    var value = parts[1][head * width + p];
                    for (var j = 0; j < States / 2; j++)
                    {
                        Complex Pair(double[] of) => new(of[2 * j], of[2 * j + 1]);
                        var turn = j < pairs ? Complex.FromPolarCoordinates(decay, dt * Math.PI * Math.Tanh(parts[7][j])) : decay;
                        var earlier = before is null ? Complex.Zero : Pair(before[head]) * valuesBefore![head * width + p];
                        states[head, j, p] = turn * (states[head, j, p] + (1 - lambda) * dt * earlier) + lambda * dt * Pair(b) * value;
                        h[head * width + p] += (Complex.Conjugate(Pair(c)) * states[head, j, p]).Real;
                    }

                    var z = parts[0][head * width + p];
                    h[head * width + p] = (h[head * width + p] + Number("D", head) * value) * z * Sigmoid(z);
                }
            }

            (before, valuesBefore) = (keys, parts[1]);
            expected[t] = weights["out_proj.weight"].matmul(tensor(h)).data<double>().ToArray();
        }

        MLstmTests.Near(tensor(expected.SelectMany(row => row).ToArray(), [1, Length, Width]), y, 1e-11, "y");

        double Number(string name, int at) => weights[name][at].item<double>();
    }

    /// <summary>
    /// Random shapes, lengths, chunk sizes, angles, documents, padding and states: both forms are one function, with one gradient.
    /// </summary>
    [Fact]
    public void Forms_RandomCases_AreEqual() =>
        Gen.Select(
                Gen.Int[1, 3], Gen.Int[1, 2], Gen.Int[1, 40], Gen.Int[2, 7], Gen.Int[1, 5], Gen.Int[1, 45],
                Gen.Select(Gen.Bool, Gen.Bool, Gen.Bool, Gen.Int[0, 3]), Gen.Int[0, 1_000_000])
            .Sample(
                (batch, heads, length, states, width, chunk, flags, seed) =>
                {
                    var (withState, withStarts, withPadding, pairs) = flags;
                    pairs = Math.Min(pairs, states / 2);
                    using var scope = NewDisposeScope();
                    var generator = new Generator((ulong)seed, CPU);
                    Tensor Normal(params long[] shape) => randn(shape, ScalarType.Float64, generator: generator);
                    Tensor Uniform(params long[] shape) => rand(shape, ScalarType.Float64, generator: generator);
                    var real = withPadding
                        ? arange(length).unsqueeze(0).lt(randint(0, length + 1, [batch, 1], dtype: ScalarType.Int64, generator: generator))
                        : null;
                    var starts = withStarts ? rand(batch, length, generator: generator).lt(0.15) : null;
                    Tensor OfTokens(Tensor of) =>
                        real is null ? of : of * real.view([batch, length, .. Enumerable.Repeat(1L, (int)of.dim() - 2)]);
                    var inputs = new List<Tensor>
                    {
                        Normal(batch, length, heads, width),
                        OfTokens(2 * Uniform(batch, length, heads)),
                        OfTokens(-3 * Uniform(batch, length, heads)),
                        Uniform(batch, length, heads),
                        OfTokens(4 * Normal(batch, length, heads, Math.Max(pairs, 1))),
                        Normal(batch, length, heads, states),
                        Normal(batch, length, heads, states),
                        Normal(batch, heads, states, width),
                        Normal(batch, heads, states),
                        Normal(batch, heads, width),
                    };
                    var (dY, dH) = (OfTokens(Normal(batch, length, heads, width)), Normal(batch, heads, states, width));
                    var (dKey, dValue) = (Normal(batch, heads, states), Normal(batch, heads, width));

                    List<Tensor> Run(MLstmForm form)
                    {
                        var leaves = inputs.Select(input => input.detach().clone().requires_grad_()).ToList();
                        var (y, last) = TrapezoidalStateSpace.Forward(
                            leaves[0], leaves[1], leaves[2], leaves[3], pairs == 0 ? null : leaves[4], leaves[5], leaves[6],
                            withState ? new(leaves[7], leaves[8], leaves[9]) : null, starts, real, returnState: true, form, chunk);
                        ((y * dY).sum() + (last!.H * dH).sum() + (last.Key * dKey).sum() + (last.Value * dValue).sum()).backward();
                        return [OfTokens(y), last.H, last.Key, last.Value, .. leaves.Select(leaf => leaf.grad ?? zeros_like(leaf))];
                    }

                    var (reference, chunkwise) = (Run(MLstmForm.Recurrent), Run(MLstmForm.Chunkwise));
                    string[] names =
                        ["y", "h", "key", "value", "dx", "ddt", "da", "dlambda", "dangle", "db", "dc", "dh0", "dkey0", "dvalue0"];
                    for (var i = 0; i < reference.Count; i++)
                    {
                        MLstmTests.Near(reference[i], chunkwise[i], 1e-9, names[i], 1e-10);
                    }
                },
                iter: LongTests.Cases(all: 200, few: 30));

    /// <summary>A state that a bit turns by half a circle holds the parity of a string; one that does not turn cannot.</summary>
    [Theory]
    [InlineData(1)]
    [InlineData(0)]
    public void Forward_HandSetWeights_TellParityWithARotationAlone(double rotated)
    {
        const int Length = 300;
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        var config = new Mamba3MixerConfig { HeadCount = 1, StateSize = 2, Expand = 1, RotatedShare = rotated };
        using var mixer = config.Create(new MixerSite(3));
        mixer.to(ScalarType.Float64);
        var weights = mixer.state_dict();
        foreach (var weight in weights.Values)
        {
            weight.zero_();
        }

        // Channel 0 is the beginning of the text, channel 1 a bit 1, channel 2 a bit 0. Rows of the projection: z 3, x 3, B 2, C 2, dt, A,
        // lambda, theta. The beginning alone has a value, every step is 1 and hardly decays, and a bit 1 turns by half a circle.
        var projection = weights["in_proj.weight"];
        projection.narrow(0, 0, 3).fill_(1);
        projection[3, 0] = 1;
        projection[11].fill_(-50);
        projection[12].fill_(50);
        if (rotated > 0)
        {
            projection[13, 1] = 50;
        }

        weights["B_bias"][0, 0] = 1;
        weights["C_bias"][0, 0] = 1;
        weights["dt_bias"].fill_(Math.Log(Math.E - 1));
        weights["out_proj.weight"].copy_(eye(3, dtype: ScalarType.Float64));

        var random = new Random(7);
        var (bits, odd) = (new long[Length], new bool[Length]);
        for (var t = 1; t < Length; t++)
        {
            bits[t] = random.Next(2) == 0 ? 2 : 1;
            odd[t] = odd[t - 1] ^ (bits[t] == 1);
        }

        var x = nn.functional.one_hot(tensor(bits), 3).to(ScalarType.Float64).unsqueeze(0);
        var y = mixer.Forward(x, x, new());
        var told = Enumerable.Range(0, Length).Count(t => y[0, t, 0].item<double>() < -0.5 == odd[t]);
        if (rotated > 0)
        {
            Assert.Equal(Length, told);
        }
        else
        {
            Assert.InRange(told, 0, Length * 2 / 3);
        }
    }

    [Fact]
    public void Validate_WrongValues_NamesThem()
    {
        var message = Assert.Throws<ConfigException>(
            () => new Mamba3MixerConfig { HeadCount = 5, GroupCount = 2, RotatedShare = 1.5, RateFloor = -1 }.Validate(Site)).Message;
        Assert.Contains("num_heads is 5; expected a divisor of expand times the width, 24", message, StringComparison.Ordinal);
        Assert.Contains("n_groups is 2; expected a divisor of num_heads 5", message, StringComparison.Ordinal);
        Assert.Contains("rope_fraction is 1.5; expected a number from 0 to 1", message, StringComparison.Ordinal);
        Assert.Contains("a_floor is -1", message, StringComparison.Ordinal);
    }

    /// <summary>A mixer in float64 whose weights all matter.</summary>
    private static Mixer Drawn(Mamba3MixerConfig config)
    {
        var mixer = config.Create(Site);
        using var generator = new Generator(3, CPU);
        mixer.Initialize(0.5, 0.5, generator);
        foreach (var parameter in mixer.parameters())
        {
            parameter.add_(0.3 * randn(parameter.shape, generator: generator));
        }

        mixer.to(ScalarType.Float64);
        return mixer;
    }

    private static Tensor Input(long batch, long length)
    {
        using var generator = new Generator(4, CPU);
        return randn([batch, length, Width], ScalarType.Float64, generator: generator);
    }

    private static double[][] Split(double[] all, int[] sizes)
    {
        var (parts, at) = (new double[sizes.Length][], 0);
        for (var i = 0; i < sizes.Length; at += sizes[i++])
        {
            parts[i] = all[at..(at + sizes[i])];
        }

        return parts;
    }

    private static double Softplus(double x) => Math.Log(1 + Math.Exp(x));

    private static double Sigmoid(double x) => 1 / (1 + Math.Exp(-x));
}
