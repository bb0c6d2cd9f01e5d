using System.Globalization;
using System.Reflection;
using XlstmLab.Analysis;
using XlstmLab.Evaluation;
using XlstmLab.Evaluation.LogLikelihood;
using XlstmLab.Inference;
using XlstmLab.Models;
using XlstmLab.Runs;
using XlstmLab.Tasks;
using XlstmLab.Tasks.Ruler;
using XlstmLab.Tests.Tasks.Ruler;
using XlstmLab.Text;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Models;

public sealed class EvaluationModeTests : IDisposable
{
    private static readonly XlstmConfig Config = new()
    {
        VocabularySize = 257,
        EmbeddingDim = 16,
        BlockCount = 2,
        HeadCount = 2,
        ChunkSize = 16,
        FeedForwardRoundUpTo = 8,
        Dropout = 0.3,
    };

    private static readonly ByteTokenizer Bytes = new();
    private static readonly int[] Tokens = [256, 10, 20, 30, 40, 50, 60, 70, 80, 90];
    private static readonly int[][] Documents = [Tokens, [256, 1, 2, 3]];
    private static readonly GenerationOptions Greedy = new() { Temperature = 0, MaxNewTokens = 6, StopAtEndOfDocument = false };

    /// <summary>Every public way to evaluate, generate or look into a model, as Type.Method, and a text of what it gives.</summary>
    private static readonly (string Name, Func<LanguageModel, string> Result)[] Entries =
    [
        ("PerplexityEvaluator.Evaluate", m => Text(PerplexityEvaluator.Evaluate(m, Documents, Bytes).Loss)),
        ("PerplexityEvaluator.Evaluate", m => Text(
            PerplexityEvaluator.Evaluate(m, Documents, Bytes, new() { Policy = ContextPolicy.Fresh, ContextLength = 4 }).Loss)),
        ("LengthExtrapolation.Measure", m => Text(
            LengthExtrapolation.Measure(m, Documents, Bytes, new() { TrainedLength = 4, Longest = 8 }).BeyondLoss)),
        ("SyntheticEvaluator.Evaluate", m => Text(SyntheticEvaluator.Evaluate(m, new EvenPairs(), [new(3, 9)], rows: 8)[0].Loss)),
        ("RulerEvaluator.Evaluate", m => RulerEvaluator.Evaluate(
            m, new(Bytes, new() { Haystack = RulerTexts.Haystack, Example = false }),
            new() { Tasks = [RulerTask.NiahSingle1], Lengths = [800], Samples = 1 }).Answers[0].Output),
        ("LogLikelihoodScorer.Score", m => Text(
            LogLikelihoodScorer.Score(m, Bytes, [new("the", " cat"), new("the", " dog")]).Sum(s => s.LogLikelihood))),
        ("TaskEvaluator.Evaluate",
            m => Text(TaskEvaluator.Evaluate(m, Bytes, new PiqaTask(), [new([new("q", "yes"), new("q", "no")], 0)])
                .Samples[0].Answers[1].LogLikelihood)),
        ("StateRanks.Measure", m => Text(StateRanks.Measure(m, Tokens)[0].Norm)),
        ("OutlierReport.Measure", m => Text(OutlierReport.Measure(m, Tokens).Blocks[1].Rms)),
        ("NeedleResponse.Measure", m => Text(NeedleResponse.Measure(m, [256, 1, 2], [3, 4], [5, 6, 7]).Heads[3].Written)),
        ("AttentionCapture.Run", m => string.Join(' ', AttentionCapture.Run(m, Tokens).Layers[1].Weights.Take(40))),
        ("GateCapture.Run", m => Text(GateCapture.Run(m, Tokens).Values(GateQuantity.MemoryNorm, 1, 1).ToArray().Sum())),
        ("TextGenerator..ctor", m => new TextGenerator(m, Bytes).Generate("abc", Greedy).Text),
        ("TextGenerator..ctor", m => Read(new TextGenerator(m, Bytes).StreamTextAsync("abc", Greedy), m)),
        ("TextGenerator..ctor", m => Read(new TextGenerator(m, Bytes).StreamAsync([256, 1], Greedy), m)),
        ("TextGenerator..ctor", m =>
        {
            using var state = new TextGenerator(m, Bytes).Read(Tokens);
            return Text(state.Tensors["blocks.1.c"].abs().sum().item<float>());
        }),
        ("RunningBatch..ctor", m =>
        {
            using var batch = new RunningBatch(m, Bytes);
            var text = batch.Add([256, 1], Greedy);
            while (!text.IsFinished)
            {
                _ = batch.Step();
            }

            return text.ToSequence().Text;
        }),
        ("BatchedGenerator..ctor", m =>
        {
            var generator = new BatchedGenerator(m, Bytes);
            try
            {
                return string.Join(' ', generator.StreamAsync([256, 1], Greedy).ToBlockingEnumerable().Select(token => token.Token.Id));
            }
            finally
            {
                generator.DisposeAsync().AsTask().Wait();
            }
        }),
    ];

    private readonly LanguageModel _training = Config.CreateModel(3);
    private readonly LanguageModel _evaluating = Config.CreateModel(3);
    private readonly bool[] _modes;

    public EvaluationModeTests()
    {
        _evaluating.eval();
        _training.train();

        // One part that its owner put into evaluation mode alone.
        _training.children().First().children().First().eval();
        _modes = Modes(_training);
        Assert.Contains(true, _modes);
        Assert.Contains(false, _modes);
    }

    public void Dispose()
    {
        _training.Dispose();
        _evaluating.Dispose();
    }

    [Fact]
    public void Entries_ModelInTrainingMode_GiveWhatEvaluationModeGivesAndPutItBack()
    {
        foreach (var (name, result) in Entries)
        {
            Assert.Equal((name, result(_evaluating)), (name, result(_training)));
            Assert.Equal(_modes, Modes(_training));
            Assert.True(is_grad_enabled(), name);
        }

        // The dropout is there: with it, nothing comes out twice.
        using var scope = NewDisposeScope();
        var tokens = tensor(Tokens, [1, Tokens.Length], int64);
        Assert.False(_training.Forward(tokens).Logits.equal(_training.Forward(tokens).Logits).all().item<bool>());
    }

    [Fact]
    public void Entries_AreAllThatTakeAModel()
    {
        // What loads or rounds weights, or shows a model as a table runs nothing.
        string[] others = ["XlstmLab.Models", "XlstmLab.Training", "XlstmLab.Checkpoints", "XlstmLab.Experiments"];
        var there = typeof(LanguageModel).Assembly.GetExportedTypes()
            .Where(type => !others.Any(space => type.Namespace!.StartsWith(space, StringComparison.Ordinal)))
            .SelectMany(type =>
                type.GetMethods(BindingFlags.Public | BindingFlags.Static | BindingFlags.Instance | BindingFlags.DeclaredOnly)
                    .Cast<MethodBase>().Concat(type.GetConstructors()))
            .Where(method => method.GetParameters().Any(p => typeof(LanguageModel).IsAssignableFrom(p.ParameterType)))
            .Where(method => method.Name is not (nameof(Lab.LoadWeights) or nameof(RoundedWeights.Round) or nameof(RunTables.ToTable)))
            .Select(method => $"{method.DeclaringType!.Name}.{method.Name}");
        Assert.Equal(Entries.Select(e => e.Name).Distinct().Order(StringComparer.Ordinal), there.Distinct().Order(StringComparer.Ordinal));
    }

    [Fact]
    public void Entries_ThatThrowOrAreLeft_PutTheModesBack()
    {
        Assert.Throws<InvalidDataException>(() => PerplexityEvaluator.Evaluate(
            _training, Documents, Bytes, progress: new ImmediateProgress<EvaluationProgress>(_ => throw new InvalidDataException())));
        Assert.Equal(_modes, Modes(_training));
        _training.Observer = (_, _, _) => throw new InvalidDataException();
        Assert.Throws<InvalidDataException>(() => new TextGenerator(_training, Bytes).Generate("abc", Greedy));
        Assert.Equal(_modes, Modes(_training));
        _training.Observer = null;
        Assert.Single(Stream(new TextGenerator(_training, Bytes).StreamAsync([256, 1], Greedy)).Take(1));
        Assert.Equal(_modes, Modes(_training));
        Assert.True(is_grad_enabled());
    }

    [Fact]
    public void Of_PartsOfDifferentModes_AreEvaluatingWithinAndAsBeforeAfterwards()
    {
        using (EvaluationMode.Of(_training))
        {
            Assert.DoesNotContain(true, Modes(_training));
            Assert.False(is_grad_enabled());
        }

        Assert.Equal(_modes, Modes(_training));
        using var fresh = Config.CreateModel();
        Assert.True(fresh.training);
    }

    internal static bool[] Modes(nn.Module module) => [module.training, .. module.children().SelectMany(Modes)];

    /// <summary>The stream's items; between two of them the model is as its owner left it.</summary>
    private static string Read<T>(IAsyncEnumerable<T> stream, LanguageModel model)
    {
        var modes = Modes(model);
        var items = new List<T>();
        foreach (var item in Stream(stream))
        {
            Assert.Equal(modes, Modes(model));
            items.Add(item);
        }

        return string.Join(' ', items);
    }

    private static IEnumerable<T> Stream<T>(IAsyncEnumerable<T> stream) =>
        stream.ToBlockingEnumerable(TestContext.Current.CancellationToken);

    private static string Text(double value) => value.ToString("R", CultureInfo.InvariantCulture);
}
