using System.Net;
using System.Net.Sockets;
using XlstmLab.Collectives;

namespace XlstmLab.Tests.Collectives;

/// <summary>Several ranks as threads of one process, connected over 127.0.0.1.</summary>
internal static class Ranks
{
    public const string Token = "a secret of sixteen characters";

    /// <summary>Does something on each rank at once, and gives what each came to.</summary>
    public static T[] Run<T>(int world, Func<ICommunicator, T> work, double timeoutSeconds = 60)
    {
        using var listener = Listener();
        return [.. Start(
            world, place => LoopbackCommunicator.Open(place, place.Rank == 0 ? listener : null, CancellationToken.None),
            work, Port(listener), timeoutSeconds)
            .Select(task => task.GetAwaiter().GetResult())];
    }

    /// <summary>The same; what a rank throws is the result.</summary>
    public static Exception?[] Failures(int world, Action<ICommunicator> work, double timeoutSeconds = 60)
    {
        using var listener = Listener();
        var tasks = Start(
            world, place => LoopbackCommunicator.Open(place, place.Rank == 0 ? listener : null, CancellationToken.None),
            communicator =>
            {
                work(communicator);
                return true;
            },
            Port(listener), timeoutSeconds);
        return [.. tasks.Select(task =>
        {
            try
            {
                task.GetAwaiter().GetResult();
                return null;
            }
#pragma warning disable CA1031 // It is what the test looks at.
            catch (Exception e)
            {
                return e;
            }
#pragma warning restore CA1031
        })];
    }

    public static RankPlace Place(int rank, int world, int port, double timeoutSeconds = 60) =>
        new() { Rank = rank, World = world, Port = port, Token = Token, Timeout = TimeSpan.FromSeconds(timeoutSeconds) };

    public static Socket Listener() => RankLinks.Listen(Place(0, 2, 0));

    public static int Port(Socket listener) => ((IPEndPoint)listener.LocalEndPoint!).Port;

    private static Task<T>[] Start<T>(
        int world, Func<RankPlace, ICommunicator> open, Func<ICommunicator, T> work, int port, double timeoutSeconds) =>
        [.. Enumerable.Range(0, world).Select(rank => Task.Factory.StartNew(
            () =>
            {
                using var communicator = open(Place(rank, world, port, timeoutSeconds));
                return work(communicator);
            },
            CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default))];
}
