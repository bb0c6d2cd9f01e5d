using TorchSharp.Modules;
using static TorchSharp.torch;

namespace XlstmLab.Training;

/// <summary>An exponential moving average of a model's weights, which starts at the weights it first sees.</summary>
public sealed class WeightAverage : IDisposable
{
    private readonly (string Name, Parameter Weight)[] _parameters;
    private readonly Tensor[] _averages;
    private readonly double _decay;
    private bool _isDisposed;

    /// <summary>Copies the weights.</summary>
    /// <param name="parameters">Names and parameters.</param>
    /// <param name="decay">The share of the old average that each update keeps.</param>
    public WeightAverage(IEnumerable<(string Name, Parameter Parameter)> parameters, double decay)
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        _parameters = [.. parameters];
        _averages = [.. _parameters.Select(p => p.Weight.clone().DetachFromDisposeScope())];
        _decay = decay;
    }

    /// <summary>The average of a parameter.</summary>
    internal Tensor Of(string name) => _averages[Array.FindIndex(_parameters, p => p.Name == name)];

    /// <summary>The share of the old average that each update keeps.</summary>
    internal double Decay => _decay;

    /// <summary>Moves the average towards the present weights.</summary>
    public void Update()
    {
        ObjectDisposedException.ThrowIf(_isDisposed, this);
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        for (var p = 0; p < _parameters.Length; p++)
        {
            using var inner = NewDisposeScope();
            _averages[p].MoveTowards(_parameters[p].Weight, 1 - _decay);
        }
    }

    /// <summary>Puts the average in the weights' place and the weights in the average's; a second call undoes it.</summary>
    public void Swap()
    {
        ObjectDisposedException.ThrowIf(_isDisposed, this);
        using var noGrad = no_grad();
        for (var p = 0; p < _parameters.Length; p++)
        {
            using var weight = _parameters[p].Weight.clone();
            _parameters[p].Weight.copy_(_averages[p]);
            _averages[p].copy_(weight);
        }
    }

    /// <summary>The averages' own tensors, by the name <c>ema.NAME</c>: what is written into them counts.</summary>
    public IReadOnlyDictionary<string, Tensor> StateDict()
    {
        ObjectDisposedException.ThrowIf(_isDisposed, this);
        return _parameters.Zip(_averages).ToDictionary(p => $"ema.{p.First.Name}", p => p.Second);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (var average in _averages)
        {
            average.Dispose();
        }

        _isDisposed = true;
    }
}
