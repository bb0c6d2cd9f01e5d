using XlstmLab.Mixers;
using static TorchSharp.torch;

namespace XlstmLab.Models;

/// <summary>All that a model remembers of the tokens it has read: named tensors with the batch as first dimension.</summary>
/// <remarks>
/// The state owns its tensors: they are outside every dispose scope and live until <see cref="Dispose"/>. A model never writes
/// into a state it was given, so that one state can be read from, forked and saved at any time. Once disposed, every member but
/// <see cref="Dispose"/> throws an <see cref="ObjectDisposedException"/>.
/// </remarks>
public sealed class ModelState : IDisposable
{
    private readonly SortedDictionary<string, Tensor> _tensors = new(StringComparer.Ordinal);
    private bool _isDisposed;

    /// <summary>Takes ownership of the tensors.</summary>
    /// <param name="tensors">Names such as <c>blocks.0.c</c>, and tensors [B, ...].</param>
    public ModelState(IEnumerable<KeyValuePair<string, Tensor>> tensors)
    {
        foreach (var (name, tensor) in tensors)
        {
            _tensors.Add(name, tensor.DetachFromDisposeScope());
        }
    }

    /// <summary>The tensors by name, in ordinal order of their names.</summary>
    public IReadOnlyDictionary<string, Tensor> Tensors => Live;

    /// <summary>The number of sequences, B.</summary>
    public long BatchSize => Live.Count == 0 ? 0 : Live.First().Value.shape[0];

    /// <summary>The size of all tensors in bytes.</summary>
    public long SizeInBytes => Live.Values.Sum(t => t.NumberOfElements * t.ElementSize);

    /// <summary>The tensor of that name.</summary>
    /// <exception cref="KeyNotFoundException">The state has no such tensor: it was made by another model.</exception>
    public Tensor this[string name] =>
        Live.TryGetValue(name, out var tensor)
            ? tensor
            : throw MixerPass.Missing(name, _tensors.Keys);

    private SortedDictionary<string, Tensor> Live
    {
        get
        {
            ObjectDisposedException.ThrowIf(_isDisposed, this);
            return _tensors;
        }
    }

    /// <summary>An independent copy, cut off from any gradient.</summary>
    public ModelState Clone() => Map(t => t.detach().clone());

    /// <summary>The same state without its gradient history, as truncated backpropagation through time needs it.</summary>
    public ModelState Detach() => Map(t => t.detach().alias());

    /// <summary>A state whose row r is row <paramref name="rows"/>[r] of this one: rows may be left out, reordered and repeated.</summary>
    public ModelState SelectRows(params long[] rows)
    {
        using var index = tensor(rows);
        return Map(t => t.detach().index_select(0, index.to(t.device)));
    }

    /// <summary>A state made of each tensor's image.</summary>
    internal ModelState Map(Func<Tensor, Tensor> image) => Map((_, tensor) => image(tensor));

    /// <summary>A state made of each tensor's image, which may depend on its name.</summary>
    internal ModelState Map(Func<string, Tensor, Tensor> image) =>
        new(Live.Select(pair =>
        {
            using var scope = NewDisposeScope();
            return KeyValuePair.Create(pair.Key, image(pair.Key, pair.Value).MoveToOuterDisposeScope());
        }));

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (var tensor in _tensors.Values)
        {
            tensor.Dispose();
        }

        _tensors.Clear();
        _isDisposed = true;
    }
}
