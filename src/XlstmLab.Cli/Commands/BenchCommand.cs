using System.CommandLine;
using System.CommandLine.Parsing;
using System.Globalization;
using System.Text.Json;
using XlstmLab.Cli.Benchmarks;
using XlstmLab.Cli.Machine;
using XlstmLab.Cli.Terminals;

namespace XlstmLab.Cli.Commands;

/// <summary><c>xlstm bench</c>: time and memory against length, size and threads.</summary>
internal static class BenchCommand
{
    /// <summary>The command and those below it.</summary>
    public static Command Create() => new ExampleCommand(
        "bench",
        "Measures time and memory of cells and training on this machine.",
        "xlstm bench cells",
        "xlstm bench train --preset bytes-1m,bytes-3m --threads 1,2 --markdown results/training.md",
        "xlstm bench memory")
    {
        Cells(),
        Train(),
        Memory(),
        Worker(),
    };

    private static ExampleCommand Cells()
    {
        var lengths = List("--lengths", "256,512,1024,2048,4096,8192", "Lengths S in tokens.");
        var chunks = List("--chunks", "64", "Chunk sizes of the chunkwise form.");
        var forms = new Option<string>("--forms") { Description = "Forms of the mLSTM, and slstm.", HelpName = "LIST", DefaultValueFactory = _ => "chunkwise,parallel,recurrent,slstm" };
        forms.Validators.Add(result =>
        {
            foreach (var form in result.GetValueOrDefault<string>().Split(',').Except(["chunkwise", "parallel", "recurrent", "slstm"]))
            {
                result.AddError($"--forms does not know '{form}'; expected some of chunkwise,parallel,recurrent,slstm.");
            }
        });
        var batch = Size("--batch", 1, "Sequences, B.");
        var heads = Size("--heads", 4, "Heads, NH.");
        var qk = Size("--qk", 64, "Width of a head's queries and keys, DK.");
        var v = Size("--v", 128, "Width of a head's values, DV.");
        var limit = new Option<double>("--pass-limit")
        {
            Description = "Leave out what would take longer than this many seconds for one forward and backward pass.",
            HelpName = "SECONDS",
            DefaultValueFactory = _ => 5,
        };
        var common = new CommonOptions(1, 5);
        var command = new ExampleCommand(
            "cells",
            "Measures each form of the mLSTM against the length, and the sLSTM's fused operation against eager ones at B=8 S=512 NH=4 D=64.",
            "xlstm bench cells",
            "xlstm bench cells --lengths 256,1024 --chunks 64 --forms chunkwise,parallel --threads 1,2",
            "xlstm bench cells --markdown results/cells.md --csv results/cells.csv")
        {
            lengths, chunks, forms, batch, heads, qk, v, limit,
        };
        common.AddTo(command);
        command.SetAction(async (parsed, cancellationToken) =>
        {
            var terminal = new Terminal(parsed);
            var plan = new CellBench
            {
                Lengths = Numbers(parsed.GetValue(lengths)!),
                ChunkSizes = Numbers(parsed.GetValue(chunks)!),
                Forms = parsed.GetValue(forms)!.Split(','),
                Batch = parsed.GetValue(batch),
                Heads = parsed.GetValue(heads),
                QkHeadDim = parsed.GetValue(qk),
                VHeadDim = parsed.GetValue(v),
                Threads = common.ThreadCounts(parsed),
                MinSeconds = parsed.GetValue(common.MinSeconds),
                Repetitions = parsed.GetValue(common.Repetitions),
                PassLimit = parsed.GetValue(limit),
            };
            BenchReport<CellRow>? report = null;
            await terminal.TrackAsync("Cells", async tracker => report = await plan.RunAsync(CommandLine(parsed), tracker, cancellationToken));
            common.Write(report!, terminal, parsed);
            return ExitCode.Success;
        });
        return command;
    }

    private static ExampleCommand Train()
    {
        var presets = new Option<string>("--preset") { Description = "Presets, separated by commas.", HelpName = "LIST", DefaultValueFactory = _ => "bytes-1m,bytes-3m" };
        var contexts = List("--context", "256,1024", "Tokens a sequence.");
        var tokens = Size("--tokens", 2048, "Tokens an update: the batch is as many sequences as they make.");
        var compute = new Option<string>("--compute") { Description = "What matrix products are computed in.", DefaultValueFactory = _ => "float32" }.AcceptOnlyFromAmong("bf16", "float32");
        var common = new CommonOptions(3, 5);
        var command = new ExampleCommand(
            "train",
            "Measures tokens a second and memory of whole training steps against preset, context length and threads.",
            "xlstm bench train",
            "xlstm bench train --preset bytes-10m --context 256,2048 --threads 1,2 --csv results/training.csv")
        {
            presets, contexts, tokens, compute,
        };
        common.AddTo(command);
        command.SetAction(async (parsed, cancellationToken) =>
        {
            var terminal = new Terminal(parsed);
            var plan = new TrainingBench
            {
                Presets = parsed.GetValue(presets)!.Split(','),
                Contexts = Numbers(parsed.GetValue(contexts)!),
                TokensPerStep = parsed.GetValue(tokens),
                ComputeType = parsed.GetValue(compute)!,
                Threads = common.ThreadCounts(parsed),
                MinSeconds = parsed.GetValue(common.MinSeconds),
                Repetitions = parsed.GetValue(common.Repetitions),
            };
            BenchReport<TrainingRow>? report = null;
            await terminal.TrackAsync("Training", async tracker => report = await plan.RunAsync(CommandLine(parsed), tracker, cancellationToken));
            common.Write(report!, terminal, parsed);
            return ExitCode.Success;
        });
        return command;
    }

    private static ExampleCommand Memory()
    {
        var steps = Size("--steps", 1000, "Training steps.");
        var tokens = Size("--tokens", 10_000, "Tokens to generate.");
        var common = new CommonOptions(null, null);
        var command = new ExampleCommand(
            "memory",
            "Trains and generates, and fails if live tensors grow, or resident memory by more than 5 % after the warm-up.",
            "xlstm bench memory",
            "xlstm bench memory --steps 200 --tokens 1000 --json")
        {
            steps, tokens,
        };
        common.AddTo(command);
        command.SetAction(async (parsed, cancellationToken) =>
        {
            var terminal = new Terminal(parsed);
            Compute.Begin(common.ThreadCounts(parsed)[0]);
            var plan = new MemoryBench { Steps = parsed.GetValue(steps), Tokens = parsed.GetValue(tokens) };
            BenchReport<MemoryRow>? report = null;
            await terminal.TrackAsync("Memory", tracker =>
            {
                report = plan.Run(CommandLine(parsed), tracker, cancellationToken);
                return Task.CompletedTask;
            });
            common.Write(report!, terminal, parsed);
            return MemoryBench.IsConstant(report!.Rows) ? ExitCode.Success : ExitCode.Failure;
        });
        return command;
    }

    private static Command Worker()
    {
        var task = new Argument<string>("TASK") { Description = "The measurement as JSON." };
        var command = new Command(BenchProcess.WorkerName, "Makes one measurement; the other commands call it.") { task };
        command.Hidden = true;
        command.SetAction((parsed, cancellationToken) =>
        {
            var wanted = JsonSerializer.Deserialize<BenchTask>(parsed.GetValue(task)!, Terminal.Json)!;
            new Terminal(parsed).WriteJson(BenchWorker.Run(wanted, cancellationToken));
            return Task.FromResult(ExitCode.Success);
        });
        return command;
    }

    private static string CommandLine(ParseResult parsed) => "xlstm " + string.Join(' ', parsed.Tokens.Select(t => t.Value));

    private static Option<int> Size(string name, int usual, string description) =>
        Compute.Positive(new Option<int>(name) { Description = description, HelpName = "N", DefaultValueFactory = _ => usual });

    private static Option<string> List(string name, string usual, string description)
    {
        var option = new Option<string>(name) { Description = description, HelpName = "LIST", DefaultValueFactory = _ => usual };
        option.Validators.Add(result => CheckNumbers(result, name, result.GetValueOrDefault<string>()));
        return option;
    }

    private static void CheckNumbers(OptionResult result, string name, string? list)
    {
        if (list is not null && !list.Split(',').All(n => int.TryParse(n, NumberStyles.None, CultureInfo.InvariantCulture, out var number) && number >= 1))
        {
            result.AddError($"{name} is '{list}'; expected numbers of at least 1, separated by commas.");
        }
    }

    private static int[] Numbers(string list) => [.. list.Split(',').Select(n => int.Parse(n, CultureInfo.InvariantCulture))];

    /// <summary>The options that all benchmarks have.</summary>
    private sealed class CommonOptions
    {
        private readonly Option<string?> _threads = new("--threads") { Description = "Thread counts, separated by commas. Default: the physical cores.", HelpName = "LIST" };
        private readonly Option<bool> _json = new("--json") { Description = "Print one JSON document." };
        private readonly Option<string?> _csv = new("--csv") { Description = "Also write a CSV file.", HelpName = "FILE" };
        private readonly Option<string?> _markdown = new("--markdown") { Description = "Also write a Markdown file.", HelpName = "FILE" };
        private readonly bool _timed;

        public CommonOptions(double? minSeconds, int? repetitions)
        {
            _timed = minSeconds is not null;
            MinSeconds = new("--min-time") { Description = "Seconds to measure each row for, at least.", HelpName = "SECONDS", DefaultValueFactory = _ => minSeconds ?? 0 };
            Repetitions = Size("--repetitions", repetitions ?? 1, "Repetitions of each row, at least; the median counts.");
            _threads.Validators.Add(result => CheckNumbers(result, "--threads", result.GetValueOrDefault<string?>()));
        }

        public Option<double> MinSeconds { get; }

        public Option<int> Repetitions { get; }

        public void AddTo(Command command)
        {
            foreach (var option in _timed ? new Option[] { _threads, MinSeconds, Repetitions, _json, _csv, _markdown } : [_threads, _json, _csv, _markdown])
            {
                command.Options.Add(option);
            }
        }

        public int[] ThreadCounts(ParseResult parsed) =>
            parsed.GetValue(_threads) is { } list ? Numbers(list) : [Processor.Current.PhysicalCores];

        public void Write<T>(BenchReport<T> report, Terminal terminal, ParseResult parsed) =>
            report.Write(terminal, parsed.GetValue(_json), parsed.GetValue(_csv), parsed.GetValue(_markdown));
    }
}
