using XlstmLab.Native.Cuda;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Training;

/// <summary>
/// An optimiser whose updates a GPU makes by itself: it clips, or leaves out an update whose loss or norm is not finite or beyond a limit,
/// without a word from the host.
/// </summary>
internal interface IDeviceOptimizer : IOptimizer
{
    /// <summary>Whether it can, with these parameters on this machine.</summary>
    bool HasKernel { get; }

    /// <summary>Makes an update from the parameters' gradients.</summary>
    /// <param name="settings">Learning rate, clipping and limits; the rest is the optimiser's own.</param>
    /// <param name="loss">[] or [1] float64 on the device.</param>
    /// <param name="copies">What it writes beside the weights; the same at each call.</param>
    /// <returns>Waits for the record of this update; to be called once.</returns>
    Func<AdamWRecord> StepOnDevice(AdamWSettings settings, Tensor loss, WeightCopies copies);

    /// <summary>Room for where a graph's gradients lie.</summary>
    /// <param name="copies">What it writes beside the weights.</param>
    DeviceInput<long> NewTable(WeightCopies copies);

    /// <summary>The update of a graph that is being recorded.</summary>
    /// <param name="table">The graph's table, which is filled here, to be sent when the recording is over.</param>
    /// <param name="loss">[] or [1] float64 on the device.</param>
    void Record(DeviceInput<long> table, Tensor loss);

    /// <summary>Starts a recorded update with these numbers.</summary>
    /// <param name="settings">Learning rate, clipping and limits; the rest is the optimiser's own.</param>
    /// <param name="update">What <see cref="Record"/> became part of.</param>
    /// <returns>Waits for the record of this update; to be called once.</returns>
    Func<AdamWRecord> Start(AdamWSettings settings, IRecordedWork update);
}
