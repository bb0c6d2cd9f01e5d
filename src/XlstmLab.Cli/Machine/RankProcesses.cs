using System.CommandLine;
using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Security.Cryptography;
using XlstmLab.Cli.Terminals;
using XlstmLab.Collectives;
using XlstmLab.Native;

namespace XlstmLab.Cli.Machine;

/// <summary>Starts this program once for each rank, and watches: one that fails ends the others.</summary>
/// <param name="parsed">The command line, whose plugins the ranks have too.</param>
/// <param name="terminal">Where rank 0's output and others' errors go.</param>
/// <param name="world">The number of ranks.</param>
/// <param name="timeoutSeconds">The seconds that a rank may say nothing, or null.</param>
internal sealed class RankProcesses(ParseResult parsed, Terminal terminal, int world, double? timeoutSeconds)
{
    /// <summary>The environment variable of a rank whose input tells it to stop, or that who started it is gone.</summary>
    private const string WatchedVariable = "XLSTM_RANK_WATCHED";

    private const string StopWord = "stop";
    private static readonly TimeSpan Grace = TimeSpan.FromSeconds(15);

    /// <summary>The command line that a rank gets: this one's, without what the program adds by itself.</summary>
    public static IReadOnlyList<string> OwnArguments(ParseResult parsed)
    {
        var words = parsed.Tokens.Select(token => token.Value).ToList();
        for (var at = words.IndexOf(Program.PluginOption); at >= 0; at = words.IndexOf(Program.PluginOption))
        {
            words.RemoveRange(at, Math.Min(2, words.Count - at));
        }

        return words;
    }

    /// <summary>In a rank: cancelled too when who started it says so, or is gone.</summary>
    public static CancellationTokenSource Watched(CancellationToken cancellationToken)
    {
        var source = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        if (Environment.GetEnvironmentVariable(WatchedVariable) is { Length: > 0 })
        {
            new Thread(() =>
            {
                _ = Console.In.ReadLine(); // the word, or the end
                try
                {
                    source.Cancel();
                }
                catch (ObjectDisposedException)
                {
                    // The work is done.
                }
            })
            { IsBackground = true, Name = "watch of the launcher" }.Start();
        }

        return source;
    }

    /// <summary>Runs all ranks to their end.</summary>
    /// <param name="arguments">The command line of each.</param>
    /// <param name="results">Where rank 0's results go; null for this program's own output.</param>
    /// <param name="cancellationToken">Asks the ranks to stop, as one.</param>
    /// <returns>The exit code: rank 0's, unless another failed.</returns>
    public async Task<int> RunAsync(IReadOnlyList<string> arguments, TextWriter? results, CancellationToken cancellationToken)
    {
        var isDirect = results is null && ReferenceEquals(terminal.Out, Console.Out) && ReferenceEquals(terminal.Error, Console.Error);
        var port = FreePort();
        var token = Convert.ToHexString(RandomNumberGenerator.GetBytes(32));
        var ranks = new List<Process>();
        var readers = new List<Task>();
        try
        {
            for (var rank = 0; rank < world; rank++)
            {
                var start = OwnProgram.Start(parsed, arguments);
                start.RedirectStandardInput = true;
                if (isDirect && rank == 0)
                {
                    start.RedirectStandardOutput = start.RedirectStandardError = false;
                    start.StandardOutputEncoding = start.StandardErrorEncoding = null;
                }

                Describe(start, rank, port, token);
                ranks.Add(Process.Start(start)!);
                if (start.RedirectStandardOutput)
                {
                    var (process, number) = (ranks[^1], rank);
                    readers.Add(ForwardAsync(process.StandardOutput, number == 0 ? results ?? terminal.Out : TextWriter.Null, ""));
                    readers.Add(ForwardAsync(process.StandardError, terminal.Error, number == 0 ? "" : string.Create(
                        CultureInfo.InvariantCulture, $"rank {number}: ")));
                }
            }

            await using var stop = cancellationToken.Register(() => ranks.ForEach(Stop));
            var failed = await WaitAsync(ranks);
            await Task.WhenAll(readers);
            if (failed is not { } culprit)
            {
                return ranks[0].ExitCode;
            }

            var code = ranks[culprit].ExitCode;
            terminal.Note(string.Create(
                CultureInfo.InvariantCulture,
                $"error: Rank {culprit} of {world} was the first to fail, "
                + $"with exit code {code}{(code > 128 ? $", as of signal {code - 128}" : "")}; all ranks have ended."));
            return code == ExitCode.WrongUsage ? ExitCode.WrongUsage : ExitCode.Failure;
        }
        finally
        {
            foreach (var process in ranks)
            {
                Kill(process);
                process.Dispose();
            }
        }
    }

    /// <summary>Waits for all; once one has ended, the others have some time to do so too.</summary>
    /// <returns>The first that failed; null if none did.</returns>
    private static async Task<int?> WaitAsync(List<Process> ranks)
    {
        int? failed = null;
        var running = ranks.Index().ToDictionary(rank => rank.Item.WaitForExitAsync(CancellationToken.None), rank => rank.Index);
        using var limit = new CancellationTokenSource();
        var tooLate = Task.Delay(Timeout.Infinite, limit.Token);
        while (running.Count > 0)
        {
            var ended = await Task.WhenAny([.. running.Keys, tooLate]);
            if (ended == tooLate)
            {
                foreach (var rank in running.Values)
                {
                    Kill(ranks[rank]);
                }

                await Task.WhenAll(running.Keys);
                return failed ?? running.Values.Min();
            }

            var index = running[ended];
            running.Remove(ended);
            if (ranks[index].ExitCode is not (ExitCode.Success or ExitCode.Interrupted))
            {
                failed ??= index;
            }

            limit.CancelAfter(Grace);
        }

        return failed;
    }

    private static async Task ForwardAsync(StreamReader from, TextWriter to, string prefix)
    {
        while (await from.ReadLineAsync() is { } line)
        {
            if (line.Length > 0)
            {
                await to.WriteLineAsync(prefix + line);
            }
        }
    }

    private static void Stop(Process process)
    {
        try
        {
            process.StandardInput.WriteLine(StopWord);
            process.StandardInput.Flush();
        }
        catch (Exception e) when (e is IOException or InvalidOperationException)
        {
            // It has ended.
        }
    }

    private static void Kill(Process process)
    {
        try
        {
            process.Kill(entireProcessTree: true);
        }
        catch (InvalidOperationException)
        {
            // It has ended.
        }
    }

    /// <summary>A port of this machine that nobody listens on.</summary>
    internal static int FreePort()
    {
        using var listener = new TcpListener(IPAddress.Loopback, 0);
        listener.Start();
        return ((IPEndPoint)listener.LocalEndpoint).Port;
    }

    private void Describe(ProcessStartInfo start, int rank, int port, string token)
    {
        void Set(string name, IFormattable value) => start.Environment[name] = value.ToString(null, CultureInfo.InvariantCulture);
        Set(RankPlace.RankVariable, rank);
        Set(RankPlace.WorldVariable, world);
        Set(RankPlace.LocalRankVariable, rank);
        Set(RankPlace.PortVariable, port);
        Set(WatchedVariable, 1);
        start.Environment[RankPlace.HostVariable] = "127.0.0.1";
        start.Environment[RankPlace.TokenVariable] = token;

        // What NCCL tells under NCCL_DEBUG would be among the results otherwise.
        start.Environment.TryAdd("NCCL_DEBUG_FILE", "/dev/stderr");
        if (timeoutSeconds is { } seconds)
        {
            Set(RankPlace.TimeoutVariable, seconds);
        }

        if (Environment.GetEnvironmentVariable("OMP_NUM_THREADS") is null or "")
        {
            Set("OMP_NUM_THREADS", Math.Max(1, Processor.Current.PhysicalCores / world));
        }
    }
}
