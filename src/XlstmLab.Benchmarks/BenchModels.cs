using TorchSharp;
using XlstmLab.Models;
using XlstmLab.Runs;

namespace XlstmLab.Benchmarks;

/// <summary>The models of benchmarks: all presets, one that only others' measurements have, and those that a file describes.</summary>
public static class BenchModels
{
    /// <summary>The published PyTorch code's own model of width 768: four heads and its SwiGLU's width, 162.3 million parameters.</summary>
    public const string Xlstm162M = "xlstm-162m";

    /// <summary>The names of all that have one.</summary>
    public static IEnumerable<string> Names => Presets.All.Keys.Append(Xlstm162M);

    /// <summary>The model of that name, or that a config.json, a run's folder or a Hugging Face folder describes.</summary>
    /// <exception cref="ArgumentException">There is none; the message lists all names.</exception>
    public static LanguageModelConfig ByName(string name) => Find(name) ?? Presets.ByName(name);

    /// <summary>The same; null where there is none.</summary>
    public static LanguageModelConfig? Find(string name) =>
        name == Xlstm162M ? new XlstmConfig { EmbeddingDim = 768, BlockCount = 12, HeadCount = 4 } : NamedModels.Find(name);

    /// <summary>
    /// A model to generate with, whose weights mean nothing: projections and embedding in the type of the activations, norms and gates in
    /// float32.
    /// </summary>
    /// <param name="config">The architecture.</param>
    /// <param name="device">Where the model shall be.</param>
    /// <param name="type">The type of the activations.</param>
    public static LanguageModel Untrained(LanguageModelConfig config, torch.Device device, torch.ScalarType type)
    {
        using var noGradient = torch.no_grad();

        // Drawing some thousand million numbers on the CPU would take longer than all measurements.
        var model = config.CreateUnloaded(device, type);
        foreach (var matrix in model.parameters().Where(p => p.dim() > 1))
        {
            matrix.normal_(0, 0.02);
        }

        model.ComputeType = type == torch.ScalarType.Float32 ? null : type;
        model.eval();
        return model;
    }
}
