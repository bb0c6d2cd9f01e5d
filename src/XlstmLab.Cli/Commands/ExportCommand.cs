using System.CommandLine;
using TorchSharp;
using XlstmLab.Checkpoints;
using XlstmLab.Cli.Terminals;
using XlstmLab.Native;
using XlstmLab.Runs;

namespace XlstmLab.Cli.Commands;

/// <summary><c>xlstm export</c>: a run as a Hugging Face folder.</summary>
internal static class ExportCommand
{
    /// <summary>The command.</summary>
    public static Command Create()
    {
        var folder = ModelOptions.FolderArgument();
        var output = new Option<string>("--out", "-o")
        {
            Description = "The folder to write; one that holds an earlier model is replaced.",
            HelpName = "FOLDER",
            Required = true,
        };
        var type = new Option<string?>("--dtype")
        {
            Description = "What weights are stored in. Default: as they are.",
        }.OneOf("float32", "bfloat16", "float16");
        var shard = NumberOption.Whole(
            new Option<int?>("--max-shard-mib") { Description = "MiB that a file of weights may have. Default: 5 GB.", HelpName = "N" }, 1);
        var tokenizer = TextOptions.TokenizerOption("Default: the model's.");
        var end = TextOptions.EndOfDocumentOption();
        var json = new Option<bool>("--json") { Description = "Print one JSON document." };
        var command = new ExampleCommand(
            "export",
            "Writes a run's model and tokenizer as a Hugging Face folder, with the ids that open and end documents.",
            "xlstm export runs/first --out hf/first --dtype bfloat16")
        {
            folder, output, type, shard, tokenizer, end, json,
        };
        command.SetAction(async (parsed, cancellationToken) =>
        {
            var terminal = new Terminal(parsed);
            Compute.Begin(null);
            torch.ScalarType? dtype = parsed.GetValue(type) switch
            {
                "float32" => torch.ScalarType.Float32,
                "bfloat16" => torch.ScalarType.BFloat16,
                "float16" => torch.ScalarType.Float16,
                _ => null,
            };
            using var run = await OpenedRun.OpenAsync(
                parsed.GetValue(folder)!, parsed.GetValue(tokenizer), parsed.GetValue(end), torch.CPU, null, terminal, cancellationToken);
            var target = Path.GetFullPath(parsed.GetValue(output)!);
            await terminal.TrackAsync("Writing", tracker =>
            {
                run.Export(
                    target, dtype, parsed.GetValue(shard) is { } mib ? (long)mib << 20 : Safetensors.DefaultShardBytes,
                    new ImmediateProgress<ByteProgress>(p => tracker.Report(p.Done / (double)p.Total, Readable.Size(p.Total))),
                    cancellationToken);
                return Task.CompletedTask;
            });
            var files = Directory.EnumerateFiles(target).Order(StringComparer.Ordinal)
                .Select(f => new { Name = Path.GetFileName(f), Bytes = new FileInfo(f).Length }).ToArray();
            if (parsed.GetValue(json))
            {
                terminal.WriteJson(new { run.Checkpoint, Folder = target, Files = files });
            }
            else
            {
                terminal.WritePairs(
                    [("model", run.Checkpoint), ("folder", target), .. files.Select(f => (f.Name, Readable.Size(f.Bytes)))]);
            }

            return ExitCode.Success;
        });
        return command;
    }
}
