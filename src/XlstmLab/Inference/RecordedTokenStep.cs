using XlstmLab.Models;
using XlstmLab.Native.Cuda;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Inference;

/// <summary>
/// One token of each of several sequences through a model on a GPU, recorded once and started as a whole: to start a token's kernels one by
/// one takes the host some twenty times as long as they run.
/// </summary>
/// <remarks>
/// The kernels, and so the logits, are those of the model's own pass, but for models that <see cref="XlstmGpuStep"/> reads. The state is
/// written in place, and has to be the caller's own. Tokens are chosen on the GPU, where the next start reads them
/// (<see cref="TokenChoice"/>). What is started sees what weights became.
/// </remarks>
internal sealed class RecordedTokenStep : IDisposable
{
    /// <summary>How many starts' choices may be on their way.</summary>
    public const int MostAhead = 8;

    private readonly LanguageModel _model;
    private readonly ScalarType? _computeType;
    private readonly TensorPlaces _places;
    private readonly DeviceInput<long> _tokens;
    private readonly XlstmGpuStep? _step;
    private readonly IRecordedWork _work;

    private RecordedTokenStep(LanguageModel model, EvaluationMode mode, ModelState state, int knownIds, WeightFormat weights)
    {
        (_model, _computeType) = (model, model.ComputeType);
        _places = new([.. model.parameters(), .. model.buffers()]);
        var (device, rows) = (model.WeightsDevice, state.BatchSize);
        _tokens = new(ScalarType.Int64, device, rows, 1);
        Choice = new(_tokens.Values, knownIds, MostAhead);
        _step = XlstmGpuStep.Of(model, state, weights);
        Logits = (_step?.Logits.narrow(-1, 0, knownIds) ?? empty(rows, knownIds, ScalarType.Float32, device)).DetachFromDisposeScope();
        try
        {
            if (_step is not null)
            {
                // Its kernels have to be compiled before they are recorded.
                using var rehearsal = state.Clone();
                _step.Read(_tokens.Values, rehearsal);
            }
            else if (weights != WeightFormat.Float32)
            {
                throw new ArgumentException($"No kernels read {model.GetName()} from such a state with weights of {weights}.");
            }

            Choice.Choose(Logits);
            using var recorder = Kernel.Recorder(Logits);
            _work = recorder.Record(() =>
            {
                using var scope = NewDisposeScope();
                using var evaluation = mode.Enter();
                using var inference = inference_mode();
                Read(state);
            });
        }
        catch
        {
            DisposeTensors();
            throw;
        }
    }

    /// <summary>
    /// Records a model's step from a state; null where it cannot be. The host has computed it before, so that nothing is left to be
    /// compiled.
    /// </summary>
    /// <param name="model">The model, on a device that <see cref="MayRecord"/>.</param>
    /// <param name="mode">Its evaluation mode.</param>
    /// <param name="state">The sequences' state, which every step writes: the caller's own, kept for as long as the step.</param>
    /// <param name="knownIds">The number of ids that may be drawn, the first of the vocabulary.</param>
    /// <param name="weights">What projections are kept as, where <see cref="XlstmGpuStep"/> reads the model.</param>
    public static RecordedTokenStep? Of(
        LanguageModel model, EvaluationMode mode, ModelState state, int knownIds, WeightFormat weights = WeightFormat.Float32)
    {
        try
        {
            return new(model, mode, state, knownIds, weights);
        }
        catch (CudaException) when (weights == WeightFormat.Float32)
        {
            // The step waits for the GPU, or reads from it: the host goes on starting its kernels.
            return null;
        }
    }

    /// <summary>Whether a model's device can record, and nobody looks at its activations.</summary>
    public static bool MayRecord(LanguageModel model) =>
        model.Observer is null && model.parameters().FirstOrDefault() is { } weight && Kernel.RecorderAbsence(weight) is null;

    /// <summary>
    /// Whether a step leaves a state of the form that it began with; one that grows with the tokens cannot be written in place, unless it
    /// has a <see cref="StateRoom"/>.
    /// </summary>
    public static bool KeepsForm(ModelState before, ModelState after) =>
        before.Tensors.Count == after.Tensors.Count && before.Tensors.Zip(after.Tensors).All(pair =>
            pair.First.Key == pair.Second.Key && pair.First.Value.dtype == pair.Second.Value.dtype
            && pair.First.Value.shape.AsSpan().SequenceEqual(pair.Second.Value.shape));

    /// <summary>The bytes of weights that a token reads; null where they are the model's own.</summary>
    public long? WeightBytes => _step?.WeightBytes;

    /// <summary>
    /// Whether the model is still what was recorded: its weights where they were, of the same type, with nobody looking on.
    /// </summary>
    public bool Serves() => _model.Observer is null && _model.ComputeType == _computeType && _places.AreKept();

    /// <summary>The number of ids that may be chosen.</summary>
    public int KnownIds => (int)Logits.shape[1];

    /// <summary>Until the next start, on the device: the logits of the known ids, [B, V] float32.</summary>
    public Tensor Logits { get; }

    /// <summary>How the device chooses each row's next token, which the next start then reads.</summary>
    public TokenChoice Choice { get; }

    /// <summary>Gives the device the tokens that the next start is to read.</summary>
    /// <param name="tokens">The ids, one a sequence.</param>
    public void Write(ReadOnlySpan<long> tokens) => _tokens.Write(tokens);

    /// <summary>Reads a token of each sequence and chooses the next, and does not wait for it.</summary>
    public void Start()
    {
        _step?.Refresh();
        _work.Start();
        Choice.Choices.Send();
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        DisposeTensors();
        _work.Dispose();
    }

    private void Read(ModelState state)
    {
        if (_step is not null)
        {
            _step.Read(_tokens.Values, state);
        }
        else
        {
            ReadByModel(state);
        }

        Choice.Choose(Logits);
    }

    private void ReadByModel(ModelState state)
    {
        var (logits, after) = _model.Forward(_tokens.Values, state, returnState: true); // (B, 1, V)
        using (after)
        {
            foreach (var (name, tensor) in after!.Tensors)
            {
                // Keys and values with room behind them were written where they are.
                if (Kernel.Address(state[name]) != Kernel.Address(tensor))
                {
                    state[name].copy_(tensor);
                }
            }
        }

        Logits.copy_(logits.squeeze(1).narrow(-1, 0, Logits.shape[1]));
    }

    private void DisposeTensors()
    {
        // First what waits for all that was started.
        Choice.Dispose();
        _step?.Dispose();
        _tokens.Dispose();
        Logits.Dispose();
    }
}
