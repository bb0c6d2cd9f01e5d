using TorchSharp;
using XlstmLab.Analysis;
using XlstmLab.Checkpoints;
using XlstmLab.Evaluation;
using XlstmLab.Layers;
using XlstmLab.Models;
using XlstmLab.Runs;
using XlstmLab.Tests.Checkpoints;
using XlstmLab.Text;
using XlstmLab.Training;
using Xunit;

namespace XlstmLab.Tests.Runs;

public sealed class TrainedRunTests : IDisposable
{
    private readonly TempFolder _temp = new();

    public void Dispose() => _temp.Dispose();

    [Fact]
    public void Open_RunOfATrainerInCode_HasModelTokenizerSettingsAndMetrics()
    {
        var corpus = Tiny.Corpus();
        var tokenizer = BpeTrainer.Train(corpus[Split.Train].Select(d => d.Text), new() { VocabularySize = 270 });
        tokenizer.Save(_temp["t.json"]);
        var bpe = BpeTokenizer.Load(_temp["t.json"]);
        var config = Tiny.Config with { VocabularySize = bpe.VocabularySize };
        using (var model = new XlstmLanguageModel(config, 1))
        {
            var source = new PackedTokens(bpe.EncodeDocuments(corpus[Split.Train]), bpe.EndOfDocument, Tiny.Recipe.ContextLength);
            new Trainer(model, Tiny.Recipe, source, [], _temp["run"])
            {
                Tokenizer = bpe,
                DataDescription = "tiny",
            }.Run(TestContext.Current.CancellationToken);
        }

        Assert.Equal(File.ReadAllBytes(_temp["t.json"]), File.ReadAllBytes(_temp["run", "tokenizer.json"]));
        using var run = TrainedRun.Open(_temp["run"]);
        Assert.Equal(bpe.Fingerprint, run.Tokenizer.Fingerprint);
        Assert.Equal(config, run.Config);
        Assert.Equal(Tiny.Recipe.Steps, run.Training!.Steps);
        Assert.Equal(Tiny.Recipe.Steps, run.Metrics.Count);
        Assert.Equal(("tiny", "tiny"), (run.Text!.Data, run.Data!.Description));
        Assert.Equal(TrainingStatus.Completed, run.Result!.Status);
        Assert.Empty(run.Missing);
        Assert.False(run.Model.training);
        var checkpoint = run.Checkpoint;
        using var same = TrainedRun.Open(checkpoint);
        Assert.Equal(bpe.Fingerprint, same.Tokenizer.Fingerprint);
        Assert.Equal(run.Metrics.Count, same.Metrics.Count);
    }

    [Fact]
    public void EvaluateGatesGenerate_AreTheLibrarysOwn()
    {
        var corpus = Tiny.Corpus();
        using var run = Lab.Train(
            Tiny.Config, corpus, Tiny.Recipe, new() { Folder = _temp["run"] }, cancellationToken: TestContext.Current.CancellationToken);
        var documents = run.Tokenizer.EncodeDocuments(corpus[Split.Test]);
        var expected = PerplexityEvaluator.Evaluate(
            run.Model, documents, run.Tokenizer, LabDefaults.Evaluation(), cancellationToken: TestContext.Current.CancellationToken);
        Assert.Equal(expected.Nats, run.Evaluate(Split.Test, cancellationToken: TestContext.Current.CancellationToken).Nats);
        Assert.Equal(
            GateCapture.Run(run.Model, run.Tokens("line 1")).Layers[0][GateQuantity.InputGate],
            run.Gates("line 1").Layers[0][GateQuantity.InputGate]);
        Assert.Equal(["¶", "a", "␣"], run.Letters(run.Tokens("a ")));
        Assert.Equal(run.Generate("line").Text, run.Generate("line").Text);
        using var state = run.State("line 1");
        Assert.Equal(1, state.BatchSize);
        Assert.Equal(
            Tiny.Recipe.ContextLength,
            run.Extrapolate(40, Split.Train, cancellationToken: TestContext.Current.CancellationToken).TrainedLength);

        // What was trained on documents in memory says so when it is opened from its folder.
        using var opened = TrainedRun.Open(_temp["run"]);
        Assert.Contains("tiny", Assert.Throws<FileNotFoundException>(() => opened.Evaluate()).Message, StringComparison.Ordinal);
        Assert.Equal(expected.Nats, opened.Evaluate(documents).Nats, 1e-4 * expected.Nats);
    }

    [Fact]
    public void Open_OldRunWithoutText_SaysWhatIsMissing()
    {
        var config = Tiny.Config with { VocabularySize = 300 };
        using (var model = new XlstmLanguageModel(config, 1))
        {
            new Trainer(
                model, Tiny.Recipe, new PackedTokens([[256, .. Enumerable.Range(1, 60)]], 256, Tiny.Recipe.ContextLength), [], _temp["run"])
                .Run(TestContext.Current.CancellationToken);
        }

        Assert.False(File.Exists(_temp["run", "text.json"]));
        using (var run = TrainedRun.Open(_temp["run"]))
        {
            Assert.Equal(2, run.Missing.Count);
            Assert.Contains(
                "300 token ids are not bytes",
                Assert.Throws<InvalidOperationException>(() => run.Tokenizer).Message, StringComparison.Ordinal);
            Assert.Equal(Tiny.Recipe.Steps, run.Training!.Steps);
        }

        Assert.Throws<FileNotFoundException>(() => TrainedRun.Open(_temp["run"], options: new() { RequiresTokenizer = true }));
        using var given = TrainedRun.Open(_temp["run"], options: new() { Tokenizer = new ByteTokenizer() });
        Assert.Contains(
            "does not say what the model was trained on",
            Assert.Throws<InvalidOperationException>(() => given.Evaluate()).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Open_TokenizerOfTheUsersOwn_IsAskedForAndCompared()
    {
        using (var model = new XlstmLanguageModel(Tiny.Config, 1))
        {
            var tokens = new PackedTokens([[256, .. Enumerable.Range(1, 60)]], 256, Tiny.Recipe.ContextLength);
            new Trainer(model, Tiny.Recipe, tokens, [], _temp["run"]) { Tokenizer = new Own() }
                .Run(TestContext.Current.CancellationToken);
        }

        using (var run = TrainedRun.Open(_temp["run"]))
        {
            Assert.Contains(
                "a tokenizer of its own", Assert.Throws<InvalidOperationException>(() => run.Tokenizer).Message, StringComparison.Ordinal);
        }

        Assert.Contains(
            "another tokenizer",
            Assert.Throws<ArgumentException>(() =>
                TrainedRun.Open(_temp["run"], options: new() { Tokenizer = new ByteTokenizer() })).Message, StringComparison.Ordinal);
        using var given = TrainedRun.Open(_temp["run"], options: new() { Tokenizer = new Own() });
        Assert.IsType<Own>(given.Tokenizer);
    }

    [Fact]
    public void Open_HuggingFaceFolder_HasModelAndTokenizer()
    {
        using (var model = new XlstmLanguageModel(Tiny.Config, 1))
        {
            HuggingFaceFolder.Save(_temp["hf"], Tiny.Config, model.state_dict());
        }

        using var run = TrainedRun.Open(_temp["hf"], torch.CPU);
        Assert.IsType<ByteTokenizer>(run.Tokenizer);
        Assert.Null(run.Training);
        Assert.Null(run.Result);
        Assert.Empty(run.Metrics);
        Assert.NotEmpty(run.Missing);
        Assert.Throws<InvalidOperationException>(() => run.Extrapolate(10));
        Assert.Throws<FileNotFoundException>(() => TrainedRun.Open(_temp["none"]));
    }

    public static TheoryData<LanguageModelConfig> Architectures() =>
    [
        Tiny.Config,
        Tiny.Config with { WeightMode = WeightMode.Fused, TieWordEmbeddings = true },
        Tiny.Config with { BlockStyle = BlockStyle.PreUp, BlockCount = 2, SLstmAt = [1] },
        new LlamaConfig { VocabularySize = 257, EmbeddingDim = 16, BlockCount = 2, HeadCount = 4, KeyValueHeads = 2, FeedForwardDim = 24 },
        GlaPresets.All.Values.First() with { VocabularySize = 257, BlockCount = 1 },
        LstmPresets.All.Values.First() with { VocabularySize = 257, BlockCount = 1 },
        new MambaConfig { VocabularySize = 257, EmbeddingDim = 32, BlockCount = 2 },
        new Mamba2Config
        {
            VocabularySize = 257,
            EmbeddingDim = 128,
            BlockCount = 1,
            HeadDim = 32,
            HeadCount = 8,
            StateSize = 32,
            GroupCount = 1,
        },
    ];

    [Theory]
    [MemberData(nameof(Architectures))]
    public void Open_AnyArchitecture_IsTheModelThatWasSaved(LanguageModelConfig config)
    {
        using var scope = torch.NewDisposeScope();
        var tokens = torch.randint(0, 257, [2, 9], dtype: torch.int64);
        using var model = config.CreateModel(5);
        model.eval();
        HuggingFaceFolder.Save(_temp["hf"], config, model.state_dict());

        using var run = TrainedRun.Open(_temp["hf"]);

        SafetensorsFileTests.AssertSame(model.Forward(tokens).Logits, run.Model.Forward(tokens).Logits);
        Assert.All(run.Model.parameters(), p => Assert.True(p.requires_grad && p.dtype == torch.ScalarType.Float32));
    }

    [Theory]
    [MemberData(nameof(Architectures))]
    public void Open_StoredInBfloat16AndComputedInIt_HoldsProjectionsInIt_AndChangesNoNumber(LanguageModelConfig config)
    {
        using var scope = torch.NewDisposeScope();
        var tokens = torch.randint(0, 257, [2, 9], dtype: torch.int64);
        using (var model = config.CreateModel(5))
        {
            HuggingFaceFolder.Save(_temp["hf"], config, model.state_dict(), torch.ScalarType.BFloat16);
        }

        using var half = TrainedRun.Open(_temp["hf"], options: new() { ComputeType = torch.ScalarType.BFloat16 });
        using var wide = TrainedRun.Open(
            _temp["hf"], options: new() { ComputeType = torch.ScalarType.BFloat16, WeightType = torch.ScalarType.Float32 });
        using var plain = TrainedRun.Open(_temp["hf"]);

        SafetensorsFileTests.AssertSame(wide.Model.Forward(tokens).Logits, half.Model.Forward(tokens).Logits);
        var types = half.Model.named_parameters().ToLookup(p => p.parameter.dtype, p => p.name);
        Assert.Contains(config.EmbeddingName, types[torch.ScalarType.BFloat16]);
        Assert.Contains(types[torch.ScalarType.Float32], name => name.Contains("norm", StringComparison.Ordinal));
        Assert.All([.. wide.Model.parameters(), .. plain.Model.parameters()], p => Assert.Equal(torch.ScalarType.Float32, p.dtype));
        Assert.Throws<ArgumentException>(() => TrainedRun.Open(_temp["hf"], options: new() { WeightType = torch.ScalarType.Int8 }));
    }

    [Fact]
    public void Export_BpeWithAnEndOfItsOwn_OpensTheSame()
    {
        var corpus = Tiny.Corpus();
        var trained = BpeTrainer.Train(corpus[Split.Train].Select(d => d.Text), new() { VocabularySize = 270, SpecialTokens = ["<end>"] });
        trained.Save(_temp["t.json"]);
        var tokenizer = BpeTokenizer.Load(_temp["t.json"], "<end>");
        using var run = Lab.Train(
            Tiny.Config with { VocabularySize = tokenizer.VocabularySize }, corpus, Tiny.Recipe,
            new() { Folder = _temp["run"], Tokenizer = tokenizer },
            cancellationToken: TestContext.Current.CancellationToken);
        run.Export(_temp["hf"], cancellationToken: TestContext.Current.CancellationToken);
        using TrainedRun opened = TrainedRun.Open(_temp["hf"]), again = TrainedRun.Open(_temp["run"]);
        Assert.Equal(tokenizer.Fingerprint, opened.Tokenizer.Fingerprint);
        Assert.Equal(tokenizer.Fingerprint, again.Tokenizer.Fingerprint);
        Assert.Equal(ModelIdentity.Of(run.Model), ModelIdentity.Of(opened.Model));
    }

    [Fact]
    public void Run_StartedOver_ForgetsTheTokenizerBefore()
    {
        Directory.CreateDirectory(_temp["run"]);
        using var model = new XlstmLanguageModel(Tiny.Config, 1);
        Train(new ByteTokenizer(), false);
        Assert.True(RunText.Read(_temp["run"])!.Bytes);
        File.WriteAllText(_temp["run", "tokenizer.json"], "{}");
        Train(null, true);
        Assert.False(File.Exists(_temp["run", "text.json"]) || File.Exists(_temp["run", "tokenizer.json"]));

        void Train(ITokenizer? tokenizer, bool startOver) =>
            new Trainer(
                model, Tiny.Recipe, new PackedTokens([[256, .. Enumerable.Range(1, 60)]], 256, Tiny.Recipe.ContextLength), [], _temp["run"])
            {
                Tokenizer = tokenizer,
                StartOver = startOver,
            }.Run(TestContext.Current.CancellationToken);
    }

    private sealed class Own : ITokenizer
    {
        private readonly ByteTokenizer _bytes = new();

        public int VocabularySize => 257;

        public int EndOfDocument => 256;

        public string Fingerprint => "own";

        public int[] Encode(string text) => _bytes.Encode(text);

        public string Decode(IEnumerable<int> ids) => _bytes.Decode(ids);

        public ReadOnlySpan<byte> Bytes(int id) => _bytes.Bytes(id);
    }
}
