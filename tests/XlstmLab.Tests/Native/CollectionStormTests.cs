using System.Diagnostics;
using System.Globalization;
using XlstmLab.Inference;
using XlstmLab.Models;
using XlstmLab.Native;
using XlstmLab.Operations;
using XlstmLab.Text;
using XlstmLab.Training;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Native;

/// <summary>What a user's program goes through whose other threads allocate and collect.</summary>
[Collection(nameof(ProcessCollection))]
public sealed class CollectionStormTests
{
    private const string SecondsVariable = "XLSTM_TEST_STORM_SECONDS";

    /// <summary>A minute, or in a short run of the tests a few seconds, of a user's program under the runtime's defaults, with allocation
    /// and forced collections in another thread.</summary>
    [Fact]
    public void Training_UnderCollectionsOfAnotherThread_LivesAndLearnsTheSame()
    {
        Assert.SkipWhen(LateFree.Absence is not null, "The cure is not active here.");

        var (exitCode, output) = ChildTest.Run(
            typeof(CollectionStormTests),
            nameof(Child_TrainsInAStorm),
            new Dictionary<string, string> { [SecondsVariable] = LongTests.Cases(all: "60", few: "2") },
            TimeSpan.FromMinutes(8));

        Assert.True(exitCode == 0, $"The program ended with {exitCode}: {output}");
    }

    /// <summary>Not a test but the program: it trains and generates while another thread collects, and then once more in quiet.</summary>
    [Fact(Explicit = true)]
    public void Child_TrainsInAStorm()
    {
        var seconds = Environment.GetEnvironmentVariable(SecondsVariable);
        Assert.SkipUnless(seconds is not null, "It runs as a child of another test only.");
        set_num_threads(1);
        var enough = LongTests.Cases(all: 100, few: 20);
        var ended = false;
        var collections = GC.CollectionCount(2);
        var storm = new Thread(() =>
        {
            var kept = new List<byte[]>();
            var rounds = 0;
            while (!Volatile.Read(ref ended))
            {
                kept.AddRange(Enumerable.Range(0, 200).Select(i => new byte[1 + i * 7919 % 60000]));
                if (kept.Count > 20000)
                {
                    kept.Clear();
                }

                if (!LongTests.Run && ++rounds % 100 == 0)
                {
                    // Half a gigabyte, of which no byte is touched: what is left to the collector waits a second for it, not ten.
                    _ = empty((1L << 29) + 1, ScalarType.Byte);
                }

                GC.Collect(2, GCCollectionMode.Forced, blocking: false);

                // Thousands of collections in a minute, and the rest of the core for the tests beside this one.
                Thread.Sleep(3);
            }
        })
        { IsBackground = true };
        storm.Start();
        var watch = Stopwatch.StartNew();
        var limit = TimeSpan.FromSeconds(int.Parse(seconds, CultureInfo.InvariantCulture));

        // On a busy machine longer, until there was a storm.
        var inStorm =
            Learn(_ => watch.Elapsed < limit || GC.CollectionCount(2) - collections <= enough || LateFree.Counts.Freed <= enough).ToList();
        Volatile.Write(ref ended, true);
        storm.Join();
        Assert.True(GC.CollectionCount(2) - collections > enough, "There were hardly any collections.");
        Assert.True(LateFree.Counts.Freed > enough, "Hardly anything was freed late.");

        Assert.Equal(inStorm, Learn(_ => true).Take(inStorm.Count));
    }

    /// <summary>
    /// The loss of each step, and after every twentieth a text; half of the steps leave their temporaries to the collector.
    /// </summary>
    private static IEnumerable<string> Learn(Func<int, bool> goesOn)
    {
        var tokenizer = new ByteTokenizer();
        var random = new Random(1);
        var document = Enumerable.Range(0, 20000).Select(i => i == 0 ? tokenizer.EndOfDocument : random.Next(256)).ToArray();
        var config = XlstmPresets.Bytes1M with { EmbeddingDim = 32, BlockCount = 1, HeadCount = 2, VocabularySize = 257 };
        using var model = config.CreateModel(seed: 1);
        using var optimizer = new AdamW(model.named_parameters().Select(p => (p.name, p.parameter)));
        var source = new PackedTokens([document], document[0], 32, 1);
        for (var step = 0; goesOn(step); step++)
        {
            yield return Step(model, optimizer, source.Next(2), inScope: step % 2 == 0);
            if (step % 20 == 19)
            {
                yield return new TextGenerator(model, tokenizer).Generate("a", new() { Temperature = 0, MaxNewTokens = 4 }).Text;
            }
        }
    }

    private static string Step(XlstmLanguageModel model, AdamW optimizer, TokenBatch batch, bool inScope)
    {
        using var scope = inScope ? NewDisposeScope() : null;
        var logits = model.Forward(batch.ToInputTensor(), layout: new SequenceLayout(batch.ToDocumentStartTensor())).Logits;
        var loss = nn.functional.cross_entropy(logits.flatten(0, 1), batch.ToTargetTensor().flatten()) / 2.0 * 2.0 + 0.0;
        loss.backward();
        optimizer.Step(1e-3);
        model.zero_grad();
        return loss.item<float>().ToString("R", CultureInfo.InvariantCulture);
    }
}
