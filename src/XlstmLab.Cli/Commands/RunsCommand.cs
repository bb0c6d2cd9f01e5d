using System.CommandLine;
using System.Globalization;
using XlstmLab.Cli.Terminals;
using XlstmLab.Exports;
using XlstmLab.Runs;

namespace XlstmLab.Cli.Commands;

/// <summary><c>xlstm runs</c>: what was trained, and in what it differs.</summary>
internal static class RunsCommand
{
    private const int LongestShown = 40;

    /// <summary>The command.</summary>
    public static Command Create()
    {
        var folder = new Argument<string>("FOLDER")
        {
            Description = "The folder of runs, at any depth.",
            DefaultValueFactory = _ => "runs",
        };
        var diff = new Option<bool>("--diff") { Description = "Instead, the settings in which the runs differ, a column a run." };
        var csv = new Option<bool>("--csv")
        {
            Description = "Print CSV: a row a run, with all figures and the settings in which they differ.",
        };
        var json = new Option<bool>("--json") { Description = "Print one JSON document, with all settings." };
        var command = new ExampleCommand(
            "runs",
            "Lists runs with their state, losses and speed, and the settings in which they differ. A run is running, finished, stopped, "
            + "killed, diverged or failed.",
            "xlstm runs",
            "xlstm runs runs/ablations --diff",
            "xlstm runs runs/ablations --csv")
        {
            folder, diff, csv, json,
        };
        command.Validators.Add(result =>
        {
            var given =
                new Option[] { diff, csv, json }.Where(o => result.GetResult(o) is { Implicit: false }).Select(o => o.Name).ToArray();
            if (given.Length > 1)
            {
                result.AddError($"{given[0]} and {given[1]} do not go together.");
            }
        });
        command.SetAction((parsed, _) =>
        {
            var terminal = new Terminal(parsed);
            var damaged = new List<string>();
            var runs = RunInfo.Find(parsed.GetValue(folder)!, damaged);
            foreach (var what in damaged)
            {
                terminal.Note($"warning: {what}");
            }

            if (runs.Count == 0)
            {
                terminal.Note($"There are no runs in {parsed.GetValue(folder)}.");
            }

            if (parsed.GetValue(json))
            {
                terminal.WriteJson(new { Runs = runs, Differences = RunInfo.Differences(runs).Select(d => d.Name) });
            }
            else if (parsed.GetValue(csv))
            {
                terminal.Out.Write(TableFiles.Csv(RunInfo.Table(runs)));
            }
            else if (runs.Count > 0 && parsed.GetValue(diff))
            {
                terminal.WriteTable(["setting", .. runs.Select(r => r.Name)], RunInfo.Differences(runs).Select(
                    d => (string[])[d.Name, .. d.Values.Select(v => Short(v ?? "-"))]));
            }
            else if (runs.Count > 0)
            {
                Write(terminal, runs);
            }

            return Task.FromResult(damaged.Count > 0 && runs.Count == 0 ? ExitCode.Failure : ExitCode.Success);
        });
        return command;
    }

    private static void Write(Terminal terminal, IReadOnlyList<RunInfo> runs)
    {
        terminal.WriteTable(
            ["run", "state", ">step", ">parameters", ">tokens", ">loss", ">validation", ">best", ">at step",
                ">bits/byte", ">tokens/s", "differs in"],
            runs.Select((r, at) => new[]
            {
                r.Name,
                r.State.ToString().ToLowerInvariant(),
                string.Create(CultureInfo.InvariantCulture, $"{r.Step} of {r.Steps}"),
                r.Parameters.ToString("N0", CultureInfo.InvariantCulture),
                r.Tokens.ToString("N0", CultureInfo.InvariantCulture),
                Number(r.Loss, "F4"),
                Number(r.ValidationLoss, "F4"),
                Number(r.BestValidationLoss, "F4"),
                r.BestStep?.ToString(CultureInfo.InvariantCulture) ?? "-",
                Number(r.BestBitsPerByte, "F4"),
                Number(r.TokensPerSecond, "N0"),
                Differs(runs, at),
            }));
    }

    /// <summary>The settings of a run that are not those of most runs.</summary>
    private static string Differs(IReadOnlyList<RunInfo> runs, int run) => string.Join(
        " ",
        RunInfo.Differences(runs)
            .Where(d => d.Values[run] is { } own && own != d.Values.GroupBy(v => v).MaxBy(g => g.Count())!.Key)
            .Select(d => $"{d.Name}={Short(d.Values[run]!)}"));

    private static string Short(string value) => value.Length <= LongestShown ? value : "..." + value[^(LongestShown - 3)..];

    private static string Number(double? value, string format) => value?.ToString(format, CultureInfo.InvariantCulture) ?? "-";
}
