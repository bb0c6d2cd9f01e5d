using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Security.Cryptography;
using TorchSharp;
using static TorchSharp.torch;

namespace XlstmLab.Collectives;

/// <summary>Has the ranks of a group meet.</summary>
public static class RankGroup
{
    private static readonly TimeSpan LookEvery = TimeSpan.FromMilliseconds(50);

    /// <summary>
    /// Meets the other ranks: on GPUs NCCL connects them, on CPUs TCP, in its place.
    /// </summary>
    /// <param name="place">Which rank this is.</param>
    /// <param name="device">Where it computes.</param>
    /// <param name="meeting">
    /// A path that all ranks see, such as the run's folder: where the place names a file (<see cref="RankPlace.MeetingFile"/>), rank 0 puts
    /// one beside it that only this user can read, until all have met.
    /// </param>
    /// <param name="cancellationToken">Gives up.</param>
    /// <exception cref="CollectiveException">Some did not come in time, or are not those that were meant.</exception>
    public static ICommunicator Open(RankPlace place, Device device, string meeting, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(place);
        ArgumentNullException.ThrowIfNull(device);
        if (place.MeetingFile is null)
        {
            return Open(place, device, (Socket?)null, cancellationToken);
        }

        var file = Path.TrimEndingDirectorySeparator(Path.GetFullPath(meeting)) + place.MeetingFile;
        if (place.Rank > 0)
        {
            return Open(Told(place, file, cancellationToken), device, (Socket?)null, cancellationToken);
        }

        place = place.Token.Length > 0 ? place : place with { Token = Convert.ToHexString(RandomNumberGenerator.GetBytes(32)) };
        var listener = RankLinks.Listen(place);
        try
        {
            Tell(place, ((IPEndPoint)listener.LocalEndPoint!).Port, file);
            return Open(place, device, listener, cancellationToken);
        }
        finally
        {
            File.Delete(file);
        }
    }

    private static ICommunicator Open(RankPlace place, Device device, Socket? listener, CancellationToken cancellationToken) =>
        device.type == DeviceType.CUDA ? NcclCommunicator.Open(place, device, listener, cancellationToken)
        : LoopbackCommunicator.Open(place, listener, cancellationToken);

    private static void Tell(RankPlace place, int port, string file)
    {
        if (Path.GetDirectoryName(file) is { Length: > 0 } folder)
        {
            Directory.CreateDirectory(folder);
        }

        var aside = file + ".tmp";
        File.Delete(aside);
        var options = new FileStreamOptions { Mode = FileMode.CreateNew, Access = FileAccess.Write };
        if (!OperatingSystem.IsWindows())
        {
            options.UnixCreateMode = UnixFileMode.UserRead | UnixFileMode.UserWrite;
        }

        using (var writer = new StreamWriter(aside, options))
        {
            writer.Write(string.Create(CultureInfo.InvariantCulture, $"{port}\n{place.Token}\n"));
        }

        File.Move(aside, file, overwrite: true);
    }

    private static RankPlace Told(RankPlace place, string file, CancellationToken cancellationToken)
    {
        for (var end = DateTime.UtcNow + place.Timeout; !File.Exists(file); cancellationToken.WaitHandle.WaitOne(LookEvery))
        {
            cancellationToken.ThrowIfCancellationRequested();
            if (DateTime.UtcNow >= end)
            {
                throw new CollectiveException(
                    string.Create(
                        CultureInfo.InvariantCulture,
                        $"Rank {place.Rank} of {place.World} has waited {place.Timeout.TotalSeconds:0.###} s for {file}, "
                        + $"by which rank 0 tells where it is: it did not ")
                    + "start, or does not see the same folder.");
            }
        }

        var lines = File.ReadAllLines(file);
        return lines.Length == 2 && int.TryParse(lines[0], NumberStyles.None, CultureInfo.InvariantCulture, out var port)
            ? place with { Port = port, Token = lines[1] }
            : throw new CollectiveException($"{file} is not what a rank 0 writes.");
    }
}
