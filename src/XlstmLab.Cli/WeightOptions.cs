using System.CommandLine;
using TorchSharp;
using XlstmLab.Inference;
using XlstmLab.Operations;
using XlstmLab.Runs;

namespace XlstmLab.Cli;

/// <summary>The option for what projections are kept as.</summary>
internal static class WeightOptions
{
    /// <summary>The formats' names.</summary>
    public static readonly string[] Names = ["float32", "bf16", "int8", "fp8"];

    /// <summary>The option.</summary>
    public static Option<string?> Create() => new Option<string?>("--weights")
    {
        Description = "What projections are rounded to: bf16, or int8 or fp8 (e4m3) with a unit a row. Default: as they are.",
    }.OneOf(Names);

    /// <summary>The format of that name.</summary>
    public static WeightFormat Format(string name) => name switch
    {
        "float32" => WeightFormat.Float32,
        "bf16" => WeightFormat.BFloat16,
        "int8" => WeightFormat.Int8,
        "fp8" => WeightFormat.Float8,
        _ => throw new UsageException($"There are no weights '{name}'; expected {string.Join(", ", Names)}."),
    };

    /// <summary>
    /// The format that texts are to be generated with, to which the projections are rounded for prompts, too: but not bfloat16, which would
    /// be rounded a second time.
    /// </summary>
    public static WeightFormat ForGeneration(TrainedRun run, string? name)
    {
        var weights = run.Model.parameters().ToArray();
        var format = name is null ? WeightFormat.Float32 : Format(name);
        RequireReadable(format, weights.Any(weight => weight.device_type == DeviceType.CUDA));
        if (format != WeightFormat.Float32 && !XlstmTokenStep.Reads(run.Model) && !XlstmGpuStep.MayRead(run.Model, 1))
        {
            throw new UsageException(
                "--weights: tokens are read from narrower weights of an xLSTM of mLSTM and sLSTM blocks in float32 on the CPU, or of one "
                + $"in the 7B's shape with --device cuda and --compute bf16; this is {run.Model.GetName()} "
                + $"in {run.Model.ComputeType ?? weights[0].dtype}. 'xlstm eval --weights' shows what rounding costs.");
        }

        return name is not null && weights.Any(weight => weight.dtype == torch.ScalarType.BFloat16) ? Format(name) : Round(run, name);
    }

    /// <summary>Refuses to generate from fp8 on the CPU.</summary>
    public static void RequireReadable(WeightFormat format, bool onGpu)
    {
        if (!onGpu && format == WeightFormat.Float8)
        {
            throw new UsageException(
                "--weights: tokens are read from fp8 on a GPU only; on the CPU int8 has as many bits, and 'xlstm eval --weights fp8' "
                + "shows what it costs.");
        }
    }

    /// <summary>Rounds a model's projections to the format that was asked for, and returns it.</summary>
    public static WeightFormat Round(TrainedRun run, string? name)
    {
        var format = name is null ? WeightFormat.Float32 : Format(name);
        try
        {
            RoundedWeights.Round(run.Model, format);
        }
        catch (ArgumentException e)
        {
            throw new UsageException($"--weights: {e.Message}");
        }

        return format;
    }
}
