using System.CommandLine;
using System.Globalization;
using TorchSharp;
using XlstmLab.Checkpoints;
using XlstmLab.Cli.Machine;
using XlstmLab.Cli.Terminals;
using XlstmLab.Collectives;
using XlstmLab.Experiments;
using XlstmLab.Models;
using XlstmLab.Native;
using XlstmLab.Runs;
using XlstmLab.Text;
using XlstmLab.Training;

namespace XlstmLab.Cli.Commands;

/// <summary><c>xlstm train</c>: trains a model in a run folder, or goes on with one.</summary>
internal static class TrainCommand
{
    private static readonly Option<string> Out = new("--out", "-o")
    {
        Description = "The run's folder.",
        HelpName = "RUN_FOLDER",
        Required = true,
    };
    private static readonly Option<string?> Preset = new("--preset")
    {
        Description = $"A model by name; 'xlstm models' lists them. Default: {LabDefaults.Preset}.",
        HelpName = "NAME",
    };
    private static readonly Option<string?> Model = new("--model")
    {
        Description = "Instead of a preset: a config.json of Hugging Face's form.",
        HelpName = "FILE",
    };
    private static readonly Option<string?> Data = new("--data")
    {
        Description =
            "A dataset's name, a file of text or a folder of such, a token folder, or a mixture of token folders with weights. Default: "
            + "that of --init-from, else " + LabDefaults.Data + ".",
        HelpName = "NAME|PATH|PATH=WEIGHT,PATH=WEIGHT...",
    };

    private static readonly Option<string?> TextField = new("--text-field")
    {
        Description = "The field of a JSON line, or the column of a Parquet file, that holds the text. Default: text.",
        HelpName = "NAME",
    };
    private static readonly ReadingOptions Reading = new();
    private static readonly Option<string?> Tokenizer = TextOptions.TokenizerOption(
        "Default: that of a token folder or of --init-from, else bytes.");
    private static readonly Option<string?> EndOfDocument = TextOptions.EndOfDocumentOption();
    private static readonly Option<string?> Config = new("--config")
    {
        Description = "A JSON file of training settings, as 'training' in a run's config.json; options go before it.",
        HelpName = "FILE",
    };
    private static readonly Option<string[]> Set = new("--set")
    {
        Description = "Change one setting of the model or the training, by its name in JSON or its property's; may be given several times. "
            + "'xlstm models NAME --config' lists a model's, config.json of a run has the training's.",
        HelpName = "NAME=VALUE",
    };

    private static readonly Option<string?> InitFrom = new("--init-from")
    {
        Description = "Start from the weights of a run, a checkpoint or a Hugging Face folder, with its model unless --preset or --model "
            + "is given; the optimiser starts anew.",
        HelpName = "RUN",
    };

    private static readonly Option<int?> Steps = Number("--steps", $"Updates of the whole run. Default: {LabDefaults.Steps}.");
    private static readonly Option<int?> BatchSize = Number("--batch-size", $"Sequences an update. Default: {LabDefaults.BatchSize}.");
    private static readonly Option<int?> MicroBatchSize = Number(
        "--micro-batch-size", "Sequences that go through the model at once; less memory. Default: all.");
    private static readonly Option<int?> Context = Number("--context", $"Tokens a sequence. Default: {LabDefaults.ContextLength}.");
    private static readonly Option<double?> LearningRate = NumberOption.Real(new Option<double?>("--lr")
    {
        Description = FormattableString.Invariant($"The peak learning rate. Default: {LabDefaults.LearningRate}."),
        HelpName = "RATE",
    }, NumberRange.Positive);
    private static readonly Option<string?> Optimizer =
        new Option<string?>("--optimizer")
        {
            Description = "What updates the weights: AdamW, or Muon for the matrices inside blocks and AdamW for all else. Default: adamw.",
        }.OneOf("adamw", "muon");

    private static readonly Option<double?> MuonRate = NumberOption.Real(new Option<double?>("--muon-lr")
    {
        Description = "Muon's peak learning rate, of the matrices inside blocks. Default: that of --lr.",
        HelpName = "RATE",
    }, NumberRange.Positive);
    private static readonly Option<string?> Schedule =
        new Option<string?>("--schedule") { Description = "The course of the learning rate after the warm-up. Default: cosine." }.OneOf(
            "constant", "cosine", "exponential", "wsd");

    private static readonly Option<double?> EndFactor = NumberOption.Real(new Option<double?>("--end-factor")
    {
        Description = "The share of the peak rate that the schedule leads to. Default: 0.1.",
        HelpName = "SHARE",
    }, NumberRange.PositiveShare);
    private static readonly Option<int?> DecaySteps = Number(
        "--decay-steps", "Updates the decay takes. Default: all between warm-up and cool-down.");
    private static readonly Option<int?> Warmup = NumberOption.Whole(new Option<int?>("--warmup")
    {
        Description = "Updates over which the rate grows. Default: a twentieth of the steps.",
        HelpName = "N",
    }, 0);
    private static readonly Option<int?> Cooldown = NumberOption.Whole(
        new Option<int?>("--cooldown") { Description = "Last updates over which the rate falls to zero. Default: 0.", HelpName = "N" }, 0);
    private static readonly Option<double?> WeightDecay = NumberOption.Real(new Option<double?>("--weight-decay")
    {
        Description = "The weight decay of matrices, by either optimiser. Default: 0.1.",
        HelpName = "RATE",
    }, NumberRange.NotNegative);
    private static readonly Option<double?> Clip = NumberOption.Real(new Option<double?>("--clip")
    {
        Description = "The norm that gradients are clipped to; 0 for no clipping. Default: 0.5.",
        HelpName = "NORM",
    }, NumberRange.NotNegative);
    private static readonly Option<double?> Ema = NumberOption.Real(new Option<double?>("--ema")
    {
        Description = "Also keep a running average of the weights, with this decay an update.",
        HelpName = "DECAY",
    }, NumberRange.BelowOne);
    private static readonly Option<string?> ComputeType =
        new Option<string?>("--compute")
        {
            Description = "What matrix products are computed in. Default: float32.",
        }.OneOf("bf16", "float32");

    private static readonly Option<int?> Seed = NumberOption.Whole(
        new Option<int?>("--seed") { Description = "The seed of weights and data order. Default: 1.", HelpName = "N" });
    private static readonly Option<string?> Seeds = new("--seeds")
    {
        Description = "A run for each of these seeds, in RUN_FOLDER/seed-N. On a GPU as many run side by side as its memory holds. "
            + "Given again, it goes on with those that have not ended.",
        HelpName = "LIST",
    };

    private static readonly Option<int?> ValidateEvery = Number(
        "--validate-every", $"Updates between validations. Default: {LabDefaults.ValidateEvery}.");
    private static readonly Option<long?> ValidationTokens = NumberOption.Whole(new Option<long?>("--validation-tokens")
    {
        Description = $"Tokens a validation takes, 0 for all. Default: {LabDefaults.ValidationTokens}.",
        HelpName = "N",
    }, 0);
    private static readonly Option<int?> CheckpointEvery = Number("--checkpoint-every", "Updates between checkpoints. Default: 500.");
    private static readonly Option<int?> Threads = ComputeOptions.Threads();
    private static readonly Option<string> Device = ComputeOptions.Device();
    private static readonly RankOptions Ranks = new();
    private static readonly Option<bool> Resume = new("--resume") { Description = "Go on with the run in the folder, with its settings." };
    private static readonly Option<bool> StartOver = new("--start-over") { Description = "Delete the run in the folder first." };
    private static readonly Option<bool> Json = new("--json") { Description = "Print the result as one JSON document." };

    /// <summary>The command.</summary>
    public static Command Create()
    {
        var command = new ExampleCommand(
            "train",
            "Trains a model. Ctrl-C stops after the running update with a checkpoint; --resume goes on as if nothing had happened.",
            "xlstm train --out runs/first",
            "xlstm train --out runs/3m --preset bytes-3m --steps 5000 --batch-size 16 --context 512",
            "xlstm train --out runs/muon --optimizer muon",
            "xlstm train --out runs/mine --data my-texts/ --tokenizer tokenizer.json --model config.json",
            "xlstm train --out runs/mixed --data tokens/dclm=0.7,tokens/fineweb=0.3 --model config.json",
            "xlstm train --out runs/sigmoid --set input_gate=sigmoid --set normalize=false --set schedule.kind=constant",
            "xlstm train --out runs/hybrid --set 'mixers=gated-delta[3:1]sliding-window'",
            "xlstm train --out runs/decay --init-from runs/plateau/checkpoints/step-004000 --schedule wsd --decay-steps 400 "
            + "--steps 400 --warmup 0",
            "xlstm train --out runs/four --seeds 1,2,3,4 --device cuda --compute bf16",
            "xlstm train --out runs/node --gpus all --compute bf16 --batch-size 64",
            "srun --ntasks-per-node=8 --gpus-per-node=8 xlstm train --out runs/nodes --device cuda --compute bf16 --batch-size 256",
            "xlstm train --out runs/first --resume");
        foreach (var option in new Option[]
        {
            Out, Preset, Model, Set, InitFrom, Data, TextField, Tokenizer, EndOfDocument, Config, Steps, BatchSize, MicroBatchSize, Context,
            LearningRate, Optimizer, MuonRate, Schedule, EndFactor, DecaySteps, Warmup, Cooldown, WeightDecay,
            Clip, Ema, ComputeType, Seed, Seeds,
            ValidateEvery, ValidationTokens, CheckpointEvery, Threads, Device, Resume, StartOver, Json,
        }.Concat(Ranks.All))
        {
            command.Options.Add(option);
        }

        Reading.AddTo(command);
        command.RefuseTogether(
            (Resume, StartOver), (Preset, Model), (Resume, Preset), (Resume, Model), (Resume, Config), (Resume, InitFrom),
            (Seeds, Seed), (Seeds, Resume), (Ranks.Counts[0], Ranks.Counts[1]), (Seeds, Ranks.Counts[0]), (Seeds, Ranks.Counts[1]));
        command.SetAction(StartAsync);
        return command;
    }

    /// <summary>Trains here, or starts the ranks that do, or trains as one of them.</summary>
    private static async Task<int> StartAsync(ParseResult parsed, CancellationToken cancellationToken)
    {
        var place = RankPlace.FromEnvironment();
        if (place is null)
        {
            var count = Ranks.Count(parsed, parsed.GetValue(Device)!);
            if (count > 1)
            {
                return await new RankProcesses(parsed, new(parsed), count, Ranks.Timeout(parsed)).RunAsync(
                    RankProcesses.OwnArguments(parsed), null, cancellationToken);
            }

            Ranks.RefuseAlone(parsed);
            return await RunAsync(new(parsed), parsed, Ranks.DeviceOf(parsed, parsed.GetValue(Device)!, null), null, cancellationToken);
        }

        if (place.MeetingFile is not null && Ranks.AreGiven(parsed))
        {
            throw new UsageException(
                $"Slurm has started {place.World} tasks, which are the ranks: leave out --gpus and --ranks, "
                + "and name the device by --device.");
        }

        if (parsed.GetValue(Seeds) is not null)
        {
            throw new UsageException(
                $"--seeds trains several runs, and this is rank {place.Rank} of {place.World} of one: start it by itself.");
        }

        using var watched = RankProcesses.Watched(cancellationToken);
        var device = Ranks.DeviceOf(parsed, parsed.GetValue(Device)!, place);
        place = Ranks.Timeout(parsed) is { } seconds ? place with { Timeout = TimeSpan.FromSeconds(seconds) } : place;
        using var communicator = RankGroup.Open(place, ComputeOptions.Find(device), parsed.GetValue(Out)!, watched.Token);
        if (place.Rank > 0)
        {
            // What it has to say, rank 0 says; errors go by the program.
            parsed.InvocationConfiguration.Output = parsed.InvocationConfiguration.Error = TextWriter.Null;
        }

        try
        {
            return await RunAsync(new(parsed), parsed, device, communicator, watched.Token);
        }
        catch (Exception e)
        {
            communicator.Fail(Program.Message(e));
            throw;
        }
    }

    private static async Task<int> RunAsync(
        Terminal terminal, ParseResult parsed, string deviceName, ICommunicator? communicator, CancellationToken cancellationToken)
    {
        var folder = Path.GetFullPath(parsed.GetValue(Out)!);
        var resume = parsed.GetValue(Resume);
        var seeds = parsed.GetValue(Seeds) is { } list ? NumberOption.SeedList(list) : null;
        if (communicator is null or { Rank: 0 })
        {
            RequireRun(folder, resume, parsed.GetValue(StartOver));
        }

        // Rank 0 deletes or makes a run only when all others have seen what there was.
        communicator?.Gather([]);
        Compute.Begin(parsed.GetValue(Threads));
        var device = ComputeOptions.Find(deviceName);

        var earlier = resume ? RunText.Read(folder) : null;
        if (resume && earlier is not { Data.Length: > 0 } && parsed.GetValue(Data) is null)
        {
            throw new UsageException(
                $"The run in {folder} was begun by something else than 'xlstm train', or was killed before it noted its text: "
                + "name it again by --data, and by --tokenizer if tokens are not bytes. Or --start-over.");
        }

        // The same model again, if the run was stopped before it had a checkpoint.
        var from = parsed.GetValue(InitFrom) ?? (resume && RunFolder.LatestCheckpoint(folder) is null ? earlier?.InitialWeights : null);
        var initial = parsed.GetValue(InitFrom) is { } named ? TrainedRun.Describe(named) : default;
        var data = parsed.GetValue(Data) ?? ((earlier ?? initial.Text) is { Data.Length: > 0 } before ? before.Data : LabDefaults.Data);
        var read = Reading.Read(parsed, parsed.GetValue(TextField) ?? earlier?.TextField ?? "text", earlier);
        using var source = TextOptions.Named(() => TextSource.Open(TextSource.Absolute(data), read, cancellationToken));
        var tokenizer = ChooseTokenizer(parsed, folder, earlier, initial.Tokenizer, source);
        source.RequireTokenizer(tokenizer);
        var text = RunText.Of(data, tokenizer, read) with
        {
            InitialWeights = earlier?.InitialWeights ?? (from is null ? null : Path.GetFullPath(from)),
        };
        var (architecture, config) = Settings(parsed, tokenizer, resume ? folder : null, initial.Config);
        config.Validate();
        architecture.Validate();
        TrainingMemory.Require(architecture, TrainingParallelism.OfRank(config, communicator?.World ?? 1), device);
        var (training, validation) = await TokenizeAsync(terminal, source, tokenizer, config, cancellationToken);
        if (validation.Count == 0)
        {
            terminal.Note("There is no text to validate on: the run goes without.");
        }

        if (seeds is not null)
        {
            var all = seeds.Select(seed => config with { Seed = seed });
            var members = all.Select(
                c => new SeedRun(SeedFolders.Of(folder, c.Seed), c, OfSeed(source, tokenizer, training, c, cancellationToken)));
            var group = new SeedGroup([.. members], architecture, from, validation, text, tokenizer, device);
            return await RunGroupAsync(terminal, group, parsed, cancellationToken);
        }

        using var model = architecture.CreateModel(config.Seed);
        if (from is not null)
        {
            terminal.Note($"Starting from the weights in {Lab.LoadWeights(model, from, null, cancellationToken)}.");
        }

        model.to(device);
        terminal.Note(string.Create(
            CultureInfo.InvariantCulture,
            $"{architecture.CountParameters():N0} parameters, {Name(training, text)}, {config.Steps:N0} steps of {config.BatchSize} x "
            + $"{config.ContextLength} tokens, "
            + $"{torch.get_num_threads()} threads{(communicator is null ? "" : $", {communicator.World} ranks by {communicator.Name}")}."));
        TrainingResult? result = null;
        await terminal.TrackAsync("Training", tracker =>
        {
            var watcher = new Watcher(tracker, config);
            var trainer = new Trainer(
                model, config, training, validation, folder, new ImmediateProgress<TrainingMetrics>(watcher.Report),
                new WarningLines(tracker.Line))
            {
                DataDescription = resume && parsed.GetValue(Data) is null ? RunFolder.ReadData(folder)?.Description ?? text.Data
                    : text.Data,
                Tokenizer = tokenizer,
                Text = text,
                StartOver = parsed.GetValue(StartOver),
                Parallelism = communicator is null ? null : Ranks.Parallelism(parsed, communicator),
            };
            result = trainer.Run(cancellationToken);
            return Task.CompletedTask;
        });
        var evaluation = (source.IsMixture ? $" --data {Terminal.Quoted(source.Folder!.Path)}" : "")
            + $" --split {TextSource.Word(Measurable(source.Count))}";
        Write(terminal, folder, Terminal.Quoted(parsed.GetValue(Out)!), result!, evaluation, parsed.GetValue(Json));
        return result!.Status == TrainingStatus.Stopped ? ExitCode.Interrupted : ExitCode.Success;
    }

    /// <summary>The training text in the order of a seed.</summary>
    private static BatchSource<TokenBatch> OfSeed(
        TextSource source, ITokenizer tokenizer, BatchSource<TokenBatch> first, TrainingConfig config,
        CancellationToken cancellationToken) =>
        first is PackedTokens packed ? packed.WithSeed(config.Seed)
        : source.Batches(tokenizer, config.ContextLength, config.BatchSize, config.Seed, 1, null, cancellationToken).Training;

    /// <summary>Trains a run for each seed, side by side on a GPU.</summary>
    private static async Task<int> RunGroupAsync(
        Terminal terminal, SeedGroup group, ParseResult parsed, CancellationToken cancellationToken)
    {
        IReadOnlyList<GroupOutcome> outcomes = [];
        await terminal.TrackAsync("Training", tracker =>
        {
            var watcher = new GroupWatcher(tracker, group.Runs);
            var members = group.Runs.Select((run, k) => new GroupMember(run.Name, group.Architecture, run.Config, token =>
            {
                using var model = group.Architecture.CreateModel(run.Config.Seed);
                if (group.InitialWeights is { } weights && RunFolder.LatestCheckpoint(run.Folder) is null)
                {
                    Lab.LoadWeights(model, weights, null, token);
                }

                model.to(group.Device);
                return new Trainer(
                    model, run.Config, run.Training, group.Validation, run.Folder,
                    new ImmediateProgress<TrainingMetrics>(m => watcher.Report(k, m)), watcher.Of(k))
                {
                    DataDescription = group.Text.Data,
                    Tokenizer = group.Tokenizer,
                    Text = group.Text,
                    StartOver = parsed.GetValue(StartOver),
                }.Run(token);
            })).ToArray();
            var sideBySide = TrainingGroup.SideBySide(members, group.Device);
            terminal.Note(string.Create(
                CultureInfo.InvariantCulture,
                $"{members.Length} runs of {group.Architecture.CountParameters():N0} parameters, {sideBySide} at a time, "
                + $"{group.Runs[0].Config.Steps:N0} steps each."));
            outcomes = TrainingGroup.Run(members, sideBySide, cancellationToken);
            return Task.CompletedTask;
        });
        Write(terminal, group, outcomes, parsed.GetValue(Json));
        return outcomes.Any(o => o.Failure is not null) ? ExitCode.Failure
            : outcomes.Any(o => o.Result is not { Status: TrainingStatus.Completed }) ? ExitCode.Interrupted
            : ExitCode.Success;
    }

    private static void Write(Terminal terminal, SeedGroup group, IReadOnlyList<GroupOutcome> outcomes, bool json)
    {
        static string Status(GroupOutcome o) =>
            o.Failure is not null ? "failed" : o.Result is null ? "not begun" : o.Result.Status.ToString().ToLowerInvariant();
        if (json)
        {
            terminal.WriteJson(outcomes.Zip(group.Runs).Select(pair => new
            {
                Run = pair.Second.Folder,
                pair.Second.Config.Seed,
                Status = Status(pair.First),
                Error = pair.First.Failure?.Message,
                pair.First.Result?.Step,
                pair.First.Result?.Tokens,
                pair.First.Result?.Seconds,
                pair.First.Result?.Checkpoint,
                pair.First.Result?.Last,
                pair.First.Result?.Validation,
            }));
        }
        else
        {
            terminal.WriteTable(
                ["run", "status", "steps", "loss (nats a token)", "validation (nats a token)", "s"],
                outcomes.Zip(group.Runs).Select(pair => (IReadOnlyList<string>)
                [
                    pair.Second.Name,
                    Status(pair.First),
                    string.Create(CultureInfo.InvariantCulture, $"{pair.First.Result?.Step:N0}"),
                    string.Create(CultureInfo.InvariantCulture, $"{pair.First.Result?.Last?.Loss:F4}"),
                    string.Create(CultureInfo.InvariantCulture, $"{pair.First.Result?.Validation?.ValidationLoss:F4}"),
                    string.Create(CultureInfo.InvariantCulture, $"{pair.First.Result?.Seconds:F1}"),
                ]));
        }

        foreach (var outcome in outcomes.Where(o => o.Failure is not null))
        {
            terminal.Note($"{outcome.Name}: {outcome.Failure!.Message}");
        }
    }

    /// <summary>The part that a result is reported on: the test part or, where it is empty, one that is not.</summary>
    private static Split Measurable(Func<Split, long> documents) =>
        new[] { Split.Test, Split.Validation }.FirstOrDefault(part => documents(part) > 0, Split.Train);

    private static async Task<TextBatches> TokenizeAsync(
        Terminal terminal, TextSource source, ITokenizer tokenizer, TrainingConfig config, CancellationToken cancellationToken)
    {
        if (source.IsTokens)
        {
            return source.Batches(
                tokenizer, config.ContextLength, config.BatchSize, config.Seed, config.ValidationTokens, null, cancellationToken);
        }

        ReadingOptions.Note(terminal, source.Corpus.Skipped);
        TextBatches? batches = null;
        await terminal.TrackAsync("Tokenizing", tracker =>
        {
            var progress = new ImmediateProgress<TokenizingProgress>(
                p => tracker.Report(p.Documents / (double)p.TotalDocuments, FormattableString.Invariant($"{p.Tokens:N0} tokens")));
            batches = source.Batches(
                tokenizer, config.ContextLength, config.BatchSize, config.Seed, config.ValidationTokens, progress, cancellationToken);
            return Task.CompletedTask;
        });
        return batches!;
    }

    private static string Name(BatchSource training, RunText text) =>
        training.TokenCount is { } count ? string.Create(CultureInfo.InvariantCulture, $"{count:N0} tokens of {text.Data}")
            : $"the mixture {text.Data}";

    private static void RequireRun(string folder, bool resume, bool startOver)
    {
        var exists = File.Exists(Path.Combine(folder, "config.json"));
        if (resume && !exists)
        {
            throw new FileNotFoundException($"There is no run in {folder} to go on with.");
        }

        if (exists && !resume && !startOver)
        {
            throw new InvalidOperationException(
                $"There is a run in {folder} already: --resume goes on with it, --start-over deletes it. Or choose another folder.");
        }
    }

    private static ITokenizer ChooseTokenizer(ParseResult parsed, string folder, RunText? earlier, ITokenizer? initial, TextSource source)
    {
        if (parsed.GetValue(Tokenizer) is { } named)
        {
            return TextOptions.Tokenizer(named, parsed.GetValue(EndOfDocument) ?? earlier?.EndOfDocument);
        }

        if (earlier is not null)
        {
            return (earlier with { EndOfDocument = parsed.GetValue(EndOfDocument) ?? earlier.EndOfDocument }).OpenTokenizer(folder)
                ?? throw new UsageException(
                    $"The run in {folder} does not hold its tokenizer: name it by --tokenizer, or go on with it where it was begun.");
        }

        return source.IsTokens ? source.UsualTokenizer() : initial ?? source.UsualTokenizer();
    }

    /// <summary>The model's and the training's configuration: a run's own, or what was named, with what <c>--set</c> changes.</summary>
    private static (LanguageModelConfig Model, TrainingConfig Training) Settings(
        ParseResult parsed, ITokenizer tokenizer, string? run, LanguageModelConfig? initial)
    {
        var given = run is not null ? RunFolder.ReadTrainingConfig(run)
            : parsed.GetValue(Config) is { } file ? TrainingConfig.Read(file) : null;
        var usual = LabDefaults.Training();

        // A length that cannot be meant stands for none yet: it follows from the steps.
        var training = given ?? usual with { Schedule = usual.Schedule with { WarmupSteps = -1 } };
        var architecture = run is not null ? RunFolder.ReadModelConfig(run) : Architecture(parsed, tokenizer, initial);
        try
        {
            var (model, changed) = ConfigSettings.Changed(architecture, training, parsed.GetValue(Set) ?? []);
            Lab.RequireVocabulary(model!, tokenizer, parsed.GetValue(Model) ?? "The model");
            return (model!, WithOptions(parsed, changed!));
        }
        catch (ArgumentException e) when (e is not ConfigException)
        {
            throw new UsageException(
                (parsed.GetValue(Set) is { Length: > 0 } && !e.Message.Contains("vocab_size", StringComparison.Ordinal) ? "--set: " : "")
                + e.Message);
        }
    }

    private static TrainingConfig WithOptions(ParseResult parsed, TrainingConfig config)
    {
        var steps = parsed.GetValue(Steps) ?? config.Steps;
        var optimizer = parsed.GetValue(Optimizer) switch
        {
            "adamw" => OptimizerKind.AdamW,
            "muon" => OptimizerKind.Muon,
            _ => config.Optimizer,
        };
        if (parsed.GetValue(MuonRate) is not null && optimizer != OptimizerKind.Muon)
        {
            throw new UsageException($"{MuonRate.Name} is a rate of Muon, and this run's optimiser is AdamW: add --optimizer muon.");
        }

        return config with
        {
            Steps = steps,
            BatchSize = parsed.GetValue(BatchSize) ?? config.BatchSize,
            MicroBatchSize = parsed.GetValue(MicroBatchSize) ?? config.MicroBatchSize,
            ContextLength = parsed.GetValue(Context) ?? config.ContextLength,
            PeakLearningRate = parsed.GetValue(LearningRate) ?? config.PeakLearningRate,
            Optimizer = optimizer,
            Muon = config.Muon with { PeakLearningRate = parsed.GetValue(MuonRate) ?? config.Muon.PeakLearningRate },
            WeightDecay = parsed.GetValue(WeightDecay) ?? config.WeightDecay,
            GradientClip = parsed.GetValue(Clip) is { } clip ? (clip == 0 ? null : clip) : config.GradientClip,
            EmaDecay = parsed.GetValue(Ema) ?? config.EmaDecay,
            Seed = parsed.GetValue(Seed) ?? config.Seed,
            ValidateEvery = parsed.GetValue(ValidateEvery) ?? config.ValidateEvery,
            ValidationTokens = parsed.GetValue(ValidationTokens) is { } tokens ? (tokens == 0 ? null : tokens) : config.ValidationTokens,
            CheckpointEvery = parsed.GetValue(CheckpointEvery) ?? config.CheckpointEvery,
            ComputeType = Compute.Type(parsed.GetValue(ComputeType)) ?? config.ComputeType,
            Schedule = config.Schedule with
            {
                Kind = parsed.GetValue(Schedule) switch
                {
                    "constant" => DecayKind.Constant,
                    "cosine" => DecayKind.Cosine,
                    "exponential" => DecayKind.Exponential,
                    "wsd" => DecayKind.WarmupStableDecay,
                    _ => config.Schedule.Kind,
                },
                WarmupSteps = parsed.GetValue(Warmup)
                    ?? (config.Schedule.WarmupSteps < 0 ? LabDefaults.Training(steps).Schedule.WarmupSteps : config.Schedule.WarmupSteps),
                CooldownSteps = parsed.GetValue(Cooldown) ?? config.Schedule.CooldownSteps,
                DecaySteps = parsed.GetValue(DecaySteps) ?? config.Schedule.DecaySteps,
                EndFactor = parsed.GetValue(EndFactor) ?? config.Schedule.EndFactor,
            },
        };
    }

    private static LanguageModelConfig Architecture(ParseResult parsed, ITokenizer tokenizer, LanguageModelConfig? initial)
    {
        if (parsed.GetValue(Model) is { } file)
        {
            return ModelConfigJson.Read(file);
        }

        if (initial is not null && parsed.GetValue(Preset) is null)
        {
            return initial;
        }

        var name = parsed.GetValue(Preset) ?? LabDefaults.Preset;
        return Presets.All.TryGetValue(name, out var preset)
            ? preset with { VocabularySize = tokenizer.VocabularySize }
            : throw new UsageException(
                $"There is no preset '{name}'.{NearestName.Hint(name, Presets.All.Keys)} 'xlstm models' lists them all.");
    }

    private static void Write(Terminal terminal, string folder, string shown, TrainingResult result, string evaluation, bool json)
    {
        if (json)
        {
            terminal.WriteJson(new
            {
                Run = folder,
                result.Status,
                result.Step,
                result.Tokens,
                result.Seconds,
                result.Checkpoint,
                result.Last,
                result.Validation,
            });
        }
        else
        {
            var validation = result.Validation;
            terminal.WritePairs(
            [
                ("run", folder),
                ("checkpoint", result.Checkpoint ?? "none: no step was done"),
                ("steps", string.Create(
                    CultureInfo.InvariantCulture, $"{result.Step:N0}, {result.Tokens:N0} tokens in {Readable.Duration(result.Seconds)}")),
                .. result.Last is { } last
                    ? new[] { ("loss", string.Create(CultureInfo.InvariantCulture, $"{last.Loss:F4} nats a token at the last step")) } : [],
                .. validation is null ? [] : new[] { ("validation", $"{Validation(validation)} at step {validation.Step}") },
            ]);
        }

        terminal.Note(result.Status == TrainingStatus.Stopped
            ? $"Stopped {(result.Checkpoint is null ? "before there was a checkpoint: it will begin anew" : "with a checkpoint")}. "
                + $"To go on: xlstm train --out {shown} --resume"
            : $"Next: xlstm eval {shown}{evaluation}   or   xlstm generate {shown} --prompt \"Fellow citizens\"");
    }

    private static string Validation(TrainingMetrics metrics) => string.Create(
        CultureInfo.InvariantCulture,
        $"{metrics.ValidationLoss:F4} nats a token, perplexity {metrics.ValidationPerplexity:F2} a token")
        + (metrics.ValidationBitsPerByte is { } bits ? string.Create(CultureInfo.InvariantCulture, $", {bits:F4} bits per byte") : "");

    private static string Validated(TrainingMetrics metrics) =>
        string.Create(CultureInfo.InvariantCulture, $"step {metrics.Step,6:N0}  loss {metrics.Loss:F4}  validation {Validation(metrics)}");

    private static double Smoothed(double? before, double now) => before is { } rate ? 0.9 * rate + 0.1 * now : now;

    private static Option<int?> Number(string name, string description) =>
        NumberOption.Whole(new Option<int?>(name) { Description = description, HelpName = "N" }, 1);

    /// <summary>Shows a run's metrics.</summary>
    private sealed class Watcher(ProgressTracker tracker, TrainingConfig config)
    {
        private double? _rate;

        public void Report(TrainingMetrics metrics)
        {
            _rate = Smoothed(_rate, metrics.TokensPerSecond);
            tracker.Report(
                metrics.Step / (double)config.Steps,
                string.Create(
                    CultureInfo.InvariantCulture,
                    $"step {metrics.Step:N0} of {config.Steps:N0}, loss {metrics.Loss:F3}, {_rate:N0} tokens/s"));
            if (metrics.IsValidated)
            {
                tracker.Line(Validated(metrics));
            }
        }
    }

    /// <summary>The run of a seed.</summary>
    private sealed record SeedRun(string Folder, TrainingConfig Config, BatchSource<TokenBatch> Training)
    {
        public string Name => Path.GetFileName(Folder);
    }

    /// <summary>Runs that differ in their seed.</summary>
    private sealed record SeedGroup(
        SeedRun[] Runs, LanguageModelConfig Architecture, string? InitialWeights, IReadOnlyList<TokenBatch> Validation, RunText Text,
        ITokenizer Tokenizer, torch.Device Device);

    /// <summary>Shows the metrics and warnings of several runs at once.</summary>
    private sealed class GroupWatcher(ProgressTracker tracker, SeedRun[] runs)
    {
        private readonly Lock _gate = new();
        private readonly TrainingMetrics?[] _latest = new TrainingMetrics?[runs.Length];
        private readonly Dictionary<int, double> _rates = [];

        public void Report(int run, TrainingMetrics metrics)
        {
            lock (_gate)
            {
                _latest[run] = metrics;
                _rates[run] = metrics.Step == runs[run].Config.Steps ? 0
                    : Smoothed(_rates.TryGetValue(run, out var before) ? before : null, metrics.TokensPerSecond);
                var begun = _latest.OfType<TrainingMetrics>().ToArray();
                var done = begun.Sum(m => m.Step) / (double)runs.Sum(r => r.Config.Steps);
                tracker.Report(done, string.Create(
                    CultureInfo.InvariantCulture,
                    $"{begun.Length} of {runs.Length} runs begun, loss {begun.Min(m => m.Loss):F3} to {begun.Max(m => m.Loss):F3}, "
                    + $"{_rates.Values.Sum():N0} tokens/s together"));
                if (metrics.IsValidated)
                {
                    tracker.Line($"{runs[run].Name}  {Validated(metrics)}");
                }
            }
        }

        /// <summary>What a run has to say.</summary>
        public WarningLines Of(int run) => new(text =>
        {
            lock (_gate)
            {
                tracker.Line($"{runs[run].Name}: {text}");
            }
        });
    }
}
