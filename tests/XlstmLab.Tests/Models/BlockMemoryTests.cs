using TorchSharp;
using XlstmLab.Models;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Models;

public sealed class BlockMemoryTests
{
    [Fact]
    public void Through_Blocks_FreeWhatNobodyNeedsBehindThem()
    {
        using var outer = NewDisposeScope();
        var given = ones(2);
        using var pass = NewDisposeScope();
        var kept = new Dictionary<string, Tensor>();
        var memory = new BlockMemory(pass, kept);
        var made = new List<Tensor>();
        (Tensor Stream, Tensor? Written) Block(Tensor stream, Tensor? written)
        {
            made.Add(stream * 2);
            kept.Add($"blocks.{kept.Count}.c", stream + 1);
            return (written is null ? stream : stream + written, stream * 3);
        }

        var (x, toAdd) = memory.Through(given, null, () => Block(given, null));
        Assert.Same(given, x);
        var first = toAdd!;
        (x, toAdd) = memory.Through(x, toAdd, () => Block(x, toAdd));
        Assert.False(given.IsInvalid);
        Assert.True(first.IsInvalid);
        Assert.All(made, tensor => Assert.True(tensor.IsInvalid));
        Assert.All(kept.Values, tensor => Assert.False(tensor.IsInvalid));
        var second = x;
        (x, toAdd) = memory.Through(x, toAdd, () => Block(x, toAdd));
        Assert.True(second.IsInvalid);
        Assert.Equal([7f, 7], x.data<float>().ToArray());
        Assert.Equal([12f, 12], toAdd!.data<float>().ToArray());
        pass.Dispose();
        Assert.True(x.IsInvalid);
        Assert.False(given.IsInvalid);
    }

    /// <summary>In the last block a pass has as many tensors as in the third: the first two are given what the caller made.</summary>
    [Theory]
    [InlineData("bytes-1m")]
    [InlineData("llama-bytes-1m")]
    [InlineData("gla-bytes-1m")]
    [InlineData("mamba-bytes-1m")]
    [InlineData("mamba2-bytes-1m")]
    [InlineData("lstm-bytes-1m")]
    public void Forward_WithoutGradients_HoldsNoMoreWithEveryBlock(string preset)
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        using var model = (Presets.ByName(preset) with { BlockCount = 6 }).CreateModel(seed: 1);
        var counts = new SortedDictionary<int, long>();
        model.Observer = (block, _, _) => counts.TryAdd(block, DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount);
        model.Forward(zeros(1, 4, ScalarType.Int64));
        Assert.Equal(6, counts.Count);
        Assert.Equal(counts[2], counts[5]);
    }
}
