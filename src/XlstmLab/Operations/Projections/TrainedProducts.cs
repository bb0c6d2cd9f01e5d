using XlstmLab.Native;
using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>
/// What a training keeps of the weights of its products: their bfloat16 copies, which the optimiser's kernel writes with every update, and
/// their float32 gradients, which products write where they stay. Passes neither cast the ones nor the others.
/// </summary>
/// <remarks>
/// A copy is what a pass would make of the weights. Who changes them by libtorch's operations, as a hook, a checkpoint and an average put
/// in their place do, is noticed by <see cref="Refresh"/>, which makes the copies anew.
/// </remarks>
internal sealed unsafe class TrainedProducts : IDisposable
{
    private const string VersionName = "_ZNK2at10TensorBase8_versionEv";
    private const string InferenceName = "_ZN2at6native12is_inferenceERKNS_6TensorE";

    private static readonly Lazy<nint> VersionFunction = new(() => NativeTorch.Function("torch_cpu", VersionName).Address);
    private static readonly Lazy<nint> InferenceFunction = new(() => NativeTorch.Function("torch_cpu", InferenceName).Address);

    [ThreadStatic]
    private static TrainedProducts? _current;

    private readonly Tensor[] _weights;
    private readonly nint[] _places;
    private readonly Dictionary<nint, Tensor> _trained = [];
    private readonly Dictionary<nint, TrainedProduct> _products = [];
    private readonly Dictionary<nint, Tensor> _copies = [];
    private readonly PartialSums _sums;
    private readonly ProductMemory _memory;

    /// <summary>None yet: a product is kept from its first pass with gradients.</summary>
    /// <param name="weights">What the optimiser's kernel updates, float32, contiguous, on one device.</param>
    /// <param name="matrices">Those among them that products have, for which memory is taken now; null for those of two dimensions.</param>
    public TrainedProducts(IEnumerable<Tensor> weights, IEnumerable<Tensor>? matrices = null)
    {
        _weights = [.. weights];
        _places = new nint[_weights.Length];
        _memory = new([.. matrices ?? _weights.Where(w => w.dim() == 2)], _weights[0].device);
        _sums = new(_weights[0].device);
        NotePlaces();
    }

    /// <summary>Whether the loaded libtorch says when a tensor was changed, without which nothing can be kept.</summary>
    public static bool IsPossible => VersionFunction.Value != 0;

    /// <summary>Whether the calling thread computes for a training that keeps products.</summary>
    public static bool IsCurrent => _current is not null;

    /// <summary>Where the calling thread's training keeps what is to be summed after a backward pass; null where none computes.</summary>
    public static PartialSums? Sums => _current?._sums;

    /// <summary>How many products are kept.</summary>
    public int Count => _products.Count;

    /// <summary>What the calling thread's training keeps of a product.</summary>
    /// <param name="weights">Its weights, in their order, each [output, d].</param>
    /// <returns>Null where it keeps nothing of these weights, or of one of them for another product.</returns>
    public static TrainedProduct? Of(IReadOnlyList<Tensor> weights) => _current?.Find(weights);

    /// <summary>Computes for this training: products that are made by the calling thread are kept.</summary>
    public T Serve<T>(Func<T> compute)
    {
        var before = _current;
        _current = this;
        try
        {
            return compute();
        }
        finally
        {
            _current = before;
        }
    }

    /// <summary>The trained weight that a tensor is, for as long as the training goes; null where it is none, or a part of one.</summary>
    public static Tensor? WeightOf(Tensor tensor) => _current?.Weight(tensor);

    /// <summary>Where the optimiser's kernel is to write a weight's copy; null for nowhere.</summary>
    public Tensor? CopyOf(Tensor weight) => _copies.GetValueOrDefault(Kernel.Address(weight));

    /// <summary>Makes copies anew whose weights were changed otherwise than by the optimiser's kernel since they were made.</summary>
    /// <returns>Whether all is as it was; false where weights lie elsewhere now and nothing is kept any more.</returns>
    public bool Refresh()
    {
        if (!_weights.Select(Kernel.Address).SequenceEqual(_places))
        {
            Forget();
            NotePlaces();
            return false;
        }

        foreach (var product in _products.Values)
        {
            product.Refresh();
        }

        return true;
    }

    /// <summary>The next backward pass begins gradients, and those after it add to them.</summary>
    public void BeginGradients()
    {
        _sums.Clear();
        foreach (var product in _products.Values)
        {
            product.HasGradients = false;
        }
    }

    /// <summary>Keeps nothing any more, as at the beginning.</summary>
    public void Reset()
    {
        BeginGradients();
        Forget();
    }

    /// <summary>Ends a backward pass: weights have its gradients when this returns.</summary>
    public void EndGradients() => _sums.Give();

    /// <inheritdoc/>
    public void Dispose()
    {
        Forget();
        _sums.Dispose();
        _memory.Dispose();
    }

    /// <summary>How often libtorch's operations have changed a tensor that is none of inference.</summary>
    internal static long Version(Tensor tensor) => ((delegate* unmanaged<nint, long>)VersionFunction.Value)(tensor.Handle);

    /// <summary>Whether libtorch says when this tensor was changed: one that was made in inference mode has no version.</summary>
    internal static bool HasVersion(Tensor tensor) =>
        IsPossible && InferenceFunction.Value != 0 && ((delegate* unmanaged<nint, byte>)InferenceFunction.Value)(tensor.Handle) == 0;

    private Tensor? Weight(Tensor tensor) =>
        _trained.TryGetValue(Kernel.Address(tensor), out var weight) && weight.dim() == tensor.dim()
        && Enumerable.Range(0, (int)weight.dim()).All(d => weight.size(d) == tensor.size(d)) ? weight : null;

    private void NotePlaces()
    {
        _trained.Clear();
        for (var k = 0; k < _weights.Length; k++)
        {
            _places[k] = Kernel.Address(_weights[k]);
            _trained[_places[k]] = _weights[k];
        }
    }

    private TrainedProduct? Find(IReadOnlyList<Tensor> weights)
    {
        var addresses = weights.Select(Kernel.Address).ToArray();
        if (_products.TryGetValue(addresses[0], out var product))
        {
            return product.Addresses.AsSpan().SequenceEqual(addresses) ? product : null;
        }

        if (!is_grad_enabled() || weights.Any(w => Weight(w) is null) || addresses.Any(_copies.ContainsKey)
            || addresses.Distinct().Count() < addresses.Length)
        {
            return null;
        }

        product = new([.. weights.Select(w => Weight(w)!)], addresses, _memory);
        _products.Add(addresses[0], product);
        for (var k = 0; k < addresses.Length; k++)
        {
            _copies.Add(addresses[k], product.Copies[k]);
        }

        return product;
    }

    private void Forget()
    {
        foreach (var product in _products.Values)
        {
            product.Dispose();
        }

        _products.Clear();
        _copies.Clear();
        _memory.Clear();
    }
}

/// <summary>
/// Where the copies and gradients of a training's products lie, taken before its first pass: what a pass leaves behind for good keeps
/// libtorch's allocator from giving the whole large block that it was cut out of to anything else.
/// </summary>
internal sealed class ProductMemory : IDisposable
{
    private const long Line = 128; // elements, so that each piece begins as libtorch's own would
    private const long Padding = 8; // rows that a copy may have beside its weights'

    private readonly Tensor _copies;
    private readonly Tensor _gradients;
    private long _copied;
    private long _gradientsTaken;

    /// <summary>Memory for products of these weights.</summary>
    /// <param name="weights">Each [output, d].</param>
    /// <param name="device">Where they are.</param>
    public ProductMemory(IReadOnlyList<Tensor> weights, Device device)
    {
        var count = weights.Sum(w => w.NumberOfElements + Line);
        var padding = weights.Sum(w => Padding * w.size(1));
        _gradients = empty(count, ScalarType.Float32, device).DetachFromDisposeScope();
        _copies = empty(count + padding, ScalarType.BFloat16, device).DetachFromDisposeScope();
    }

    /// <summary>[rows, d] bfloat16, in the current dispose scope.</summary>
    public Tensor Copy(long rows, long dim) => Take(_copies, ref _copied, rows, dim);

    /// <summary>[rows, d] float32, in the current dispose scope.</summary>
    public Tensor Gradient(long rows, long dim) => Take(_gradients, ref _gradientsTaken, rows, dim);

    /// <summary>All of it can be taken again.</summary>
    public void Clear() => (_copied, _gradientsTaken) = (0, 0);

    /// <inheritdoc/>
    public void Dispose()
    {
        _copies.Dispose();
        _gradients.Dispose();
    }

    private static Tensor Take(Tensor memory, ref long taken, long rows, long dim)
    {
        var count = rows * dim;
        if (taken + count > memory.NumberOfElements)
        {
            return empty(rows, dim, dtype: memory.dtype, device: memory.device); // of a weight that was not counted on
        }

        var place = taken;
        taken += (count + Line - 1) / Line * Line;
        return memory.narrow(0, place, count).view(rows, dim);
    }
}

/// <summary>What a training keeps of one product, y_i = x W_i^T of one input.</summary>
internal sealed class TrainedProduct : IDisposable
{
    private readonly Tensor[] _weights;
    private readonly long[] _versions;
    private readonly Tensor _gradient;
    private readonly Tensor[] _gradients;

    public TrainedProduct(Tensor[] weights, nint[] addresses, ProductMemory memory)
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        (_weights, Addresses) = (weights, addresses);
        var (rows, dim) = (weights.Sum(w => w.size(0)), weights[0].size(1));
        Padded = memory.Copy((rows + 7) / 8 * 8, dim).zero_().DetachFromDisposeScope();
        Joined = Padded.narrow(0, 0, rows).DetachFromDisposeScope();
        Copies = Parts(Joined);
        _gradient = memory.Gradient(rows, dim).DetachFromDisposeScope();
        _gradients = Parts(_gradient);

        // Of a tensor of inference mode libtorch tells no version; it refuses this, with words for the user.
        foreach (var weight in weights)
        {
            weight.narrow(0, 0, 0).zero_();
        }

        _versions = [.. weights.Select(TrainedProducts.Version)];
        JointProjection.Join(weights, Joined);
    }

    /// <summary>Where the weights lie.</summary>
    public nint[] Addresses { get; }

    /// <summary>[rows, d] bfloat16: the weights one below the other.</summary>
    public Tensor Joined { get; }

    /// <summary>The same, and rows of zeros that make them whole eights.</summary>
    public Tensor Padded { get; }

    /// <summary>Each weight's part of <see cref="Joined"/>.</summary>
    public Tensor[] Copies { get; }

    /// <summary>Whether a backward pass has written gradients since they were begun.</summary>
    public bool HasGradients { get; set; }

    /// <summary>Makes the copies anew, if the weights were changed by libtorch's operations.</summary>
    public void Refresh()
    {
        var changed = false;
        for (var k = 0; k < _weights.Length; k++)
        {
            var version = TrainedProducts.Version(_weights[k]);
            changed |= version != _versions[k];
            _versions[k] = version;
        }

        if (changed)
        {
            JointProjection.Join(_weights, Joined);
        }
    }

    /// <summary>Gives the weights the gradient of a pass, or adds it to those before.</summary>
    /// <param name="parts">Those of all outputs.</param>
    /// <param name="x">[N, d] bfloat16, the input.</param>
    public void AddGradients(IEnumerable<ProductRows> parts, Tensor x)
    {
        using var scope = NewDisposeScope();
        foreach (var (value, first, width) in parts)
        {
            var target = _gradient.narrow(0, first, width);
            if (value is not null)
            {
                MixedProduct.Write(value.t(), x, target, adds: HasGradients);
            }
            else if (!HasGradients)
            {
                target.zero_();
            }
        }

        if (HasGradients)
        {
            return;
        }

        for (var k = 0; k < _weights.Length; k++)
        {
            // Something else that has the weight, as an embedding table that is the head too, may have come before.
            using var others = _weights[k].grad;
            if (others is not null && Kernel.Address(others) != Kernel.Address(_gradients[k]))
            {
                _gradients[k].add_(others);
            }

            _weights[k].grad = _gradients[k];
        }

        HasGradients = true;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (var held in new[] { Padded, Joined, _gradient }.Concat(Copies).Concat(_gradients))
        {
            held.Dispose();
        }
    }

    private Tensor[] Parts(Tensor joined)
    {
        var parts = new List<Tensor>();
        long first = 0;
        foreach (var weight in _weights)
        {
            parts.Add(joined.narrow(0, first, weight.size(0)).DetachFromDisposeScope());
            first += weight.size(0);
        }

        return [.. parts];
    }
}
