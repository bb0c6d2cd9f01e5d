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
            var borders = batch.HasInnerStarts ? new SequenceLayout(batch.ToDocumentStartTensor(device)) : null;
            return model.Loss(batch.ToInputTensor(device), batch.ToTargetTensor(device), divisor, borders);
        }

        var layout = new SequenceLayout(batch.ToDocumentStartTensor(device));
        var targets = batch.Targets;
        Tensor? positions = null;
        if (targets.Contains(TokenBatch.Ignored))
        {
            var counting = Enumerable.Range(0, targets.Length).Where(k => targets[k] != TokenBatch.Ignored).Select(k => (long)k).ToArray();
            positions = tensor(counting, device: device);
            targets = [.. targets.Where(t => t != TokenBatch.Ignored)];
        }

        var logits = model.Forward(batch.ToInputTensor(device), layout: layout, positions: positions).Logits; // (B, S, V) or (N, V)
        return nn.functional.cross_entropy(
            logits.to(ScalarType.Float32).reshape(-1, model.VocabularySize),
            tensor(targets, [targets.Length], int64, device),
            reduction: nn.Reduction.Sum)
            / divisor;
    }
}
