using TorchSharp;
using XlstmLab.Analysis;
using XlstmLab.Checkpoints;
using XlstmLab.Inference;
using XlstmLab.Models;
using XlstmLab.Operations;
using XlstmLab.Text;
using XlstmLab.Training;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Models;

/// <summary>What holds for every kind of model, whatever it keeps of the tokens it has read.</summary>
public abstract class LanguageModelContract
{
    private const int Vocabulary = 257;

    private static readonly GenerationOptions Sampled = new() { Temperature = 0.8, MaxNewTokens = 9, Seed = 5, StopStrings = ["e", "3"] };

    /// <summary>A small architecture with <see cref="Vocabulary"/> ids.</summary>
    protected abstract LanguageModelConfig Config { get; }

    [Fact]
    public void ModelContract_Check_FindsThatAllHolds()
    {
        var report = ModelContract.Check(Config);
        Assert.True(report.Holds, $"{report}");
    }

    [Fact]
    public void Forward_InPieces_EqualsWhole()
    {
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        using var model = Wide();
        var tokens = Tokens(2, 23);
        var whole = model.Forward(tokens).Logits;
        Near(whole, ModelContract.InPieces(model, tokens, null, _ => 1));
        Near(whole, ModelContract.InPieces(model, tokens, null, start => start % 3 == 0 ? 5 : 2));
        Near(whole, ModelContract.InPieces(model, tokens, null, start => start == 0 ? 22 : 1));
    }

    [Fact]
    public void Forward_DocumentsAndPaddingInPieces_EqualDocumentsAlone()
    {
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        using var model = Wide();
        for (var seed = 1; seed <= 6; seed++)
        {
            var random = new SplitMix64(seed, 0);
            const int Length = 29;
            var tokens = Tokens(3, Length);
            var starts = new bool[3 * Length];
            var padding = new bool[3 * Length];
            for (var at = 0; at < starts.Length; at++)
            {
                starts[at] = random.NextDouble() < 0.12;
                padding[at] = seed > 2 && random.NextDouble() < 0.1 * seed;
            }

            var layout = new SequenceLayout(tensor(starts, [3, Length]), tensor(padding, [3, Length]));
            var whole = model.Forward(tokens, layout: layout).Logits;
            var pieces = ModelContract.InPieces(model, tokens, layout, start => 1 + start % 6);
            for (var row = 0; row < 3; row++)
            {
                foreach (var document in ModelContract.Apart(starts.AsSpan(row * Length, Length), padding.AsSpan(row * Length, Length)))
                {
                    var index = tensor(document);
                    var alone = model.Forward(tokens[row].index_select(0, index).unsqueeze(0)).Logits[0];
                    Near(alone, whole[row].index_select(0, index));
                    Near(alone, pieces[row].index_select(0, index));
                }
            }
        }
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Forward_PaddedRows_EqualRowsAloneAndGoOn(bool left)
    {
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        using var model = Wide();
        int[] lengths = [5, 19, 1];
        var tokens = Tokens(3, 19);
        var padding = zeros(3, 19, dtype: ScalarType.Bool);
        for (var r = 0; r < 3; r++)
        {
            padding[r].narrow(0, left ? 0 : lengths[r], 19 - lengths[r]).fill_(true);
        }

        var next = Tokens(3, 4, seed: 8);
        var (logits, state) = model.Forward(tokens, layout: new(null, padding), returnState: true);
        var after = model.Forward(next, state).Logits;
        for (var r = 0; r < 3; r++)
        {
            var own = tokens.narrow(0, r, 1).narrow(1, left ? 19 - lengths[r] : 0, lengths[r]);
            var (alone, last) = model.Forward(own, returnState: true);
            Near(alone[0], logits[r].narrow(0, left ? 19 - lengths[r] : 0, lengths[r]));
            Near(model.Forward(next.narrow(0, r, 1), last).Logits[0], after[r]);
            last!.Dispose();
        }

        state!.Dispose();
    }

    [Fact]
    public void Forward_GivenState_IsLeftAsItWasAndCanBeForked()
    {
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        using var model = Wide();
        using var state = model.Forward(Tokens(2, 7), returnState: true).State!;
        using var copy = state.Clone();
        using var swapped = state.SelectRows(1, 0, 1);
        var next = Tokens(2, 5, seed: 3);
        var after = model.Forward(next, state, returnState: true);
        var rows = model.Forward(next.index_select(0, tensor(new long[] { 1, 0, 1 })), swapped).Logits;
        after.State!.Dispose();
        Near(after.Logits[1], rows[0]);
        Near(after.Logits[0], rows[1]);
        Near(after.Logits[1], rows[2]);
        Assert.All(state.Tensors, pair => Assert.True(copy[pair.Key].equal(pair.Value).all().item<bool>(), pair.Key));
    }

    [Fact]
    public void Forward_GradientsThroughAState_EqualThoseOfTheWhole()
    {
        using var scope = NewDisposeScope();
        using var model = Wide();
        var tokens = Tokens(2, 12);
        model.Forward(tokens).Logits.square().sum().backward();
        var whole = model.named_parameters().ToDictionary(p => p.name, p => p.parameter.grad!.clone());
        model.zero_grad();
        var (first, state) = model.Forward(tokens.narrow(1, 0, 5), returnState: true);
        var second = model.Forward(tokens.narrow(1, 5, 7), state).Logits;
        (first.square().sum() + second.square().sum()).backward();
        state!.Dispose();
        Assert.All(model.named_parameters(), p => Near(whole[p.name], p.parameter.grad!, p.name));
    }

    [Theory]
    [InlineData(512)]
    [InlineData(3)]
    public void Generate_RaggedPrompts_EqualPromptsAlone(int prefill)
    {
        using var model = Config.CreateModel(seed: 4);
        using (no_grad())
        {
            model.named_parameters().First(p => p.name == Config.EmbeddingName).parameter.mul_(8);
        }

        var generator = new TextGenerator(model, new ByteTokenizer()) { PrefillLength = prefill };
        int[][] prompts = [[256, 1, 2, 3, 4, 5, 6, 7, 8], [], [9], [256, 9, 9, 7]];
        var (batch, state) = generator.Generate(prompts, Sampled, returnState: true);
        var goOn = prompts.Select((_, r) => new[] { batch[r].Tokens[^1], 50 }).ToArray();
        var rest = generator.Generate(goOn, Sampled, state).Sequences;
        for (var r = 0; r < prompts.Length; r++)
        {
            var own = Sampled with { Seed = Sampled.Seed + r };
            var (alone, last) = generator.Generate([prompts[r]], own, returnState: true);
            Assert.Equal(alone[0].Tokens, batch[r].Tokens);
            Assert.Equal(alone[0].LogProbability, batch[r].LogProbability, 1e-3);
            Assert.Equal(generator.Generate([goOn[r]], own, last).Sequences[0].Tokens, rest[r].Tokens);
            last!.Dispose();
        }

        state!.Dispose();
    }

    [Fact]
    public void Save_Model_IsReadBackWithConfigAndWeights()
    {
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        using var folder = new TempFolder();
        using var model = Config.CreateModel(seed: 6);
        var tokens = Tokens(1, 9);
        HuggingFaceFolder.Save(folder["model"], Config, model.state_dict());
        using var opened = HuggingFaceFolder.Open(folder["model"]);
        using var read = opened.Config.CreateModel();
        opened.LoadInto(read);
        Assert.Equal(Config, opened.Config);
        Assert.Equal(0, (model.Forward(tokens).Logits - read.Forward(tokens).Logits).abs().max().item<float>());
    }

    [Fact]
    public void CountParametersAndStateBytes_EqualThoseOfTheModel()
    {
        using var scope = NewDisposeScope();
        using var model = Config.CreateModel();
        Assert.Equal(Config.CountParameters(), model.parameters().Sum(p => p.NumberOfElements));
        using var state = model.Forward(Tokens(1, 11), returnState: true).State!;
        Assert.Equal(Config.StateBytes(11), state.SizeInBytes);
        Assert.Equal((Config.VocabularySize, Config.BlockCount), (model.VocabularySize, model.BlockCount));
    }

    [Fact]
    public void CreateModel_OneSeed_GivesEqualWeightsAndNearUniformLoss()
    {
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        using var model = Config.CreateModel(seed: 1);
        using var same = Config.CreateModel(seed: 1);
        using var other = Config.CreateModel(seed: 2);
        var tokens = Tokens(2, 65);
        var logits = model.Forward(tokens.narrow(1, 0, 64)).Logits;
        Assert.Equal(0, (logits - same.Forward(tokens.narrow(1, 0, 64)).Logits).abs().max().item<float>());
        Assert.NotEqual(0, (logits - other.Forward(tokens.narrow(1, 0, 64)).Logits).abs().max().item<float>());
        Assert.Equal(
            Math.Log(Vocabulary), nn.functional.cross_entropy(logits.flatten(0, 1), tokens.narrow(1, 1, 64).flatten()).item<float>(), 0.3);
    }

    [Fact]
    public void Training_AFewTokens_LearnsThemByHeartAndLeavesNoTensor()
    {
        using var scope = NewDisposeScope();
        using var model = Config.CreateModel(seed: 1);
        using var optimizer = new AdamW(model.named_parameters(), weightDecay: 0);
        var tokens = Tokens(2, 17);
        var starts = zeros(2, 17, dtype: ScalarType.Bool);
        starts[0, 9] = true;
        long live = 0;
        var loss = 0.0;
        for (var step = 0; step < 60; step++)
        {
            using (NewDisposeScope())
            {
                var logits = model.Forward(tokens.narrow(1, 0, 16), layout: new(starts.narrow(1, 0, 16))).Logits;
                var mean = nn.functional.cross_entropy(logits.flatten(0, 1), tokens.narrow(1, 1, 16).flatten());
                mean.backward();
                optimizer.Step(0.01);
                loss = mean.item<float>();
            }

            model.zero_grad();
            if (step == 1)
            {
                live = DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount;
            }
        }

        Assert.InRange(loss, 0, 0.2);
        Assert.Equal(live, DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount);
    }

    [Fact]
    public void Forward_BFloat16_StaysNearFloat64()
    {
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        using var wide = Wide();
        using var narrow = Config.CreateModel(seed: 2);
        narrow.ComputeType = ScalarType.BFloat16;
        var tokens = Tokens(2, 30);
        var (expected, actual) = (wide.Forward(tokens).Logits, narrow.Forward(tokens).Logits);
        Assert.Equal(ScalarType.Float32, actual.dtype);
        Assert.InRange(((actual - expected).square().mean() / expected.square().mean()).sqrt().item<double>(), 0, 0.05);
    }

    /// <summary>A model in float64.</summary>
    protected LanguageModel Wide()
    {
        var model = Config.CreateModel(seed: 2);
        model.to(ScalarType.Float64);
        return model;
    }

    /// <summary>Random tokens [B, S].</summary>
    protected static Tensor Tokens(long batch, long length, ulong seed = 1) => ModelContract.Tokens(Vocabulary, batch, length, (long)seed);

    /// <summary>Equal to within the rounding of float64.</summary>
    protected static void Near(Tensor expected, Tensor actual, string what = "logits") =>
        Assert.Null(ModelContract.Difference(expected, actual, what));
}
