using TorchSharp;
using XlstmLab.Layers;
using XlstmLab.Operations;
using XlstmLab.Tests.Operations;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Layers;

public sealed class CausalConv1dTests
{
    private const int Channels = 3;

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(4)]
    [InlineData(9)]
    public void Forward_WholeSequence_EqualsPaddedConvolution(int taps)
    {
        using var scope = NewDisposeScope();
        using var conv = Conv(taps);
        var x = Random(2, 7);
        var expected = nn.functional.conv1d(
            x.transpose(1, 2), conv.get_parameter("conv.weight")!, conv.get_parameter("conv.bias")!, padding: taps - 1, groups: Channels)
            .narrow(2, 0, 7).transpose(1, 2);
        var (y, state) = conv.Forward(x, null, null, returnState: true);
        MLstmTests.Near(expected, y, 1e-14, "y");
        if (taps == 1)
        {
            Assert.Null(state);
        }
        else
        {
            var padded = cat([zeros(2, taps - 1, Channels, ScalarType.Float64), x], 1);
            MLstmTests.Near(padded.narrow(1, 7, taps - 1), state!, 1e-15, "state");
        }
    }

    [Theory]
    [InlineData(2)]
    [InlineData(4)]
    public void Forward_PiecesDocumentsAndPadding_EqualDocumentsApart(int taps)
    {
        using var scope = NewDisposeScope();
        using var conv = Conv(taps);
        var x = Random(1, 14).requires_grad_();
        bool[] starts = [false, false, false, true, true, false, false, false, true, false, false, false, false, false];
        // a document starts on padding too
        bool[] padding = [true, false, false, false, false, false, true, true, true, false, false, true, false, true];
        var weights = Random(1, 14);

        var documents = new List<int[]>();
        for (var t = 0; t < 14; t++)
        {
            if (t == 0 || starts[t])
            {
                documents.Add([]);
            }

            if (!padding[t])
            {
                documents[^1] = [.. documents[^1], t];
            }
        }

        Tensor? expectedState = null;
        var expectedLoss = zeros([], ScalarType.Float64);
        var outputs = new Dictionary<int, Tensor>();
        foreach (var document in documents)
        {
            var index = tensor(document.Select(t => (long)t).ToArray());
            (var alone, expectedState) = conv.Forward(x.index_select(1, index), null, null, returnState: true);
            expectedLoss = expectedLoss + (alone * weights.index_select(1, index)).sum();
            for (var i = 0; i < document.Length; i++)
            {
                outputs.Add(document[i], alone.select(1, i));
            }
        }

        var expectedGradient = autograd.grad([expectedLoss], [x])[0];
        foreach (var pieces in new int[][] { [14], [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1], [3, 4, 2, 5] })
        {
            var garbled = x.masked_fill(tensor(padding).view(1, 14, 1), double.NaN);
            Tensor? state = null;
            var loss = zeros([], ScalarType.Float64);
            var first = 0;
            foreach (var length in pieces)
            {
                var layout = new SequenceLayout(
                    tensor(starts).unsqueeze(0).narrow(1, first, length), tensor(padding).unsqueeze(0).narrow(1, first, length));
                (var y, state) = conv.Forward(garbled.narrow(1, first, length), state, layout, returnState: true);
                for (var t = first; t < first + length; t++)
                {
                    if (!padding[t])
                    {
                        MLstmTests.Near(outputs[t], y.select(1, t - first), 1e-14, $"y {t}");
                        loss = loss + (y.select(1, t - first) * weights.select(1, t)).sum();
                    }
                }

                first += length;
            }

            MLstmTests.Near(expectedState!, state!, 1e-15, "state");
            MLstmTests.Near(expectedGradient, autograd.grad([loss], [x])[0], 1e-13, "gradient");
        }
    }

    [Fact]
    public void Forward_WrongState_SaysWhatWasExpected()
    {
        using var scope = NewDisposeScope();
        using var conv = Conv(4);
        var e = Assert.Throws<ArgumentException>(() => conv.Forward(Random(2, 5), zeros(2, 4, Channels), null, false));
        Assert.Contains("[2, 3, 3], got [2, 4, 3]", e.Message, StringComparison.Ordinal);
        Assert.Throws<ArgumentOutOfRangeException>(() => new CausalConv1d(Channels, 0));
    }

    [Fact]
    public void HeadwiseDense_EqualsBlockDiagonalMatrix()
    {
        using var scope = NewDisposeScope();
        using var dense = new HeadwiseDense(12, 3, bias: true);
        using (no_grad())
        {
            dense.Weight.normal_();
            dense.Bias!.normal_();
        }

        var x = randn(2, 5, 12);
        var expected = nn.functional.linear(x, block_diag([.. dense.Weight.unbind(0)]), dense.Bias);
        MLstmTests.Near(expected, dense.Forward(x), 1e-6, "y");
        Assert.Contains(
            "divides the width 12, got 5",
            Assert.Throws<ArgumentException>(() => new HeadwiseDense(12, 5)).Message, StringComparison.Ordinal);
    }

    private static CausalConv1d Conv(int taps)
    {
        var conv = new CausalConv1d(Channels, taps);
        conv.to(ScalarType.Float64);
        using var grad = no_grad();
        using var generator = new Generator(3, CPU);
        foreach (var parameter in conv.parameters())
        {
            parameter.normal_(0, 1, generator);
        }

        return conv;
    }

    private static Tensor Random(long batch, long length)
    {
        using var generator = new Generator((ulong)length, CPU);
        return randn([batch, length, Channels], ScalarType.Float64, generator: generator);
    }
}
