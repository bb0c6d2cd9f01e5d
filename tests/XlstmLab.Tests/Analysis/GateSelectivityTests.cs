using XlstmLab.Analysis;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Analysis;

public sealed class GateSelectivityTests
{
    [Fact]
    public void Selectivity_TokenDecidesTheGate_FindsTheKnownPattern()
    {
        using var model = new GateModel();

        var rows = GateCapture.Run(model, [0, 1, 2, 1, 0, 2, 1, 2]).Selectivity(["a", "b", "b", "b", "a", "b", "b", "b"]);

        // Log input gates are the token ids: class a has 0, 0, class b 1, 2, 1, 2, 1, 2; the mean is 9/8, the variance 39/64.
        Assert.Equal(["a", "b"], rows.Select(r => r.Class));
        Assert.Equal([2, 6], rows.Select(r => r.Count));
        Assert.Equal([0, 1.5], rows.Select(r => r.Mean));
        Assert.Equal([-1.5, 1.5], rows.Select(r => r.Excess));
        Assert.Equal(1.5 / Math.Sqrt(39.0 / 64), rows[1].EffectSize, 1e-9);
        Assert.Equal((2 * 81 / 64.0 + 6 * 9 / 64.0) / 8 / (39.0 / 64), rows[0].Explained, 1e-9);
    }

    [Fact]
    public void Selectivity_ClassIsTheToken_ExplainsAll()
    {
        using var model = new GateModel();
        int[] tokens = [0, 1, 2, 1, 0];
        var recording = GateCapture.Run(model, tokens);

        Assert.All(recording.Selectivity(tokens), r => Assert.Equal(1, r.Explained, 1e-9));
        Assert.All(recording.Selectivity(tokens, GateQuantity.LogForgetGate), r => Assert.Equal((0.0, 0.0), (r.Explained, r.EffectSize)));
        Assert.True(double.IsNaN(Assert.Single(recording.Selectivity((_, _) => TokenClass.Letter)).Excess));
        Assert.Throws<ArgumentException>(() => recording.Selectivity(["a"]));
    }

    [Fact]
    public void Selectivity_Padding_IsLeftOut()
    {
        using var scope = NewDisposeScope();
        using var model = new GateModel();
        var padding = tensor(new[] { false, false, true, false }, [2, 2]);

        var row = Assert.Single(
            GateCapture.Run(model, tensor(new long[] { 1, 1, 2, 1 }, [2, 2]), new(Padding: padding)).Selectivity((_, _) => 0));

        Assert.Equal((3, 1.0), (row.Count, row.Mean));
    }

    /// <summary>An mLSTM whose input gate is the token's id.</summary>
    private sealed class GateModel() : ShowingModel(nameof(GateModel), 3)
    {
        protected override void Show(Tensor tokens)
        {
            var gate = tokens.to(ScalarType.Float32).unsqueeze(1);
            var vectors = ones(tokens.shape[0], 1, tokens.shape[1], 2);
            Observer?.Invoke(0, "q", vectors);
            Observer?.Invoke(0, "k", vectors);
            Observer?.Invoke(0, "v", vectors);
            Observer?.Invoke(0, "igate_preact", gate);
            Observer?.Invoke(0, "fgate_preact", zeros_like(gate));
            Observer?.Invoke(0, "h", vectors);
        }
    }
}
