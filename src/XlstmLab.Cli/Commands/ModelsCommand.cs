using System.CommandLine;
using System.Globalization;
using XlstmLab.Cli.Terminals;
using XlstmLab.Models;
using XlstmLab.Runs;

namespace XlstmLab.Cli.Commands;

/// <summary><c>xlstm models</c>: the architectures that have a name, with their sizes.</summary>
internal static class ModelsCommand
{
    /// <summary>The command.</summary>
    public static Command Create()
    {
        var pattern = new Argument<string?>("pattern") { Description = "Only names that contain this.", DefaultValueFactory = _ => null };
        var length = NumberOption.Whole(new Option<int>("--length")
        {
            Description = "Tokens of the sequence that operations and state are counted for.",
            DefaultValueFactory = _ => 2048,
        }, 1);
        var config = new Option<bool>("--config")
        {
            Description = "Instead, every setting of one model: its name for --set, its value, the value of a record that says nothing, "
                + "and what it is. NAME may be a run's folder or a config.json too.",
        };
        var json = new Option<bool>("--json") { Description = "Print one JSON document." };
        var command = new ExampleCommand(
            "models",
            "Lists the models that 'train --preset' knows: published architectures and small ones, counted without building them.",
            "xlstm models",
            "xlstm models mamba --length 16384",
            "xlstm models bytes-1m --config")
        {
            pattern, length, config, json,
        };
        command.SetAction((parsed, _) =>
        {
            var terminal = new Terminal(parsed);
            if (parsed.GetValue(config))
            {
                WriteConfig(terminal, parsed.GetValue(pattern), parsed.GetValue(json));
                return Task.FromResult(ExitCode.Success);
            }

            var tokens = parsed.GetValue(length);
            var rows = Presets.All
                .Where(p => p.Key.Contains(parsed.GetValue(pattern) ?? "", StringComparison.OrdinalIgnoreCase))
                .Select(p => new
                {
                    Name = p.Key,
                    Kind = p.Value.ModelType,
                    Parameters = p.Value.CountParameters(),
                    p.Value.EmbeddingDim,
                    p.Value.BlockCount,
                    p.Value.VocabularySize,
                    ForwardFlopsPerToken = p.Value.ForwardFlopsPerToken(tokens),
                    StateBytes = p.Value.StateBytes(tokens),
                })
                .ToArray();
            if (rows.Length == 0)
            {
                throw new UsageException(
                    $"No model's name contains '{parsed.GetValue(pattern)}'."
                    + NearestName.Hint(parsed.GetValue(pattern)!, Presets.All.Keys));
            }

            if (parsed.GetValue(json))
            {
                terminal.WriteJson(rows);
            }
            else
            {
                terminal.WriteTable(
                    ["name", "kind", ">parameters", ">width", ">blocks", ">vocabulary", ">MFLOP/token", ">state"],
                    rows.Select(r => new[]
                    {
                        r.Name,
                        r.Kind,
                        r.Parameters.ToString("N0", CultureInfo.InvariantCulture),
                        r.EmbeddingDim.ToString(CultureInfo.InvariantCulture),
                        r.BlockCount.ToString(CultureInfo.InvariantCulture),
                        r.VocabularySize.ToString(CultureInfo.InvariantCulture),
                        (r.ForwardFlopsPerToken / 1e6).ToString("N1", CultureInfo.InvariantCulture),
                        Readable.Size(r.StateBytes),
                    }));
            }

            return Task.FromResult(ExitCode.Success);
        });
        return command;
    }

    private static void WriteConfig(Terminal terminal, string? name, bool json)
    {
        var config = name is null ? throw new UsageException("--config shows one model: name it.")
            : NamedModels.Find(name)
            ?? throw new UsageException(
                $"There is no model '{name}'.{NearestName.Hint(name, Presets.All.Keys)} 'xlstm models' lists them all.");
        var settings = ConfigSettings.Of(config);
        if (json)
        {
            terminal.WriteJson(new { Kind = config.ModelType, Settings = settings });
            return;
        }

        terminal.WriteTable(
            ["setting", ">value", ">default", "property", "what it is"],
            settings.Select(s => new[] { s.Name, s.Value, s.IsChanged ? s.Default : "", s.Property, s.Meaning }));
        terminal.Note(
            $"Kind {config.ModelType}. A default is shown where the value is another. 'xlstm train --set NAME=VALUE' takes either name.");
    }
}
