using XlstmLab.Operations;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Operations;

public sealed class TokenChoiceTests
{
    /// <summary>Fewer ids than blocks, ids that leave the last ones of a vocabulary out, and several rows.</summary>
    [Theory]
    [InlineData(1, 5, 5)]
    [InlineData(3, 1000, 991)]
    public void Choose_RandomLogits_IsTheLargestAndItsLogSoftmax(int rows, int vocabulary, int ids)
    {
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        using var generator = new Generator(3, CPU);
        var logits = (randn([rows, vocabulary], generator: generator, device: CPU) * 4).to(get_default_device());
        logits[0, ids - 1] = -40;
        var (known, likeliest) = Choose(logits, ids);
        var expected = logits.narrow(1, 0, ids);
        Assert.True(known.equal(expected).all().item<bool>());
        var (value, id) = nn.functional.log_softmax(expected.to(ScalarType.Float64), 1).max(1);
        Assert.True(likeliest.select(1, 0).equal(id.to(ScalarType.Float64)).all().item<bool>());
        Assert.InRange((likeliest.select(1, 1) - value).abs().max().item<double>(), 0, 1e-12);
    }

    [Fact]
    public void Choose_EqualLogitsAndNoNumber_IsTheFirstAndTheNoNumber()
    {
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        var logits = zeros([3, 64], ScalarType.Float32) - 2;
        logits[0, 40] = -0f;
        logits[0, 9] = 0f;
        logits[0, 63] = 0f;
        logits[1, 17] = float.NaN;
        logits[1, 3] = 1e30f;
        logits[2, 30] = -1f;
        var (_, likeliest) = Choose(logits, 64);
        Assert.Equal([9.0, 17.0, 30.0], likeliest.select(1, 0).cpu().data<double>().ToArray());
        Assert.True(double.IsNaN(likeliest[1, 1].item<double>()));
        Assert.Equal(-Math.Log(3 + (61 * Math.Exp(-2))), likeliest[0, 1].item<double>(), 12);
        Assert.Equal(-Math.Log(1 + (63 * Math.Exp(-1))), likeliest[2, 1].item<double>(), 12);
    }

    private static (Tensor Known, Tensor Likeliest) Choose(Tensor logits, int ids)
    {
        var known = empty(logits.shape[0], ids, ScalarType.Float32);
        var likeliest = empty(logits.shape[0], 2, ScalarType.Float64);
        TokenStepKernels.Choose(logits, known, likeliest);
        return (known, likeliest);
    }
}
