using System.CommandLine;
using TorchSharp;
using XlstmLab.Native;

namespace XlstmLab.Cli;

/// <summary>What commands that compute have in common: threads and device.</summary>
internal static class ComputeOptions
{
    /// <summary>The option for libtorch's threads.</summary>
    public static Option<int?> Threads() => NumberOption.Whole(new Option<int?>("--threads")
    {
        Description = "Threads of one operation. Default: OMP_NUM_THREADS, else the physical cores.",
        HelpName = "N",
    }, 1);

    /// <summary>The option for the device.</summary>
    public static Option<string> Device() => new("--device")
    {
        Description = "Where to compute: cpu, cuda or cuda:1.",
        HelpName = "DEVICE",
        DefaultValueFactory = _ => "cpu",
    };

    /// <summary>The device that such an option names.</summary>
    /// <exception cref="UsageException">There is no device of such a name.</exception>
    /// <exception cref="NotSupportedException">The libtorch in use has no such device.</exception>
    public static torch.Device Find(string name)
    {
        try
        {
            return Compute.Device(name);
        }
        catch (ArgumentException e)
        {
            throw new UsageException(e.Message);
        }
    }
}
