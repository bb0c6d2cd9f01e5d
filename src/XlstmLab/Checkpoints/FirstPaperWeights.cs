using XlstmLab.Models;
using static TorchSharp.torch;

namespace XlstmLab.Checkpoints;

/// <summary>Weights in the layout of the first paper's published package, NX-AI's <c>xlstm</c> (its <c>xLSTMLMModel</c>).</summary>
/// <remarks>
/// Its names differ by their prefixes; its norms store their scale less 1; and its sLSTM layers feed what is called <c>fgate</c> to the
/// input gate and what is called <c>igate</c> to the forget gate (NX-AI/xlstm, issue 98). In this library each gate has its own name.
/// </remarks>
public static class FirstPaperWeights
{
    /// <summary>What the package calls a parameter of an <see cref="XlstmLanguageModel"/> with <see cref="BlockStyle.PreUp"/>.</summary>
    /// <param name="name">The name in the state dict, such as <c>backbone.blocks.0.xlstm.igate.weight</c>.</param>
    public static string PublishedName(string name)
    {
        name = name
            .Replace("backbone.embeddings.", "token_embedding.", StringComparison.Ordinal)
            .Replace("backbone.out_norm.", "xlstm_block_stack.post_blocks_norm.", StringComparison.Ordinal)
            .Replace("backbone.blocks.", "xlstm_block_stack.blocks.", StringComparison.Ordinal);
        return name.Contains(".xlstm.igate.", StringComparison.Ordinal) ? name.Replace(".igate.", ".fgate.", StringComparison.Ordinal)
            : name.Contains(".xlstm.fgate.", StringComparison.Ordinal) ? name.Replace(".fgate.", ".igate.", StringComparison.Ordinal)
            : name;
    }

    /// <summary>Copies weights into a model's parameters, cast to their types and devices.</summary>
    /// <param name="model">A model of the weights' architecture.</param>
    /// <param name="weights">The package's state dict; the model's head may be absent where it is tied to the embedding.</param>
    /// <exception cref="CheckpointException">Names or shapes differ; the message lists all, and nothing has been copied.</exception>
    public static void Load(XlstmLanguageModel model, IReadOnlyDictionary<string, Tensor> weights)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(weights);
        var pairs = model.named_parameters().ToDictionary(p => PublishedName(p.name), p => p.parameter, StringComparer.Ordinal);
        List<string> faults =
        [
            .. pairs.Keys.Where(name => !weights.ContainsKey(name)).Order(StringComparer.Ordinal).Select(name => $"{name} is missing"),
            .. weights.Keys.Where(name => !pairs.ContainsKey(name) && !(model.Config.TieWordEmbeddings && name == "lm_head.weight"))
                .Order(StringComparer.Ordinal).Select(name => $"{name} is none of the model's"),
            .. pairs.Where(p => weights.TryGetValue(p.Key, out var given) && !given.shape.AsSpan().SequenceEqual(p.Value.shape))
                .Select(
                    p => $"{p.Key} is [{string.Join(", ", weights[p.Key].shape)}] and the model's [{string.Join(", ", p.Value.shape)}]"),
        ];
        if (faults.Count > 0)
        {
            throw new CheckpointException(
                $"The weights do not fit the model; nothing was loaded: {CheckpointException.List(faults)}. "
                + "Build the model with the weights' own sizes and slstm_at.");
        }

        using var scope = NewDisposeScope();
        using var grad = no_grad();
        foreach (var (name, parameter) in pairs)
        {
            parameter.copy_(IsScaleOfNorm(name) ? weights[name] + 1 : weights[name]);
        }
    }

    private static bool IsScaleOfNorm(string name) => name.EndsWith("norm.weight", StringComparison.Ordinal);
}
