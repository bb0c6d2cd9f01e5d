using System.CommandLine;
using System.Globalization;
using TorchSharp;
using XlstmLab.Cli.Terminals;
using XlstmLab.Cli.Verification;
using XlstmLab.Operations;

namespace XlstmLab.Cli.Commands;

/// <summary><c>xlstm verify FOLDER</c>: the numbers of the published implementations, compared one by one.</summary>
internal static class VerifyCommand
{
    public static Command Create()
    {
        var folder = new Argument<string>("folder") { Description = "A folder of golden cases, such as tests/golden." };
        var failuresOnly = new Option<bool>("--failures") { Description = "Show only what failed." };
        var device = ComputeOptions.Device();
        var json = new Option<bool>("--json") { Description = "Print one JSON document instead of a table." };
        var command = new Command(
            "verify",
            "Run every golden case of a folder against the library and compare with the published implementations' numbers; on a GPU, "
            + "also the library's own kernels with the same computation in float64. "
            + "Exits with 1 if a comparison fails or a case cannot be run, as one of an unknown kind.")
        {
            folder, failuresOnly, device, json,
        };
        command.SetAction((parse, cancellationToken) =>
        {
            var terminal = new Terminal(parse);
            var where = ComputeOptions.Find(parse.GetValue(device)!);
            var rows = GoldenVerifier.Verify(parse.GetRequiredValue(folder), where, cancellationToken).ToList();
            if (where.type == DeviceType.CUDA)
            {
                if (Kernel.Absence is { } absence)
                {
                    terminal.Note($"The library's CUDA kernels were not compared: {absence}.");
                }

                rows.AddRange(KernelVerifier.Verify(where, cancellationToken));
            }

            if (parse.GetValue(json))
            {
                terminal.WriteJson(rows);
            }
            else
            {
                WriteTable(terminal, rows.Where(r => !parse.GetValue(failuresOnly) || r.Outcome == GoldenOutcome.Fail));
                terminal.Line(
                    $"{Count(GoldenOutcome.Pass)} comparisons passed, {Count(GoldenOutcome.Fail)} failed; "
                    + $"{Count(GoldenOutcome.Unknown)} cases are of kinds this version does not know.");
            }

            return Task.FromResult(rows.Count > 0 && rows.All(r => r.Outcome == GoldenOutcome.Pass) ? ExitCode.Success : ExitCode.Failure);

            int Count(GoldenOutcome outcome) => rows.Count(r => r.Outcome == outcome);
        });
        return command;
    }

    private static void WriteTable(Terminal terminal, IEnumerable<GoldenRow> rows) => terminal.WriteTable(
        ["case", "quantity", ">error", ">bound", "result"],
        rows.Select(row => new[]
        {
            row.Case, row.Quantity, Number(row.Error), Number(row.Bound),
            row.Outcome.ToString().ToLowerInvariant() + (row.Note is null ? "" : $": {row.Note}"),
        }));

    private static string Number(double value) =>
        double.IsNaN(value) ? "-" : value == 0 ? "0" : value.ToString("0.0e+0", CultureInfo.InvariantCulture);
}
