using TorchSharp;
using XlstmLab.Mixers;
using XlstmLab.Operations;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Mixers;

public sealed class DeltaMixerTests
{
    private const int Width = 16;

    private static readonly MixerSite Site = new(Width) { HeadCount = 2 };

    public static TheoryData<string> Configs { get; } = [.. Named.Keys];

    private static Dictionary<string, DeltaMixerConfig> Named => new()
    {
        ["delta"] = new(),
        ["delta, eigenvalues in [-1, 1]"] = new() { NegativeEigenvalues = true, ChunkSize = 5 },
        ["delta without convolution, gated"] = new() { ConvTaps = 0, OutputGate = true, ValueFactor = 0.5 },
        ["gated"] = new GatedDeltaMixerConfig { ChunkSize = 4 },
        ["gated, eigenvalues in [-1, 1]"] = new GatedDeltaMixerConfig { NegativeEigenvalues = true, ConvTaps = 1, HeadCount = 4 },
        ["gated without output gate"] = new GatedDeltaMixerConfig { OutputGate = false, ConvTaps = 2 },
    };

    /// <summary>The papers' equations, a token after the other in plain numbers.</summary>
    [Theory]
    [MemberData(nameof(Configs))]
    public void Forward_OfDocuments_EqualsTheEquationsTokenByToken(string name)
    {
        const int Length = 13;
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        var config = Named[name];
        using var mixer = Drawn(config);
        using var generator = new Generator(4, CPU);
        var x = randn([1, Length, Width], ScalarType.Float64, generator: generator);
        var starts = zeros(1, Length, dtype: ScalarType.Bool);
        starts[0, 6] = true;
        var y = mixer.Forward(x, x, new(new SequenceLayout(starts)));

        var expected = new Equations(mixer, config).Read(x[0], start: 6);
        for (var t = 0; t < Length; t++)
        {
            for (var c = 0; c < Width; c++)
            {
                Assert.Equal(expected[t][c], y[0, t, c].item<double>(), 1e-10);
            }
        }
    }

    /// <summary>Where the share can be 2, one head holds the parity of a bit string; where it ends at 1, it cannot.</summary>
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Forward_HandSetWeights_TellParityWithNegativeEigenvaluesAlone(bool negative)
    {
        const int Length = 300;
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        var config = new DeltaMixerConfig { HeadCount = 1, ConvTaps = 0, NegativeEigenvalues = negative };
        using var mixer = config.Create(new MixerSite(4));
        mixer.to(ScalarType.Float64);
        var weights = mixer.state_dict();

        // Channel 0 is the beginning of the text, channel 1 a bit 1, channel 2 a bit 0. All have one key, only the beginning has a value,
        // and its share is one half of the largest; a 1 has the largest share and a 0 none.
        foreach (var projection in new[] { "q_proj.weight", "k_proj.weight" })
        {
            weights[projection].narrow(0, 0, 1).narrow(1, 0, 3).fill_(4);
        }

        weights["v_proj.weight"][0, 0] = 4;
        weights["b_proj.weight"].copy_(tensor(new[] { 0.0, 50, -50, 0 }).unsqueeze(0));
        weights["o_norm.weight"].fill_(1);
        weights["o_proj.weight"].copy_(eye(4, dtype: ScalarType.Float64));

        var random = new Random(7);
        var (bits, odd) = (new long[Length], new bool[Length]);
        for (var t = 1; t < Length; t++)
        {
            bits[t] = random.Next(2) == 0 ? 2 : 1;
            odd[t] = odd[t - 1] ^ (bits[t] == 1);
        }

        var x = nn.functional.one_hot(tensor(bits), 4).to(ScalarType.Float64).unsqueeze(0);
        var y = mixer.Forward(x, x, new());

        var told = Enumerable.Range(0, Length).Count(t => y[0, t, 0].item<double>() < -0.5 == odd[t]);
        if (negative)
        {
            Assert.Equal(Length, told);
        }
        else
        {
            Assert.InRange(told, 0, Length * 2 / 3);
        }
    }

    [Fact]
    public void Forward_ShownToAnObserver_HasSharesKeysAndDecaysInTheirRanges()
    {
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        using var mixer = Drawn(new GatedDeltaMixerConfig { NegativeEigenvalues = true });
        using var generator = new Generator(5, CPU);
        var x = 3 * randn([2, 9, Width], ScalarType.Float64, generator: generator);
        var seen = new Dictionary<string, (double Least, double Most)>();
        mixer.Forward(x, x, new(observe: (name, value) =>
        {
            var shown = name is "q" or "k" ? value.square().sum(-1) : value;
            seen[name] = (shown.min().item<double>(), shown.max().item<double>());
        }));

        Assert.Equal(new GatedDeltaMixerConfig().Observables.Order(), seen.Keys.Order());
        Assert.InRange(seen["beta"].Least, 0, 1);
        Assert.InRange(seen["beta"].Most, 1, 2);
        Assert.InRange(seen["log_decay"].Most, double.NegativeInfinity, 0);
        Assert.All(["q", "k"], name => Assert.InRange(seen[name].Least, 0.99, 1));
    }

    [Fact]
    public void Validate_WidthsThatHeadsDoNotDivide_SaysWhich()
    {
        var config = new GatedDeltaMixerConfig { HeadCount = 5, ConvTaps = -1, TimeStepMin = 0 };
        var message = Assert.Throws<ConfigException>(() => config.Validate(Site)).Message;
        Assert.Contains("expand_k is 0.75, which makes a width of 12; expected a multiple", message, StringComparison.Ordinal);
        Assert.Contains("conv_size is -1; expected at least 0", message, StringComparison.Ordinal);
        Assert.Contains("time_step_min is 0", message, StringComparison.Ordinal);
    }

    /// <summary>A mixer in float64 whose weights all matter.</summary>
    private static Mixer Drawn(DeltaMixerConfig config)
    {
        var mixer = config.Create(Site);
        using var generator = new Generator(3, CPU);
        mixer.Initialize(0.5, 0.5, generator);
        foreach (var parameter in mixer.parameters())
        {
            parameter.add_(0.1 * randn(parameter.shape, generator: generator));
        }

        mixer.to(ScalarType.Float64);
        return mixer;
    }

    /// <summary>The equations of section 3.4 of 2412.06464, one head and one number after the other.</summary>
    private sealed class Equations(Mixer mixer, DeltaMixerConfig config)
    {
        private readonly Dictionary<string, Tensor> _weights = mixer.state_dict();
        private readonly int _heads = config.Heads(Site);

        public double[][] Read(Tensor x, int start)
        {
            var length = (int)x.shape[0];
            var inputs = Enumerable.Range(0, length).Select(t => x[t].data<double>().ToArray()).ToArray();
            var (q, k, v) = (Convolved("q", inputs, start), Convolved("k", inputs, start), Convolved("v", inputs, start));
            var (dk, dv) = (q[0].Length / _heads, v[0].Length / _heads);
            var states = new double[_heads][,];
            var outputs = new double[length][];
            for (var t = 0; t < length; t++)
            {
                var (shares, steps) = (Times("b_proj.weight", inputs[t]), config.Decays ? Times("a_proj.weight", inputs[t]) : null);
                var gate = config.OutputGate ? Times("g_proj.weight", inputs[t]) : null;
                var h = new double[_heads * dv];
                for (var head = 0; head < _heads; head++)
                {
                    var (query, key) = (Unit(q[t], head * dk, dk), Unit(k[t], head * dk, dk));
                    var beta = (config.NegativeEigenvalues ? 2 : 1) * Sigmoid(shares[head]);
                    var softplus = steps is null ? 0 : Math.Log(1 + Math.Exp(steps[head] + Number("dt_bias", head)));
                    var alpha = steps is null ? 1 : Math.Exp(-Math.Exp(Number("A_log", head)) * softplus);
                    var before = t is 0 || t == start ? new double[dk, dv] : states[head];
                    var after = new double[dk, dv];
                    for (var j = 0; j < dv; j++)
                    {
                        var read = Enumerable.Range(0, dk).Sum(i => key[i] * before[i, j]);
                        for (var i = 0; i < dk; i++)
                        {
                            after[i, j] = alpha * (before[i, j] - beta * key[i] * read) + beta * key[i] * v[t][head * dv + j];
                            h[head * dv + j] += after[i, j] * query[i] / Math.Sqrt(dk);
                        }
                    }

                    states[head] = after;
                    var norm = Math.Sqrt(Enumerable.Range(0, dv).Average(j => h[head * dv + j] * h[head * dv + j]) + Site.NormEpsilon);
                    for (var j = 0; j < dv; j++)
                    {
                        h[head * dv + j] *= Number("o_norm.weight", j) / norm;
                    }
                }

                outputs[t] = Times("o_proj.weight", [.. h.Select((value, c) => gate is null ? value : value * gate[c] * Sigmoid(gate[c]))]);
            }

            return outputs;
        }

        private double[][] Convolved(string which, double[][] inputs, int start)
        {
            var projected = inputs.Select(x => Times($"{which}_proj.weight", x)).ToArray();
            var (taps, length) = (config.ConvTaps, projected.Length);
            return
            [
                .. Enumerable.Range(0, length).Select(t => projected[t].Select((value, c) =>
                {
                    var first = t < start ? 0 : start;
                    var sum = taps == 0
                        ? value
                        : Enumerable.Range(0, taps).Where(lag => t - lag >= first)
                            .Sum(lag => _weights[$"{which}_conv1d.weight"][c, 0, taps - 1 - lag].item<double>() * projected[t - lag][c]);
                    return sum * Sigmoid(sum);
                }).ToArray()),
            ];
        }

        private double[] Times(string name, double[] x) => _weights[name].matmul(tensor(x)).data<double>().ToArray();

        private double Number(string name, int at) => _weights[name][at].item<double>();

        private static double[] Unit(double[] all, int from, int count)
        {
            var part = all[from..(from + count)];
            var length = Math.Sqrt(part.Sum(value => value * value) + 1e-6);
            return [.. part.Select(value => value / length)];
        }

        private static double Sigmoid(double x) => 1 / (1 + Math.Exp(-x));
    }
}
