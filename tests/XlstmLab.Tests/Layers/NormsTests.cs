using XlstmLab.Layers;
using XlstmLab.Operations;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Layers;

public sealed class NormsTests
{
    private const double Epsilon = 0.01;

    [Theory]
    [InlineData(NormKind.Rms, false)]
    [InlineData(NormKind.Rms, true)]
    [InlineData(NormKind.Layer, false)]
    [InlineData(NormKind.Layer, true)]
    public void StreamNorm_RandomInput_EqualsItsFormula(NormKind kind, bool bias)
    {
        using var scope = NewDisposeScope();
        using var norm = new StreamNorm(kind, 6, Epsilon, bias);
        Randomize(norm);
        var x = randn(2, 3, 6, dtype: ScalarType.Float32);

        var y = norm.Forward(x);

        Assert.Equal(bias ? ["weight", "bias"] : ["weight"], norm.named_parameters().Select(p => p.name));
        EqualsFormula(x.reshape(6, 1, 6), y.reshape(6, 6), norm, kind == NormKind.Layer);
    }

    [Fact]
    public void StreamNorm_None_GivesItsInputAndHasNoParameters()
    {
        using var scope = NewDisposeScope();
        using var norm = new StreamNorm(NormKind.None, 6, Epsilon, bias: true);
        var x = randn(2, 3, 6);
        Assert.Empty(norm.parameters());
        Assert.True(norm.Forward(x).equal(x).all().item<bool>());
    }

    [Theory]
    [InlineData(HeadNormKind.Layer, null, true, 4)]
    [InlineData(HeadNormKind.Rms, null, false, 4)]
    [InlineData(HeadNormKind.Group, null, true, 4)]
    [InlineData(HeadNormKind.Group, 1, true, 1)]
    [InlineData(HeadNormKind.Group, 3, true, 3)]
    [InlineData(HeadNormKind.Group, 6, true, 6)]
    public void HeadNorm_RandomInput_NormalisesEachGroup(HeadNormKind kind, int? groups, bool centred, int expectedGroups)
    {
        using var scope = NewDisposeScope();
        using var norm = new HeadNorm(kind, 4, 3, Epsilon, bias: true, groups);
        Randomize(norm);
        var x = randn(2, 5, 4, 3);

        var y = norm.Forward(x);

        Assert.Equal([2, 5, 12], y.shape);
        EqualsFormula(x.reshape(10, expectedGroups, -1), y.reshape(10, 12), norm, centred);
    }

    [Fact]
    public void HeadNorm_GroupOfEachHead_EqualsLayerBitForBit()
    {
        using var scope = NewDisposeScope();
        using var layer = new HeadNorm(HeadNormKind.Layer, 4, 3, Epsilon);
        using var group = new HeadNorm(HeadNormKind.Group, 4, 3, Epsilon, groups: 4);
        var x = randn(2, 5, 4, 3);
        Assert.True(layer.Forward(x).equal(group.Forward(x)).all().item<bool>());
    }

    [Fact]
    public void HeadNorm_None_LaysHeadsSideBySide()
    {
        using var scope = NewDisposeScope();
        using var norm = new HeadNorm(HeadNormKind.None, 4, 3, Epsilon, bias: true);
        var x = randn(2, 5, 4, 3);
        Assert.Empty(norm.parameters());
        Assert.True(norm.Forward(x).equal(x.reshape(2, 5, 12)).all().item<bool>());
    }

    [Fact]
    public void HeadNorm_GroupsThatDoNotDivide_AreRefused() =>
        Assert.Contains(
            "divides the 12 channels, got 5",
            Assert.Throws<ArgumentException>(() => new HeadNorm(HeadNormKind.Group, 4, 3, Epsilon, groups: 5)).Message,
            StringComparison.Ordinal);

    [Fact]
    public void Norms_BFloat16_TakeMomentsInFloat32()
    {
        using var scope = NewDisposeScope();
        using var norm = new StreamNorm(NormKind.Rms, 4096, 0);
        using var head = new HeadNorm(HeadNormKind.Layer, 1, 4096, 0);

        // A sum of 4096 squares in bfloat16 would stop at 256.
        var x = (randn(1, 1, 4096, generator: new Generator(1, CPU)) + 3).to(ScalarType.BFloat16);
        var y = norm.Forward(x);

        Assert.Equal(ScalarType.BFloat16, y.dtype);
        Assert.Equal(1, y.to(ScalarType.Float32).square().mean().item<float>(), 0.01);
        Assert.Equal(1, head.Forward(x.unsqueeze(2)).to(ScalarType.Float32).square().mean().item<float>(), 0.01);
    }

    private static void Randomize(nn.Module norm)
    {
        using var grad = no_grad();
        foreach (var parameter in norm.parameters())
        {
            parameter.normal_(0, 1);
        }
    }

    /// <summary>x [N, groups, width], y [N, groups width], in numbers.</summary>
    private static void EqualsFormula(Tensor x, Tensor y, nn.Module norm, bool centred)
    {
        var (count, groups, width) = ((int)x.shape[0], (int)x.shape[1], (int)x.shape[2]);
        var parameters = norm.named_parameters().ToDictionary(p => p.name, p => p.parameter.data<float>().ToArray());
        var (xs, ys) = (x.data<float>().ToArray(), y.data<float>().ToArray());
        for (var n = 0; n < count * groups; n++)
        {
            var values = xs.AsSpan(n * width, width).ToArray();
            var mean = centred ? values.Average() : 0;
            var deviation = Math.Sqrt(values.Average(v => (v - mean) * (v - mean)) + Epsilon);
            for (var c = 0; c < width; c++)
            {
                var channel = n % groups * width + c;
                var expected = (values[c] - mean) / deviation * parameters["weight"][channel]
                    + (parameters.TryGetValue("bias", out var bias) ? bias[channel] : 0);
                Assert.Equal(expected, ys[n * width + c], 1e-5);
            }
        }
    }
}
