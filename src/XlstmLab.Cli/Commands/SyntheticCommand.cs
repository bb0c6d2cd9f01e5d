using System.CommandLine;
using System.Globalization;
using Plotly.NET;
using XlstmLab.Cli.Terminals;
using XlstmLab.Experiments;
using XlstmLab.Models;
using XlstmLab.Native;
using XlstmLab.Tasks;
using XlstmLab.Text;
using XlstmLab.Training;
using XlstmLab.Visualization;
using static System.FormattableString;

namespace XlstmLab.Cli.Commands;

/// <summary><c>xlstm synthetic</c>: trains and tests models on synthetic tasks.</summary>
internal static class SyntheticCommand
{
    private static readonly Argument<string?> TaskName = new("TASK")
    {
        Description = "The task; 'xlstm synthetic list' names all.",
        Arity = ArgumentArity.ZeroOrOne,
    };
    private static readonly Option<string?> Recipe = new("--recipe")
    {
        Description = "The task whose published settings are the defaults: parity, mqar-64-4, mqar-128-8 or any other. Default: TASK.",
        HelpName = "NAME",
    };

    private static readonly Option<string> Model = new("--model", "-m")
    {
        Description = "The model: xlstm[a:b], llama, mamba, mamba2, the name of a preset, or a config.json of Hugging Face's form.",
        HelpName = "NAME",
        DefaultValueFactory = _ => "xlstm[1:1]",
    };

    private static readonly Option<string> Out = new("--out", "-o")
    {
        Description = "The experiment's folder.",
        HelpName = "FOLDER",
        Required = true,
    };
    private static readonly Option<int?> Dim = Number("--dim", "The width of the model. Default: the recipe's.");
    private static readonly Option<int?> Blocks = Number("--blocks", "The number of blocks. Default: the recipe's.");
    private static readonly Option<int?> Heads = Number("--heads", "The number of heads. Default: the recipe's.");
    private static readonly Option<int?> Steps = Number("--steps", "Updates of a run. Default: the recipe's.");
    private static readonly Option<int?> BatchSize = Number("--batch-size", "Rows an update. Default: the recipe's.");
    private static readonly Option<int?> MicroBatchSize = Number(
        "--micro-batch-size", "Rows that go through the model at once; less memory. Default: all.");
    private static readonly Option<double?> LearningRate = NumberOption.Real(new Option<double?>("--lr")
    {
        Description = "The peak learning rate. Default: the recipe's.",
        HelpName = "RATE",
    }, NumberRange.Positive);
    private static readonly Option<double?> EndFactor = NumberOption.Real(new Option<double?>("--end-factor")
    {
        Description = "The share of the peak rate that the cosine leads to. Default: the recipe's.",
        HelpName = "SHARE",
    }, NumberRange.PositiveShare);
    private static readonly Option<int?> Warmup = NumberOption.Whole(new Option<int?>("--warmup")
    {
        Description = "Updates over which the rate grows. Default: the recipe's share of the steps.",
        HelpName = "N",
    }, 0);
    private static readonly Option<double?> WeightDecay = NumberOption.Real(new Option<double?>("--weight-decay")
    {
        Description = "AdamW's weight decay. Default: the recipe's.",
        HelpName = "RATE",
    }, NumberRange.NotNegative);
    private static readonly Option<double?> Clip = NumberOption.Real(new Option<double?>("--clip")
    {
        Description = "The norm that gradients are clipped to; 0 for no clipping. Default: no clipping.",
        HelpName = "NORM",
    }, NumberRange.NotNegative);
    private static readonly Option<double?> Dropout = NumberOption.Real(new Option<double?>("--dropout")
    {
        Description = "The share of what layers write that is dropped in training; of an xLSTM. Default: the model's.",
        HelpName = "SHARE",
    }, NumberRange.BelowOne);
    private static readonly Option<int?> Samples = NumberOption.Whole(new Option<int?>("--samples")
    {
        Description = "Rows of an epoch; 0 to draw rows without end. Default: the recipe's.",
        HelpName = "N",
    }, 0);
    private static readonly Option<string> Seeds = new("--seeds")
    {
        Description = "A run for each.",
        HelpName = "LIST",
        DefaultValueFactory = _ => "1",
    };
    private static readonly Option<string?> TrainLengths = new("--train-lengths")
    {
        Description = "The lengths of training rows, such as 3-40. Default: the task's.",
        HelpName = "RANGE",
    };
    private static readonly Option<string?> ValidationLengths = new("--validation-lengths")
    {
        Description = "The lengths whose accuracy is watched and may stop a run, such as 40-256. Default: the trained ones.",
        HelpName = "RANGE",
    };
    private static readonly Option<string?> TestLengths = new("--test-lengths")
    {
        Description = "The ranges of lengths that are tested, such as 3-40,40-256,64. Default: the recipe's.",
        HelpName = "LIST",
    };
    private static readonly Option<int?> TestRows = Number("--test-rows", "Rows of each range. Default: the recipe's.");
    private static readonly Option<int?> ValidationRows = Number("--validation-rows", "Rows of a validation. Default: the recipe's.");
    private static readonly Option<int?> ValidateEvery = Number("--validate-every", "Updates between validations. Default: the recipe's.");
    private static readonly Option<int?> CheckpointEvery = Number(
        "--checkpoint-every", "Updates between checkpoints. Default: the recipe's.");
    private static readonly Option<double?> Until = NumberOption.Real(new Option<double?>("--until")
    {
        Description = "Stop a run when its accuracy at the validation lengths, on rows that are not tested, reaches this, such as 0.99.",
        HelpName = "ACCURACY",
    }, NumberRange.PositiveShare);
    private static readonly Option<string?> ComputeType =
        new Option<string?>("--compute")
        {
            Description = "What matrix products are computed in. Default: float32.",
        }.OneOf("bf16", "float32");

    private static readonly Option<int?> Threads = ComputeOptions.Threads();
    private static readonly Option<string> Device = ComputeOptions.Device();
    private static readonly Option<bool> Json = new("--json") { Description = "Print the result as one JSON document." };

    /// <summary>The command.</summary>
    public static Command Create()
    {
        var command = new Command("synthetic", "Formal languages, associative recall, nested lists and nearest-neighbour search.");
        command.Subcommands.Add(CreateList());
        command.Subcommands.Add(CreateRun());
        return command;
    }

    private static ExampleCommand CreateList()
    {
        var json = new Option<bool>("--json") { Description = "Print one JSON document." };
        var command = new ExampleCommand("list", "Names the tasks, with an example of each.", "xlstm synthetic list") { json };
        command.SetAction(parsed =>
        {
            var terminal = new Terminal(parsed);
            var tasks = SyntheticRecipes.Tasks.Select(task => new
            {
                task.Name,
                Tokens = task.VocabularySize,
                task.Chance,
                Train = task.TrainingLengths.ToString(),
                Test = task.TestLengths.ToString(),
                Example = Example(task),
            }).ToArray();
            if (parsed.GetValue(json))
            {
                terminal.WriteJson(tasks);
                return ExitCode.Success;
            }

            terminal.WriteTable(
                ["task", ">tokens", ">chance", ">train", ">test", "example"],
                tasks.Select(t => new[] { t.Name, Invariant($"{t.Tokens}"), Invariant($"{t.Chance:0.####}"), t.Train, t.Test, t.Example })
                    .Append(
                        [NearestNeighborSearch.Name, "", "", "64", "16-256",
                            "unit vectors with values: the value of the nearest to the first"]));
            terminal.Note($"Any mqar-TOKENS-PAIRS is a task. Next: xlstm synthetic run parity --out runs/parity");
            return ExitCode.Success;
        });
        return command;
    }

    private static ExampleCommand CreateRun()
    {
        var command = new ExampleCommand(
            "run",
            "Trains a model on a task with each seed, and tests it by length. Ctrl-C stops with a checkpoint; "
            + "the same line again goes on and skips what is done.",
            "xlstm synthetic run --recipe parity --model xlstm[1:1] --seeds 1,2,3 --until 0.99 --out runs/parity-11",
            "xlstm synthetic run --recipe mqar-64-4 --model xlstm[1:0] --until 0.99 --out runs/mqar-64-4 --device cuda",
            "xlstm synthetic run even-pairs --dim 32 --steps 500 --train-lengths 3-12 --test-lengths 12-24,32 --out runs/even-pairs",
            "xlstm synthetic run nearest-neighbor --model xlstm[0:1] --dim 128 --steps 10000 --out runs/nearest-neighbor");
        command.Arguments.Add(TaskName);
        foreach (var option in new Option[]
        {
            Recipe, Model, Out, Dim, Blocks, Heads, Steps, BatchSize, MicroBatchSize, LearningRate, EndFactor,
            Warmup, WeightDecay, Clip, Dropout, Samples,
            Seeds, TrainLengths, ValidationLengths, TestLengths, TestRows, ValidationRows, ValidateEvery,
            CheckpointEvery, Until, ComputeType, Threads,
            Device, Json,
        })
        {
            command.Options.Add(option);
        }

        command.SetAction((parsed, cancellationToken) => RunAsync(new(parsed), parsed, cancellationToken));
        return command;
    }

    private static async Task<int> RunAsync(Terminal terminal, ParseResult parsed, CancellationToken cancellationToken)
    {
        var name = parsed.GetValue(TaskName) ?? parsed.GetValue(Recipe) ?? throw new UsageException("Name a TASK or a --recipe.");
        var seeds = NumberOption.SeedList(parsed.GetValue(Seeds)!);
        if (name == NearestNeighborSearch.Name)
        {
            return await RunNearestNeighborAsync(terminal, parsed, seeds, cancellationToken);
        }

        var experiment = Experiment(parsed, name);
        Compute.Begin(parsed.GetValue(Threads));
        var device = ComputeOptions.Find(parsed.GetValue(Device)!);
        var folder = Path.GetFullPath(parsed.GetValue(Out)!);
        var config = experiment.Training;
        terminal.Note(string.Create(
            CultureInfo.InvariantCulture,
            $"{name}: {parsed.GetValue(Model)}, {experiment.Model.CountParameters():N0} parameters, "
            + $"{config.Steps:N0} steps of {config.BatchSize} rows, {seeds.Length} seed(s)."));
        SyntheticSummary? summary = null;
        await terminal.TrackAsync("Training", tracker =>
        {
            var rate = 0.0;
            summary = experiment.Run(
                folder, seeds, device, new ImmediateProgress<SyntheticProgress>(p =>
                {
                    rate = rate == 0 ? p.Metrics.TokensPerSecond : 0.95 * rate + 0.05 * p.Metrics.TokensPerSecond;
                    tracker.Report(
                        (p.SeedIndex + p.Metrics.Step / (double)config.Steps) / seeds.Length,
                        Invariant(
                            $"seed {p.Seed}, step {p.Metrics.Step:N0} of {config.Steps:N0}, loss {p.Metrics.Loss:F4}, {rate:N0} tokens/s"));
                    if (p.Scores is { } scores)
                    {
                        tracker.Line(string.Create(
                            CultureInfo.InvariantCulture,
                            $"seed {p.Seed}  step {p.Metrics.Step,6:N0}  loss {p.Metrics.Loss:F4}  accuracy "
                            + $"{string.Join(", ", scores.Select(s => Invariant($"{s.Accuracy:F4} at {s.Lengths()}")))}"));
                    }
                }),
                new WarningLines(tracker.Line), cancellationToken);
            return System.Threading.Tasks.Task.CompletedTask;
        });
        WritePlot(folder, "accuracy-curve", Plots.AccuracyCurve(summary!.Curve));
        var accuracies = summary.AccuracyByLength();
        if (accuracies.Any(a => a.MinimumLength == a.MaximumLength))
        {
            WritePlot(folder, "accuracy-by-length", Plots.AccuracyByLength(
                accuracies, (experiment.TrainingLengths ?? experiment.Task.TrainingLengths).Maximum));
        }

        Write(terminal, folder, summary, accuracies, experiment.Until, parsed.GetValue(Json));
        return ExitCode.Of(terminal, "loss", [.. summary.Runs.Select(r => r.Loss), .. accuracies.Select(a => a.Loss)]);
    }

    private static async Task<int> RunNearestNeighborAsync(
        Terminal terminal, ParseResult parsed, int[] seeds, CancellationToken cancellationToken)
    {
        foreach (var option in new Option[] { Recipe, Samples, TrainLengths, ValidationLengths, ValidationRows,
            CheckpointEvery, MicroBatchSize, Until })
        {
            if (option.Name != Recipe.Name && parsed.GetResult(option) is { Implicit: false })
            {
                throw new UsageException($"{option.Name} does not go together with {NearestNeighborSearch.Name}.");
            }
        }

        var published = new NearestNeighborExperiment { Model = new XlstmConfig() };
        var model = Architecture(parsed, 1, 128, 2, 4);
        var experiment = published with
        {
            Model = model is XlstmConfig xlstm && parsed.GetValue(Dropout) is null ? xlstm with { Dropout = 0.1 } : model,
            Training = Training(parsed, published.Training),
            TestLengths = parsed.GetValue(TestLengths) is { } list ? [.. Lengths(list).Select(range => range.Maximum)]
                : published.TestLengths,
            TestRows = parsed.GetValue(TestRows) ?? published.TestRows,
        };
        Compute.Begin(parsed.GetValue(Threads));
        var device = ComputeOptions.Find(parsed.GetValue(Device)!);
        var folder = Path.GetFullPath(parsed.GetValue(Out)!);
        var steps = experiment.Training.Steps;
        IReadOnlyList<VectorRun> runs = [];
        await terminal.TrackAsync("Training", tracker =>
        {
            runs = experiment.Run(
                folder, seeds, device, new ImmediateProgress<VectorProgress>(p =>
                {
                    tracker.Report((p.SeedIndex + p.Step / (double)steps) / seeds.Length, Invariant(
                        $"seed {p.Seed}, step {p.Step:N0} of {steps:N0}, squared error {p.Loss:F5}"));
                    if (p.Validation is { } validation)
                    {
                        tracker.Line(string.Create(
                            CultureInfo.InvariantCulture,
                            $"seed {p.Seed}  step {p.Step,6:N0}  squared error {p.Loss:F5}, "
                            + $"in validation {validation.MeanSquaredError:F5}"));
                    }
                }),
                cancellationToken);
            return System.Threading.Tasks.Task.CompletedTask;
        });
        WritePlot(folder, "error-by-length", Plots.ErrorByLength(runs, experiment.Task.TrainingLength));
        var errors = runs.SelectMany(r => r.Scores).Select(s => s.MeanSquaredError);
        if (parsed.GetValue(Json))
        {
            terminal.WriteJson(new { Folder = folder, Task = NearestNeighborSearch.Name, Runs = runs });
            return ExitCode.Of(terminal, "squared error", errors);
        }

        terminal.WriteTable(
            [">length", .. runs.Select(r => Invariant($">seed {r.Seed}"))],
            experiment.TestLengths.Select(
                (length, at) => (string[])[Invariant($"{length}"), .. runs.Select(r => Invariant($"{r.Scores[at].MeanSquaredError:F5}"))]));
        terminal.Note(Invariant($"Mean squared errors; guessing has {NearestNeighborSearch.ChanceError:F4}. All of it is in {folder}."));
        return ExitCode.Of(terminal, "squared error", errors);
    }

    private static SyntheticExperiment Experiment(ParseResult parsed, string name)
    {
        var task = Usage(() => SyntheticRecipes.Task(name));
        var recipe = SyntheticRecipes.For(Usage(() => SyntheticRecipes.Task(parsed.GetValue(Recipe) ?? name)));
        var model = Architecture(parsed, task.VocabularySize, recipe.EmbeddingDim, recipe.BlockCount, recipe.HeadCount);
        var train = Range(parsed.GetValue(TrainLengths));
        var validate = Range(parsed.GetValue(ValidationLengths));
        IReadOnlyList<LengthRange> test = parsed.GetValue(TestLengths) is { } list ? Lengths(list)
            : recipe.Task == task && train is null && validate is null ? recipe.TestLengths
            : [.. new[] { train ?? task.TrainingLengths, validate ?? task.TestLengths }.Distinct()];
        return SyntheticExperiment.Of(recipe, model) with
        {
            Task = task,
            Training = Training(parsed, recipe.Training),
            SampleCount = parsed.GetValue(Samples) is { } samples ? (samples == 0 ? null : samples) : recipe.SampleCount,
            TrainingLengths = train,
            ValidationLengths = validate,
            TestLengths = test,
            TestRows = parsed.GetValue(TestRows) ?? recipe.TestRows,
            ValidationRows = parsed.GetValue(ValidationRows) ?? recipe.ValidationRows,
            Until = parsed.GetValue(Until),
        };
    }

    private static LanguageModelConfig Architecture(ParseResult parsed, int vocabulary, int dim, int blocks, int heads)
    {
        var model = Usage(() => SyntheticModels.Parse(
            parsed.GetValue(Model)!, vocabulary, parsed.GetValue(Dim) ?? dim, parsed.GetValue(Blocks) ?? blocks,
            parsed.GetValue(Heads) ?? heads));
        return parsed.GetValue(Dropout) is not { } dropout ? model
            : model is XlstmConfig xlstm ? xlstm with { Dropout = dropout }
            : throw new UsageException("--dropout is for an xLSTM.");
    }

    private static TrainingConfig Training(ParseResult parsed, TrainingConfig recipe)
    {
        var steps = parsed.GetValue(Steps) ?? recipe.Steps;
        var config = recipe with
        {
            Steps = steps,
            BatchSize = parsed.GetValue(BatchSize) ?? recipe.BatchSize,
            MicroBatchSize = parsed.GetValue(MicroBatchSize),
            PeakLearningRate = parsed.GetValue(LearningRate) ?? recipe.PeakLearningRate,
            WeightDecay = parsed.GetValue(WeightDecay) ?? recipe.WeightDecay,
            GradientClip = parsed.GetValue(Clip) is { } clip ? (clip == 0 ? null : clip) : recipe.GradientClip,
            ValidateEvery = parsed.GetValue(ValidateEvery) ?? recipe.ValidateEvery,
            CheckpointEvery = parsed.GetValue(CheckpointEvery) ?? recipe.CheckpointEvery,
            ComputeType = Compute.Type(parsed.GetValue(ComputeType)) ?? recipe.ComputeType,
            Schedule = recipe.Schedule with
            {
                WarmupSteps = parsed.GetValue(Warmup) ?? (int)((long)recipe.Schedule.WarmupSteps * steps / recipe.Steps),
                EndFactor = parsed.GetValue(EndFactor) ?? recipe.Schedule.EndFactor,
            },
        };
        config.Validate();
        return config;
    }

    private static LengthRange? Range(string? text) => text is null ? null : Usage(() => LengthRange.Parse(text));

    private static LengthRange[] Lengths(string list) => Usage(() => list.Split(',').Select(LengthRange.Parse).ToArray());

    /// <summary>What the command line asked for and does not exist is wrong usage.</summary>
    private static T Usage<T>(Func<T> read)
    {
        try
        {
            return read();
        }
        catch (Exception e) when (e is ArgumentException or FormatException)
        {
            throw new UsageException(e.Message);
        }
    }

    private static void Write(
        Terminal terminal, string folder, SyntheticSummary summary, IReadOnlyList<SyntheticAccuracy> accuracies, double? until, bool json)
    {
        if (json)
        {
            terminal.WriteJson(new { Folder = folder, summary.Task, summary.Runs });
            return;
        }

        terminal.WriteTable(
            [">lengths", .. summary.Runs.Select(r => Invariant($">seed {r.Seed}")), ">mean", ">scaled"],
            accuracies.GroupBy(a => new LengthRange(a.MinimumLength, a.MaximumLength)).Select(g => (string[])
            [
                g.Key.ToString(), .. g.Select(a => Invariant($"{a.Accuracy:F4}")), Invariant($"{g.Average(a => a.Accuracy):F4}"), Invariant(
                    $"{g.Average(a => a.ScaledAccuracy):F4}"),
            ]));
        foreach (var run in summary.Runs)
        {
            var solved = run.SolvedAtStep is { } step ? Invariant($", solved at step {step:N0}")
                : until is { } wanted ? Invariant($", NOT solved: it never reached an accuracy of {wanted}")
                : "";
            terminal.Note(Invariant($"seed {run.Seed}: {run.Step:N0} steps in {Readable.Duration(run.Seconds)}{solved}"));
        }

        terminal.Note($"Summary, curve and plots are in {folder}.");
    }

    private static void WritePlot(string folder, string name, GenericChart chart) =>
        AtomicFile.WriteText(Path.Combine(folder, $"{name}.plotly.json"), GenericChart.toFigureJson(chart) + "\n");

    private static string Example(SyntheticTask task)
    {
        var least = Enumerable.Range(5, 60).First(length => Fits(task, length));
        var row = task.Rows(SyntheticSplit.Test, 0, 3, 1, new(least, least + (task is MultiQueryRecall ? 0 : 6)));
        var question = row.Inputs.AsSpan(0, row.Targets.AsSpan().IndexOfAnyExcept(TokenBatch.Ignored) + 1).ToArray();
        var shown = task is MultiQueryRecall ? row.Inputs : question;
        return $"{string.Join(" ", shown.Take(24).Select(task.Text))}{(shown.Length > 24 ? " ..." : "")} -> "
            + $"{string.Join(" ", row.Targets.Where(t => t != TokenBatch.Ignored).Select(task.Text))}";
    }

    private static bool Fits(SyntheticTask task, int length)
    {
        try
        {
            task.Validate(new(length));
            return true;
        }
        catch (ArgumentException)
        {
            return false;
        }
    }

    private static Option<int?> Number(string name, string description) =>
        NumberOption.Whole(new Option<int?>(name) { Description = description, HelpName = "N" }, 1);
}
