using System.Runtime.InteropServices;
using Microsoft.Extensions.Logging;
using TorchSharp;
using XlstmLab.Layers;
using XlstmLab.Native.Cuda;
using XlstmLab.Operations;
using XlstmLab.Text;
using static TorchSharp.torch;

namespace XlstmLab.Training;

/// <summary>
/// The updates and validations of a training as graphs of a GPU: each shape of batch is computed by the host at first, which readies all
/// that it needs, and is then recorded once and started as a whole.
/// </summary>
/// <remarks>
/// Losses and weights are those of the host's way bit for bit: the same kernels run on the same numbers. What cannot be recorded is left to
/// the host, for good, and the log says why, once. While something observes the model, the host computes.
/// </remarks>
internal sealed class TrainingGraphs<TBatch> : IDisposable
    where TBatch : IBatch<TBatch>
{
    /// <summary>How often the host computes a shape before it is recorded.</summary>
    internal const int Rehearsals = 2;

    private readonly TrainingState<TBatch> _state;
    private readonly IRecordableLoss<TBatch>? _loss;
    private readonly TrainingLog _log;
    private readonly IWorkRecorder? _recorder;
    private readonly Tensor _sum;
    private readonly Dictionary<object, RecordedUpdate> _updates = [];
    private readonly Dictionary<object, RecordedValidation> _validations = [];
    private nint[] _weights = [];
    private int _products;

    /// <summary>From now on until it is disposed, the calling thread's work goes to a stream of its own, if there are graphs.</summary>
    /// <param name="state">What is trained.</param>
    /// <param name="loss">The loss, if it can be recorded.</param>
    /// <param name="log">Told why nothing is recorded.</param>
    public TrainingGraphs(TrainingState<TBatch> state, IRecordableLoss<TBatch>? loss, TrainingLog log)
    {
        (_state, _loss, _log) = (state, loss, log);
        var weight = state.Parameters[0].Parameter;
        Absence = Kernel.RecorderAbsence(weight) is { } absence ? absence
            : state.Optimizer is not IDeviceOptimizer { HasKernel: true }
            ? $"{state.Optimizer.GetType().Name} has no kernel for its updates"
            : loss is null ? "the training has a loss of its own"
            : null;
        if (Absence is null)
        {
            _recorder = Kernel.Recorder(weight);
        }
        else if (weight.device_type == DeviceType.CUDA)
        {
            Tell(Absence);
        }

        _sum = zeros(1, ScalarType.Float64, weight.device).DetachFromDisposeScope();
    }

    /// <summary>Why nothing is recorded; null while it is.</summary>
    public string? Absence { get; private set; }

    /// <summary>How many graphs there are.</summary>
    internal int Count => _updates.Values.Count(u => u.IsRecorded) + _validations.Values.Count(v => v.IsRecorded);

    /// <summary>Makes an update.</summary>
    /// <param name="batch">The batch.</param>
    /// <param name="targets">What its loss is divided by.</param>
    /// <param name="settings">Learning rate, clipping and limits.</param>
    /// <param name="byHost">Makes it one operation at a time.</param>
    /// <param name="gradients">Adds up the gradients of the kept batch, as the host's way does; gives their loss, [1] float64.</param>
    /// <returns>Waits for the record of the update.</returns>
    public Func<AdamWRecord> Update(
        TBatch batch, long targets, AdamWSettings settings, Func<Func<AdamWRecord>> byHost, Func<IKeptBatch<TBatch>, Tensor> gradients)
    {
        if (!CanRecord(batch))
        {
            return ByHost(byHost);
        }

        var shape = _loss!.Shape(_state.Model, batch);
        if (!_updates.TryGetValue(shape, out var update))
        {
            _updates.Add(shape, update = new());
        }

        if (update.Rehearsals < Rehearsals)
        {
            return update.Rehearse(_state.Model.Dropout, () => ByHost(byHost));
        }

        return update.IsRecorded || TryRecord(() => update.Record(this, batch, targets, gradients))
            ? update.Start(batch, targets, settings, (IDeviceOptimizer)_state.Optimizer)
            : ByHost(byHost);
    }

    /// <summary>The sum of undivided losses, without gradients.</summary>
    /// <param name="parts">Rows of batches.</param>
    /// <param name="byHost">The loss of a part, one operation at a time.</param>
    public double Sum(IEnumerable<TBatch> parts, Func<TBatch, Tensor> byHost)
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        _state.Products?.Refresh();
        _sum.zero_();
        foreach (var part in parts)
        {
            using var inner = NewDisposeScope();
            Add(part, () => _sum.add_(_state.Compute(() => byHost(part)).to(ScalarType.Float64)));
        }

        return _sum.item<double>();
    }

    /// <summary>
    /// Computes without graphs. They keep their memory; where it is wanted for this, they are recorded again afterwards.
    /// </summary>
    /// <param name="compute">What the host does, one operation at a time; done again if the memory was not enough.</param>
    public T ByHost<T>(Func<T> compute)
    {
        if (Count == 0 || _state.Reduction is not null)
        {
            // Where other ranks take part, nothing can be done again by one alone.
            return compute();
        }

        var random = _state.Model.Dropout.State;
        try
        {
            return compute();
        }
        catch (ExternalException e) when (e.Message.Contains("out of memory", StringComparison.OrdinalIgnoreCase))
        {
            Forget();
            _state.ZeroGradients();
            _state.Model.Dropout.State = random;
            return compute();
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        Forget();
        _recorder?.Dispose();
        _sum.Dispose();
    }

    private void Add(TBatch part, Action byHost)
    {
        if (!CanRecord(part))
        {
            ByHost(byHost);
            return;
        }

        var shape = _loss!.Shape(_state.Model, part);
        if (!_validations.TryGetValue(shape, out var validation))
        {
            _validations.Add(shape, validation = new());
        }

        if (validation.Rehearsals < Rehearsals)
        {
            validation.Rehearsals++;
            ByHost(byHost);
        }
        else if (validation.IsRecorded || TryRecord(() => validation.Record(this, part)))
        {
            validation.Start(part);
        }
        else
        {
            ByHost(byHost);
        }
    }

    private bool CanRecord(TBatch batch)
    {
        if (Absence is not null || _state.Model.Observer is not null)
        {
            return false;
        }

        if (_loss!.Obstacle(_state.Model, batch) is { } obstacle)
        {
            GiveUp(obstacle);
            return false;
        }

        ForgetIfWeightsMoved();
        return true;
    }

    private bool TryRecord(Action record)
    {
        try
        {
            record();
            return true;
        }
        catch (CudaException e)
        {
            GiveUp(e.Message);
            return false;
        }
        finally
        {
            _state.ZeroGradients();
        }
    }

    private void ByHost(Action compute) => ByHost(() =>
    {
        compute();
        return true;
    });

    private void GiveUp(string reason)
    {
        Forget();
        Absence = reason;
        Tell(reason);
    }

    private void Tell(string reason) => _log.Write(LogLevel.Warning, $"No CUDA graphs, the host starts every kernel by itself: {reason}.");

    private void Forget()
    {
        foreach (var held in _updates.Values.Concat<IDisposable>(_validations.Values))
        {
            held.Dispose();
        }

        _updates.Clear();
        _validations.Clear();
    }

    /// <summary>
    /// A graph reads weights where they were, and writes those copies that there were: a hook may have given the model others, and a pass
    /// may have made more.
    /// </summary>
    private void ForgetIfWeightsMoved()
    {
        var now = _state.Parameters.Select(p => Kernel.Address(p.Parameter)).ToArray();
        var products = _state.Products?.Count ?? 0;
        if (!now.AsSpan().SequenceEqual(_weights) || (products != _products && Count > 0))
        {
            Forget();
        }

        (_weights, _products) = (now, products);
    }

    /// <summary>The updates of one shape of batch.</summary>
    private sealed class RecordedUpdate : IDisposable
    {
        private int _keyCount;
        private IKeptBatch<TBatch>? _batch;
        private DropoutKeys? _keys;
        private DeviceInput<long>? _table;
        private IRecordedWork? _work;

        public int Rehearsals { get; private set; }

        public bool IsRecorded => _work is not null;

        public Func<AdamWRecord> Rehearse(DropoutDraws draws, Func<Func<AdamWRecord>> byHost)
        {
            Rehearsals++;
            var before = draws.KeyCount;
            var record = byHost();
            _keyCount = draws.KeyCount - before;
            return record;
        }

        public void Record(TrainingGraphs<TBatch> graphs, TBatch batch, long targets, Func<IKeptBatch<TBatch>, Tensor> gradients)
        {
            var (state, optimizer) = (graphs._state, (IDeviceOptimizer)graphs._state.Optimizer);
            var kept = _batch = graphs._loss!.Keep(state.Model, batch, targets);
            var keys = _keys = new(state.Model.Dropout, _keyCount, state.Device);
            var table = _table = optimizer.NewTable(state.Copies);
            _work = graphs._recorder!.Record(() => keys.Record(() =>
            {
                using var scope = NewDisposeScope();
                optimizer.Record(table, gradients(kept));
            }));
            table.Send();
        }

        public Func<AdamWRecord> Start(TBatch batch, long targets, AdamWSettings settings, IDeviceOptimizer optimizer)
        {
            _batch!.Write(batch, targets);
            _keys!.Draw();
            return optimizer.Start(settings, _work!);
        }

        public void Dispose()
        {
            foreach (var held in new IDisposable?[] { _work, _batch, _keys, _table })
            {
                held?.Dispose();
            }
        }
    }

    /// <summary>The validation of one shape of batch.</summary>
    private sealed class RecordedValidation : IDisposable
    {
        private IKeptBatch<TBatch>? _batch;
        private IRecordedWork? _work;

        public int Rehearsals { get; set; }

        public bool IsRecorded => _work is not null;

        public void Record(TrainingGraphs<TBatch> graphs, TBatch part)
        {
            var (model, sum) = (graphs._state.Model, graphs._sum);
            var kept = _batch = graphs._loss!.Keep(model, part, null);
            _work = graphs._recorder!.Record(() =>
            {
                using var scope = NewDisposeScope();
                sum.add_(graphs._state.Compute(() => kept.Loss(model, 0, part.Rows)).to(ScalarType.Float64));
            });
        }

        public void Start(TBatch part)
        {
            _batch!.Write(part, 1);
            _work!.Start();
        }

        public void Dispose()
        {
            _work?.Dispose();
            _batch?.Dispose();
        }
    }
}
