using XlstmLab.Benchmarks;
using Xunit;

namespace XlstmLab.Tests.Benchmarks;

public sealed class CuptiTests
{
    [Fact]
    public void Busy_SpansThatOverlap_CountOnce()
    {
        Assert.Equal(0, Cupti.Busy([]));
        Assert.Equal(50e-9, Cupti.Busy([(100, 120), (10, 30), (15, 25), (20, 40)]), 1e-15);
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
