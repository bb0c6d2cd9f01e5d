using TorchSharp.Modules;
using XlstmLab.Models;
using XlstmLab.Operations;
using XlstmLab.Text;
using XlstmLab.Training;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Training;

/// <summary>An embedding, a recurrence with an input and a forget gate, a norm and a head: hundreds of steps fit into a test.</summary>
internal sealed class TinyModel : LanguageModel
{
    private const int Width = 16;

#pragma warning disable IDE1006, CS8602 // The names of the state dict.
    private readonly Embedding embeddings;
    private readonly Linear igate_preact;
    private readonly Linear fgate_preact;
    private readonly LayerNorm out_norm;
    private readonly Linear lm_head;
#pragma warning restore IDE1006, CS8602
    private readonly double _dropout;

    public TinyModel(int seed = 1, double dropout = 0)
        : base(nameof(TinyModel), new StubConfig { VocabularySize = 16, EmbeddingDim = Width })
    {
        embeddings = nn.Embedding(VocabularySize, Width);
        igate_preact = nn.Linear(Width, 1);
        fgate_preact = nn.Linear(Width, 1);
        out_norm = nn.LayerNorm(Width);
        lm_head = nn.Linear(Width, VocabularySize, hasBias: false);
        _dropout = dropout;
        RegisterComponents();
        using var noGrad = no_grad();
        using var generator = new Generator((ulong)seed);
        foreach (var parameter in parameters())
        {
            using var values = randn(parameter.shape, generator: generator).mul_(0.3);
            parameter.copy_(values);
        }
    }

    /// <summary>Changes the logits of the forward pass of that number, from 1.</summary>
    public Func<int, Tensor, Tensor>? Disturb { get; init; }

    public int ForwardCount { get; private set; }

    public List<ScalarType?> ComputeTypesSeen { get; } = [];

    public override Tensor Embed(Tensor tokens) => embeddings.call(tokens);

    public override (Tensor Hidden, ModelState? State) ForwardHidden(
        Tensor embedded, ModelState? state = null, SequenceLayout? layout = null, bool returnState = false)
    {
        ForwardCount++;
        ComputeTypesSeen.Add(ComputeType);
        var x = embedded.to(ScalarType.Float32);
        var i = igate_preact.call(x);
        var f = fgate_preact.call(x);
        Observer?.Invoke(0, "igate_preact", i);
        Observer?.Invoke(0, "fgate_preact", f);
        var fed = i.sigmoid() * x;
        var kept = f.sigmoid();
        var h = zeros_like(x.select(1, 0));
        var outputs = new List<Tensor>();
        for (var t = 0; t < x.shape[1]; t++)
        {
            h = kept.select(1, t) * h + fed.select(1, t);
            outputs.Add(h);
        }

        return (Drop(out_norm.call(stack(outputs, 1)), _dropout), null);
    }

    public override Tensor Logits(Tensor hidden)
    {
        var type = ComputeType ?? hidden.dtype;
        var logits = nn.functional.linear(hidden.to(type), lm_head.weight!.to(type)).to(ScalarType.Float32);
        return Disturb is null ? logits : Disturb(ForwardCount, logits);
    }
}

/// <summary>Documents of a noisy arithmetic sequence.</summary>
internal static class TinyText
{
    private const int EndOfDocument = 15;

    public static PackedTokens Packed(int seed, int documents = 40, int contextLength = 8)
    {
#pragma warning disable CA5394 // Data of a test.
        var random = new Random(seed);
        return new(
            [.. Enumerable.Range(0, documents).Select(_ =>
            {
                var document = new int[60];
                document[0] = EndOfDocument;
                for (var t = 1; t < document.Length; t++)
                {
                    document[t] = random.Next(10) == 0 ? random.Next(15) : (document[t - 1] * 2 + 1) % 15;
                }

                return document;
            })],
            EndOfDocument,
            contextLength);
#pragma warning restore CA5394
    }

    /// <summary>A training of twelve updates that <see cref="TinyModel"/> learns in.</summary>
    public static TrainingConfig Training { get; } = new()
    {
        Steps = 12,
        BatchSize = 4,
        ContextLength = 8,
        PeakLearningRate = 0.02,
        Schedule = new() { WarmupSteps = 3 },
        TensorBoard = false,
    };
}
