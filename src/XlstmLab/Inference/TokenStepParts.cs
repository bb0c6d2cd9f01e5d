using XlstmLab.Models;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Inference;

/// <summary>The weights and buffers of a model below a name.</summary>
internal sealed record StepWeights(IReadOnlyDictionary<string, Tensor> All, string Prefix)
{
    /// <summary>Those of a part.</summary>
    public StepWeights Below(string name) => this with { Prefix = $"{Prefix}{name}." };

    /// <summary>A tensor, or null where the model has none of that name.</summary>
    public Tensor? Find(string name) => All.GetValueOrDefault(Prefix + name);

    /// <summary>Where the elements of a tensor lie; null where the model has none of that name.</summary>
    public unsafe float* At(string name) => CpuMemory.Floats(Find(name));

    /// <summary>A projection, or null where the model has none of that name.</summary>
    public StepMatrix? Matrix(string name) => Find(name + ".weight") is { } weight ? new(weight, Find(name + ".bias")) : null;

    /// <summary>A norm over groups of neighbouring channels; null where the model has none of that name.</summary>
    public StepNorm? Norm(string name, bool center, double epsilon, int groups = 1) =>
        Find(name + ".weight") is { } weight ? new(weight, Find(name + ".bias"), center, (float)epsilon, groups) : null;
}

/// <summary>Where a model's tensors lie when a step is made of it, which keeps them alive.</summary>
internal sealed class TensorPlaces
{
    private readonly Tensor[] _tensors;
    private readonly nint[] _places;

    public TensorPlaces(IEnumerable<Tensor> tensors)
    {
        _tensors = [.. tensors];
        _places = [.. _tensors.Select(Kernel.Address)];
    }

    /// <summary>Whether all lie there still.</summary>
    public bool AreKept()
    {
        for (var k = 0; k < _tensors.Length; k++)
        {
            if (_tensors[k].IsInvalid || Kernel.Address(_tensors[k]) != _places[k])
            {
                return false;
            }
        }

        return true;
    }
}

/// <summary>y = W x + b, W [M, K], or block-diagonal W [H, M / H, K / H].</summary>
internal sealed unsafe class StepMatrix
{
    private const long SharedWork = 1 << 18;
    private const int Piece = 64;

    private readonly float* _weight;
    private readonly float* _bias;
    private readonly int _blocks;
    private readonly int _outputs;
    private readonly int _inputs;

    public StepMatrix(Tensor weight, Tensor? bias)
    {
        _weight = CpuMemory.Floats(weight);
        _bias = CpuMemory.Floats(bias);
        (_blocks, _outputs, _inputs) = (weight.dim() == 3 ? (int)weight.shape[0] : 1, (int)weight.shape[^2], (int)weight.shape[^1]);
    }

    /// <summary>The width of y.</summary>
    public int Outputs => _blocks * _outputs;

    /// <summary>The width of x.</summary>
    public int Inputs => _blocks * _inputs;

    /// <summary>Of each of some rows, that begin at these distances.</summary>
    public void Apply(float* x, int xRow, int rows, float* y, int yRow)
    {
        if (_blocks == 1 && (long)_outputs * _inputs >= SharedWork && get_num_threads() > 1)
        {
            Share(x, xRow, rows, y, yRow);
            return;
        }

        for (var block = 0; block < _blocks; block++)
        {
            var at = block * _outputs;
            VectorLoops.Multiply(
                _weight + (nint)at * _inputs, _outputs, _inputs, _bias is null ? null : _bias + at, x + block * _inputs, xRow, rows,
                y + at, yRow);
        }
    }

    private void Share(float* x, int xRow, int rows, float* y, int yRow) =>
        CpuMemory.Share((_outputs + Piece - 1) / Piece, (long)_outputs * _inputs * rows, piece =>
        {
            var first = piece * Piece;
            VectorLoops.Multiply(
                _weight + (nint)first * _inputs, Math.Min(Piece, _outputs - first), _inputs, _bias is null ? null : _bias + first, x, xRow, rows,
                y + first, yRow);
        });
}

/// <summary>weight norm(x) + bias.</summary>
internal sealed unsafe class StepNorm
{
    private readonly float* _weight;
    private readonly float* _bias;
    private readonly int _channels;
    private readonly int _group;
    private readonly bool _center;
    private readonly float _epsilon;

    public StepNorm(Tensor weight, Tensor? bias, bool center, float epsilon, int groups)
    {
        _weight = CpuMemory.Floats(weight);
        _bias = CpuMemory.Floats(bias);
        (_channels, _center, _epsilon) = ((int)weight.shape[0], center, epsilon);
        _group = _channels / groups;
    }

    /// <summary>Of a row, in place or not; under sigmoid(o) if there is an o.</summary>
    public void Apply(float* x, float* y, float* o = null) => VectorLoops.Norm(x, _channels, _group, _center, _epsilon, _weight, _bias, o, y);

    /// <summary>Of some rows side by side.</summary>
    public void Apply(float* x, int rows, float* y)
    {
        for (nint row = 0; row < rows; row++)
        {
            Apply(x + row * _channels, y + row * _channels);
        }
    }
}

/// <summary>The causal convolution of each channel, with SiLU behind it: w [C, 1, K], b [C].</summary>
internal sealed unsafe class StepConvolution(Tensor weight, Tensor? bias)
{
    private readonly float* _weight = CpuMemory.Floats(weight);
    private readonly float* _bias = CpuMemory.Floats(bias);
    private readonly int _channels = (int)weight.shape[0];

    /// <summary>The tokens that it sees.</summary>
    public int Taps { get; } = (int)weight.shape[2];

    /// <summary>Of a token.</summary>
    /// <param name="x">[C].</param>
    /// <param name="past">[K - 1, C], the latest last; becomes that after the token. Null where K is 1.</param>
    /// <param name="y">[C].</param>
    public void Apply(float* x, float* past, float* y)
    {
        for (var c = 0; c < _channels; c++)
        {
            var taps = _weight + (nint)c * Taps;
            var sum = taps[Taps - 1] * x[c];
            for (var tap = 0; tap < Taps - 1; tap++)
            {
                sum += taps[tap] * past[(nint)tap * _channels + c];
            }

            y[c] = _bias is null ? sum : sum + _bias[c];
        }

        if (Taps > 1)
        {
            VectorLoops.Copy(past + _channels, past, (Taps - 2) * _channels);
            VectorLoops.Copy(x, past + (nint)(Taps - 2) * _channels, _channels);
        }

        GluFused.Apply(FeedForwardKind.SwiGlu, y, null, y, _channels);
    }
}

/// <summary>Where the tensors of a state lie.</summary>
internal sealed class StepState
{
    private readonly nint[] _addresses;
    private readonly nint[] _rows;

    /// <summary>Those of a state that lives longer and is float32, contiguous and the step's own.</summary>
    /// <param name="state">The state.</param>
    /// <param name="names">The tensors' names, in the order of their numbers.</param>
    public StepState(ModelState state, IReadOnlyList<string> names)
    {
        _addresses = [.. names.Select(name => Kernel.Address(state[name]))];
        _rows = [.. names.Select(name => (nint)(state[name].NumberOfElements / state.BatchSize))];
    }

    private StepState(nint[] addresses, nint[] rows) => (_addresses, _rows) = (addresses, rows);

    /// <summary>The same without its first sequences.</summary>
    public StepState From(int row) =>
        row == 0 ? this : new([.. _addresses.Zip(_rows, (address, length) => address + row * length * sizeof(float))], _rows);

    /// <summary>Where a sequence's elements of a tensor begin.</summary>
    public unsafe float* At(int number, int row) => (float*)_addresses[number] + row * _rows[number];

    /// <summary>The elements from one sequence to the next.</summary>
    public int RowOf(int number) => (int)_rows[number];
}
