using System.CommandLine;
using System.Globalization;
using TorchSharp;
using XlstmLab.Collectives;
using XlstmLab.Native;
using XlstmLab.Training;

namespace XlstmLab.Cli;

/// <summary>The options of what several ranks do together.</summary>
internal sealed class RankOptions
{
    private readonly Option<string?> _gpus = new("--gpus")
    {
        Description = "Share the work out to so many GPUs of this machine, or to all, by NCCL: a process each.",
        HelpName = "all|N",
    };
    private readonly Option<int?> _ranks = NumberOption.Whole(new Option<int?>("--ranks")
    {
        Description = "The same on the CPU, to try it: a loopback collective stands in for NCCL.",
        HelpName = "N",
    }, 1);

    private readonly Option<bool> _shards = new("--shard-optimizer")
    {
        Description = "Each rank keeps the optimiser's moments of a part of the weights only (ZeRO-1).",
    };
    private readonly Option<string?> _type = new Option<string?>("--reduce")
    {
        Description = "The type in which gradients go from rank to rank. Default: float32.",
    }.OneOf("bf16", "float32");
    private readonly Option<double?> _timeout = NumberOption.Real(new Option<double?>("--rank-timeout")
    {
        Description = "Seconds that a rank may say nothing before the others end. Default: 300.",
        HelpName = "SECONDS",
    }, NumberRange.Positive);

    /// <summary>Names a number that is no number of GPUs.</summary>
    public RankOptions() => _gpus.Validators.Add(result =>
    {
        if (result.GetValueOrDefault<string?>() is { } text && text != "all"
            && !(int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out var count) && count >= 1))
        {
            result.AddError($"--gpus is '{text}'; expected all, or a number of at least 1.");
        }
    });

    /// <summary>The options that say how many there are.</summary>
    public IReadOnlyList<Option> Counts => [_gpus, _ranks];

    /// <summary>All.</summary>
    public IReadOnlyList<Option> All => [.. Counts, _shards, _type, _timeout];

    /// <summary>Whether ranks are asked for.</summary>
    public bool AreGiven(ParseResult parsed) => parsed.GetValue(_gpus) is not null || parsed.GetValue(_ranks) is not null;

    /// <summary>Whether they are GPUs.</summary>
    public bool OnGpus(ParseResult parsed) => parsed.GetValue(_gpus) is not null;

    /// <summary>How many ranks this process is to start; 1 for none.</summary>
    /// <param name="parsed">The command line.</param>
    /// <param name="device">What <c>--device</c> says.</param>
    /// <exception cref="UsageException">The options contradict each other.</exception>
    /// <exception cref="NotSupportedException">There are not so many GPUs.</exception>
    public int Count(ParseResult parsed, string device)
    {
        if (parsed.GetValue(_ranks) is { } ranks)
        {
            return device == "cpu" && parsed.GetValue(_gpus) is null
                ? ranks
                : throw new UsageException("--ranks is for CPUs, where a loopback collective stands in for NCCL; on GPUs it is --gpus.");
        }

        if (parsed.GetValue(_gpus) is not { } text)
        {
            return 1;
        }

        if (device is not ("cpu" or "cuda"))
        {
            throw new UsageException($"--gpus takes GPUs from the first on, and --device names {device}: leave one of them out.");
        }

        _ = Compute.Device("cuda");
        var there = torch.cuda.device_count();
        var wanted = text == "all" ? there : int.Parse(text, CultureInfo.InvariantCulture);
        return wanted <= there ? wanted : throw new NotSupportedException($"--gpus asks for {wanted} GPUs, and this machine has {there}.");
    }

    /// <summary>The device of a rank: its own GPU, where GPUs are meant.</summary>
    /// <param name="parsed">The command line.</param>
    /// <param name="device">What <c>--device</c> says.</param>
    /// <param name="place">Which rank it is, or null for a process that is alone.</param>
    public string DeviceOf(ParseResult parsed, string device, RankPlace? place)
    {
        var name = OnGpus(parsed) && device == "cpu" ? "cuda" : device;
        if (place is null || name != "cuda")
        {
            return name;
        }

        _ = Compute.Device(name);
        return string.Create(CultureInfo.InvariantCulture, $"cuda:{place.LocalRank % torch.cuda.device_count()}");
    }

    /// <summary>The seconds that a rank may say nothing; null for the usual ones.</summary>
    public double? Timeout(ParseResult parsed) => parsed.GetValue(_timeout);

    /// <summary>How a training is shared, as asked for.</summary>
    public TrainingParallelism Parallelism(ParseResult parsed, ICommunicator communicator) => new()
    {
        Communicator = communicator,
        ShardsOptimizer = parsed.GetValue(_shards),
        GradientType = Compute.Type(parsed.GetValue(_type)) ?? torch.ScalarType.Float32,
    };

    /// <summary>Refuses what only ranks can do for a process that is alone.</summary>
    public void RefuseAlone(ParseResult parsed)
    {
        foreach (var option in new Option[] { _shards, _type, _timeout }.Where(option => parsed.GetResult(option) is { Implicit: false }))
        {
            throw new UsageException($"{option.Name} is for several ranks: add --gpus or --ranks, or start the program by srun.");
        }
    }
}
