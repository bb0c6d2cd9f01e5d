using System.Text.Json.Nodes;
using TorchSharp;
using XlstmLab.Checkpoints;
using XlstmLab.Models;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Cli.Verification;

/// <summary>The cases <c>xlstm_v1_*</c>: block stacks of the first paper's published package.</summary>
internal static class FirstPaperGolden
{
    /// <summary>Logits, loss, gradients, and logits token by token.</summary>
    public static IEnumerable<GoldenRow> Verify(GoldenCase golden)
    {
        using var model = new XlstmLanguageModel(Config(golden.About));
        FirstPaperWeights.Load(
            model,
            golden.Names.Where(n => n.StartsWith("param.", StringComparison.Ordinal)).ToDictionary(
                n => n["param.".Length..], n => golden[n]));
        model.to(golden.Device);
        model.eval();

        var ids = golden["input_ids"];
        var length = ids.shape[1] - 1;
        var context = ids.narrow(1, 0, length);
        foreach (var row in GoldenVerifier.Whole(golden, model, FirstPaperWeights.PublishedName))
        {
            yield return row;
        }

        using var grad = no_grad();
        var steps = new List<Tensor>();
        ModelState? state = null;
        for (var t = 0; t < length; t++)
        {
            using var before = state;
            (var step, state) = model.Forward(context.narrow(1, t, 1), before, returnState: true);
            steps.Add(step);
        }

        state!.Dispose();
        yield return GoldenRow.Compare(
            golden.Name, "logits, recurrent", GoldenCase.LargestDifference(golden["logits_recurrent"], cat(steps, 1)), 1e-4);
    }

    private static XlstmConfig Config(JsonObject about)
    {
        int Value(string name) => (int?)about[name] ?? throw new InvalidDataException($"The case does not say its {name}.");
        var blocks = Value("num_blocks");
        return XlstmPresets.FirstPaper(Value("embedding_dim"), blocks) with
        {
            VocabularySize = Value("vocab_size"),
            HeadCount = Value("num_heads"),
            SLstmAt = about["slstm_at"] is JsonArray at ? [.. at.Select(block => (int)block!)] : BlockList.All(blocks),
            ConvKernelSize = Value("conv1d_kernel_size"),
            QkvBlockSize = Value("qkv_proj_blocksize"),
            SLstmFeedForwardFactor = (double?)about["ffn_proj_factor"] ?? 1.3,
            SLstmFeedForward = (string?)about["ffn_act"] == "swish" ? FeedForwardKind.SwiGlu : FeedForwardKind.GeGlu,
        };
    }
}
