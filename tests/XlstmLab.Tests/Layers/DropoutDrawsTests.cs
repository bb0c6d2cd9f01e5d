using XlstmLab.Layers;
using XlstmLab.Operations;
using XlstmLab.Tests.Operations;
using XlstmLab.Tests.Training;
using XlstmLab.Text;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Layers;

[Collection(nameof(AloneCollection))]
public sealed class DropoutDrawsTests
{
    /// <summary>Runs that were begun when dropout drew from torch's generator go on with the same draws.</summary>
    [Theory]
    [InlineData(ScalarType.Float32)]
    [InlineData(ScalarType.BFloat16)]
    public void Apply_OnTheCpu_DrawsWhatTorchDrawsOfTheSameState(ScalarType type)
    {
        using var scope = NewDisposeScope();
        using var draws = new DropoutDraws();
        var x = ones(7, 33, dtype: type).requires_grad_();
        random.manual_seed(5).Dispose();
        draws.Seed(5);
        Assert.True(nn.functional.dropout(x, 0.3).equal(draws.Apply(x, 0.3)).all().item<bool>());
        draws.State = get_rng_state().bytes.ToArray();
        var y = draws.Apply(x, 0.3);
        Assert.True(nn.functional.dropout(x, 0.3).equal(y).all().item<bool>());
        y.sum().backward();
        Assert.True(x.grad!.equal(y).all().item<bool>());
    }

    [Fact]
    public void Apply_FromASavedState_RepeatsAndLeavesTorchsGeneratorAlone()
    {
        using var scope = NewDisposeScope();
        using var draws = new DropoutDraws();
        draws.Seed(3);
        var x = ones(40, 40);
        var before = get_rng_state().bytes.ToArray();
        draws.Apply(x, 0.5);
        var state = draws.State;
        var first = draws.Apply(x, 0.5);
        Assert.False(first.equal(draws.Apply(x, 0.5)).all().item<bool>());
        draws.State = state;
        Assert.True(first.equal(draws.Apply(x, 0.5)).all().item<bool>());
        Assert.Equal(before, get_rng_state().bytes.ToArray());
    }

    [Theory]
    [InlineData(ScalarType.Float32, 0.1, 0)]
    [InlineData(ScalarType.Float32, 0.1, 3)]
    [InlineData(ScalarType.BFloat16, 0.1, 0)]
    [InlineData(ScalarType.BFloat16, 0.5, 1)]
    public void Kernel_AndOperations_DropTheSamePlacesForwardAndBackward(ScalarType type, double share, long offset)
    {
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        KernelRun.Seed(4);
        const long Key = 0x123456789ABCDEF;
        var x = randn(offset + 3 * 17 * 41).to(type).narrow(0, offset, 3 * 17 * 41).view(3, 17, 41).detach().requires_grad_();
        var twin = x.detach().clone().requires_grad_();
        var dy = randn(3, 17, 41).to(type);
        var (y, expected) = (DropoutKernel.Forward(x, share, Key), DropoutKernel.ByOperations(twin, share, Key));
        Assert.True(y.equal(expected).all().item<bool>());
        y.backward([dy]);
        expected.backward([dy]);
        Assert.True(x.grad!.equal(twin.grad!).all().item<bool>());
        Assert.Contains("dropout", run.Launched);

        var kept = y.ne(0).to(CPU).data<bool>().ToArray();
        var state = unchecked((ulong)Key);
        foreach (var place in kept)
        {
            Assert.Equal(SplitMix64.Mix(state += 0x9E3779B97F4A7C15) >> 32 >= (ulong)(share * (1L << 32)), place);
        }

        Assert.InRange(kept.Count(k => k) / (double)kept.Length, 0.96 - share, 1.04 - share);
    }

    [Fact]
    public void Apply_ByTheKernel_RepeatsFromASavedState()
    {
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        using var draws = new DropoutDraws();
        draws.Seed(6);
        var x = ones(200).to(bfloat16);
        var state = draws.State;
        var (first, second) = (draws.Apply(x, 0.5), draws.Apply(x, 0.5));
        Assert.False(first.equal(second).all().item<bool>());
        draws.State = state;
        Assert.True(first.equal(draws.Apply(x, 0.5)).all().item<bool>());
        Assert.Contains("dropout", run.Launched);
    }
}
