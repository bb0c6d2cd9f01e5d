using XlstmLab.Models;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Inference;

/// <summary>The weights and buffers of a model below a name.</summary>
internal sealed record StepWeights(IReadOnlyDictionary<string, Tensor> All, string Prefix)
{
    /// <summary>What projections are kept as; null for all as they are.</summary>
    public StepPacking? Packing { get; init; }

    /// <summary>Those of a part.</summary>
    public StepWeights Below(string name) => this with { Prefix = $"{Prefix}{name}." };

    /// <summary>A tensor, or null where the model has none of that name.</summary>
    public Tensor? Find(string name) => All.GetValueOrDefault(Prefix + name);

    /// <summary>Where the elements of a tensor lie; null where the model has none of that name.</summary>
    public unsafe float* At(string name) => CpuMemory.Floats(Find(name));

    /// <summary>A projection, or null where the model has none of that name.</summary>
    public StepMatrix? Matrix(string name) => Find(name + ".weight") is { } weight
        ? new(weight, Find(name + ".bias"), Packing?.Of(Prefix + name + ".weight", weight))
        : null;

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

/// <summary>The copies in fewer bits that a step reads in place of projections.</summary>
/// <param name="Format">Not float32.</param>
/// <param name="Names">The projections' weights.</param>
internal sealed record StepPacking(WeightFormat Format, IReadOnlySet<string> Names) : IDisposable
{
    private readonly List<(PackedRows Rows, SourceVersions Versions)> _copies = [];

    /// <summary>A weight's copy, which follows it; null for what is no projection's.</summary>
    public unsafe PackedRows? Of(string name, Tensor weight)
    {
        if (!Names.Contains(name))
        {
            return null;
        }

        var columns = (int)weight.shape[^1];
        var rows = new PackedRows(Format, CpuMemory.Floats(weight), (int)(weight.NumberOfElements / columns), columns);
        _copies.Add((rows, new(weight)));
        return rows;
    }

    /// <summary>Makes the copies anew that libtorch's operations have changed the weights of.</summary>
    public void Refresh()
    {
        foreach (var (rows, versions) in _copies)
        {
            if (versions.HaveChanged())
            {
                rows.Pack();
            }
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (var (rows, _) in _copies)
        {
            rows.Dispose();
        }
    }
}

/// <summary>Whether libtorch's operations have changed tensors since they were looked at.</summary>
internal sealed class SourceVersions(params Tensor[] sources)
{
    // A tensor of inference has no version: it is looked at once, as nothing but inference could change it.
    private readonly bool[] _hasVersion = [.. sources.Select(TrainedProducts.HasVersion)];
    private readonly long[] _versions = [.. sources.Select(_ => -1L)];

    /// <summary>Whether one has changed since the last call; at the first call they all have.</summary>
    public bool HaveChanged()
    {
        var changed = false;
        for (var k = 0; k < sources.Length; k++)
        {
            var version = _hasVersion[k] ? TrainedProducts.Version(sources[k]) : 0;
            changed |= version != _versions[k];
            _versions[k] = version;
        }

        return changed;
    }
}

/// <summary>y = W x + b, W [M, K], or block-diagonal W [H, M / H, K / H].</summary>
internal sealed unsafe class StepMatrix : ISharedWork
{
    private const int SharedBytes = 1 << 16;
    private const int PiecesAThread = 4;
    private const int RowsTogether = 4;

    private readonly void* _weight;
    private readonly float* _scales;
    private readonly WeightFormat _format;
    private readonly float* _bias;
    private readonly int _blocks;
    private readonly int _outputs;
    private readonly int _inputs;

    // What is being computed.
    private float* _x;
    private float* _y;
    private int _xRow;
    private int _yRow;
    private int _rows;
    private int _piece;

    public StepMatrix(Tensor weight, Tensor? bias, PackedRows? packed)
    {
        _weight = packed is null ? CpuMemory.Floats(weight) : packed.Data;
        _format = packed?.Format ?? WeightFormat.Float32;
        _scales = packed is null ? null : packed.Scales;
        _bias = CpuMemory.Floats(bias);
        (_blocks, _outputs, _inputs) = (weight.dim() == 3 ? (int)weight.shape[0] : 1, (int)weight.shape[^2], (int)weight.shape[^1]);
    }

    /// <summary>The width of y.</summary>
    public int Outputs => _blocks * _outputs;

    /// <summary>The width of x.</summary>
    public int Inputs => _blocks * _inputs;

    /// <summary>The bytes of W, which each token reads.</summary>
    public long Bytes => (long)Outputs * _inputs * PackedRows.Size(_format) + (_scales is null ? 0 : Outputs * sizeof(float));

    /// <summary>Of each of some rows, that begin at these distances.</summary>
    public void Apply(float* x, int xRow, int rows, float* y, int yRow)
    {
        _x = x;
        _y = y;
        (_xRow, _yRow, _rows) = (xRow, yRow, rows);
        var threads = _blocks == 1 && Bytes * rows >= SharedBytes ? get_num_threads() : 1;
        if (threads == 1)
        {
            for (var block = 0; block < _blocks; block++)
            {
                Multiply(block * _outputs, _outputs, block * _inputs);
            }

            return;
        }

        var pieces = Math.Min(PiecesAThread * threads, (_outputs + RowsTogether - 1) / RowsTogether);
        _piece = ((_outputs + pieces - 1) / pieces + RowsTogether - 1) / RowsTogether * RowsTogether;
        WorkTeam.Run(this, (_outputs + _piece - 1) / _piece, threads);
    }

    /// <inheritdoc/>
    void ISharedWork.Do(int piece) => Multiply(piece * _piece, Math.Min(_piece, _outputs - piece * _piece), 0);

    private void Multiply(int first, int count, int input) => RowProducts.Multiply(
        (byte*)_weight + (nint)first * _inputs * PackedRows.Size(_format), _format, _scales is null ? null : _scales + first, count,
        _inputs,
        _bias is null ? null : _bias + first, _x + input, _xRow, _rows, _y + first, _yRow);
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
    public void Apply(float* x, float* y, float* o = null) => VectorLoops.Norm(
        x, _channels, _group, _center, _epsilon, _weight, _bias, o, y);

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
