using XlstmLab.Models;
using static TorchSharp.torch;

namespace XlstmLab.Training;

/// <summary>What a training lowers, of a batch or of some of its rows.</summary>
/// <remarks>
/// The parts of an update are added up, so that micro-batches give the update of the whole: a part is divided by the targets of all. A
/// validation adds up batches undivided.
/// </remarks>
/// <typeparam name="TBatch">The kind of batch.</typeparam>
/// <param name="model">The model, in training mode or, in a validation, in evaluation mode without gradients.</param>
/// <param name="batch">The rows.</param>
/// <param name="divisor">The targets of the whole update; 1 in a validation.</param>
/// <returns>The sum over the batch's targets, divided: [] floating point on the model's device, in the caller's dispose scope.</returns>
public delegate Tensor BatchLoss<in TBatch>(LanguageModel model, TBatch batch, long divisor);
