using System.CommandLine;
using System.Globalization;
using System.Text.Json;
using System.Text.Json.Serialization;
using Spectre.Console;
using XlstmLab.Cli.Verification;

namespace XlstmLab.Cli.Commands;

/// <summary><c>xlstm verify FOLDER</c>: the numbers of the published implementations, compared one by one.</summary>
internal static class VerifyCommand
{
    private static readonly JsonSerializerOptions Json = new()
    {
        WriteIndented = true,
        PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower,
        NumberHandling = JsonNumberHandling.AllowNamedFloatingPointLiterals,
        Converters = { new JsonStringEnumConverter(JsonNamingPolicy.SnakeCaseLower) },
    };

    public static Command Create()
    {
        var folder = new Argument<string>("folder") { Description = "A folder of golden cases, such as tests/golden." };
        var failuresOnly = new Option<bool>("--failures") { Description = "Show only what failed." };
        var json = new Option<bool>("--json") { Description = "Print one JSON document instead of a table." };
        var command = new Command(
            "verify",
            "Run every golden case of a folder against the library and compare with the published implementations' numbers. "
            + "Exits with 1 if a comparison fails or a case cannot be run.")
        {
            folder, failuresOnly, json,
        };
        command.SetAction((parse, cancellationToken) =>
        {
            var output = parse.InvocationConfiguration.Output;
            var rows = GoldenVerifier.Verify(parse.GetRequiredValue(folder), cancellationToken).ToList();
            if (parse.GetValue(json))
            {
                output.WriteLine(JsonSerializer.Serialize(rows, Json));
            }
            else
            {
                WriteTable(output, rows.Where(r => !parse.GetValue(failuresOnly) || r.Outcome == GoldenOutcome.Fail));
                output.WriteLine(
                    $"{Count(GoldenOutcome.Pass)} comparisons passed, {Count(GoldenOutcome.Fail)} failed; "
                    + $"{Count(GoldenOutcome.Unknown)} cases are of kinds this version does not know.");
            }

            return Task.FromResult(rows.Any(r => r.Outcome == GoldenOutcome.Fail) || Count(GoldenOutcome.Pass) == 0 ? 1 : 0);

            int Count(GoldenOutcome outcome) => rows.Count(r => r.Outcome == outcome);
        });
        return command;
    }

    private static void WriteTable(TextWriter output, IEnumerable<GoldenRow> rows)
    {
        var console = AnsiConsole.Create(new() { Out = new AnsiConsoleOutput(output), Interactive = InteractionSupport.No });
        if (console.Profile.Width < 110)
        {
            console.Profile.Width = 110;
        }

        var table = new Table().Border(TableBorder.Simple).AddColumns("case", "quantity", "error", "bound", "result");
        foreach (var row in rows)
        {
            var color = row.Outcome switch { GoldenOutcome.Pass => "green", GoldenOutcome.Fail => "red", _ => "grey" };
            var result = row.Outcome.ToString().ToLowerInvariant() + (row.Note is null ? "" : $": {row.Note}");
            table.AddRow(
                Markup.Escape(row.Case), Markup.Escape(row.Quantity), Number(row.Error), Number(row.Bound), $"[{color}]{Markup.Escape(result)}[/]");
        }

        console.Write(table);
    }

    private static string Number(double value) =>
        double.IsNaN(value) ? "-" : value == 0 ? "0" : value.ToString("0.0e+0", CultureInfo.InvariantCulture);
}
