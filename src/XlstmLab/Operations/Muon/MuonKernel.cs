using System.Runtime.InteropServices;
using XlstmLab.Native.Cuda;
using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>
/// What of Muon is one pass over memory, by the numbers of an update that <see cref="AdamWKernel"/> prepared on the device.
/// </summary>
internal static class MuonKernel
{
    private const string Source = "Muon.cu";
    private const int Threads = 256;
    private const int ElementsPerThread = 4;

    private static readonly string[] Defines =
    [
        $"THREADS={Threads}", $"SETTINGS_BYTES={Marshal.SizeOf<AdamWSettings>()}", $"RULE_BYTES={4 * AdamWKernel.RuleWords}",
    ];

    /// <summary>Moves a momentum towards the clipped gradient, unless the update is left out.</summary>
    /// <param name="gradient">[rows, columns] float32.</param>
    /// <param name="momentum">[rows, columns] float32, changed.</param>
    /// <param name="kernel">What prepared the update.</param>
    /// <param name="decay">The momentum's decay.</param>
    /// <param name="nesterov">Whether what is made orthogonal looks ahead.</param>
    /// <returns>[rows, columns] bfloat16, to be made orthogonal.</returns>
    public static Tensor Momentum(Tensor gradient, Tensor momentum, AdamWKernel kernel, double decay, bool nesterov)
    {
        var given = gradient.contiguous();
        var update = empty(momentum.shape, ScalarType.BFloat16, momentum.device);
        Kernel.Launch(
            Source, "muon_momentum", Defines, Shape(momentum), momentum,
            given, momentum, update, kernel.Rule, (float)(1 - decay), nesterov ? (float)decay : 1, momentum.NumberOfElements);
        return update;
    }

    /// <summary>Changes a weight by the orthogonal matrix, its copy and its average, unless the update is left out.</summary>
    /// <param name="weight">[rows, columns] float32, changed.</param>
    /// <param name="orthogonal">[rows, columns] bfloat16, contiguous or the transpose of what is.</param>
    /// <param name="copy">[rows, columns] bfloat16, or null: of the weight.</param>
    /// <param name="average">[rows, columns] float32, or null.</param>
    /// <param name="kernel">What prepared the update.</param>
    /// <param name="rateFactor">The learning rate in units of the prepared one.</param>
    /// <param name="scale">What the orthogonal matrix is multiplied by.</param>
    /// <param name="decay">The weight decay, in units of the learning rate.</param>
    public static void Update(
        Tensor weight, Tensor orthogonal, Tensor? copy, Tensor? average, AdamWKernel kernel, double rateFactor, double scale, double decay)
    {
        var isTransposed = !orthogonal.is_contiguous();
        Kernel.Launch(
            Source, "muon_update", Defines, Shape(weight), weight,
            weight, isTransposed ? orthogonal.t().contiguous() : orthogonal, copy, average, kernel.Rule, kernel.Settings,
            (float)(rateFactor * scale), (float)(rateFactor * decay), weight.shape[0], weight.shape[1], isTransposed ? 1 : 0);
    }

    private static LaunchShape Shape(Tensor matrix) =>
        new((matrix.NumberOfElements + Threads * ElementsPerThread - 1) / (Threads * ElementsPerThread), Threads);
}
