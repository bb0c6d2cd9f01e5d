using TorchSharp;
using static TorchSharp.torch;

namespace XlstmLab.Native;

/// <summary>Copies between host and device that do not wait for what the device still has to do.</summary>
internal static class DeviceTransfer
{
    /// <summary>The tensor on a device; on a GPU it arrives in the order of the operations there, while the host goes on.</summary>
    /// <param name="host">A tensor, which is disposed unless it is the result.</param>
    /// <param name="device">Where to; null is the CPU.</param>
    public static Tensor ToDevice(this Tensor host, Device? device)
    {
        if (device is null || device.type == DeviceType.CPU || host.device_type != DeviceType.CPU)
        {
            return device is null ? host : host.to(device, disposeAfter: true);
        }

        // libtorch keeps the page-locked copy until the transfer is over.
        using (host)
        using (var locked = host.pin_memory())
        {
            return locked.to(device, non_blocking: true);
        }
    }
}
