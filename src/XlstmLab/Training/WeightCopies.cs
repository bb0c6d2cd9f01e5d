using XlstmLab.Operations;

namespace XlstmLab.Training;

/// <summary>What an update writes beside the weights.</summary>
/// <param name="Average">Their running average, or null.</param>
/// <param name="Products">The bfloat16 copies that products read, or null.</param>
internal sealed record WeightCopies(WeightAverage? Average = null, TrainedProducts? Products = null);
