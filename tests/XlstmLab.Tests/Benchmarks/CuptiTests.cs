using XlstmLab.Benchmarks;
using Xunit;

namespace XlstmLab.Tests.Benchmarks;

public sealed class CuptiTests
{
    [Fact]
    public void Shares_SpansThatOverlap_AreOfWhatEndsFirst()
    {
        Assert.Empty(Cupti.Shares([]));

        // 20..40 begins while 10..30 goes on, in which 15..25 begins and ends; 0..50 has what none of them has.
        var shares = Cupti.Shares([("long", 0, 50), ("late", 100, 120), ("wide", 10, 30), ("inner", 15, 25), ("next", 20, 40)])
            .ToDictionary(k => k.Name, k => Math.Round(1e9 * k.Seconds));
        Assert.Equal(20, shares["late"]);
        Assert.Equal(10, shares["inner"]);
        Assert.Equal(10, shares["wide"]);
        Assert.Equal(10, shares["next"]);
        Assert.Equal(20, shares["long"]);
    }

    [Fact]
    public void Shares_SpansOfOneName_AreCountedAndAdded()
    {
        var share = Assert.Single(Cupti.Shares([("a", 10, 30), ("a", 20, 40), ("a", 60, 61)]));
        Assert.Equal(3, share.Launches);
        Assert.Equal(31e-9, share.Seconds, 1e-15);
    }

    [Theory]
    [InlineData("mlstm_forward", "mlstm_forward")]
    [InlineData(
        "void at::native::vectorized_elementwise_kernel<8, at::native::CUDAFunctor_add<c10::BFloat16>, std::array<char*, "
        + "3ul> >(int, float)", "vectorized_elementwise_kernel<8, CUDAFunctor_add<BFloat16>, array<char*, 3ul> >")]
    [InlineData("void (anonymous namespace)::softmax<float>(float*)", "softmax<float>")]
    public void Short_NamesOfKernels_LoseWhatAllHave(string name, string expected) => Assert.Equal(expected, Cupti.Short(name));

    [Fact]
    public void Short_LongNames_AreCut() => Assert.Equal(new string('k', 90) + "...", Cupti.Short(new string('k', 200)));
}
