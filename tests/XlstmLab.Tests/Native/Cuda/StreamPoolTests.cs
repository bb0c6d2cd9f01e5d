using XlstmLab.Native.Cuda;
using Xunit;

namespace XlstmLab.Tests.Native.Cuda;

/// <summary>Streams that libtorch gives in turn, and that only one at a time may have.</summary>
public sealed class StreamPoolTests
{
    private int _drawn;

    [Fact]
    public void Take_WhileOneIsKept_NeverGivesThatAgain()
    {
        var pool = new StreamPool();
        var kept = pool.Take(Draw, stream => stream);
        for (var k = 0; k < 3 * StreamPool.Count; k++)
        {
            var other = pool.Take(Draw, stream => stream);
            Assert.NotEqual(kept, other);
            pool.Return(other);
        }

        pool.Return(kept);
        Assert.Contains(kept, Enumerable.Range(0, StreamPool.Count).Select(_ => pool.Take(Draw, stream => stream)));
    }

    [Fact]
    public void Take_WhenAllAreTaken_Throws()
    {
        var pool = new StreamPool();
        var all = Enumerable.Range(0, StreamPool.Count).Select(_ => pool.Take(Draw, stream => stream)).ToArray();
        Assert.Equal(StreamPool.Count, all.Distinct().Count());
        Assert.Contains(
            "32 streams", Assert.Throws<CudaException>(() => pool.Take(Draw, stream => stream)).Message, StringComparison.Ordinal);
    }

    private nint Draw() => 1 + (_drawn++ % StreamPool.Count);
}
