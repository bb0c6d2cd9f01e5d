using TorchSharp;
using XlstmLab.Evaluation.LogLikelihood;
using XlstmLab.Models;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Evaluation.LogLikelihood;

/// <summary>Log-likelihoods as their definition has them: one row, one token at a time, in the recurrent form.</summary>
internal static class BruteForce
{
    /// <summary>A tiny xLSTM in float64 whose predictions depend on all of the context.</summary>
    public static XlstmLanguageModel Model(int vocabulary, int seed = 9)
    {
        var model = new XlstmLanguageModel(
            new() { VocabularySize = vocabulary, EmbeddingDim = 16, HeadCount = 2, BlockCount = 2, ChunkSize = 4 }, seed);
        using (no_grad())
        {
            foreach (var (_, bias) in model.named_parameters().Where(p => p.name.EndsWith("igate_preact.bias", StringComparison.Ordinal)))
            {
                bias.fill_(0);
            }

            // Far from uniform predictions.
            model.named_parameters().First(p => p.name == "lm_head.weight").parameter.mul_(8);
        }

        model.to(ScalarType.Float64);
        return model;
    }

    /// <summary>Scores tokens after a context.</summary>
    public static ContinuationScore Score(LanguageModel model, int[] context, int[] continuation)
    {
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        ModelState? state = null;
        var (sum, greedy) = (0.0, true);
        int[] tokens = [.. context, .. continuation];
        for (var t = 0; t + 1 < tokens.Length; t++)
        {
            var before = state;
            (var logits, state) = model.Forward(full([1, 1], tokens[t], dtype: ScalarType.Int64), before, returnState: true);
            before?.Dispose();
            if (t + 1 >= context.Length)
            {
                sum += nn.functional.log_softmax(logits[0, 0], 0)[tokens[t + 1]].item<double>();
                greedy &= logits[0, 0].argmax().item<long>() == tokens[t + 1];
            }
        }

        state?.Dispose();
        return new(sum, continuation.Length, greedy, 0);
    }

    /// <summary>The tokens that greedy decoding gives after a context.</summary>
    public static int[] Greedy(LanguageModel model, int[] context, int count)
    {
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        List<long> tokens = [.. context.Select(t => (long)t)];
        for (var k = 0; k < count; k++)
        {
            tokens.Add(model.Forward(tensor(tokens.ToArray(), [1, tokens.Count])).Logits[0, -1].argmax().item<long>());
        }

        return [.. tokens.Skip(context.Length).Select(t => (int)t)];
    }
}
