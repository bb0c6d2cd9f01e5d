using TorchSharp;
using XlstmLab.Mixers;
using XlstmLab.Operations;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Mixers;

public sealed class SlidingWindowTests
{
    private static readonly MixerSite Site = new(16) { HeadCount = 2 };

    [Theory]
    [InlineData(4, 2)]
    [InlineData(1, 0)]
    [InlineData(3, 0)]
    [InlineData(2, 5)]
    [InlineData(20, 3)]
    public void Forward_AttentionShown_IsWithinTheWindowAndOnTheSinks(int window, int sinks)
    {
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        using var mixer = Drawn(new SlidingWindowMixerConfig { Window = window, SinkTokens = sinks });
        var x = Input(1, 11);
        Tensor? weights = null;
        mixer.Forward(x, x, new(observe: (name, value) => weights = name == "attention" ? value.clone() : weights));
        for (var t = 0; t < 11; t++)
        {
            for (var s = 0; s < 11; s++)
            {
                Assert.Equal(s <= t && (t - s < window || s < sinks), weights![0, 0, t, s].item<double>() > 0);
            }
        }
    }

    [Fact]
    public void Forward_WindowOverAll_EqualsFullAttention()
    {
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        using var window = Drawn(new SlidingWindowMixerConfig { Window = 30, KeyValueHeads = 1 });
        using var full = Drawn(new AttentionMixerConfig { KeyValueHeads = 1 });
        var x = Input(2, 13);
        var starts = zeros(2, 13, dtype: ScalarType.Bool);
        starts[0, 4] = true;
        foreach (var layout in new[] { null, new SequenceLayout(starts) })
        {
            var difference = (window.Forward(x, x, new(layout)) - full.Forward(x, x, new(layout))).abs().max().item<double>();
            Assert.InRange(difference, 0, 1e-12);
        }
    }

    [Fact]
    public void Forward_LongSequenceTokenByToken_RemembersWindowAndSinksAlone()
    {
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        using var mixer = Drawn(new SlidingWindowMixerConfig { Window = 4, SinkTokens = 2 });
        var x = Input(2, 40);
        var whole = mixer.Forward(x, x, new());
        var state = new Dictionary<string, Tensor>();
        for (var t = 0; t < 40; t++)
        {
            var next = new Dictionary<string, Tensor>();
            var token = x.narrow(1, t, 1);
            var y = mixer.Forward(token, token, new(before: t == 0 ? null : state, after: next));
            Assert.InRange((y - whole.narrow(1, t, 1)).abs().max().item<double>(), 0, 1e-12);
            state = next;
        }

        Assert.Equal([2, 2, 5, 8], state["k"].shape);
        Assert.Equal([0, 1, 37, 38, 39], state["at"][0].data<long>().ToArray().Order());
    }

    private static Mixer Drawn(MixerConfig config)
    {
        var mixer = config.Create(Site);
        using var generator = new Generator(3, CPU);
        mixer.Initialize(0.5, 0.5, generator);
        mixer.to(ScalarType.Float64);
        return mixer;
    }

    private static Tensor Input(long batch, long length)
    {
        using var generator = new Generator(4, CPU);
        return randn([batch, length, 16], ScalarType.Float64, generator: generator);
    }
}
