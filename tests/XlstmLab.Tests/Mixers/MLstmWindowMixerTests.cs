using TorchSharp;
using XlstmLab.Mixers;
using XlstmLab.Operations;
using XlstmLab.Tests.Operations;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Mixers;

public sealed class MLstmWindowMixerTests
{
    private const int Width = 12;

    private static readonly MixerSite Site = new(Width) { HeadCount = 2 };

    /// <summary>Equation 11 with 8 to 10 as they stand: gates unstabilised, sums over the tokens of a document one by one.</summary>
    [Theory]
    [InlineData(true, 2)]
    [InlineData(false, 2)]
    [InlineData(true, 1)]
    public void Forward_OfDocuments_EqualsTheEquationsTokenByToken(bool rotate, int keyValueHeads)
    {
        const int Length = 14, Start = 5, Heads = 2, Dim = 6;
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        var config = new MLstmWindowMixerConfig
        {
            Window = 3,
            SinkTokens = 2,
            RotateFeatures = rotate,
            KeyValueHeads = keyValueHeads,
            ChunkSize = 4,
            GateSoftCap = null,
        };
        using var mixer = Drawn(config, Site);
        var weights = mixer.state_dict();
        var x = Input(1, Length);
        var starts = zeros(1, Length, dtype: ScalarType.Bool);
        starts[0, Start] = true;
        var y = mixer.Forward(x, x, new(new SequenceLayout(starts)));

        double[] Times(Tensor w, Tensor a) => w.matmul(a).data<double>().ToArray();
        double[][] Projected(string name) => [.. Enumerable.Range(0, Length).Select(t => Times(weights[name], x[0, t]))];
        var (q, k, v) = (Projected("q_proj.weight"), Projected("k_proj.weight"), Projected("v_proj.weight"));
        var expected = new double[Length][];
        for (var t = 0; t < Length; t++)
        {
            var (first, h) = (t < Start ? 0 : Start, new List<double>());
            for (var head = 0; head < Heads; head++)
            {
                var shared = keyValueHeads == 1 ? 0 : head;
                double[] Query(int s) => q[s][(head * Dim)..((head + 1) * Dim)];
                double[] Key(int s) => k[s][(shared * Dim)..((shared + 1) * Dim)];
                double[] Value(int s) => v[s][(shared * Dim)..((shared + 1) * Dim)];
                double[] Turned(double[] a, int s) => Rotated(a, s - first);
                double[] Phi(string map, double[] a, int s) => Softmax(Times(weights[map][head], tensor(rotate ? Turned(a, s) : a)));
                double Gate(string name, int s) =>
                    (weights[$"{name}.weight"][head].dot(x[0, s]) + weights[$"{name}.bias"][head]).item<double>();

                var seen = Enumerable.Range(first, t - first + 1).ToArray();
                var near = seen.Where(s => t - s < config.Window || s - first < config.SinkTokens).ToArray();
                var attention = Softmax([.. near.Select(s => Dot(Turned(Query(t), t), Turned(Key(s), s)) / Math.Sqrt(Dim))]);
                var asked = Phi("q_feature_map.weight", Query(t), t);
                var written = seen.Select(s => Math.Exp(Gate("igate_preact", s)) * Dot(asked, Phi("k_feature_map.weight", Key(s), s))
                    * Enumerable.Range(s + 1, t - s).Aggregate(1.0, (kept, r) => kept * Sigmoid(Gate("fgate_preact", r)))).ToArray();
                var o = Sigmoid(Dot(weights["ogate_weight"][head].data<double>().ToArray(), [.. Query(t), .. Key(t), .. Value(t)]));
                for (var c = 0; c < Dim; c++)
                {
                    var remembered = seen.Select((s, at) => written[at] * Value(s)[c]).Sum() / written.Sum();
                    h.Add(o * remembered + (1 - o) * near.Select((s, at) => attention[at] * Value(s)[c]).Sum());
                }
            }

            expected[t] = Times(weights["o_proj.weight"], tensor(h.ToArray()));
        }

        MLstmTests.Near(tensor(expected.SelectMany(row => row).ToArray(), [1, Length, Width]), y, 1e-11, "y");
    }

    [Fact]
    public void Forward_GateShut_IsTheWindowAlone()
    {
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        using var hybrid = Drawn(new MLstmWindowMixerConfig { Window = 4, SinkTokens = 1 }, Site);
        using var window = new SlidingWindowMixerConfig { Window = 4, SinkTokens = 1 }.Create(Site);
        window.to(ScalarType.Float64);
        var (from, to) = (hybrid.state_dict(), window.state_dict());
        foreach (var (name, weight) in to)
        {
            weight.copy_(from[name]);
        }

        // All of one sign in q, k and v make the gate's pre-activation as low as its weights are.
        var x = ones(2, 9, Width, dtype: ScalarType.Float64);
        x.select(1, 4).mul_(0.5);
        foreach (var name in new[] { "q_proj.weight", "k_proj.weight", "v_proj.weight" })
        {
            from[name].abs_();
            to[name].abs_();
        }

        from["ogate_weight"].fill_(-1000);
        MLstmTests.Near(window.Forward(x, x, new()), hybrid.Forward(x, x, new()), 1e-14, "y");
    }

    /// <summary>Where kernels want another width of values, bfloat16 gets it; whole and in pieces it is near float64.</summary>
    [Fact]
    public void Forward_BFloat16OfAKernelsWidth_IsNearFloat64()
    {
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        var site = new MixerSite(32);
        using var mixer = Drawn(new MLstmWindowMixerConfig { Window = 3, SinkTokens = 0 }, site);
        using var generator = new Generator(4, CPU);
        var x = randn([1, 10, 32], ScalarType.Float64, generator: generator);
        var expected = mixer.Forward(x, x, new());
        var narrow = x.to(ScalarType.BFloat16);
        var after = new Dictionary<string, Tensor>();
        var first = mixer.Forward(narrow.narrow(1, 0, 6), narrow.narrow(1, 0, 6), new(after: after));
        Assert.Equal([1, 1, 32, 33], after["c"].shape);
        var second = mixer.Forward(narrow.narrow(1, 6, 4), narrow.narrow(1, 6, 4), new(before: after));
        MLstmTests.Near(expected, cat([first, second], 1), 0.03, "y");
    }

    [Fact]
    public void Initialize_FreshMixer_MixesBothAlikeWithPlainFeatures()
    {
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        using var mixer = new MLstmWindowMixerConfig().Create(Site);
        using var generator = new Generator(3, CPU);
        mixer.Initialize(0.1, 0.1, generator);
        var shown = new Dictionary<string, Tensor>();
        var x = Input(1, 5).to(ScalarType.Float32);
        mixer.Forward(x, x, new(observe: (name, value) => shown[name] = value.clone()));
        Assert.Equal(new MLstmWindowMixerConfig().Observables.Order(), shown.Keys.Order());
        Assert.Equal(0, shown["ogate_preact"].abs().max().item<float>());
        Assert.True(mixer.state_dict()["k_feature_map.weight"][1].equal(eye(6)).all().item<bool>());
    }

    [Fact]
    public void Validate_WrongValues_NamesThem()
    {
        var message = Assert.Throws<ConfigException>(
            () => new MLstmWindowMixerConfig { Window = 0, ChunkSize = 0, GateSoftCap = -1 }.Validate(Site)).Message;
        Assert.Contains("window is 0", message, StringComparison.Ordinal);
        Assert.Contains("chunk_size is 0", message, StringComparison.Ordinal);
        Assert.Contains("gate_soft_cap is -1; expected a number above 0, or null", message, StringComparison.Ordinal);
    }

    /// <summary>A mixer in float64 whose weights all matter.</summary>
    private static Mixer Drawn(MLstmWindowMixerConfig config, MixerSite site)
    {
        var mixer = config.Create(site);
        using var generator = new Generator(3, CPU);
        mixer.Initialize(0.4, 0.4, generator);
        foreach (var parameter in mixer.parameters())
        {
            parameter.add_(0.2 * randn(parameter.shape, generator: generator));
        }

        mixer.to(ScalarType.Float64);
        return mixer;
    }

    private static Tensor Input(long batch, long length)
    {
        using var generator = new Generator(4, CPU);
        return randn([batch, length, Width], ScalarType.Float64, generator: generator);
    }

    /// <summary>Channel j of the first half with channel j of the second, turned by position 10000^(-2j/D).</summary>
    private static double[] Rotated(double[] x, int position)
    {
        var (half, y) = (x.Length / 2, new double[x.Length]);
        for (var j = 0; j < half; j++)
        {
            var (sin, cos) = Math.SinCos(position * Math.Pow(10000, -2.0 * j / x.Length));
            (y[j], y[j + half]) = (x[j] * cos - x[j + half] * sin, x[j + half] * cos + x[j] * sin);
        }

        return y;
    }

    private static double[] Softmax(double[] x) => [.. x.Select(value => Math.Exp(value) / x.Sum(Math.Exp))];

    private static double Dot(double[] a, double[] b) => a.Zip(b, (one, other) => one * other).Sum();

    private static double Sigmoid(double x) => 1 / (1 + Math.Exp(-x));
}
