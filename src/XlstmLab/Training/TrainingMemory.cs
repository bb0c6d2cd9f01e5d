using System.Globalization;
using TorchSharp;
using XlstmLab.Models;

namespace XlstmLab.Training;

/// <summary>The least memory that a training run needs.</summary>
internal static class TrainingMemory
{
    /// <summary>Refuses a run that cannot fit, before its folder or its model are there.</summary>
    /// <param name="model">The architecture.</param>
    /// <param name="training">The run.</param>
    /// <param name="device">Where it shall be trained.</param>
    /// <param name="count">The number of parameters of a model that is there; null to count them.</param>
    /// <exception cref="ConfigException">It cannot fit; the message says what it needs and what there is.</exception>
    public static void Require(LanguageModelConfig model, TrainingConfig training, torch.Device device, long? count = null)
    {
        if (count is null)
        {
            MemoryNeed.RequireModel(model);
        }

        var parameters = count ?? MemoryNeed.Parameters(model).Count;
        var batch = training.BatchRamp.Select(stage => stage.BatchSize).Append(training.BatchSize).Max();
        var micro = Math.Min(batch, training.MicroBatchSize ?? batch);

        // Of each token at once its logits and the stream that every block keeps for its gradient.
        var ofParameters = OfParameters(parameters, training);
        var numberBytes = NumberBytes(training);
        var ofTokens =
            (double)micro * training.ContextLength * numberBytes * (model.VocabularySize + (double)model.BlockCount * model.EmbeddingDim);
        MemoryNeed.Require(
            string.Create(
                CultureInfo.InvariantCulture,
                $"Training {MemoryNeed.Count(parameters)} parameters ({Readable.Size(ofParameters)}) on {micro:N0} x "
                + $"{training.ContextLength:N0} tokens at once ({Readable.Size(ofTokens)})"),
            ofParameters + ofTokens,
            device,
            "Less memory is needed by a smaller micro-batch (the update stays the same), a smaller batch, a shorter context, "
            + "bfloat16 or a smaller model.");

        // A batch is read as a whole, wherever it is computed: inputs and targets of four bytes, and their copies for libtorch of eight.
        MemoryNeed.Require(
            string.Create(CultureInfo.InvariantCulture, $"A batch of {batch:N0} x {training.ContextLength:N0} tokens"),
            (double)batch * training.ContextLength * 2 * sizeof(int),
            torch.CPU,
            "Choose a smaller batch or a shorter context.");
    }

    /// <summary>Roughly the bytes that a training takes of a GPU at its peak.</summary>
    /// <remarks>
    /// Measured on an H100, a block keeps 20 numbers of the stream's width for each token (160M and 400M, bfloat16); a third is added for
    /// what the host computes before graphs are recorded, and a gigabyte for products' workspaces.
    /// </remarks>
    /// <param name="model">The model.</param>
    /// <param name="training">The training.</param>
    /// <param name="deviceBytes">The GPU's memory.</param>
    public static double Estimate(LanguageModelConfig model, TrainingConfig training, double deviceBytes)
    {
        const double perBlock = 26, workspace = 1e9;
        var batch = training.BatchRamp.Select(stage => stage.BatchSize).Append(training.BatchSize).Max();
        var tokens = (double)Math.Min(batch, training.MicroBatchSize ?? batch) * training.ContextLength;
        var logits = Math.Min(
            tokens * model.VocabularySize * NumberBytes(training) * 2, 2 * Operations.HeadLossKernel.LargestLogits(deviceBytes));
        var count = MemoryNeed.Parameters(model).Count;
        var copies = training.ComputeType == torch.ScalarType.BFloat16 ? count * NumberBytes(training) : 0;
        return OfParameters(count, training) + copies
            + tokens * model.BlockCount * model.EmbeddingDim * NumberBytes(training) * perBlock + logits + workspace;
    }

    /// <summary>Weights, gradients and two moments, one where Muon updates, and the average.</summary>
    private static double OfParameters(double count, TrainingConfig training) =>
        count * sizeof(float) * ((training.Optimizer == OptimizerKind.Muon ? 3 : 4) + (training.EmaDecay is null ? 0 : 1));

    private static int NumberBytes(TrainingConfig training) => training.ComputeType == torch.ScalarType.BFloat16 ? 2 : sizeof(float);
}
