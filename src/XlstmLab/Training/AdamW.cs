using System.Numerics;
using TorchSharp;
using TorchSharp.Modules;
using XlstmLab.Native.Cuda;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Training;

/// <summary>AdamW (Loshchilov and Hutter 2019) over float32 master weights, with weight decay on dense weights only.</summary>
/// <remarks>
/// On a CPU one pass over the memory of weights, gradients and moments does the whole update, in parallel and without an order that could
/// change its result; other devices take libtorch's operations. The two agree to rounding.
/// </remarks>
public sealed class AdamW : IDeviceOptimizer
{
    private const int BlockLength = 1 << 14;

    private readonly (string Name, Parameter Weight, bool Decays)[] _parameters;
    private readonly Tensor[] _means;
    private readonly Tensor[] _squares;
    private readonly Tensor _steps;
    private readonly MemoryBlock[] _blocks;
    private AdamWKernel? _kernel;
    private readonly double _beta1;
    private readonly double _beta2;
    private readonly double _epsilon;
    private readonly double _weightDecay;
    private bool _isDisposed;

    /// <summary>Moments for each parameter, on its device.</summary>
    /// <param name="parameters">Names as in the state dict, and parameters: float32, contiguous, on one device for good.</param>
    /// <param name="beta1">The decay of the mean of gradients.</param>
    /// <param name="beta2">The decay of the mean of squared gradients.</param>
    /// <param name="epsilon">Added to the root of the mean of squares.</param>
    /// <param name="weightDecay">The decay, multiplied by the learning rate, of the weights for which <see cref="Decays"/> is true.</param>
    /// <exception cref="ArgumentException">A parameter is not float32 or not contiguous, or they are on several devices.</exception>
    public AdamW(
        IEnumerable<(string Name, Parameter Parameter)> parameters,
        double beta1 = 0.9,
        double beta2 = 0.95,
        double epsilon = 1e-8,
        double weightDecay = 0.1)
        : this(parameters.Select(p => (p.Name, p.Parameter, Decays(p.Name, p.Parameter.shape))), beta1, beta2, epsilon, weightDecay)
    {
    }

    /// <summary>Moments for each parameter, on its device, whose weight decay its role decides (<see cref="ParameterRoles"/>).</summary>
    /// <param name="parameters">Names, parameters as above, and whether weight decay acts on them.</param>
    /// <param name="beta1">The decay of the mean of gradients.</param>
    /// <param name="beta2">The decay of the mean of squared gradients.</param>
    /// <param name="epsilon">Added to the root of the mean of squares.</param>
    /// <param name="weightDecay">The decay, multiplied by the learning rate.</param>
    /// <exception cref="ArgumentException">A parameter is not float32 or not contiguous, or they are on several devices.</exception>
    public AdamW(
        IEnumerable<(string Name, Parameter Parameter, bool Decays)> parameters,
        double beta1,
        double beta2,
        double epsilon,
        double weightDecay)
    {
        _parameters = [.. parameters.Where(p => p.Parameter.requires_grad)];
        foreach (var (name, weight, _) in _parameters)
        {
            var first = _parameters[0].Weight;
            if (weight.dtype != ScalarType.Float32 || !weight.is_contiguous()
                || weight.device_type != first.device_type || weight.device_index != first.device_index)
            {
                throw new ArgumentException(
                    $"The parameter {name} is {weight.dtype} on {weight.device}{(weight.is_contiguous() ? "" : ", not contiguous")}; "
                    + $"the optimiser needs contiguous float32 parameters, all on {first.device}. "
                    + "Move the model as a whole before training, and compute in bfloat16 by ComputeType.");
            }
        }

        (_beta1, _beta2, _epsilon, _weightDecay) = (beta1, beta2, epsilon, weightDecay);
        using var noGrad = no_grad();
        _means = [.. _parameters.Select(p => zeros_like(p.Weight).DetachFromDisposeScope())];
        _squares = [.. _parameters.Select(p => zeros_like(p.Weight).DetachFromDisposeScope())];
        _steps = zeros(1, ScalarType.Int64, CPU).DetachFromDisposeScope();
        _blocks = MemoryBlock.Cut([.. _parameters.Select(p => p.Weight.NumberOfElements)], BlockLength);
    }

    /// <summary>The number of updates so far.</summary>
    public long Steps
    {
        get
        {
            ObjectDisposedException.ThrowIf(_isDisposed, this);
            return _steps.item<long>();
        }
    }

    /// <summary>What it updates, in its order.</summary>
    internal IEnumerable<(string Name, Parameter Parameter)> Parameters => _parameters.Select(p => (p.Name, p.Weight));

    /// <summary>
    /// Whether weight decay acts on a parameter of which only name and shape are known: on those with two dimensions or more, the
    /// head's and the gates' weights among them, convolutions and an sLSTM's recurrent kernel too, as in the first paper's code; but not
    /// on embedding tables, norms and biases of any shape, nor on the rates of Mamba's states; nor on a pre-up block's learnable skip,
    /// which is a vector. In a model the modules tell it (<see cref="ParameterRoles.Of"/>).
    /// </summary>
    /// <param name="name">
    /// The name in the state dict. A part between dots tells an embedding (<c>embedding</c>, <c>embeddings</c>, <c>embed_tokens</c>,
    /// <c>wte</c>), a norm (it contains <c>norm</c>), a bias (it ends in <c>bias</c>) or Mamba's rates (<c>A_log</c>). A head tied to the
    /// embedding goes by the embedding's name.
    /// </param>
    /// <param name="shape">The shape.</param>
    public static bool Decays(string name, IReadOnlyCollection<long> shape) =>
        shape.Count >= 2
        && !name.Split('.').Any(part =>
            part is "embedding" or "embeddings" or "embed_tokens" or "wte" or "A_log"
            || part.Contains("norm", StringComparison.OrdinalIgnoreCase)
            || part.EndsWith("bias", StringComparison.Ordinal));

    /// <inheritdoc/>
    public void Step(double learningRate, double gradientScale = 1)
    {
        ObjectDisposedException.ThrowIf(_isDisposed, this);
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        if (_parameters.Length > 0 && _parameters[0].Weight.device_type == DeviceType.CPU)
        {
            StepOnCpu(learningRate, gradientScale);
        }
        else
        {
            StepAnywhere(learningRate, gradientScale);
        }
    }

    /// <summary>Whether updates can be made by kernels, on a GPU.</summary>
    bool IDeviceOptimizer.HasKernel => HasKernel;

    /// <inheritdoc cref="IDeviceOptimizer.HasKernel"/>
    internal bool HasKernel => _parameters.Length > 0 && Kernel.Reaches(_parameters[0].Weight);

    /// <inheritdoc/>
    Func<AdamWRecord> IDeviceOptimizer.StepOnDevice(AdamWSettings settings, Tensor loss, WeightCopies copies)
    {
        var kernel = OnDevice(copies);
        kernel.Step(Completed(settings), loss);
        return Later(kernel);
    }

    /// <inheritdoc/>
    DeviceInput<long> IDeviceOptimizer.NewTable(WeightCopies copies) => OnDevice(copies).NewTable();

    /// <inheritdoc/>
    void IDeviceOptimizer.Record(DeviceInput<long> table, Tensor loss) => _kernel!.Record(table, loss);

    /// <inheritdoc/>
    Func<AdamWRecord> IDeviceOptimizer.Start(AdamWSettings settings, IRecordedWork update)
    {
        _kernel!.Tell(Completed(settings));
        update.Start();
        return Later(_kernel);
    }

    /// <summary>The kernel, made at the first call.</summary>
    /// <param name="copies">What it writes beside the weights; the same at each call.</param>
    /// <param name="all">
    /// All parameters whose gradients count for the norm, in the order in which they are added up: its own, and those that another updates.
    /// Null for its own.
    /// </param>
    internal AdamWKernel OnDevice(WeightCopies copies, IEnumerable<(string Name, Parameter Parameter)>? all = null)
    {
        if (_kernel is null)
        {
            var own = _parameters.Index().ToDictionary(p => p.Item.Name, p => p.Index);
            _kernel = new(
                (all ?? Parameters).Select(p => own.TryGetValue(p.Name, out var k)
                    ? new AdamWParameter(p.Parameter, _means[k], _squares[k], _parameters[k].Decays, copies.Average?.Of(p.Name))
                    : new AdamWParameter(p.Parameter, null, null, false, copies.Average?.Of(p.Name))),
                copies.Products);
            _kernel.Last = new() { Updates = Steps };
        }

        return _kernel;
    }

    /// <summary>The settings with what is the optimiser's own.</summary>
    internal AdamWSettings Completed(AdamWSettings settings) =>
        settings with { Beta1 = _beta1, Beta2 = _beta2, Epsilon = _epsilon, Decay = _weightDecay };

    /// <summary>Waits for the record of the update that was begun last; to be called once.</summary>
    internal Func<AdamWRecord> Later(AdamWKernel kernel)
    {
        var later = kernel.ReadLater();
        return () =>
        {
            var record = later();
            _steps.fill_(record.Updates);
            return record;
        };
    }

    /// <summary>The moments and the number of updates, by name: <c>exp_avg.NAME</c>, <c>exp_avg_sq.NAME</c> and <c>step</c>.</summary>
    /// <inheritdoc/>
    public IReadOnlyDictionary<string, Tensor> StateDict()
    {
        ObjectDisposedException.ThrowIf(_isDisposed, this);
        var state = new Dictionary<string, Tensor> { ["step"] = _steps };
        for (var p = 0; p < _parameters.Length; p++)
        {
            state.Add($"exp_avg.{_parameters[p].Name}", _means[p]);
            state.Add($"exp_avg_sq.{_parameters[p].Name}", _squares[p]);
        }

        return state;
    }

    /// <inheritdoc/>
    public void LoadStateDict(IReadOnlyDictionary<string, Tensor> state) => StateDict().Load(state);

    /// <inheritdoc/>
    public void Dispose()
    {
        _kernel?.Dispose();
        foreach (var moment in _means.Concat(_squares).Append(_steps))
        {
            moment.Dispose();
        }

        _isDisposed = true;
    }

    /// <summary>The update in libtorch's operations.</summary>
    internal void StepAnywhere(double learningRate, double gradientScale)
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        var (stepSize, root) = NextCorrections(learningRate);
        for (var p = 0; p < _parameters.Length; p++)
        {
            var (_, weight, decays) = _parameters[p];
            if (weight.grad is not { } gradient)
            {
                continue;
            }

            using var inner = NewDisposeScope();
            gradient = gradient * gradientScale;
            weight.mul_(Retained(learningRate, decays));
            _means[p].MoveTowards(gradient, 1 - _beta1);
            _squares[p].mul_(_beta2).addcmul_(gradient, gradient, 1 - _beta2);
            weight.addcdiv_(_means[p], (_squares[p].sqrt() / root).add_(_epsilon), -stepSize);
        }
    }

    /// <summary>The update in one pass over memory.</summary>
    internal unsafe void StepOnCpu(double learningRate, double gradientScale)
    {
        using var scope = NewDisposeScope();
        var (stepSize, root) = NextCorrections(learningRate);
        var weights = _parameters.Select(p => MemoryBlock.Pointer(p.Weight)).ToArray();
        var gradients = _parameters.Select(p => p.Weight.grad is { } g ? MemoryBlock.Pointer(g.contiguous()) : 0).ToArray();
        var means = _means.Select(MemoryBlock.Pointer).ToArray();
        var squares = _squares.Select(MemoryBlock.Pointer).ToArray();
        var rule = new Rule
        {
            Scale = (float)gradientScale,
            MeanShare = (float)(1 - _beta1),
            Beta2 = (float)_beta2,
            SquareShare = (float)(1 - _beta2),
            Epsilon = (float)_epsilon,
            InverseRoot = (float)(1 / root),
            StepSize = (float)stepSize,
        };
        Parallel.For(0, _blocks.Length, MemoryBlock.Threads, b =>
        {
            var (p, start, length) = _blocks[b];
            if (gradients[p] != 0)
            {
                rule.Apply(
                    (float*)weights[p] + start,
                    (float*)gradients[p] + start,
                    (float*)means[p] + start,
                    (float*)squares[p] + start,
                    length,
                    (float)Retained(learningRate, _parameters[p].Decays));
            }
        });
    }

    private double Retained(double learningRate, bool decays) => decays ? 1 - learningRate * _weightDecay : 1;

    /// <summary>Counts the update; its step size and the root of the second moment's bias correction.</summary>
    private (double StepSize, double Root) NextCorrections(double learningRate)
    {
        _steps.add_(1);
        var steps = Steps;
        return (learningRate / (1 - Math.Pow(_beta1, steps)), Math.Sqrt(1 - Math.Pow(_beta2, steps)));
    }

    /// <summary>The numbers of one update, and the update of one stretch of memory.</summary>
    private readonly record struct Rule
    {
        public float Scale { get; init; }

        public float MeanShare { get; init; }

        public float Beta2 { get; init; }

        public float SquareShare { get; init; }

        public float Epsilon { get; init; }

        public float InverseRoot { get; init; }

        public float StepSize { get; init; }

        public unsafe void Apply(float* weights, float* gradients, float* means, float* squares, int length, float retained)
        {
            var i = 0;
            for (; i <= length - Vector<float>.Count; i += Vector<float>.Count)
            {
                var g = Vector.Load(gradients + i) * Scale;
                var m = Vector.Load(means + i);
                m += (g - m) * MeanShare;
                var v = Vector.Load(squares + i) * Beta2 + g * g * SquareShare;
                Vector.Store(m, means + i);
                Vector.Store(v, squares + i);
                var denominator = Vector.SquareRoot(v) * InverseRoot + new Vector<float>(Epsilon);
                Vector.Store(Vector.Load(weights + i) * retained - m / denominator * StepSize, weights + i);
            }

            for (; i < length; i++)
            {
                var g = gradients[i] * Scale;
                means[i] += (g - means[i]) * MeanShare;
                squares[i] = squares[i] * Beta2 + g * g * SquareShare;
                weights[i] = weights[i] * retained - means[i] / (MathF.Sqrt(squares[i]) * InverseRoot + Epsilon) * StepSize;
            }
        }
    }
}
