using System.Diagnostics;
using System.Globalization;
using XlstmLab.Checkpoints;
using XlstmLab.Native;
using XlstmLab.Runs;
using static TorchSharp.torch;

namespace XlstmLab.Benchmarks;

/// <summary>How long something takes that reads a model's files.</summary>
/// <param name="Preset">The model.</param>
/// <param name="What">What reads them, and from where.</param>
/// <param name="Bytes">The bytes of the files.</param>
/// <param name="Seconds">Seconds.</param>
/// <param name="HostBytes">What it added to the process's memory at its peak.</param>
/// <param name="DeviceBytes">The GPU's memory that it took; null on the CPU.</param>
/// <param name="Remark">Why there are no numbers.</param>
public sealed record LoadRow(
    string Preset, string What, long? Bytes = null, double? Seconds = null, long? HostBytes = null, long? DeviceBytes = null,
    string? Remark = null)
{
    /// <summary>Bytes of files a second.</summary>
    public double? Rate => Bytes / Seconds;
}

/// <summary>What reading or opening a folder took.</summary>
/// <param name="Seconds">Seconds.</param>
/// <param name="HostBytes">What it added to the process's memory at its peak.</param>
/// <param name="DeviceBytes">The GPU's memory that it took; null on the CPU.</param>
public sealed record LoadResult(double Seconds, long HostBytes, long? DeviceBytes);

/// <summary>
/// Writes models of random weights in bfloat16 in the form of the published ones, and measures how long each takes to open.
/// </summary>
public sealed record LoadBench
{
    private const int BlockBytes = 16 << 20;
    private const int Readers = 4;

    private static readonly (string What, LoadWork Work, bool FromDisk)[] Plan =
    [
        ("read from the disk", LoadWork.Read, true), ("opened from the disk", LoadWork.Open, true),
        ("read from memory", LoadWork.Read, false), ("opened from memory", LoadWork.Open, false),
    ];

    /// <summary>The models, by <see cref="BenchModels"/>' names.</summary>
    public required IReadOnlyList<string> Presets { get; init; }

    /// <summary>Where the models shall be: cpu, cuda or cuda:1.</summary>
    public required string Device { get; init; }

    /// <summary>The folder that the files are written into and deleted from again.</summary>
    public required string Folder { get; init; }

    /// <summary>libtorch's threads.</summary>
    public required int Threads { get; init; }

    /// <summary>The seconds after which nothing more is begun; null for no end.</summary>
    public double? Seconds { get; init; }

    /// <summary>How it is measured.</summary>
    public static string Method =>
        "A folder in the published layout (config.json and sharded safetensors in bfloat16) is written, and read in a process of its own "
        + $"each time: its bytes alone, by {Readers} readers and in blocks of 16 MiB, which is what the disk can do; "
        + "then opened as every command opens a model, until its last weight is where the device reads it. "
        + "From the disk means after the system was told to forget the files. Memory of the host is what the process grew by at its peak.";

    /// <summary>The columns.</summary>
    public static IReadOnlyList<BenchColumn<LoadRow>> Columns { get; } =
    [
        new("preset", r => r.Preset),
        new("what", r => r.What),
        new("files GB", r => r.Bytes / 1e9, 2),
        new("seconds", r => r.Seconds, 2),
        new("GB/s", r => r.Rate / 1e9, 2),
        new("host GB", r => r.HostBytes / 1e9, 2),
        new("device GB", r => r.DeviceBytes / 1e9, 2),
        new("remark", r => r.Remark),
    ];

    /// <summary>Writes and measures; a measurement that fails says why and ends nothing.</summary>
    /// <param name="process">Measures in a process of its own.</param>
    /// <param name="progress">Told before each measurement.</param>
    /// <param name="soFar">Given the rows after each.</param>
    /// <param name="cancellationToken">Ends the measurement.</param>
    public async Task<IReadOnlyList<LoadRow>> RunAsync(
        BenchProcess process, IProgress<BenchProgress> progress, Action<IReadOnlyList<LoadRow>>? soFar, CancellationToken cancellationToken)
    {
        var watch = Stopwatch.StartNew();
        var rows = new List<LoadRow>();
        foreach (var (number, preset) in Presets.Index())
        {
            var folder = Path.Combine(Folder, "xlstm-bench-load-" + Guid.NewGuid().ToString("n"));
            try
            {
                await MeasureAsync(preset, folder, number / (double)Presets.Count);
            }
            finally
            {
                if (Directory.Exists(folder))
                {
                    Directory.Delete(folder, recursive: true);
                }
            }
        }

        return rows;

        async Task MeasureAsync(string preset, string folder, double done)
        {
            progress.Report(new(done, $"{preset}, writing the files"));
            var (_, failure) = await TryAsync(preset, LoadWork.Write, folder);
            var bytes = failure is null ? Weights(folder).Sum(file => new FileInfo(file).Length) : (long?)null;
            foreach (var (number, (what, work, fromDisk)) in Plan.Index())
            {
                progress.Report(new(done + ((number + 1.0) / (Plan.Length + 1) / Presets.Count), $"{preset}, {what}"));
                if (fromDisk && failure is null && !Weights(folder).All(FileCache.Drop))
                {
                    continue;
                }

                var (result, remark) = failure is null ? await TryAsync(preset, work, folder) : (null, failure);
                rows.Add(new(preset, what, bytes, result?.Seconds, result?.HostBytes, result?.DeviceBytes, remark));
                soFar?.Invoke(rows);
            }
        }

        async Task<(LoadResult? Result, string? Failure)> TryAsync(string preset, LoadWork work, string folder)
        {
            // What is begun may take what a model takes to be written, and no more.
            const double patience = 120;
            if (Seconds is { } end && watch.Elapsed.TotalSeconds > end)
            {
                return (null, string.Create(CultureInfo.InvariantCulture, $"left out: the {end:0} s of --seconds were over"));
            }

            try
            {
                var limit = Seconds is null ? (TimeSpan?)null : TimeSpan.FromSeconds(patience);
                return ((await process.RunAsync(TaskOf(preset, work, folder), cancellationToken, limit)).Load, null);
            }
            catch (InvalidOperationException e)
            {
                return (null, work == LoadWork.Write ? $"the files were not written: {e.Message}" : e.Message);
            }
        }
    }

    /// <summary>Makes one measurement in this process.</summary>
    internal static BenchResult Run(LoadTask task, CancellationToken cancellationToken)
    {
        var device = new Device(task.Device);
        switch (task.Work)
        {
            case LoadWork.Write:
                var config = BenchModels.ByName(task.Preset);
                using (var model = BenchModels.Untrained(config, device, ScalarType.BFloat16))
                {
                    HuggingFaceFolder.Save(
                        task.Folder, config, model.state_dict(), ScalarType.BFloat16, cancellationToken: cancellationToken);
                }

                return new();
            case LoadWork.Read:
                return Measure(CPU, () => Read(Weights(task.Folder), cancellationToken));
            case LoadWork.Open:
                TrainedRun? run = null;
                var result = Measure(device, () =>
                {
                    run = TrainedRun.Open(
                        task.Folder, device,
                        new() { RequiresTokenizer = false, WeightType = ScalarType.BFloat16, ComputeType = ScalarType.BFloat16 },
                        cancellationToken: cancellationToken);
                    WorkBench.Wait(device);
                });
                run!.Model.Dispose();
                return result;
            default:
                throw UnknownValue.Of(task.Work);
        }
    }

    private static string[] Weights(string folder) => Directory.GetFiles(folder, "*.safetensors");

    private static void Read(string[] files, CancellationToken cancellationToken)
    {
        foreach (var path in files)
        {
            using var file = File.OpenHandle(path);
            var blocks = (RandomAccess.GetLength(file) + BlockBytes - 1) / BlockBytes;
            var options = new ParallelOptions { MaxDegreeOfParallelism = Readers, CancellationToken = cancellationToken };
            Parallel.For(0L, blocks, options, () => new byte[BlockBytes], (block, loop, buffer) =>
            {
                _ = RandomAccess.Read(file, buffer, block * BlockBytes);
                return buffer;
            }, _ => { });
        }
    }

    private static BenchResult Measure(Device device, Action work)
    {
        var onGpu = device.type == TorchSharp.DeviceType.CUDA;
        var onDevice = onGpu ? new MemoryGrowth(device) : null;
        var onHost = new MemoryGrowth(CPU);
        var watch = Stopwatch.StartNew();
        work();
        return new() { Load = new(watch.Elapsed.TotalSeconds, onHost.Bytes, onDevice?.Bytes) };
    }

    private LoadTask TaskOf(string preset, LoadWork work, string folder) =>
        new() { Work = work, Preset = preset, Folder = folder, Device = Device, Threads = Threads, MinSeconds = 0, Repetitions = 1 };
}
