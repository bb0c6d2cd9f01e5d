using System.CommandLine;
using TorchSharp;
using XlstmLab.Cli.Terminals;
using XlstmLab.Native;
using XlstmLab.Runs;

namespace XlstmLab.Cli;

/// <summary>What commands have in common that read a model: its folder, tokenizer, type, threads and device.</summary>
internal sealed class ModelOptions
{
    private readonly Option<string?> _tokenizer = TextOptions.TokenizerOption("Default: the model's.");
    private readonly Option<string?> _end = TextOptions.EndOfDocumentOption();
    private readonly Option<string?> _compute =
        new Option<string?>("--compute")
        {
            Description = "What matrix products are computed in. Default: the weights' type.",
        }.OneOf("bf16", "float32");

    private readonly Option<int?> _threads = ComputeOptions.Threads();
    private readonly Option<string> _device = ComputeOptions.Device();

    /// <summary>The model.</summary>
    public Argument<string> Folder { get; } = FolderArgument();

    /// <summary>The options, in the order of the help.</summary>
    public IEnumerable<Option> All => [_tokenizer, _end, _compute, _threads, _device];

    /// <summary>The argument that names a model.</summary>
    public static Argument<string> FolderArgument() =>
        new("MODEL") { Description = "A run's folder, one of its checkpoints, or a Hugging Face folder." };

    /// <summary>Where to compute.</summary>
    public torch.Device Device(ParseResult parsed) => ComputeOptions.Find(parsed.GetValue(_device)!);

    /// <summary>Refuses, before a model is read for minutes, what its device cannot generate with.</summary>
    /// <exception cref="UsageException">Weights or states of such a format serve on another device.</exception>
    public void RequireReadable(ParseResult parsed, Option<string?> weights, Option<string?> states)
    {
        var device = Device(parsed);
        WeightOptions.RequireReadable(
            WeightOptions.Format(parsed.GetValue(weights) ?? WeightOptions.Names[0]), device.type == DeviceType.CUDA);
        StateOptions.RequireReadable(parsed.GetValue(states), device);
    }

    /// <summary>Sets the threads, and opens the model with its tokenizer.</summary>
    /// <inheritdoc cref="OpenedRun.OpenAsync"/>
    public Task<TrainedRun> OpenAsync(ParseResult parsed, Terminal terminal, CancellationToken cancellationToken)
    {
        Compute.Begin(parsed.GetValue(_threads));
        return OpenedRun.OpenAsync(
            parsed.GetValue(Folder)!, parsed.GetValue(_tokenizer), parsed.GetValue(_end), Device(parsed),
            Compute.Type(parsed.GetValue(_compute)), terminal,
            cancellationToken);
    }
}

/// <summary>What commands are put together from.</summary>
internal static class CommandParts
{
    /// <summary>Adds options where a command lists its own.</summary>
    public static void Add(this Command command, ModelOptions options)
    {
        foreach (var option in options.All)
        {
            command.Options.Add(option);
        }
    }

    /// <summary>Refuses both of two options.</summary>
    public static void RefuseTogether(this Command command, params IReadOnlyList<(Option One, Option Other)> pairs) =>
        command.Validators.Add(result =>
    {
        foreach (var (one, other) in pairs)
        {
            if (result.GetResult(one) is { Implicit: false } && result.GetResult(other) is { Implicit: false })
            {
                result.AddError($"{one.Name} and {other.Name} do not go together.");
            }
        }
    });
}
