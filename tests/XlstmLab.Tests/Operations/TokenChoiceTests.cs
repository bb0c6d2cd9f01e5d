using System.Diagnostics;
using System.Globalization;
using XlstmLab.Inference;
using XlstmLab.Operations;
using XlstmLab.Text;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Operations;

/// <summary>The kernel's choices against those of the host, which computes in double precision.</summary>
public sealed class TokenChoiceTests
{
    /// <summary>
    /// How far off a border u, p, or a score at min-p's bound may be and fall on its other side: what float32 rounds of the weights.
    /// </summary>
    private const double Rounding = 1e-5;

    private const int Rows = 24;
    private static readonly double[] Temperatures = [0, 1, 0.3, 1.7, 1e-3, 1e-300, 1e6];
    private static readonly int?[] TopKs = [null, 1, 3, 40, 100_000];
    private static readonly double?[] TopPs = [null, 0.05, 0.5, 0.9, 0.999, 1];
    private static readonly double?[] MinPs = [null, 0, 0.02, 0.5, 1];

    [Theory]
    [InlineData(5, 12)]
    [InlineData(257, 24)]
    [InlineData(1000, 8)]
    [InlineData(9001, 1)]
    [InlineData(50304, 1)]
    public void Choose_DrawnLogitsAndOptions_IsWhatTheHostChooses(int ids, int rounds)
    {
        LongTests.SkipUnless(ids < 50304);
        using var run = KernelRun.Begin();
        var random = new Random(ids);
        var (compared, excused) = (0, 0);
        for (var round = 0; round < (ids < 50304 ? LongTests.Cases(all: 4 * rounds, few: rounds) : rounds); round++)
        {
            var rows = new Row[Rows];
            for (var r = 0; r < Rows; r++)
            {
                rows[r] = new(ids, Options(random), [.. Enumerable.Range(0, random.Next(8)).Select(_ => random.Next(ids))]);
            }

            using var choice = new Device(ids, rows);
            for (var step = 0; step < 5; step++)
            {
                float[][] logits = [.. rows.Select((_, r) => Logits(random, (r + round) % 7, ids))];
                var chosen = choice.Choose(logits);
                for (var r = 0; r < Rows; r++)
                {
                    if (rows[r].Check(logits[r], chosen[r].Id, chosen[r].LogProbability) is { } isEqual)
                    {
                        compared++;
                        excused += isEqual ? 0 : 1;
                    }
                }
            }
        }

        Assert.Contains("token_choice", run.Launched);
        TestContext.Current.TestOutputHelper!.WriteLine($"{excused} of {compared} choices were on the other side of a border.");
        Assert.InRange(excused, 0, 1 + (compared / 500));
        Assert.True(compared > rounds * Rows * 4, $"{compared} choices were compared.");
    }

    [Fact]
    public void Choose_MoreEqualLogitsThanAListHolds_KeepsTheFirstOfThem()
    {
        const int ids = 9001;
        using var run = KernelRun.Begin();
        var options = new GenerationOptions { TopP = 0.5 };
        Row[] rows = [.. Enumerable.Range(0, 12).Select(
            seed => new Row(ids, options with { Seed = seed, TopK = seed % 2 == 0 ? 3 : null }, []))];
        using var choice = new Device(ids, rows);
        var logits = Enumerable.Repeat(-1.5f, ids).ToArray();
        var chosen = choice.Choose([.. rows.Select(_ => logits)]);
        Assert.All(chosen, c => Assert.InRange(c.Id, 0, (ids / 2) + 1));
        Assert.All(chosen.Zip(rows), pair => Assert.NotNull(pair.Second.Check(logits, pair.First.Id, pair.First.LogProbability)));
    }

    [Fact]
    public void Choose_LogitsThatAreNoNumbers_AreTold()
    {
        using var run = KernelRun.Begin();
        float[][] logits =
        [
            [1, float.NaN, 2, 3], [float.NaN, float.NaN, float.NaN, float.NaN], [1, float.PositiveInfinity, 2, 3],
            [.. Enumerable.Repeat(float.NegativeInfinity, 4)],
            [float.NegativeInfinity, float.NaN, float.NegativeInfinity, float.NegativeInfinity],
            [1, 2, float.NegativeInfinity, 3],
        ];
        foreach (var options in new GenerationOptions[] { new() { Temperature = 0 },
            new() { TopK = 2, TopP = 0.5, MinP = 0.1, RepetitionPenalty = 2 } })
        {
            Row[] rows = [.. logits.Select(_ => new Row(4, options, [1]))];
            using var choice = new Device(4, rows);
            var chosen = choice.Choose(logits);
            Assert.All(chosen, c => Assert.InRange(c.Id, 0, 3));
            Assert.Equal([false, false, false, false, false, true], chosen.Select(c => double.IsFinite(c.LogProbability)));
        }
    }

    [Fact]
    public void Choose_SameSeed_IsTheSameAgain()
    {
        using var run = KernelRun.Begin();
        int[] Ids()
        {
            var random = new Random(3);
            Row[] rows = [.. Enumerable.Range(0, Rows).Select(
                r => new Row(257, new() { Seed = r, TopP = 0.95, FrequencyPenalty = 0.2 }, []))];
            using var choice = new Device(257, rows);
            return [.. Enumerable.Range(0, 6).SelectMany(_ => choice.Choose([.. rows.Select(_ => Logits(random, 0, 257))]))
                .Select(c => c.Id)];
        }

        Assert.Equal(Ids(), Ids());
    }

    [Fact]
    public void Choose_RowOfNobody_LeavesItsTokenAlone()
    {
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        var tokens = full(3, 1, 7, ScalarType.Int64);
        using var choice = new TokenChoice(tokens, 5, 1);
        choice.Set([default, new() { Mode = TokenChoiceMode.Greedy, Repetition = 1 }, default]);
        choice.Choose(tensor(new float[] { 0, 0, 1, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0 }, [3, 5], device: get_default_device()));
        Assert.Equal([7, 3, 7], tokens.cpu().data<long>().ToArray());
    }

    [Fact]
    public void Take_WhatWasSent_ComesInItsOrder()
    {
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        using var output = new DeviceOutput<double>(2, ScalarType.Float64, get_default_device(), 2);
        for (var turn = 0; turn < 3; turn++)
        {
            output.Values.fill_(turn);
            output.Send();
            output.Values.fill_(turn + 0.5);
            output.Send();
            Assert.Throws<InvalidOperationException>(output.Send);
            Assert.Equal([turn, turn], output.Take().ToArray());
            Assert.Equal(1, output.Pending);
            Assert.Equal([turn + 0.5, turn + 0.5], output.Take().ToArray());
            Assert.Throws<InvalidOperationException>(() => _ = output.Take());
        }
    }

    /// <summary>How long a choice takes on a GPU behind another, told and not judged: run by hand.</summary>
    [Fact(Explicit = true)]
    public void Choose_OnAGpu_TellsItsTime()
    {
        using var run = KernelRun.BeginOnGpu();
        run.Record();
        using var scope = NewDisposeScope();
        const int times = 200;
        foreach (var ids in new[] { 257, 50304, 131072 })
        {
            foreach (var rows in new[] { 1, 8, 64 })
            {
                foreach (var options in new GenerationOptions[]
                {
                    new() { Temperature = 0 }, new() { Temperature = 0, RepetitionPenalty = 1.1 }, new(),
                    new() { TopK = 50 }, new() { TopP = 0.9 },
                    new() { MinP = 0.05 }, new() { TopK = 50, TopP = 0.9, MinP = 0.05, RepetitionPenalty = 1.1, FrequencyPenalty = 0.1 },
                })
                {
                    var tokens = zeros(rows, 1, ScalarType.Int64);
                    var logits = randn(rows, ids, ScalarType.Float32) * 2.5;
                    using var choice = new TokenChoice(tokens, ids, 1);
                    choice.Set([.. Enumerable.Range(0, rows).Select(r => new TokenSampler(options, r, []).ForDevice(ids))]);
                    choice.Choose(logits);
                    using var recorder = Kernel.Recorder(logits);
                    using var work = recorder.Record(() =>
                    {
                        for (var k = 0; k < times; k++)
                        {
                            choice.Choose(logits);
                        }
                    });
                    work.Start();
                    cuda.synchronize();
                    var watch = Stopwatch.StartNew();
                    work.Start();
                    cuda.synchronize();
                    var what = string.Create(
                        CultureInfo.InvariantCulture,
                        $"T {options.Temperature}, k {options.TopK}, p {options.TopP}, min-p {options.MinP}, "
                        + $"repetition {options.RepetitionPenalty}");
                    TestContext.Current.TestOutputHelper!.WriteLine(FormattableString.Invariant(
                        $"V {ids}, rows {rows}, {what}: {watch.Elapsed.TotalMicroseconds / times:F2} us"));
                    choice.Choices.Send();
                    Assert.InRange(choice.Choices.Take()[0], 0, ids - 1);
                }
            }
        }
    }

    private static GenerationOptions Options(Random random)
    {
        T Of<T>(T[] values) => values[random.Next(values.Length)];
        return new()
        {
            Seed = random.NextInt64(),
            EarlierDraws = random.Next(3),
            Temperature = Of(Temperatures),
            TopK = Of(TopKs),
            TopP = Of(TopPs),
            MinP = Of(MinPs),
            RepetitionPenalty = Of([1, 1, 1.3, 0.7]),
            FrequencyPenalty = Of([0, 0, 0.4, -0.2]),
            PresencePenalty = Of([0, 0, 0.6]),
        };
    }

    private static float[] Logits(Random random, int kind, int ids) => [.. Enumerable.Range(0, ids).Select(_ =>
    {
        var normal = Math.Sqrt(-2 * Math.Log(1 - random.NextDouble())) * Math.Cos(2 * Math.PI * random.NextDouble());
        return (float)(kind switch
        {
            0 => 3 * normal,
            1 => Math.Round(4 * normal) / 2, // ties, of either zero too
            2 => random.Next(3) == 0 ? 2 * normal : double.NegativeInfinity,
            3 => 1e30 * normal,
            4 => 1e-3 * normal,
            5 => 30 * Math.Tanh(normal),
            _ => random.Next(20) == 0 ? -1e9 : 20 + normal,
        });
    }).Append(0).Take(ids).Select((x, id) => id == ids / 2 && float.IsInfinity(x) ? 1f : x)];

    /// <summary>The device's side of a few rows.</summary>
    private sealed class Device : IDisposable
    {
        private readonly Tensor _tokens;
        private readonly TokenChoice _choice;
        private readonly int _ids;

        public Device(int ids, Row[] rows)
        {
            _ids = ids;
            _tokens = zeros(rows.Length, 1, ScalarType.Int64).DetachFromDisposeScope();
            _choice = new(_tokens, ids, 2);
            _choice.Set([.. rows.Select(row => row.Sampler.ForDevice(ids))]);
            foreach (var (r, row) in rows.Index())
            {
                if (row.Sampler.Occurred() is { } occurred)
                {
                    _choice.SetCounts(r, occurred);
                }
            }
        }

        public (int Id, double LogProbability)[] Choose(float[][] logits)
        {
            using var scope = NewDisposeScope();

            // The model has ids that the tokenizer does not know.
            var all = zeros(logits.Length, _ids + 3, ScalarType.Float32);
            all.fill_(float.PositiveInfinity);
            all.narrow(1, 0, _ids).copy_(tensor(logits.SelectMany(row => row).ToArray(), [logits.Length, _ids]));
            _choice.Choose(all.narrow(1, 0, _ids));
            _choice.Choices.Send();
            var taken = _choice.Choices.Take();
            var chosen = new (int Id, double LogProbability)[logits.Length];
            for (var r = 0; r < chosen.Length; r++)
            {
                chosen[r] = ((int)taken[2 * r], taken[(2 * r) + 1]);
            }

            Assert.Equal(chosen.Select(c => (long)c.Id), _tokens.cpu().data<long>().ToArray());
            return chosen;
        }

        public void Dispose()
        {
            _choice.Dispose();
            _tokens.Dispose();
        }
    }

    /// <summary>The host's side of a row.</summary>
    private sealed class Row(int ids, GenerationOptions options, int[] prompt)
    {
        private readonly List<int> _generated = [];
        private bool _isOver;

        public TokenSampler Sampler { get; } = new(options, options.Seed, prompt);

        /// <summary>
        /// Whether it is the host's choice, or else one that rounding accounts for; null where such a choice has made another text of the
        /// row before.
        /// </summary>
        public bool? Check(float[] logits, int id, double logProbability)
        {
            if (_isOver)
            {
                return null;
            }

            double[] exact = [.. logits.Select(x => (double)x)];
            var expected = Sampling.LogProbability(exact, id);
            Assert.True(
                double.Abs(expected - logProbability) <= 1e-6 + (1e-12 * double.Abs(expected)),
                $"log-probability {logProbability} instead of {expected}");
            var byHost = Sampler.Next(exact).Id;
            if (byHost != id)
            {
                Assert.True(
                    Near(exact).Contains(id),
                    $"{id} instead of {byHost} with {options}, token {_generated.Count} of logits from {exact.Min()} to {exact.Max()}");
                _isOver = true;
            }

            _generated.Add(id);
            return byHost == id;
        }

        /// <summary>What the host chooses where u, p or min-p's bound are a little off, or scores are float32.</summary>
        private IEnumerable<int> Near(double[] logits)
        {
            var scores = (double[])logits.Clone();
            if (options.RepetitionPenalty != 1)
            {
                Sampling.Penalize(scores, prompt.Concat(_generated).Distinct(), options.RepetitionPenalty);
            }

            Sampling.PenalizeCounts(
                scores, _generated.CountBy(id => id).ToDictionary(), options.FrequencyPenalty, options.PresencePenalty);
            if (options.Temperature == 0)
            {
                yield return Sampling.Greedy([.. scores.Select(x => (double)(float)x)]);
                yield break;
            }

            var random = new SplitMix64(options.Seed, 0);
            random.Skip(options.EarlierDraws + _generated.Count);
            var u = random.NextDouble();
            foreach (var (du, dp, dm) in from du in Shifts from dp in Shifts from dm in Shifts select (du, dp, dm))
            {
                var near = scores.Select(x => (double)(float)x).ToArray();
                var max = near.Max();
                for (var k = 0; k < ids; k++)
                {
                    near[k] = (near[k] - max) / options.Temperature;
                }

                if (options.TopK is { } top)
                {
                    Sampling.KeepTopK(near, top);
                }

                if (options.TopP is { } p)
                {
                    Sampling.KeepTopP(near, double.Clamp(p + dp, 1e-9, 1));
                }

                if (options.MinP is { } m)
                {
                    Sampling.KeepMinP(near, double.Clamp(m * (1 + dm), 0, 1));
                }

                yield return Sampling.Draw(near, double.Clamp(u + du, 0, 1 - 1e-15));
            }
        }

        private static double[] Shifts => [0, -Rounding, Rounding];
    }
}
