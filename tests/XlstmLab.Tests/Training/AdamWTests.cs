using System.Diagnostics;
using TorchSharp.Modules;
using Xunit;
using static TorchSharp.torch;
using AdamW = XlstmLab.Training.AdamW;

namespace XlstmLab.Tests.Training;

public sealed class AdamWTests
{
    private static readonly long[][] Shapes = [[3, 5], [1], [129], [70, 300], [2, 0], [1, 16385], [7, 3, 2]];

    [Theory]
    [InlineData("backbone.embeddings.weight", false, 50304, 4096)]
    [InlineData("embedding.weight", false, 10, 4)]
    [InlineData("lm_head.weight", true, 50304, 4096)]
    [InlineData("backbone.blocks.0.mlstm_layer.q.weight", true, 2048, 4096)]
    [InlineData("backbone.blocks.0.mlstm_layer.qkv_opreact.weight", true, 12288, 4096)]
    [InlineData("backbone.blocks.0.mlstm_layer.igate_preact.weight", true, 1, 4096)]
    [InlineData("backbone.blocks.0.mlstm_layer.igate_preact.bias", false, 8)]
    [InlineData("backbone.blocks.0.mlstm_layer.fgate_preact.weight", true, 8, 4096)]
    [InlineData("backbone.blocks.0.mlstm_layer.out_proj.weight", true, 4096, 4096)]
    [InlineData("backbone.blocks.0.mlstm_layer.multihead_norm.weight", false, 4096)]
    [InlineData("backbone.blocks.0.mlstm_layer.multihead_norm.weight", false, 8, 512)]
    [InlineData("backbone.blocks.0.norm_mlstm.weight", false, 4096)]
    [InlineData("backbone.blocks.0.norm_ffn.bias", false, 4096)]
    [InlineData("backbone.blocks.0.ffn.proj_up_gate.weight", true, 10944, 4096)]
    [InlineData("backbone.out_norm.weight", false, 4096)]
    [InlineData("slstm_cell.recurrent_kernel", true, 4, 64, 256)]
    [InlineData("slstm_cell.bias", false, 4, 256)]
    public void Decays_EachKindOfParameter_FollowsThePapersGroups(string name, bool expected, params int[] shape) =>
        Assert.Equal(expected, AdamW.Decays(name, [.. shape.Select(size => (long)size)]));

    [Fact]
    public void Step_TwentyUpdates_EqualsTorchsAdamW()
    {
        using var scope = NewDisposeScope();
        var (ours, theirs) = (Parameters(1), Parameters(1));
        using var optimizer = new AdamW(Named(ours), 0.9, 0.999, 1e-8, 0.1);
        using var decayed = optim.AdamW(theirs.Where(p => p.ndim >= 2), lr: 0.01, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1);
        using var undecayed = optim.AdamW(theirs.Where(p => p.ndim < 2), lr: 0.01, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0);
        for (var step = 0; step < 20; step++)
        {
            SetGradients(step, ours, theirs);
            optimizer.Step(0.01);
            decayed.step();
            undecayed.step();
        }

        AssertClose(ours, theirs, 2e-6);
    }

    [Fact]
    public void StepOnCpu_AnyShapes_EqualsStepAnywhere()
    {
        using var scope = NewDisposeScope();
        var (fused, plain) = (Parameters(2), Parameters(2));
        using var first = new AdamW(Named(fused), 0.99, 0.95, 1e-8, 0.1);
        using var second = new AdamW(Named(plain), 0.99, 0.95, 1e-8, 0.1);
        for (var step = 0; step < 10; step++)
        {
            SetGradients(step, fused, plain);
            first.StepOnCpu(0.02, 0.3);
            second.StepAnywhere(0.02, 0.3);
        }

        AssertClose(fused, plain, 2e-6);
        foreach (var (name, moment) in second.StateDict())
        {
            Assert.True(first.StateDict()[name].allclose(moment, 1e-5, 1e-7), name);
        }
    }

    [Fact]
    public void Step_ScaledGradient_EqualsGradientsMultipliedBefore()
    {
        using var scope = NewDisposeScope();
        var (scaled, multiplied) = (Parameters(3), Parameters(3));
        using var first = new AdamW(Named(scaled));
        using var second = new AdamW(Named(multiplied));
        SetGradients(1, scaled, multiplied);
        foreach (var parameter in multiplied)
        {
            parameter.grad!.mul_(0.25);
        }

        first.Step(0.1, 0.25);
        second.Step(0.1);
        AssertClose(scaled, multiplied, 0);
    }

    [Fact]
    public void Step_WithoutGradient_LeavesTheParameter()
    {
        using var scope = NewDisposeScope();
        var parameters = Parameters(4);
        var before = parameters[0].detach().clone();
        using var optimizer = new AdamW(Named(parameters));
        parameters[1].grad = ones_like(parameters[1]);
        optimizer.Step(0.1);
        Assert.True(parameters[0].equal(before).all().item<bool>());
    }

    [Fact]
    public void StateDict_Loaded_ContinuesBitForBit()
    {
        using var scope = NewDisposeScope();
        var straight = Parameters(5);
        using var optimizer = new AdamW(Named(straight));
        SetGradients(1, straight);
        optimizer.Step(0.1);
        var resumed = straight.Select(p => new Parameter(p.detach().clone())).ToArray();
        using var second = new AdamW(Named(resumed));
        second.LoadStateDict(optimizer.StateDict());
        Assert.Equal(1, second.Steps);
        SetGradients(2, straight, resumed);
        optimizer.Step(0.1);
        second.Step(0.1);
        AssertClose(straight, resumed, 0);
    }

    [Fact]
    public void LoadStateDict_OfAnotherModel_SaysWhatDiffers()
    {
        using var scope = NewDisposeScope();
        using var small = new AdamW([("w", new Parameter(zeros(2, 3)))]);
        using var large = new AdamW([("w", new Parameter(zeros(4, 3)))]);
        using var other = new AdamW([("u", new Parameter(zeros(4, 3)))]);
        var shape = Assert.Throws<ArgumentException>(() => large.LoadStateDict(small.StateDict()));
        Assert.Contains("[2, 3]", shape.Message, StringComparison.Ordinal);
        var name = Assert.Throws<ArgumentException>(() => large.LoadStateDict(other.StateDict()));
        Assert.Contains("no 'exp_avg.w'", name.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Constructor_ParameterInBfloat16_IsRefused()
    {
        using var scope = NewDisposeScope();
        var error = Assert.Throws<ArgumentException>(() => new AdamW([("w", new Parameter(zeros(2, 3, ScalarType.BFloat16)))]));
        Assert.Contains("ComputeType", error.Message, StringComparison.Ordinal);
    }

    /// <summary>Not a test: times one update of 200 matrices.</summary>
    [Fact(Explicit = true)]
    public void Step_TwoHundredMatrices_Timing()
    {
        using var scope = NewDisposeScope();
        foreach (var size in new[] { 64L, 512L })
        {
            var parameters = Enumerable.Range(0, 200).Select(_ => new Parameter(randn(size, size))).ToArray();
            using var optimizer = new AdamW(parameters.Select((p, i) => ($"w{i}", p)));
            using var reference = optim.AdamW(parameters, lr: 1e-3);
            SetGradients(1, parameters);
            var fused = Best(() => optimizer.StepOnCpu(1e-3, 1));
            var plain = Best(() => optimizer.StepAnywhere(1e-3, 1));
            var torchs = Best(() => reference.step());
            TestContext.Current.SendDiagnosticMessage(
                $"200 x [{size}, {size}], {get_num_threads()} threads: "
                + $"fused {fused:F2} ms, ATen {plain:F2} ms, torch.optim.AdamW {torchs:F2} ms");
        }
    }

    private static double Best(Action action) =>
        Enumerable.Range(0, 10).Min(_ =>
        {
            var watch = Stopwatch.StartNew();
            action();
            return watch.Elapsed.TotalMilliseconds;
        });

    private static Parameter[] Parameters(int seed)
    {
        using var generator = new Generator((ulong)seed);
        return [.. Shapes.Select(shape => new Parameter(randn(shape, generator: generator)))];
    }

    private static IEnumerable<(string, Parameter)> Named(IEnumerable<Parameter> parameters) =>
        parameters.Select((p, i) => ($"w{i}.weight", p));

    private static void SetGradients(int seed, params Parameter[][] models)
    {
        using var generator = new Generator((ulong)(100 + seed));
        foreach (var shapes in Enumerable.Range(0, models[0].Length))
        {
            var gradient = randn(models[0][shapes].shape, generator: generator);
            foreach (var model in models)
            {
                model[shapes].grad = gradient.clone();
            }
        }
    }

    private static void AssertClose(Parameter[] actual, Parameter[] expected, double tolerance)
    {
        foreach (var (a, e) in actual.Zip(expected).Where(pair => pair.First.NumberOfElements > 0))
        {
            Assert.InRange((a - e).abs().max().item<float>(), 0, tolerance);
        }
    }
}
