using System.CommandLine;
using TorchSharp;
using XlstmLab.Inference;
using XlstmLab.Models;

namespace XlstmLab.Cli;

/// <summary>The option for what memories of mLSTMs are kept as while tokens are generated.</summary>
internal static class StateOptions
{
    /// <summary>The option.</summary>
    public static Option<string?> Create() => new Option<string?>("--states")
    {
        Description = "What memories of mLSTMs are kept as while tokens are generated: float32, or bf16 on a GPU. Default: float32.",
    }.OneOf("float32", "bf16");

    /// <summary>The format of that name; float32 where there is none.</summary>
    public static StateFormat Format(string? name) => name switch
    {
        null or "float32" => StateFormat.Float32,
        "bf16" => StateFormat.BFloat16,
        _ => throw new UsageException($"There are no states '{name}'; expected float32 or bf16."),
    };

    /// <summary>Refuses what no model can be read with on a device.</summary>
    /// <exception cref="UsageException">It is bf16, and the device has no kernels that read it.</exception>
    public static void RequireReadable(string? name, torch.Device device)
    {
        if (device.type == DeviceType.CPU)
        {
            using var weight = torch.zeros(1);
            Refuse(Format(name).Fault(weight));
        }
    }

    /// <summary>The format that texts are to be generated with.</summary>
    /// <param name="model">What generates them.</param>
    /// <param name="name">What was asked for.</param>
    /// <param name="texts">How many are generated side by side.</param>
    /// <exception cref="UsageException">The model cannot be read so here; the message says what can.</exception>
    public static StateFormat ForGeneration(LanguageModel model, string? name, int texts)
    {
        var format = Format(name);
        Refuse(format.Fault(model, texts));
        return format;
    }

    private static void Refuse(string? fault)
    {
        if (fault is not null)
        {
            throw new UsageException(
                $"--states: {fault}. bf16 is for an xLSTM in the 7B's shape with --device cuda and --compute bf16; without the option "
                + "states are float32.");
        }
    }
}
