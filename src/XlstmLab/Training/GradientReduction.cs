using System.Globalization;
using TorchSharp.Modules;
using XlstmLab.Layers;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Training;

/// <summary>
/// Sums gradients over the ranks, those of the last blocks while the backward pass still computes those of the first.
/// </summary>
/// <remarks>
/// A parameter belongs to the block whose index is the first number in its name, and is complete when the backward pass has left that
/// block; a head of its own is so from the start, and all others, such as embeddings, when the pass has ended.
/// </remarks>
internal sealed class GradientReduction
{
    private readonly TrainingParallelism _parallelism;
    private readonly Action _complete;
    private readonly (Parameter Parameter, int Block)[] _parameters;
    private readonly bool[] _isSent;
    private readonly List<(Tensor Gradient, Tensor Sent)> _underWay = [];
    private long _sentSoFar;

    /// <summary>Of these parameters.</summary>
    /// <param name="parallelism">The ranks.</param>
    /// <param name="parameters">Names, parameters and roles.</param>
    /// <param name="complete">Gives parameters what kernels have summed a part of so far.</param>
    public GradientReduction(
        TrainingParallelism parallelism, IEnumerable<(string Name, Parameter Parameter, ParameterRole Role)> parameters, Action complete)
    {
        (_parallelism, _complete) = (parallelism, complete);
        _parameters = [.. parameters.Where(p => p.Parameter.requires_grad).Select(p => (p.Parameter, BlockOf(p.Name, p.Role)))];
        _isSent = new bool[_parameters.Length];
    }

    /// <summary>A hash of which gradients were sent for the latest batch that was not started as a graph, in their order.</summary>
    public long Plan { get; private set; }

    /// <summary>
    /// Computes the loss of the last part of a batch: its backward pass begins to sum over the ranks what is complete, if it may.
    /// </summary>
    public Tensor Loss(Func<Tensor> forward) => _parallelism.Overlaps ? BackwardMarks.Serve(Reached, forward) : forward();

    /// <summary>Sums what is left, and the loss: when the device comes to what is given to it next, all parameters have the sums.</summary>
    /// <param name="loss">[1] float64, this rank's part of the loss.</param>
    public void Finish(Tensor loss)
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        try
        {
            Send(Pending(int.MinValue), loss);
            _parallelism.Communicator.Finish();
            Plan = _sentSoFar;
            foreach (var (gradient, sent) in _underWay)
            {
                if (!ReferenceEquals(gradient, sent))
                {
                    gradient.copy_(sent);
                }
            }
        }
        finally
        {
            Forget();
        }
    }

    /// <summary>Nothing is under way any more, as before a batch.</summary>
    public void Forget()
    {
        foreach (var (gradient, sent) in _underWay)
        {
            gradient.Dispose();
            sent.Dispose();
        }

        _underWay.Clear();
        _sentSoFar = 0;
        Array.Clear(_isSent);
    }

    private static int BlockOf(string name, ParameterRole role) =>
        role == ParameterRole.Head ? int.MaxValue
        : name.Split('.').FirstOrDefault(part => part.All(char.IsAsciiDigit)) is { } index ? int.Parse(index, CultureInfo.InvariantCulture)
        : -1;

    /// <summary>The backward pass has left all blocks behind one.</summary>
    private void Reached(int block)
    {
        var pending = Pending(block + 1);
        var bytes = _parallelism.GradientType == ScalarType.BFloat16 ? 2 : 4;
        if (pending.Sum(k => _parameters[k].Parameter.NumberOfElements * bytes) >= _parallelism.BucketBytes)
        {
            _complete();
            Send(Pending(block + 1), null);
        }
    }

    /// <summary>Parameters of blocks from one on that have a gradient which was not sent.</summary>
    private List<int> Pending(int block)
    {
        var pending = new List<int>();
        for (var k = 0; k < _parameters.Length; k++)
        {
            using var gradient = _isSent[k] || _parameters[k].Block < block ? null : _parameters[k].Parameter.grad;
            if (gradient is not null)
            {
                pending.Add(k);
            }
        }

        return pending;
    }

    private void Send(List<int> pending, Tensor? loss)
    {
        using var noGrad = no_grad();
        var together = new List<Tensor>();
        foreach (var k in pending)
        {
            var parameter = _parameters[k].Parameter;
            var gradient = parameter.grad!.DetachFromDisposeScope();
            if (!gradient.is_contiguous())
            {
                var whole = gradient.contiguous().DetachFromDisposeScope();
                parameter.grad = whole;
                gradient.Dispose();
                gradient = whole;
            }

            var sent = gradient.dtype == _parallelism.GradientType ? gradient
                : gradient.to(_parallelism.GradientType).DetachFromDisposeScope();
            _underWay.Add((gradient, sent));
            together.Add(sent);
            _isSent[k] = true;
            _sentSoFar = unchecked((_sentSoFar * 1_000_003) + k + 1);
        }

        if (loss is not null)
        {
            together.Add(loss);
        }

        if (together.Count > 0)
        {
            _parallelism.Communicator.BeginAllReduce(together);
        }
    }
}
