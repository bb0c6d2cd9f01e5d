using TorchSharp;
using XlstmLab.Models;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Cli.Verification;

/// <summary>The library's kernels, which take bfloat16, against the same computation in float64 on the same numbers.</summary>
public static class KernelVerifier
{
    private const double OutputBound = 5e-3;
    private const double GradientBound = 1e-2;
    private const double GateBound = 1.5e-2;

    /// <summary>Verifies with gates from mild to extreme, lengths that no chunk divides, document starts and states.</summary>
    /// <param name="device">A GPU; where there are no kernels there are no rows.</param>
    /// <param name="cancellationToken">Ends the run between two cases.</param>
    public static IEnumerable<GoldenRow> Verify(Device device, CancellationToken cancellationToken = default)
    {
        if (Kernel.Absence is not null)
        {
            yield break;
        }

        // Numbers are drawn on the CPU, so that they are the same everywhere.
        random.manual_seed(1).Dispose();
        foreach (var (dk, dv, length) in new[] { (64, 128, 997), (96, 192, 515), (128, 256, 640), (256, 512, 389) })
        {
            foreach (var gate in new[] { InputGate.Exponential, InputGate.Sigmoid })
            {
                foreach (var row in Case(
                    $"mlstm {gate} {dk} x {dv}, {length} tokens", () => MLstm(device, dk, dv, length, 0, 3, new() { InputGate = gate })))
                {
                    yield return row;
                }
            }
        }

        foreach (var input in new[] { -10, 0, 10 })
        {
            foreach (var forget in new[] { -12, -4, 0, 3, 12 })
            {
                foreach (var row in Case($"mlstm gates {input}, {forget}", () => MLstm(device, 64, 128, 700, input, forget, new())))
                {
                    yield return row;
                }
            }
        }

        foreach (var (dim, length) in new[] { (64, 37), (256, 130) })
        {
            foreach (var row in Case($"slstm {dim}, {length} tokens", () => SLstm(device, dim, length)))
            {
                yield return row;
            }
        }

        foreach (var row in Case("model in bfloat16", () => Model(device)))
        {
            yield return row;
        }

        List<GoldenRow> Case(string name, Func<IEnumerable<(string Quantity, double Error, double Bound)>> verify)
        {
            cancellationToken.ThrowIfCancellationRequested();
            return GoldenVerifier.Guarded(name, () => verify().Select(r => GoldenRow.Compare(name, r.Quantity, r.Error, r.Bound)));
        }
    }

    private static IEnumerable<(string, double, double)> MLstm(
        Device device, int dk, int dv, int length, double inputBias, double forgetBias, MLstmOptions options)
    {
        const int batch = 2, heads = 2;
        Tensor Draw(params long[] shape) => randn(shape, device: CPU);
        Tensor[] drawn =
        [
            .. new[] { dk, dk, dv }.Select(d => Draw(batch, heads, length, d).to(bfloat16)),
            Draw(batch, heads, length) + inputBias, Draw(batch, heads, length) + forgetBias,
            Draw(batch, heads, dk, dv), Draw(batch, heads, dk),
            options.Stabilizes ? Draw(batch, heads, 1) : zeros(batch, heads, 1, device: CPU),
        ];
        var (starts, padding, dh) = (rand(batch, length, device: CPU).lt(0.005), rand(batch, length, device: CPU).lt(0.02),
            Draw(batch, heads, length, dv).to(bfloat16));
        dh = dh.masked_fill(padding.unsqueeze(1).unsqueeze(3), 0); // no loss counts what is no token
        (Tensor[] Outputs, Tensor[] Gradients) Run(bool wide)
        {
            var x = drawn.Select(t => t.to(wide ? float64 : t.dtype).to(device).detach().requires_grad_()).ToArray();
            var layout = new SequenceLayout(starts.to(device), padding.to(device));
            var (h, last) = MLstmCell.Forward(x[0], x[1], x[2], x[3], x[4], new(x[5], x[6], x[7].detach()), layout, options);
            Gradients.Backward((h.to(wide ? float64 : float32) * dh.to(device)).sum());
            return ([h, last.C, last.N], [.. x.Take(7).Select(t => t.grad!)]);
        }

        var (expected, first, second) = (Run(true), Run(false), Run(false));
        yield return ("h", GoldenCase.RelativeRms(expected.Outputs[0], first.Outputs[0]), OutputBound);
        yield return ("last state", GoldenCase.Largest(Errors(expected.Outputs[1..], first.Outputs[1..])), OutputBound);
        yield return ("dq dk dv", GoldenCase.Largest(Errors(expected.Gradients[..3], first.Gradients[..3])), GradientBound);
        yield return ("di df", GoldenCase.Largest(Errors(expected.Gradients[3..5], first.Gradients[3..5])), GateBound);
        yield return ("dc0 dn0", GoldenCase.Largest(Errors(expected.Gradients[5..], first.Gradients[5..])), GradientBound);
        yield return ("share that differs run after run",
            Different([.. first.Outputs, .. first.Gradients], [.. second.Outputs, .. second.Gradients]), 0);
    }

    private static IEnumerable<(string, double, double)> SLstm(Device device, int dim, int length)
    {
        const int batch = 3, heads = 2;
        Tensor[] drawn =
        [
            randn([batch, length, 4, heads, dim], device: CPU).to(bfloat16),
            (randn([heads, 4, dim, dim], device: CPU) / Math.Sqrt(dim)).to(bfloat16).to(float32),
            randn([4, heads, dim], device: CPU),
        ];
        var dh = randn([batch, heads, length, dim], device: CPU).to(bfloat16);
        (Tensor[] Outputs, Tensor[] Gradients) Run(bool wide)
        {
            var x = drawn.Select(t => t.to(wide ? float64 : t.dtype).to(device).detach().requires_grad_()).ToArray();
            var (h, last) = wide ? SLstmRecurrent.Forward(x[0], x[1], x[2]) : SLstmCell.Forward(x[0], x[1], x[2]);
            Gradients.Backward((h.to(wide ? float64 : float32) * dh.to(device)).sum());
            return ([h, last.C], [.. x.Select(t => t.grad!)]);
        }

        var (expected, first, second) = (Run(true), Run(false), Run(false));
        yield return ("h, last state", GoldenCase.Largest(Errors(expected.Outputs, first.Outputs)), OutputBound);
        yield return ("dx", GoldenCase.RelativeRms(expected.Gradients[0], first.Gradients[0]), GradientBound);
        yield return ("d kernel, d bias", GoldenCase.Largest(Errors(expected.Gradients[1..], first.Gradients[1..])), GateBound);
        yield return ("share that differs run after run",
            Different([.. first.Outputs, .. first.Gradients], [.. second.Outputs, .. second.Gradients]), 0);
    }

    /// <summary>Norms, gates, head norm, feed-forward layers and the mLSTM together, against the same model in float32.</summary>
    private static IEnumerable<(string, double, double)> Model(Device device)
    {
        using var model = new XlstmLanguageModel(XlstmPresets.Bytes1M with { EmbeddingDim = 256, HeadCount = 2 }, seed: 1);
        model.to(device);
        var tokens = randint(0, 257, [2, 150], dtype: int64, device: CPU).to(device);
        var dy = randn([2, 150, 256], device: CPU).to(device);
        (Tensor Hidden, Tensor[] Gradients) Run(ScalarType type)
        {
            model.zero_grad();
            var (hidden, _) = model.ForwardHidden(model.Embed(tokens).to(type));
            Gradients.Backward((hidden.to(float32) * dy).sum());
            return (hidden, [.. model.parameters().Where(p => p.grad is not null && p.dim() == 2).Select(p => p.grad!.clone())]);
        }

        var (expected, actual) = (Run(float32), Run(bfloat16));
        yield return ("hidden", GoldenCase.RelativeRms(expected.Hidden, actual.Hidden), 2e-2);
        yield return ("gradients of the projections", GoldenCase.Largest(Errors(expected.Gradients, actual.Gradients)), 1e-1);
    }

    private static IEnumerable<double> Errors(Tensor[] expected, Tensor[] actual) => expected.Zip(actual, GoldenCase.RelativeRms);

    private static double Different(Tensor[] first, Tensor[] second) =>
        first.Zip(second, (a, b) => a.ne(b).to(float64).mean().item<double>()).Max();
}
