using XlstmLab.Models;
using XlstmLab.Operations;
using XlstmLab.Text;
using static TorchSharp.torch;

namespace XlstmLab.Training;

/// <summary>The loss of a language model: the cross-entropy of a batch's targets, in nats.</summary>
public static class NextTokenLoss
{
    /// <summary>The cross-entropy in nats, summed over all targets that count and divided.</summary>
    /// <param name="model">The model.</param>
    /// <param name="batch">Tokens and targets [B, S]; documents begin with an empty state.</param>
    /// <param name="divisor">Such as the number of targets.</param>
    /// <returns>[], float32, or float64 where a kernel computes it.</returns>
    public static Tensor Of(LanguageModel model, TokenBatch batch, long divisor)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(batch);
        var device = model.WeightsDevice;
        if (model.HasLossKernel)
        {
            return OfKernel(
                model, batch.ToInputTensor(device), batch.ToTargetTensor(device),
                batch.HasInnerStarts ? batch.ToDocumentStartTensor(device) : null, divisor);
        }

        var targets = batch.Targets;
        Tensor? positions = null;
        if (targets.Contains(TokenBatch.Ignored))
        {
            var counting = Enumerable.Range(0, targets.Length).Where(k => targets[k] != TokenBatch.Ignored).Select(k => (long)k).ToArray();
            positions = tensor(counting, device: device);
            targets = [.. targets.Where(t => t != TokenBatch.Ignored)];
        }

        return OfOperations(
            model, batch.ToInputTensor(device), tensor(targets, [targets.Length], int64, device), positions,
            batch.ToDocumentStartTensor(device), divisor);
    }

    private static Tensor OfKernel(LanguageModel model, Tensor inputs, Tensor targets, Tensor? starts, LossDivisor divisor) =>
        model.Loss(inputs, targets, divisor, starts is null ? null : new SequenceLayout(starts));

    private static Tensor OfOperations(LanguageModel model, Tensor inputs, Tensor targets, Tensor? positions, Tensor starts, long divisor)
    {
        var logits = model.Forward(inputs, layout: new SequenceLayout(starts), positions: positions).Logits; // (B, S, V) or (N, V)
        return nn.functional.cross_entropy(
            logits.to(ScalarType.Float32).reshape(-1, model.VocabularySize), targets, reduction: nn.Reduction.Sum) / divisor;
    }

    /// <summary>The same, recorded.</summary>
    internal sealed class Recordable : IRecordableLoss<TokenBatch>
    {
        /// <inheritdoc/>
        public string? Obstacle(LanguageModel model, TokenBatch batch) =>
            !model.HasLossKernel && batch.TargetCount < batch.Targets.Length
                ? "without the kernel of the loss, each batch has another number of targets that count, "
                    + $"such as {batch.TargetCount} of {batch.Targets.Length}"
                : null;

        /// <inheritdoc/>
        public object Shape(LanguageModel model, TokenBatch batch) =>
            (batch.Rows, batch.Length, batch.HasInnerStarts || !model.HasLossKernel);

        /// <inheritdoc/>
        public IKeptBatch<TokenBatch> Keep(LanguageModel model, TokenBatch batch, long? divisor) => new Kept(model, batch, divisor);
    }

    private sealed class Kept : IKeptBatch<TokenBatch>
    {
        private readonly DeviceInput<long> _inputs;
        private readonly DeviceInput<long> _targets;
        private readonly DeviceInput<bool>? _starts;
        private readonly DeviceInput<long>? _divisor;
        private readonly long _constant;

        public Kept(LanguageModel model, TokenBatch batch, long? divisor)
        {
            var device = model.WeightsDevice;
            long[] shape = [batch.Rows, batch.Length];
            _inputs = new(ScalarType.Int64, device, shape);
            _targets = new(ScalarType.Int64, device, shape);
            _starts = batch.HasInnerStarts || !model.HasLossKernel ? new(ScalarType.Bool, device, shape) : null;
            _divisor = divisor is not null && model.HasLossKernel ? new(ScalarType.Int64, device, 1) : null;
            _constant = divisor ?? 1;
            Write(batch, _constant);
        }

        public void Write(TokenBatch batch, long divisor)
        {
            Widen(batch.Inputs, _inputs);
            Widen(batch.Targets, _targets);
            _starts?.Write(batch.DocumentStarts);
            _divisor?.Write([divisor]);
        }

        public Tensor Loss(LanguageModel model, int first, int rows)
        {
            var (inputs, targets) = (_inputs.Values.narrow(0, first, rows), _targets.Values.narrow(0, first, rows));
            var starts = _starts?.Values.narrow(0, first, rows);
            return model.HasLossKernel
                ? OfKernel(model, inputs, targets, starts, new(_constant, _divisor?.Values))
                : OfOperations(model, inputs, targets.flatten(), null, starts!, _constant);
        }

        public void Dispose()
        {
            foreach (var memory in new IDisposable?[] { _inputs, _targets, _starts, _divisor })
            {
                memory?.Dispose();
            }
        }

        private static void Widen(int[] tokens, DeviceInput<long> memory)
        {
            var wide = memory.Next();
            for (var k = 0; k < tokens.Length; k++)
            {
                wide[k] = tokens[k];
            }

            memory.Send();
        }
    }
}
