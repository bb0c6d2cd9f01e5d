using static TorchSharp.torch;

namespace XlstmLab.Training;

/// <summary>Means that move with every update.</summary>
internal static class RunningMeans
{
    /// <summary>mean += share (value - mean), in place.</summary>
    /// <remarks>
    /// TorchSharp's <c>lerp_</c> makes a tensor of the share, on the CPU: a device would wait for it, and a graph refuses it.
    /// </remarks>
    /// <param name="mean">Any shape.</param>
    /// <param name="value">The same shape and place.</param>
    /// <param name="share">How far it goes, from 0 to 1.</param>
    public static Tensor MoveTowards(this Tensor mean, Tensor value, double share) => mean.add_(value - mean, alpha: share);
}
