using System.CommandLine;
using System.Globalization;
using System.Text.Json;
using TorchSharp;
using XlstmLab.Benchmarks;
using XlstmLab.Cli.Machine;
using XlstmLab.Cli.Terminals;
using XlstmLab.Collectives;
using XlstmLab.Inference;
using XlstmLab.Mixers;
using XlstmLab.Models;
using XlstmLab.Native;
using XlstmLab.Native.Cuda;
using XlstmLab.Operations;

namespace XlstmLab.Cli.Commands;

/// <summary><c>xlstm bench</c>: time and memory against length, size and threads.</summary>
internal static class BenchCommand
{
    /// <summary>The hidden command that makes one measurement.</summary>
    private const string WorkerName = "worker";

    /// <summary>The hidden command that measures as one of several ranks.</summary>
    private const string RankName = "rank";

    private const string ScalingOnGpu = "xlstm-162m:16x2048,xlstm-400m:8x2048";
    private const string TrainingOnCpu = "bytes-1m,bytes-3m";
    private const string TrainingOnGpu = "bytes-1m:64x256,bytes-10m:32x512,bytes-10m:8x512*8,shakespeare-10m:32x512,xlstm-160m:8x2048,"
        + "xlstm-162m:16x2048,xlstm-400m:8x2048,llama-160m:16x2048,llama-400m:8x2048";
    private const string InferenceOnCpu = "bytes-1m,bytes-10m";
    private const string DecodingOnCpu = "bytes-1m,xlstm-160m,xlstm-400m";
    private const string InferenceOnGpu = "xlstm-400m,xlstm-7b";

    private const string FiguresOnCpu = "bytes-1m,llama-bytes-1m,mamba-bytes-1m,mamba2-bytes-1m";
    private const string FiguresOnGpu = "xlstm-400m,llama-400m,mamba-370m,mamba2-370m";

    private const string CellMethod =
        "Medians of passes, on a GPU between events of its stream with launches ahead of it, inputs taken in turn from more sets than a "
        + "cache holds; gates in float32, the mLSTM with its normaliser. Counted are, for a token and head, "
        + "2 L (DK + DV) + 4 DK DV operations with chunks of L = 64 and the bytes of q, k, v and h, an sLSTM's 8 D D operations and the "
        + "bytes of its gates and h; backward counts twice.";

    private const string TrainingMethod =
        "Wall time of whole steps of the trainer on random tokens after 5 of warm-up, waiting for the device at both ends; "
        + "of runs side by side, of a step of each. On a GPU a step is a CUDA graph unless a row says that the host starts its kernels. "
        + "Operations are those of the model's formulas, forward and twice as much backward.";

    private const string InferenceMethod =
        "Random weights, projections and embedding in the type of the activations, states in float32; the next token is chosen on the "
        + "device. On a CPU single tokens of up to 8 sequences of an xLSTM in float32 are read as generation reads them, without libtorch. "
        + "Operations are those of the model's formulas.";

    private const string DecodingMethod =
        " Tokens are medians. The processor's time is that of all threads, waiting awake or not; with one thread, "
        + "a busy machine does not change it much. The limit is the best rate at which as many threads read as many bytes as the weights "
        + "have, again and again, in the same process: from memory, or from the cache that holds them. "
        + "States are float32, read and written.";

    private const string CpuMemory = "Memory is the growth of the resident set's peak.";

    private const string GpuMemory =
        "Memory is the most that libtorch's caching allocator held of the device, which gives nothing back: "
        + "ours by the driver's count at the end, without context and libraries, others' by torch.cuda.max_memory_reserved.";

    /// <summary>The command and those below it.</summary>
    public static Command Create() => new ExampleCommand(
        "bench",
        "Measures time and memory of cells, training and generation on this machine, on a GPU beside what others take.",
        "xlstm bench cells",
        "xlstm bench cells --device cuda --output results/gpu",
        "xlstm bench train --preset bytes-1m,bytes-3m --threads 1,2 --markdown results/training.md",
        "xlstm bench train --device cuda --rival --output results/gpu",
        "xlstm bench train --gpus all --output results/gpus",
        "xlstm bench decode --device cuda --preset xlstm-400m --batch 1,8",
        "xlstm bench inference",
        "xlstm bench memory",
        "xlstm bench notebook")
    {
        Cells(),
        Train(),
        Prefill(),
        Decode(),
        Inference(),
        Load(),
        Memory(),
        Notebooks(),
        Worker(),
        RankWorker(),
    };

    private static ExampleCommand Cells()
    {
        var lengths = BenchOptions.List("--lengths", "Lengths S in tokens. Default: 256,512,1024,2048,4096,8192.");
        var chunks = BenchOptions.List("--chunks", "Chunk sizes of the chunkwise form. Default: 64.");
        var forms = new Option<string>("--forms")
        {
            Description = "Forms of the mLSTM, and slstm.",
            HelpName = "LIST",
            DefaultValueFactory = _ => "chunkwise,parallel,recurrent,slstm",
        };
        forms.Validators.Add(result =>
        {
            foreach (var form in result.GetValueOrDefault<string>().Split(',').Except(["chunkwise", "parallel", "recurrent", "slstm"]))
            {
                result.AddError(
                    $"--forms does not know '{form}'; expected some of chunkwise,parallel,recurrent,slstm."
                    + NearestName.Hint(form, ["chunkwise", "parallel", "recurrent", "slstm"]));
            }
        });
        var batch = Size("--batch", 1, "Sequences, B.");
        var heads = Size("--heads", 4, "Heads, NH.");
        var qk = Size("--qk", 64, "Width of a head's queries and keys, DK.");
        var v = Size("--v", 128, "Width of a head's values, DV.");
        var limit = NumberOption.Real(new Option<double>("--pass-limit")
        {
            Description = "Leave out what would take longer than this many seconds for one forward and backward pass.",
            HelpName = "SECONDS",
            DefaultValueFactory = _ => 5,
        }, NumberRange.Seconds);
        var shapes = new Option<string?>("--shapes")
        {
            Description = "Compare cells at these shapes, B,NH,S,DK,DV of an mLSTM or B,S,NH,D of an sLSTM, separated by '/', "
                + $"instead of forms and lengths. Default on a GPU: {CellShapes.Default}.",
            HelpName = "LIST",
        };
        shapes.Validators.Add(result =>
        {
            if (result.GetValueOrDefault<string?>() is { } list && CellShapes.Parse(list) is null)
            {
                result.AddError($"--shapes is '{list}'; expected B,NH,S,DK,DV or B,S,NH,D, whole numbers of at least 1, separated by '/'.");
            }
        });
        var compute = ComputeOption();
        var common = new BenchOptions(1, 5, minSecondsOnGpu: 0.5);
        var command = new ExampleCommand(
            "cells",
            "Measures each form of the mLSTM against the length, and the sLSTM's fused operation against eager ones at B=8 S=512 NH=4 "
            + "D=64; on a GPU both cells at published shapes against the device's limits, beside others' kernels.",
            "xlstm bench cells",
            "xlstm bench cells --lengths 256,1024 --chunks 64 --forms chunkwise,parallel --threads 1,2",
            "xlstm bench cells --markdown results/cells.md --csv results/cells.csv",
            "xlstm bench cells --device cuda",
            "xlstm bench cells --device cuda --shapes 8,4,2048,128,256/16,1024,4,192 --rival --output results/gpu")
        {
            lengths, chunks, forms, batch, heads, qk, v, limit, shapes, compute,
        };
        AddTo(command, common.All);
        command.SetAction(async (parsed, cancellationToken) =>
        {
            var terminal = new Terminal(parsed);
            if (common.IsOnGpu(parsed) || parsed.GetValue(shapes) is not null)
            {
                var works = CellShapes.Parse(parsed.GetValue(shapes) ?? CellShapes.Default)!;
                return await CompareAsync(
                    new(works, "Cells: forward, and forward and backward", (_, limit) => ComparisonTables.Cells(limit), CellMethod),
                    parsed.GetValue(compute), common, parsed, cancellationToken);
            }

            var plan = new CellBench
            {
                Lengths = BenchOptions.Numbers(parsed.GetValue(lengths) ?? "256,512,1024,2048,4096,8192"),
                ChunkSizes = BenchOptions.Numbers(parsed.GetValue(chunks) ?? "64"),
                Forms = parsed.GetValue(forms)!.Split(','),
                Batch = parsed.GetValue(batch),
                Heads = parsed.GetValue(heads),
                QkHeadDim = parsed.GetValue(qk),
                VHeadDim = parsed.GetValue(v),
                Threads = common.ThreadCounts(parsed),
                MinSeconds = common.MinSeconds(parsed),
                Repetitions = common.Repetitions(parsed),
                PassLimit = parsed.GetValue(limit),
            };
            BenchReport<CellRow>? report = null;
            await terminal.TrackAsync("Cells", async tracker => report = await plan.RunAsync(
                Process(parsed), CommandLine(parsed), Progress(tracker), cancellationToken));
            common.Write(report!, terminal, parsed);
            return Outcome(terminal, report!.Rows.Count(r => r.ForwardMs is not null), report.Rows.Count(r => r.Failed));
        });
        return command;
    }

    private static ExampleCommand Train()
    {
        var presets = PresetOption(
            "Presets of any kind of model, config.json files or runs, separated by commas; NAME:BxS sets batch and context too, "
            + $"NAME:BxS*N trains N of them side by side. Default: {TrainingOnCpu}, on a GPU {TrainingOnGpu}.");
        var contexts = BenchOptions.List("--context", "Tokens a sequence. Default: 256,1024, on a GPU 2048.");
        var tokens = Size("--tokens", 2048, "Tokens an update: the batch is as many sequences as they make. Default on a GPU: 16384.");
        var host = new Option<bool>("--by-host")
        {
            Description = "On a GPU, beside each row one where the host starts every kernel by itself, instead of a CUDA graph.",
        };
        var profile = ProfileOption("steps");
        var compute = ComputeOption();
        var ranks = new RankOptions();
        var reduce = new Option<string>("--reduce")
        {
            Description = "Of several ranks: the type in which gradients go.",
            DefaultValueFactory = _ => "float32",
        }.OneOf("bf16", "float32");
        var common = new BenchOptions(3, 5);
        var command = new ExampleCommand(
            "train",
            "Measures tokens a second and memory of whole training steps against preset, context length and threads.",
            "xlstm bench train",
            "xlstm bench train --preset bytes-10m --context 256,2048 --threads 1,2 --csv results/training.csv",
            "xlstm bench train --device cuda --output results/gpu",
            "xlstm bench train --device cuda --preset xlstm-160m:16x2048,mamba-130m:8x2048 --rival",
            "xlstm bench train --device cuda --preset bytes-10m:8x512,bytes-10m:8x512*8 --by-host",
            "xlstm bench train --device cuda --preset bytes-10m:32x512 --profile",
            "xlstm bench train --gpus all --output results/gpus",
            "xlstm bench train --ranks 2 --preset bytes-1m:4x256 --threads 1")
        {
            presets, contexts, tokens, host, profile, compute, ranks.Counts[0], ranks.Counts[1], reduce,
        };
        command.RefuseTogether((ranks.Counts[0], ranks.Counts[1]));
        Comparing(command, common, compute, parsed =>
        {
            var onGpu = common.IsOnGpu(parsed);
            var budget = onGpu && parsed.GetResult(tokens) is null or { Implicit: true } ? 16384 : parsed.GetValue(tokens);
            var works = PresetsOf(parsed.GetValue(presets) ?? (onGpu ? TrainingOnGpu : TrainingOnCpu))
                .SelectMany(preset => preset.Size is var (batch, length, runs)
                    ? [new TrainingWork(preset.Name, batch, length) { Runs = runs }]
                    : BenchOptions.Numbers(parsed.GetValue(contexts) ?? (onGpu ? "2048" : "256,1024"))
                        .Select(s => new TrainingWork(preset.Name, Math.Max(1, budget / s), s)));
            if (onGpu && parsed.GetValue(host))
            {
                works = works.SelectMany(work => new[] { work, work with { ByHost = true } });
            }

            return new([.. works], "Training: AdamW, forward, backward and update", (_, _) => ComparisonTables.Training, TrainingMethod)
            {
                Profiles = IsProfiled(parsed, profile, onGpu),
            };
        });
        var compares = command.Action;
        command.SetAction(async (parsed, cancellationToken) =>
        {
            if (!ranks.AreGiven(parsed))
            {
                return await ((System.CommandLine.Invocation.AsynchronousCommandLineAction)compares!)
                    .InvokeAsync(parsed, cancellationToken);
            }

            var onGpus = ranks.OnGpus(parsed);
            var budget = parsed.GetResult(tokens) is null or { Implicit: true } && onGpus ? 16384 : parsed.GetValue(tokens);
            var works = PresetsOf(parsed.GetValue(presets) ?? (onGpus ? ScalingOnGpu : "bytes-1m"))
                .SelectMany(preset => preset.Size is var (batch, length, side)
                    ? side == 1 ? [new ScalingWork(preset.Name, batch, length)] : throw new UsageException(
                        "--preset: ranks train one run, not several side by side.")
                    : BenchOptions.Numbers(parsed.GetValue(contexts) ?? (onGpus ? "2048" : "256")).Select(
                        s => new ScalingWork(preset.Name, Math.Max(1, budget / s), s)));
            return await ScaleAsync(new()
            {
                Works = [.. works],
                ComputeType = parsed.GetValue(compute) ?? (onGpus ? "bf16" : "float32"),
                MinSeconds = common.MinSeconds(parsed),
                Repetitions = common.Repetitions(parsed),
                Device = onGpus ? "cuda" : "cpu",
                GradientType = parsed.GetValue(reduce)!,
            }, ranks.Count(parsed, common.Device(parsed)), common, parsed, cancellationToken);
        });
        return command;
    }

    /// <summary>Has ranks measure, a process each.</summary>
    private static async Task<int> ScaleAsync(
        ScalingTask task, int world, BenchOptions common, ParseResult parsed, CancellationToken cancellationToken)
    {
        if (world < 2)
        {
            throw new UsageException("One rank has nobody to share with: --gpus and --ranks take 2 or more here.");
        }

        var terminal = new Terminal(parsed);
        using var written = new StringWriter();
        var code = ExitCode.Failure;
        await terminal.TrackAsync("Ranks", async tracker =>
        {
            tracker.Report(0, string.Create(CultureInfo.InvariantCulture, $"{task.Works.Count} trainings on {world} ranks"));
            code = await new RankProcesses(parsed, terminal, world, null)
                .RunAsync(
                    ["bench", RankName, JsonSerializer.Serialize(task, ResultJson.Options)],
                    TextWriter.Synchronized(written), cancellationToken);
        });
        if (code != ExitCode.Success)
        {
            return code;
        }

        var rows = JsonSerializer.Deserialize<ScalingRow[]>(written.ToString(), ResultJson.Options)!;
        var onGpu = task.Device == "cuda";
        common.Write(
            new BenchReport<ScalingRow>(
                $"Training on {world} ranks against one, {task.ComputeType}, gradients in {task.GradientType}", CommandLine(parsed),
                ScalingBench.Method, ScalingBench.Columns, rows, [])
            {
                Gpu = onGpu
                    ? $"{world} x {Gpu.Name(0)}, {Gpu.Driver()}, kernels {(Kernel.Absence is null ? "on" : "off")}, "
                        + $"graphs {(Kernel.GraphAbsence is null ? "on" : "off")}"
                    : null,
            },
            terminal, parsed, null);
        return ExitCode.Success;
    }

    private static Command RankWorker()
    {
        var task = new Argument<string>("TASK") { Description = "The measurements as JSON." };
        var command = new Command(RankName, "Measures as one of several ranks; 'bench train' calls it.") { task };
        command.Hidden = true;
        command.SetAction((parsed, cancellationToken) =>
        {
            var wanted = JsonSerializer.Deserialize<ScalingTask>(parsed.GetValue(task)!, ResultJson.Options)!;
            var place = RankPlace.FromEnvironment() ?? throw new UsageException(
                "This process is no rank: 'xlstm bench train --ranks N' starts them.");
            using var watched = RankProcesses.Watched(cancellationToken);
            Compute.Begin(null);
            var device = ComputeOptions.Find(
                wanted.Device == "cuda" ? string.Create(CultureInfo.InvariantCulture, $"cuda:{place.LocalRank}") : wanted.Device);
            using var communicator = RankGroup.Open(place, device, "", watched.Token);
            try
            {
                var rows = ScalingBench.Run(wanted, communicator, device, watched.Token);
                new Terminal(parsed).WriteJson(rows);
                return Task.FromResult(ExitCode.Success);
            }
            catch (Exception e)
            {
                communicator.Fail(Program.Message(e));
                throw;
            }
        });
        return command;
    }

    private static ExampleCommand Prefill()
    {
        var presets = PresetOption(
            $"Presets of any kind of model, config.json files or runs, separated by commas. Default: {InferenceOnCpu}, "
            + $"on a GPU {InferenceOnGpu}.");
        var lengths = BenchOptions.List("--lengths", "Tokens of a prompt. Default: 256,1024, on a GPU 2048,8192.");
        var batches = BenchOptions.List("--batch", "Prompts side by side. Default: 1.");
        var profile = ProfileOption("prompts");
        var compute = ComputeOption();
        var common = new BenchOptions(1, 3);
        var command = new ExampleCommand(
            "prefill",
            "Measures how long a model takes to read a prompt, with random weights.",
            "xlstm bench prefill",
            "xlstm bench prefill --preset bytes-10m,llama-bytes-1m --lengths 1024 --batch 1,4",
            "xlstm bench prefill --device cuda --output results/gpu",
            "xlstm bench prefill --device cuda --preset xlstm-400m --lengths 8192 --profile")
        {
            presets, lengths, batches, profile, compute,
        };
        return Comparing(command, common, compute, parsed =>
        {
            var works =
                from preset in PresetsOf(parsed.GetValue(presets) ?? (common.IsOnGpu(parsed) ? InferenceOnGpu : InferenceOnCpu))
                from batch in BenchOptions.Numbers(parsed.GetValue(batches) ?? "1")
                from length in BenchOptions.Numbers(parsed.GetValue(lengths) ?? (common.IsOnGpu(parsed) ? "2048,8192" : "256,1024"))
                select new PrefillWork(preset.Name, batch, length);
            return new(
                [.. works], "Prefill: a prompt read from an empty state, logits of its last token",
                (_, _) => ComparisonTables.Prefill, InferenceMethod)
            {
                Profiles = IsProfiled(parsed, profile, common.IsOnGpu(parsed)),
            };
        });
    }

    /// <summary>The formats of weights that are measured on the CPU where none are named.</summary>
    private const string DecodedOnCpu = "float32,bf16,int8";

    private static ExampleCommand Decode()
    {
        var presets = PresetOption(
            $"Presets of any kind of model, config.json files or runs, separated by commas. Default: {DecodingOnCpu}, "
            + $"on a GPU {InferenceOnGpu}.");
        var batches = BenchOptions.List("--batch", "Sequences side by side. Default: 1, on a GPU 1,8.");
        var compute = ComputeOption();
        var weights = new Option<string?>("--weights")
        {
            Description = $"What an xLSTM's projections are kept as, separated by commas: {string.Join(", ", WeightOptions.Names)}. "
                + $"Default: {DecodedOnCpu}, on a GPU as --compute says.",
            HelpName = "LIST",
        };
        var states = StateOptions.Create();
        var profile = ProfileOption("tokens");
        var common = new BenchOptions(2, 32);
        var command = new ExampleCommand(
            "decode",
            "Measures how long a model takes for a token, with random weights, against the time that its weights take to be read.",
            "xlstm bench decode",
            "xlstm bench decode --preset bytes-10m,llama-bytes-1m --batch 1,4",
            "xlstm bench decode --preset xlstm-400m --weights int8 --batch 1,8",
            "xlstm bench decode --device cuda --output results/gpu",
            "xlstm bench decode --device cuda --preset xlstm-400m --weights bf16,int8,fp8",
            "xlstm bench decode --device cuda --preset xlstm-400m --batch 64 --states bf16",
            "xlstm bench decode --device cuda --preset xlstm-400m --batch 1,64 --profile")
        {
            presets, batches, weights, states, profile, compute,
        };
        return Comparing(command, common, compute, parsed =>
        {
            var onGpu = common.IsOnGpu(parsed);
            var inHalves = (parsed.GetValue(compute) ?? (onGpu ? "bf16" : "float32")) == "bf16";
            if (parsed.GetValue(weights) is not null && onGpu != inHalves)
            {
                throw new UsageException(
                    "--weights is for float32 on the CPU and bf16 on a GPU: elsewhere --compute says what weights are.");
            }

            var formats = (parsed.GetValue(weights) ?? DecodedOnCpu).Split(',').Select(WeightOptions.Format).ToArray();
            foreach (var format in formats)
            {
                WeightOptions.RequireReadable(format, onGpu);
            }

            StateFormat? kept = StateOptions.Format(parsed.GetValue(states)) is StateFormat.BFloat16 and var narrow ? narrow : null;
            if (kept is not null && !(onGpu && inHalves))
            {
                throw new UsageException("--states bf16 is for bf16 on a GPU: elsewhere states are float32.");
            }

            var asComputed = parsed.GetValue(weights) is null && inHalves;
            var works =
                from preset in PresetsOf(parsed.GetValue(presets) ?? (onGpu ? InferenceOnGpu : DecodingOnCpu))
                from batch in BenchOptions.Numbers(parsed.GetValue(batches) ?? (onGpu ? "1,8" : "1"))
                from format in asComputed || onGpu != inHalves || !HasLoops(BenchModels.ByName(preset.Name)) ? [null]
                    : formats.Cast<WeightFormat?>()
                select new DecodeWork(preset.Name, batch) { Weights = format, States = kept };
            return new(
                [.. works],
                "Decode: a token at a time, with the state carried",
                (type, limit) => ComparisonTables.Decode(type == "bf16" ? 2 : 4, limit),
                onGpu ? InferenceMethod : InferenceMethod + DecodingMethod)
            {
                Profiles = IsProfiled(parsed, profile, onGpu),
            };
        });
    }

    /// <summary>
    /// Whether a model's tokens can be read from projections that are kept in other formats: all of the CPU's, on a GPU some.
    /// </summary>
    private static bool HasLoops(LanguageModelConfig config) =>
        config is XlstmConfig xlstm && Enumerable.Range(0, xlstm.BlockCount).All(
            block => xlstm.MixerAt(block) is MLstmMixerConfig or SLstmMixerConfig);

    private static ExampleCommand Inference()
    {
        var presets = PresetOption(
            $"Presets of any kind of model, config.json files or runs, separated by commas. Default: {FiguresOnCpu}, "
            + $"on a GPU {FiguresOnGpu}.");
        var lengths = BenchOptions.List(
            "--lengths", "Numbers of generated tokens. Default: 64,128,256,512, on a GPU 64,128,512,1024,2048,4096,8192,16384.");
        var prompts = BenchOptions.List(
            "--prompts", "Tokens of prompts whose first tokens are timed. Default: 128,512,2048, on a GPU 128,512,2048,8192,16384.");
        var prefill = NumberOption.Whole(new Option<int?>("--prefill-tokens")
        {
            Description = "Tokens of prompts that are read at once, of all together. Default: 4096, on a GPU 65536.",
            HelpName = "N",
        }, 1);
        var prefillBatches = BenchOptions.List(
            "--prefill-batch", "Prompts that make them, side by side. Default: 8,4,2, on a GPU 32,16,8,4,2.");
        var batches = BenchOptions.List("--batch", "Sequences that are generated side by side. Default: 1,2,4,8, on a GPU 1,4,16,64.");
        var compute = ComputeOption();
        var common = new BenchOptions(0, 1);
        var command = new ExampleCommand(
            "inference",
            "Measures what models of one size take to be used: time and memory against generated tokens, time to first tokens against the "
            + "prompt, prompts read and tokens generated a second.",
            "xlstm bench inference --output results/bench",
            "xlstm bench inference --preset bytes-1m,llama-bytes-1m --lengths 64,1024 --prompts 512 --batch 1",
            "xlstm bench inference --device cuda --seconds 400 --output results/gpu")
        {
            presets, lengths, prompts, prefill, prefillBatches, batches, compute,
        };
        AddTo(command, common.Measured);
        command.SetAction(async (parsed, cancellationToken) =>
        {
            var terminal = new Terminal(parsed);
            var device = ComputeOptions.Find(common.Device(parsed));
            var onGpu = device.type == DeviceType.CUDA;
            var type = parsed.GetValue(compute) ?? (onGpu ? "bf16" : "float32");
            IReadOnlyList<int> List(Option<string?> option, string usual, string onDevice) =>
                [.. BenchOptions.Numbers(parsed.GetValue(option) ?? (onGpu ? onDevice : usual)).Distinct()];
            var plan = new InferenceBench
            {
                Presets = [.. PresetsOf(parsed.GetValue(presets) ?? (onGpu ? FiguresOnGpu : FiguresOnCpu)).Select(preset => preset.Name)],
                Lengths = [.. List(lengths, "64,128,256,512", "64,128,512,1024,2048,4096,8192,16384").Order()],
                Prompts = List(prompts, "128,512,2048", "128,512,2048,8192,16384"),
                PrefillTokens = parsed.GetValue(prefill) ?? (onGpu ? 65536 : 4096),
                PrefillBatches = List(prefillBatches, "8,4,2", "32,16,8,4,2"),
                Batches = List(batches, "1,2,4,8", "1,4,16,64"),
                Device = common.Device(parsed),
                ComputeType = type,
                Threads = common.ThreadCounts(parsed)[0],
                Seconds = common.Seconds(parsed),
            };
            if (plan.PrefillBatches.FirstOrDefault(batch => batch > plan.PrefillTokens) is > 0 and var more)
            {
                throw new UsageException(
                    $"--prefill-batch has {more}, more prompts than --prefill-tokens, {plan.PrefillTokens}, has tokens.");
            }

            IReadOnlyList<InferenceRow> rows = [];
            await terminal.TrackAsync(
                "Inference",
                async tracker => rows = await plan.RunAsync(
                    Process(parsed), Progress(tracker), soFar => common.WriteFiles(Report(soFar), parsed), cancellationToken));
            common.Write(Report(rows), terminal, parsed);
            return Outcome(terminal, rows.Count(r => r.Seconds is not null), rows.Count(r => r.Seconds is null));

            BenchReport<InferenceRow> Report(IReadOnlyList<InferenceRow> measured) => new(
                $"Inference, {type}", CommandLine(parsed), $"{plan.Method} {(onGpu ? GpuMemory : CpuMemory)}", InferenceBench.Columns,
                measured, [])
            {
                Gpu = onGpu ? GpuOf(device) : null,
            };
        });
        return command;
    }

    private static ExampleCommand Memory()
    {
        var steps = Size("--steps", 1000, "Training steps.");
        var tokens = Size("--tokens", 10_000, "Tokens to generate, of all sequences together.");
        var batch = Size("--batch", 1, "Sequences side by side.");
        var common = new BenchOptions(0, 1);
        var command = new ExampleCommand(
            "memory",
            "Trains and generates, and fails if live tensors grow, or resident memory by more than 5 % after the warm-up.",
            "xlstm bench memory",
            "xlstm bench memory --steps 200 --tokens 1000 --json",
            "xlstm bench memory --device cuda --steps 20000 --tokens 1000000 --batch 64 --output results/gpu")
        {
            steps, tokens, batch,
        };
        AddTo(command, common.Outputs);
        command.SetAction(async (parsed, cancellationToken) =>
        {
            var terminal = new Terminal(parsed);
            Compute.Begin(common.ThreadCounts(parsed)[0]);
            var device = ComputeOptions.Find(common.Device(parsed));
            var plan = new MemoryBench
            {
                Steps = parsed.GetValue(steps),
                Tokens = parsed.GetValue(tokens),
                Batch = parsed.GetValue(batch),
                Device = device,
            };
            BenchReport<MemoryRow>? report = null;
            await terminal.TrackAsync("Memory", tracker =>
            {
                report = plan.Run(CommandLine(parsed), Progress(tracker), cancellationToken);
                return Task.CompletedTask;
            });
            common.Write(report! with { Gpu = device.type == DeviceType.CUDA ? GpuOf(device) : null }, terminal, parsed);
            return MemoryBench.IsConstant(report!.Rows) ? ExitCode.Success : ExitCode.Failure;
        });
        return command;
    }

    private static ExampleCommand Load()
    {
        var presets = PresetOption("Presets of any kind of model. Default: bytes-10m, on a GPU xlstm-7b.");
        var folder = new Option<string?>("--folder")
        {
            Description = "Where the files are written and deleted again. Default: the folder for temporary files.",
            HelpName = "FOLDER",
        };
        var common = new BenchOptions(0, 1);
        var command = new ExampleCommand(
            "load",
            "Writes a model of random weights in the layout of the published ones, and measures how long it takes to open from the disk, "
            + "beside the disk's own speed.",
            "xlstm bench load",
            "xlstm bench load --device cuda --seconds 120 --output results/gpu")
        {
            presets, folder,
        };
        AddTo(command, common.Measured);
        command.SetAction(async (parsed, cancellationToken) =>
        {
            var terminal = new Terminal(parsed);
            var device = ComputeOptions.Find(common.Device(parsed));
            var onGpu = device.type == DeviceType.CUDA;
            LoadBench plan = new()
            {
                Presets = [.. PresetsOf(parsed.GetValue(presets) ?? (onGpu ? "xlstm-7b" : "bytes-10m")).Select(preset => preset.Name)],
                Device = common.Device(parsed),
                Folder = parsed.GetValue(folder) ?? Path.GetTempPath(),
                Threads = common.ThreadCounts(parsed)[0],
                Seconds = common.Seconds(parsed),
            };
            IReadOnlyList<LoadRow> rows = [];
            await terminal.TrackAsync("Load", async tracker => rows = await plan.RunAsync(
                Process(parsed), Progress(tracker), soFar => common.WriteFiles(Report(soFar), parsed), cancellationToken));
            common.Write(Report(rows), terminal, parsed);
            return Outcome(terminal, rows.Count(r => r.Seconds is not null), rows.Count(r => r.Seconds is null));

            BenchReport<LoadRow> Report(IReadOnlyList<LoadRow> measured) => new(
                "A model's folder, opened in bf16", CommandLine(parsed), LoadBench.Method, LoadBench.Columns, measured, [])
            {
                Gpu = onGpu ? GpuOf(device) : null,
            };
        });
        return command;
    }

    private static ExampleCommand Notebooks()
    {
        var repetitions = Size("--repetitions", 5, "How often each notebook runs.");
        var common = new BenchOptions(0, 1);
        var command = new ExampleCommand(
            "notebook",
            "Measures how long notebooks take to start, for a first and a warm cell, a first chart and F#, and how much memory they take.",
            "xlstm bench notebook",
            "xlstm bench notebook --repetitions 9 --output results/bench")
        {
            repetitions,
        };
        AddTo(command, common.Files);
        command.SetAction(async (parsed, cancellationToken) =>
        {
            var terminal = new Terminal(parsed);
            NotebookBench bench = new(arguments => OwnProgram.Start(parsed, arguments), parsed.GetValue(repetitions));
            BenchReport<NotebookRow>? report = null;
            await terminal.TrackAsync(
                "Notebooks", async tracker => report = await bench.RunAsync(CommandLine(parsed), Progress(tracker), cancellationToken));
            common.Write(report!, terminal, parsed);
            return ExitCode.Success;
        });
        return command;
    }

    private static Command Worker()
    {
        var task = new Argument<string>("TASK") { Description = "The measurement as JSON." };
        var command = new Command(WorkerName, "Makes one measurement; the other commands call it.") { task };
        command.Hidden = true;
        command.SetAction((parsed, cancellationToken) =>
        {
            var wanted = JsonSerializer.Deserialize<BenchTask>(parsed.GetValue(task)!, ResultJson.Options)!;
            new Terminal(parsed).WriteJson(BenchWorker.Run(wanted, cancellationToken));
            return Task.FromResult(ExitCode.Success);
        });
        return command;
    }

    /// <summary>Makes a command compare.</summary>
    private static ExampleCommand Comparing(
        ExampleCommand command, BenchOptions common, Option<string?> compute, Func<ParseResult, ComparisonPlan> plan)
    {
        AddTo(command, common.All);
        command.SetAction(
            (parsed, cancellationToken) => CompareAsync(plan(parsed), parsed.GetValue(compute), common, parsed, cancellationToken));
        return command;
    }

    private static async Task<int> CompareAsync(
        ComparisonPlan plan, string? compute, BenchOptions common, ParseResult parsed, CancellationToken cancellationToken)
    {
        var terminal = new Terminal(parsed);
        var device = ComputeOptions.Find(common.Device(parsed));
        var onGpu = device.type == DeviceType.CUDA;
        var index = Math.Max(0, device.index);
        var type = compute ?? (onGpu ? "bf16" : "float32");
        var comparison = new Comparison
        {
            Works = [.. plan.Works.Distinct()],
            Device = common.Device(parsed),
            DeviceName = onGpu ? Gpu.Name(index) : null,
            ComputeType = type,
            Threads = onGpu ? [common.ThreadCounts(parsed)[0]] : common.ThreadCounts(parsed),
            MinSeconds = common.MinSeconds(parsed),
            Repetitions = common.Repetitions(parsed),
            Seconds = common.Seconds(parsed),
            Script = common.Rival(parsed),
            Profiles = plan.Profiles,
        };
        var limit = comparison.DeviceName is { } name ? DeviceLimit.Of(name) : null;
        IReadOnlyList<Measurement> rows = [];
        await terminal.TrackAsync(parsed.CommandResult.Command.Name, async tracker => rows = await comparison.RunAsync(
            Process(parsed), Progress(tracker), soFar => common.WriteFiles(Report(soFar), parsed), cancellationToken));
        var report = Report(rows);
        var rivals = comparison.Script is { Raw.Count: > 0 } script ? report.RivalLines(comparison.Works, script.Raw) : null;
        common.Write(report, terminal, parsed, rivals);
        if (plan.Profiles)
        {
            common.WriteMore(Profile(report, type, parsed), terminal, parsed, "-profile");
        }

        return Outcome(
            terminal, rows.Count(r => r.IsOwn && (r.ForwardSeconds ?? r.TrainingSeconds) is not null), rows.Count(r => r.Failed));

        BenchReport<Measurement> Report(IReadOnlyList<Measurement> measured) => new(
            $"{plan.Title}, {type}",
            CommandLine(parsed),
            string.Create(
                CultureInfo.InvariantCulture,
                $"Each row of {Measurement.Own} in a process of its own, at least {comparison.Repetitions} repetitions and "
                + $"{comparison.MinSeconds} s after ")
            + $"a warm-up. {plan.Method} "
            + (onGpu ? GpuMemory : CpuMemory) + (limit is null ? "" : $" The limit is {limit}, measured."),
            plan.Columns(type, limit),
            measured,
            [
                .. comparison.Findings(measured),
                .. onGpu && Kernel.Absence is { } absence ? [$"The library's kernels were NOT used: {absence}"] : (string[])[],
            ])
        {
            Gpu = onGpu ? GpuOf(device) : null,
        };
    }

    /// <summary>The GPU, its driver, and whether kernels and graphs serve.</summary>
    private static string GpuOf(torch.Device device) =>
        $"{Gpu.Name(Math.Max(0, device.index))}, {Gpu.Driver()}, kernels {(Kernel.Absence is null ? "on" : "off")}, "
        + $"graphs {(Kernel.GraphAbsence is null ? "on" : "off")}";

    private static BenchReport<ProfileRow> Profile(BenchReport<Measurement> report, string type, ParseResult parsed) => new(
        $"Where the time goes, {type}",
        CommandLine(parsed),
        "Times of the device by CUPTI over five steps, prompts or tokens after those that were measured, which it slows a little. Each "
        + "moment is given to the kernel that ends first of those that run.",
        ComparisonTables.Profile,
        [.. report.Rows.SelectMany(ProfileRow.Of)],
        [])
    {
        Gpu = report.Gpu,
    };

    /// <summary>A failure where nothing was measured; measurements that failed beside others are counted.</summary>
    private static int Outcome(Terminal terminal, int measured, int failed)
    {
        if (measured == 0)
        {
            terminal.Note("error: Nothing was measured; the remarks say why.");
            return ExitCode.Failure;
        }

        if (failed > 0)
        {
            terminal.Note($"warning: {failed} of {measured + failed} measurements failed; the remarks say why.");
        }

        return ExitCode.Success;
    }

    private static void AddTo(Command command, IEnumerable<Option> options)
    {
        foreach (var option in options)
        {
            command.Options.Add(option);
        }
    }

    /// <summary>Has this program measure, as <see cref="Worker"/> does.</summary>
    private static BenchProcess Process(ParseResult parsed) => new(task => OwnProgram.Start(parsed, "bench", WorkerName, task));

    private static ImmediateProgress<BenchProgress> Progress(ProgressTracker tracker) => new(p => tracker.Report(p.Share, p.Status));

    private static string CommandLine(ParseResult parsed) => "xlstm " + string.Join(' ', parsed.Tokens.Select(t => t.Value));

    private static Option<int> Size(string name, int usual, string description) =>
        NumberOption.Whole(new Option<int>(name) { Description = description, HelpName = "N", DefaultValueFactory = _ => usual }, 1);

    private static Option<bool> ProfileOption(string work) => new("--profile")
    {
        Description = $"On a GPU, after each row five more {work} that tell where their time goes, kernel by kernel, as CUPTI sees it; "
            + "with --output in a file of its own.",
    };

    private static bool IsProfiled(ParseResult parsed, Option<bool> profile, bool isOnGpu) =>
        parsed.GetValue(profile) switch
        {
            true when !isOnGpu => throw new UsageException("--profile needs a GPU: --device cuda."),
            var wanted => wanted,
        };

    private static Option<string?> ComputeOption() =>
        new Option<string?>("--compute")
        {
            Description = "The type of the activations. Default: float32, on a GPU bf16.",
        }.OneOf("bf16", "float32");

    private static Option<string?> PresetOption(string description) => new("--preset") { Description = description, HelpName = "LIST" };

    /// <summary>Presets, each with batch and context if it has them.</summary>
    /// <exception cref="UsageException">One is spelt another way.</exception>
    private static IEnumerable<(string Name, (int Batch, int Length, int Runs)? Size)> PresetsOf(string list)
    {
        foreach (var item in list.Split(','))
        {
            var parts = Path.Exists(item) ? [item] : item.Split(':');
            var (size, runs) = parts is [_, var shape] && shape.Split('*') is [var first, .. var rest] ? (first, rest) : ("", []);
            int[] numbers =
            [
                .. (parts.Length == 2 ? [.. size.Split('x'), .. runs] : Array.Empty<string>())
                    .Select(n => int.TryParse(n, NumberStyles.None, CultureInfo.InvariantCulture, out var number) ? number : 0),
            ];
            if (parts.Length > 2 || (parts.Length == 2 && numbers is not ([> 0, > 0] or [> 0, > 0, > 0])))
            {
                throw new UsageException(
                    $"--preset has '{item}'; expected a preset's name, or a name with batch and context such as xlstm-400m:8x2048, "
                    + "of several runs side by side such as bytes-10m:8x512*4.");
            }

            // A wrong name is told before anything is measured.
            if (BenchModels.Find(parts[0]) is null)
            {
                throw new UsageException(
                    $"--preset: there is no preset '{parts[0]}'.{NearestName.Hint(parts[0], BenchModels.Names)} 'xlstm "
                    + "models' lists them all.");
            }

            yield return (parts[0], numbers is [var batch, var length, ..] ? (batch, length, numbers is [_, _, var side] ? side : 1)
                : null);
        }
    }

    /// <summary>What one of the comparing commands compares.</summary>
    private sealed record ComparisonPlan(
        IReadOnlyList<Workload> Works, string Title, Func<string, DeviceLimit?, IReadOnlyList<BenchColumn<Measurement>>> Columns,
        string Method)
    {
        /// <summary>Whether it tells where the time goes.</summary>
        public bool Profiles { get; init; }
    }
}
