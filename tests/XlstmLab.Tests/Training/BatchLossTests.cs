using TorchSharp.Modules;
using XlstmLab.Checkpoints;
using XlstmLab.Models;
using XlstmLab.Text;
using XlstmLab.Training;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Training;

[Collection(nameof(AloneCollection))]
public sealed class BatchLossTests : IDisposable
{
    private static readonly TrainingConfig Config = TinyText.Training with
    {
        ValidateEvery = 5,
        CheckpointEvery = 4,
        EmaDecay = 0.9,
    };

    private static readonly TokenBatch[] Validation = [.. TinyText.Packed(2, 2).Sequential(6)];

    private readonly TempFolder _temp = new();

    public void Dispose() => _temp.Dispose();

    [Fact]
    public void Run_UsualLossByHand_GivesTheSameNumbersWithoutPerplexity()
    {
        Run("usual", null);
        Run("own", NextTokenLoss.Of);
        var (usual, own) = (RunFolder.ReadMetrics(_temp["usual"]), RunFolder.ReadMetrics(_temp["own"]));
        Assert.Equal(usual.Select(Numbers), own.Select(Numbers));
        Assert.Equal([5, 10, 12], usual.Where(m => m.ValidationPerplexity is not null).Select(m => m.Step));
        Assert.All(own, m => Assert.True(m.ValidationPerplexity is null && m.ValidationBitsPerByte is null));

        static (double, double, double?, double?) Numbers(TrainingMetrics m) =>
            (m.Loss, m.GradientNorm, m.ValidationLoss, m.EmaValidationLoss);
    }

    [Fact]
    public void Run_OwnLoss_IsLoweredAndMicroBatchesAddUpToIt()
    {
        static Tensor Brier(LanguageModel model, TokenBatch batch, long divisor)
        {
            var shares = model.Forward(batch.ToInputTensor()).Logits.softmax(-1); // (B, S, V)
            return (shares - nn.functional.one_hot(batch.ToTargetTensor(), model.VocabularySize)).square().sum() / divisor;
        }

        var config = Config with { Steps = 100, EmaDecay = null };
        Run("whole", Brier, config);
        Run("parts", Brier, config with { MicroBatchSize = 3 });
        var (whole, parts) = (RunFolder.ReadMetrics(_temp["whole"]), RunFolder.ReadMetrics(_temp["parts"]));
        Assert.InRange(whole[0].Loss, 0.8, 1.3);
        Assert.InRange(whole.TakeLast(10).Average(m => m.Loss), 0.1, 0.7);
        Assert.All(whole.Zip(parts).Take(20), pair => Assert.Equal(pair.First.Loss, pair.Second.Loss, 1e-4));
    }

    [Fact]
    public void Run_LossWithParameters_TrainsThemAndResumesBitForBit()
    {
        using var first = Head(1);
        RunWithHead("straight", first, new());
        using var second = Head(1);
        RunWithHead("broken", second, new() { AfterStep = moment => StopAt(moment, 7) });
        using var third = Head(5);
        RunWithHead("broken", third, new());
        TrainerTests.AssertSameMetrics(_temp["straight"], _temp["broken"]);
        Assert.True(first.weight!.equal(third.weight!).all().item<bool>());
        using var fresh = Head(1);
        Assert.False(fresh.weight!.equal(first.weight!).all().item<bool>());
        using var kept = SafetensorsFile.Open(Path.Combine(RunFolder.LatestCheckpoint(_temp["straight"])!, "optimizer.safetensors"));
        Assert.Contains("loss.weight", kept.Names);
        Assert.Contains("exp_avg.loss.weight", kept.Names);
        Assert.Contains("ema.loss.weight", kept.Names);
    }

    [Fact]
    public void Run_WithoutAFolder_GivesTheSameLossesAndKeepsNothing()
    {
        Run("run", null);
        using var model = new TinyModel();
        var metrics = new List<TrainingMetrics>();
        var result = new Trainer(model, Config, TinyText.Packed(1), Validation, null, new ImmediateProgress<TrainingMetrics>(metrics.Add))
            .Run(TestContext.Current.CancellationToken);
        Assert.Equal((TrainingStatus.Completed, 12, null), (result.Status, result.Step, result.Checkpoint));
        Assert.Equal(
            RunFolder.ReadMetrics(_temp["run"]).Select(m => (m.Loss, m.GradientNorm, m.ValidationLoss)),
            metrics.Select(m => (m.Loss, m.GradientNorm, m.ValidationLoss)));
        Assert.Equal(["run"], _temp.Entries);
    }

    [Fact]
    public void Run_WithoutAFolderIntoNaN_SaysSo()
    {
        using var model = new TinyModel { Disturb = (pass, logits) => pass > 2 ? logits * float.NaN : logits };
        var trainer = new Trainer(model, Config with { MaxBadSteps = 3 }, TinyText.Packed(1), [], null);
        var error = Assert.Throws<TrainingDivergedException>(() => trainer.Run(TestContext.Current.CancellationToken));
        Assert.Contains("3 updates in a row", error.Message, StringComparison.Ordinal);
        Assert.Contains("no folder", error.Message, StringComparison.Ordinal);
    }

    private void Run(string name, BatchLoss<TokenBatch>? loss, TrainingConfig? config = null)
    {
        using var model = new TinyModel();
        new Trainer(model, config ?? Config, TinyText.Packed(1), Validation, _temp[name], loss: loss)
            .Run(TestContext.Current.CancellationToken);
    }

    private void RunWithHead(string name, Linear head, TrainingHooks hooks)
    {
        using var model = new TinyModel(dropout: 0.2);
        new Trainer<TokenBatch>(model, Config, TinyText.Packed(1), Validation, Loss, _temp[name]) { LossModule = head, Hooks = hooks }
            .Run(TestContext.Current.CancellationToken);

        Tensor Loss(LanguageModel trained, TokenBatch batch, long divisor)
        {
            var (hidden, _) = trained.ForwardHidden(trained.Embed(batch.ToInputTensor())); // (B, S, d)
            var logits = head.call(hidden).flatten(0, 1);
            return nn.functional.cross_entropy(logits, batch.ToTargetTensor().flatten(), reduction: nn.Reduction.Sum) / divisor;
        }
    }

    private static Linear Head(int seed)
    {
        var head = nn.Linear(16, 16);
        using var noGrad = no_grad();
        using var generator = new Generator((ulong)seed, CPU);
        foreach (var parameter in head.parameters())
        {
            parameter.normal_(0, 0.3, generator);
        }

        return head;
    }

    private static void StopAt(TrainingMoment moment, int step)
    {
        if (moment.Metrics.Step == step)
        {
            moment.Stop();
        }
    }
}
