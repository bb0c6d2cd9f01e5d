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
/// The kernels, and so the logits, are those of the model's own pass, but for models that <see cref="XlstmGpuStep"/> reads. The state is written
/// in place, and has to be the caller's own. The next token sees what weights became.
/// </remarks>
internal sealed class RecordedTokenStep : IDisposable
{
    private readonly LanguageModel _model;
    private readonly ScalarType? _computeType;
    private readonly TensorPlaces _places;
    private readonly DeviceInput<long> _tokens;
    private readonly Tensor _logits;
    private readonly Tensor _likeliest;
    private readonly XlstmGpuStep? _step;
    private readonly IRecordedWork _work;

    private RecordedTokenStep(LanguageModel model, EvaluationMode mode, ModelState state, int knownIds, WeightFormat weights)
    {
        (_model, _computeType) = (model, model.ComputeType);
        _places = new([.. model.parameters(), .. model.buffers()]);
        var (device, rows) = (model.WeightsDevice, state.BatchSize);
        _tokens = new(ScalarType.Int64, device, rows, 1);
        _logits = empty(rows, knownIds, ScalarType.Float32, device).DetachFromDisposeScope();
        _likeliest = empty(rows, 2, ScalarType.Float64, device).DetachFromDisposeScope();
        try
        {
            if ((_step = XlstmGpuStep.Of(model, state, weights)) is not null)
            {
                // Its kernels have to be compiled before they are recorded.
                using var rehearsal = state.Clone();
                _step.Read(_tokens.Values, rehearsal);
            }
            else if (weights != WeightFormat.Float32)
            {
                throw new ArgumentException($"No kernels read {model.GetName()} from such a state with weights of {weights}.");
            }

            using var recorder = Kernel.Recorder(_likeliest);
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
    /// Records a model's step from a state; null where it cannot be. The host has computed it before, so that nothing is left to be compiled.
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

    /// <summary>Whether a step leaves a state of the form that it began with; one that grows with the tokens cannot be written in place.</summary>
    public static bool KeepsForm(ModelState before, ModelState after) =>
        before.Tensors.Count == after.Tensors.Count && before.Tensors.Zip(after.Tensors).All(pair =>
            pair.First.Key == pair.Second.Key && pair.First.Value.dtype == pair.Second.Value.dtype
            && pair.First.Value.shape.AsSpan().SequenceEqual(pair.Second.Value.shape));

    /// <summary>The bytes of weights that a token reads; null where they are the model's own.</summary>
    public long? WeightBytes => _step?.WeightBytes;

    /// <summary>Whether the model is still what was recorded: its weights where they were, of the same type, with nobody looking on.</summary>
    public bool Serves() => _model.Observer is null && _model.ComputeType == _computeType && _places.AreKept();

    /// <summary>Reads a token of each sequence, and does not wait for it.</summary>
    /// <param name="tokens">The ids, one a sequence.</param>
    /// <returns>
    /// Until the next call, on the device: the logits of the known ids [B, V] float32, and of each row the likeliest id with its logarithm of
    /// probability, [B, 2] float64.
    /// </returns>
    public (Tensor Logits, Tensor Likeliest) Start(ReadOnlySpan<long> tokens)
    {
        _step?.Refresh();
        _tokens.Write(tokens);
        _work.Start();
        return (_logits, _likeliest);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _work.Dispose();
        DisposeTensors();
    }

    private void Read(ModelState state)
    {
        _logits.copy_(Logits(state).narrow(-1, 0, _logits.shape[1]));
        var scores = _logits.to(ScalarType.Float64); // (B, V)
        var (best, id) = scores.max(-1); // (B)
        _likeliest.select(1, 0).copy_(id);
        _likeliest.select(1, 1).copy_(best - scores.logsumexp(-1));
    }

    /// <summary>What the model makes of the tokens, [B, V], which the state has then read.</summary>
    private Tensor Logits(ModelState state)
    {
        if (_step is not null)
        {
            _step.Read(_tokens.Values, state);
            return _step.Logits;
        }

        var (logits, after) = _model.Forward(_tokens.Values, state, returnState: true); // (B, 1, V)
        using (after)
        {
            foreach (var (name, tensor) in after!.Tensors)
            {
                state[name].copy_(tensor);
            }
        }

        return logits.squeeze(1);
    }

    private void DisposeTensors()
    {
        _step?.Dispose();
        _tokens.Dispose();
        _logits.Dispose();
        _likeliest.Dispose();
    }
}
