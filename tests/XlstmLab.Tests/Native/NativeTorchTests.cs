using XlstmLab.Native;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Native;

public sealed class NativeTorchTests
{
    [Fact]
    public void Tensors_AfterLoading_Compute()
    {
        using var sum = ones(2, 3).sum();
        Assert.Equal(6f, sum.item<float>());
        Assert.True(Directory.Exists(NativeTorch.Folder));
    }
}
