using TorchSharp;
using TorchSharp.Modules;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Training;

/// <summary>Muon (Jordan et al. 2024): the mean of a matrix's gradients, made orthogonal, is its update.</summary>
/// <remarks>
/// For a weight W with gradient G, momentum m and decay d:
/// <code>
/// M = M + (1 - m) (G - M)
/// U = m M + (1 - m) G    (M itself without Nesterov)
/// W = (1 - rate d) W - rate scale orthogonal(U)
/// </code>
/// The orthogonal matrix has bfloat16's precision, as the published one has; all else is float32.
/// </remarks>
public sealed class Muon : IOptimizer
{
    private const double LeastNorm = 1e-7;

    private readonly (string Name, Parameter Weight)[] _matrices;
    private readonly Tensor[] _momenta;
    private readonly MuonSettings _settings;
    private readonly double _weightDecay;
    private bool _isDisposed;

    /// <summary>A momentum for each matrix, on its device.</summary>
    /// <param name="matrices">Names as in the state dict, and float32 parameters [rows, columns], on their device for good.</param>
    /// <param name="settings">Momentum, steps and scale; rate and decay are those of the other arguments.</param>
    /// <param name="weightDecay">The decay, multiplied by the learning rate.</param>
    /// <exception cref="ArgumentException">A parameter is no float32 matrix.</exception>
    public Muon(IEnumerable<(string Name, Parameter Parameter)> matrices, MuonSettings? settings = null, double weightDecay = 0.1)
    {
        _matrices = [.. matrices.Where(p => p.Parameter.requires_grad)];
        foreach (var (name, weight) in _matrices)
        {
            if (weight.dim() != 2 || weight.dtype != ScalarType.Float32)
            {
                throw new ArgumentException(
                    $"The parameter {name} is [{string.Join(", ", weight.shape)}] {weight.dtype}, "
                    + "and Muon updates float32 matrices [rows, columns]: give all others to AdamW.");
            }
        }

        (_settings, _weightDecay) = (settings ?? new(), weightDecay);
        using var noGrad = no_grad();
        _momenta = [.. _matrices.Select(p => zeros_like(p.Weight).DetachFromDisposeScope())];
    }

    /// <summary>
    /// The nearest matrix with singular values of 1, roughly: a quintic iteration brings singular values to between 0.7 and 1.2, and what
    /// is below a thousandth of the largest perhaps not so far.
    /// </summary>
    /// <param name="matrix">[rows, columns], of any scale; zero stays zero.</param>
    /// <param name="steps">The number of iterations, of Newton and Schulz.</param>
    /// <returns>[rows, columns] in the matrix's type, and the caller's dispose scope.</returns>
    public static Tensor Orthogonalize(Tensor matrix, int steps = 5)
    {
        // Chosen by Jordan et al. for the steepest rise at 0 that still ends near 1.
        const float A = 3.4445f, B = -4.7750f, C = 2.0315f;
        using var scope = NewDisposeScope();
        var isTall = matrix.shape[0] > matrix.shape[1];

        // Most CPUs are slow at bfloat16: there float32 computes what is then rounded.
        var type = matrix.device_type == DeviceType.CPU ? ScalarType.Float32 : ScalarType.BFloat16;
        Tensor Rounded(Tensor t) => t.to(ScalarType.BFloat16).to(type);
        var x = Rounded(isTall ? matrix.t() : matrix);
        x = Rounded(x / Rounded(x.norm()).clamp_min(LeastNorm));
        for (var step = 0; step < steps; step++)
        {
            // (a + b g + c g^2) x with g = x x^T
            var gram = Rounded(x.mm(x.t()));
            var polynomial = Rounded(gram.addmm(gram, gram, B, C));
            x = Rounded(x.addmm(polynomial, x, A, 1));
        }

        return (isTall ? x.t() : x).to(matrix.dtype).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public void Step(double learningRate, double gradientScale = 1)
    {
        ObjectDisposedException.ThrowIf(_isDisposed, this);
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        for (var p = 0; p < _matrices.Length; p++)
        {
            var weight = _matrices[p].Weight;
            if (weight.grad is not { } gradient)
            {
                continue;
            }

            using var inner = NewDisposeScope();
            gradient = gradient * gradientScale;
            _momenta[p].MoveTowards(gradient, 1 - _settings.Momentum);
            var update = _settings.Nesterov ? gradient.MoveTowards(_momenta[p], _settings.Momentum) : _momenta[p];
            weight.mul_(1 - learningRate * _weightDecay);
            weight.add_(Orthogonalize(update, _settings.NewtonSchulzSteps), alpha: -learningRate * Scale(weight.shape));
        }
    }

    /// <summary>The matrices that it updates.</summary>
    internal IEnumerable<(string Name, Parameter Parameter)> Matrices => _matrices;

    /// <summary>An update by kernels, clipped or left out as was prepared on the device.</summary>
    /// <param name="prepared">What prepared it.</param>
    /// <param name="rateFactor">The learning rate in units of the prepared one.</param>
    /// <param name="copies">What it writes beside the weights.</param>
    internal void StepOnDevice(AdamWKernel prepared, double rateFactor, WeightCopies copies)
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        for (var p = 0; p < _matrices.Length; p++)
        {
            using var inner = NewDisposeScope();
            var (name, weight) = _matrices[p];
            if (weight.grad is not { } gradient)
            {
                continue;
            }

            var update = MuonKernel.Momentum(gradient, _momenta[p], prepared, _settings.Momentum, _settings.Nesterov);
            var orthogonal = Orthogonalize(update, _settings.NewtonSchulzSteps);
            MuonKernel.Update(
                weight, orthogonal, copies.Products?.CopyOf(weight), copies.Average?.Of(name), prepared,
                rateFactor, Scale(weight.shape), _weightDecay);
        }
    }

    /// <summary>The means of gradients by name: <c>momentum_buffer.NAME</c>.</summary>
    /// <inheritdoc/>
    public IReadOnlyDictionary<string, Tensor> StateDict()
    {
        ObjectDisposedException.ThrowIf(_isDisposed, this);
        return _matrices.Zip(_momenta).ToDictionary(p => $"momentum_buffer.{p.First.Name}", p => p.Second);
    }

    /// <inheritdoc/>
    public void LoadStateDict(IReadOnlyDictionary<string, Tensor> state) => StateDict().Load(state);

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (var momentum in _momenta)
        {
            momentum.Dispose();
        }

        _isDisposed = true;
    }

    private double Scale(long[] shape) => _settings.Scale switch
    {
        MuonScale.MatchRmsAdamW => 0.2 * Math.Sqrt(Math.Max(shape[0], shape[1])),
        MuonScale.Original => Math.Sqrt(Math.Max(1, (double)shape[0] / shape[1])),
        _ => throw UnknownValue.Of(_settings.Scale),
    };
}
