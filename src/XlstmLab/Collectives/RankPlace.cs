using System.Globalization;

namespace XlstmLab.Collectives;

/// <summary>Which of several processes this one is, and where they meet.</summary>
public sealed record RankPlace
{
    /// <summary>The environment variable with the rank's number.</summary>
    public const string RankVariable = "XLSTM_RANK";

    /// <summary>The environment variable with the number of ranks.</summary>
    public const string WorldVariable = "XLSTM_WORLD";

    /// <summary>The environment variable with the rank's number among those of its host.</summary>
    public const string LocalRankVariable = "XLSTM_LOCAL_RANK";

    /// <summary>The environment variable with the host that rank 0 is reached at.</summary>
    public const string HostVariable = "XLSTM_RANK_HOST";

    /// <summary>The environment variable with the port that rank 0 listens on.</summary>
    public const string PortVariable = "XLSTM_RANK_PORT";

    /// <summary>The environment variable with the secret that the ranks have in common.</summary>
    public const string TokenVariable = "XLSTM_RANK_TOKEN";

    /// <summary>The environment variable with the seconds that a rank may say nothing.</summary>
    public const string TimeoutVariable = "XLSTM_RANK_TIMEOUT";

    /// <summary>The number of this rank, from 0.</summary>
    public required int Rank { get; init; }

    /// <summary>The number of ranks.</summary>
    public required int World { get; init; }

    /// <summary>The rank's number among those of its host, from 0: which of the host's GPUs it takes.</summary>
    public int LocalRank { get; init; }

    /// <summary>The host that rank 0 is reached at.</summary>
    public string Host { get; init; } = "127.0.0.1";

    /// <summary>The port that rank 0 listens on; 0 where a file tells it (<see cref="MeetingFile"/>).</summary>
    public int Port { get; init; }

    /// <summary>The secret that the ranks have in common: who does not know it is refused. Empty where a file tells it.</summary>
    public string Token { get; init; } = "";

    /// <summary>The end of the name of the file by which rank 0 tells the others port and secret; null where both are given.</summary>
    public string? MeetingFile { get; init; }

    /// <summary>How long a rank may say nothing, when they meet and later.</summary>
    public TimeSpan Timeout { get; init; } = TimeSpan.FromMinutes(5);

    /// <summary>
    /// The place that the environment gives this process: by variables of this library, which a launcher sets, or by Slurm's, of a step of
    /// several tasks; null for a process that is alone.
    /// </summary>
    /// <exception cref="CollectiveException">The variables contradict each other.</exception>
    public static RankPlace? FromEnvironment() => FromVariables(Environment.GetEnvironmentVariable);

    /// <summary>The same from any variables.</summary>
    internal static RankPlace? FromVariables(Func<string, string?> variable)
    {
        var place = variable(RankVariable) is { Length: > 0 } ? OfLauncher(variable) : OfSlurm(variable);
        if (place is null)
        {
            return null;
        }

        if (variable(TimeoutVariable) is { Length: > 0 } text)
        {
            place = place with
            {
                Timeout = double.TryParse(text, NumberStyles.Float, CultureInfo.InvariantCulture, out var seconds)
                    && seconds is > 0 and < 1e6
                    ? TimeSpan.FromSeconds(seconds)
                    : throw new CollectiveException($"{TimeoutVariable} is '{text}'; expected seconds, such as 300."),
            };
        }

        return place.Rank < place.World && place.LocalRank < place.World
            ? place
            : throw new CollectiveException(
                $"This process is said to be rank {place.Rank} (on its host {place.LocalRank}) of {place.World}: ranks count from 0.");
    }

    /// <summary>The host names of a list as Slurm writes it, such as <c>gpu[01-03,7],login</c>, in its order.</summary>
    /// <exception cref="CollectiveException">It is no such list.</exception>
    internal static IReadOnlyList<string> Hosts(string list)
    {
        var hosts = new List<string>();
        for (var at = 0; at < list.Length;)
        {
            var open = list.IndexOf('[', at);
            var comma = list.IndexOf(',', at);
            if (open < 0 || (comma >= 0 && comma < open))
            {
                var end = comma < 0 ? list.Length : comma;
                hosts.Add(list[at..end]);
                at = end + 1;
                continue;
            }

            var close = list.IndexOf(']', open);
            var next = close < 0 ? -1 : close + 1 == list.Length ? list.Length : list[close + 1] == ',' ? close + 1 : -1;
            if (next < 0)
            {
                throw new CollectiveException(
                    $"The list of hosts '{list}' is of no form that is known; expected one such as gpu[01-03,07].");
            }

            hosts.AddRange(
                list[(open + 1)..close].Split(',').SelectMany(range => Numbers(range, list)).Select(number => list[at..open] + number));
            at = next + 1;
        }

        return hosts.Count > 0 && hosts.All(host => host.Length > 0) ? hosts : throw new CollectiveException(
            $"The list of hosts '{list}' has none.");
    }

    private static IEnumerable<string> Numbers(string range, string list)
    {
        var ends = range.Split('-');
        if (ends.Length > 2 || !ends.All(end => int.TryParse(end, NumberStyles.None, CultureInfo.InvariantCulture, out _)))
        {
            throw new CollectiveException($"The list of hosts '{list}' has '{range}' where numbers such as 01-03 were expected.");
        }

        var first = int.Parse(ends[0], CultureInfo.InvariantCulture);
        var last = int.Parse(ends[^1], CultureInfo.InvariantCulture);
        return Enumerable.Range(first, Math.Max(0, last - first + 1))
            .Select(number => number.ToString(CultureInfo.InvariantCulture).PadLeft(ends[0].Length, '0'));
    }

    private static RankPlace OfLauncher(Func<string, string?> variable)
    {
        var token = variable(TokenVariable) ?? "";
        return new()
        {
            Rank = Whole(variable, RankVariable),
            World = Whole(variable, WorldVariable),
            LocalRank = variable(LocalRankVariable) is { Length: > 0 } ? Whole(variable, LocalRankVariable) : Whole(variable, RankVariable),
            Host = variable(HostVariable) is { Length: > 0 } host ? host : "127.0.0.1",
            Port = Whole(variable, PortVariable),
            Token = token.Length >= 16
                ? token
                : throw new CollectiveException(
                    $"{TokenVariable} has {token.Length} characters; the secret that all ranks are given needs 16 at least."),
        };
    }

    /// <summary>What srun tells the tasks of a step; a batch script and a step of one task are alone.</summary>
    private static RankPlace? OfSlurm(Func<string, string?> variable)
    {
        const string procId = "SLURM_PROCID", step = "SLURM_STEP_ID", stepTasks = "SLURM_STEP_NUM_TASKS";
        const string tasks = "SLURM_NTASKS", job = "SLURM_JOB_ID";
        if (variable(step) is not { Length: > 0 } || variable(procId) is not { Length: > 0 })
        {
            return null;
        }

        var world = variable(stepTasks) is { Length: > 0 } ? Whole(variable, stepTasks) : Whole(variable, tasks);
        if (world < 2)
        {
            return null;
        }

        var nodes = variable("SLURM_STEP_NODELIST") ?? variable("SLURM_JOB_NODELIST")
            ?? throw new CollectiveException(
                "Slurm has started this task and names no hosts: SLURM_STEP_NODELIST and SLURM_JOB_NODELIST are not set.");
        var number = variable(job) ?? variable("SLURM_JOBID") ?? throw new CollectiveException(
            $"Slurm has started this task and {job} is not set.");
        var hosts = Hosts(nodes);
        var restarts = variable("SLURM_RESTART_COUNT") is { Length: > 0 } count ? $".{count}" : "";
        return new()
        {
            Rank = Whole(variable, procId),
            World = world,
            LocalRank = variable("SLURM_LOCALID") is { Length: > 0 } ? Whole(variable, "SLURM_LOCALID") : 0,
            Host = hosts.Count == 1 ? "127.0.0.1" : hosts[0],
            Token = variable(TokenVariable) ?? "",
            MeetingFile = $".ranks-{number}.{variable(step)}{restarts}",
        };
    }

    private static int Whole(Func<string, string?> variable, string name) =>
        int.TryParse(variable(name), NumberStyles.None, CultureInfo.InvariantCulture, out var number)
            ? number
            : throw new CollectiveException($"{name} is '{variable(name)}'; expected a whole number.");
}
