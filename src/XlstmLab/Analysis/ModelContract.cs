using System.Globalization;
using System.Text;
using TorchSharp;
using XlstmLab.Checkpoints;
using XlstmLab.Mixers;
using XlstmLab.Models;
using XlstmLab.Operations;
using XlstmLab.Text;
using static TorchSharp.torch;

namespace XlstmLab.Analysis;

/// <summary>One thing that a model promises.</summary>
/// <param name="Promise">What it is.</param>
/// <param name="Holds">Whether the model keeps it.</param>
/// <param name="Detail">The largest difference, or what was expected and what came.</param>
public sealed record ContractFinding(string Promise, bool Holds, string Detail);

/// <summary>What a model promises and whether it keeps it.</summary>
/// <param name="Findings">The promises, in the order of their checks.</param>
public sealed record ContractReport(IReadOnlyList<ContractFinding> Findings)
{
    /// <summary>Whether the model keeps all that it promises.</summary>
    public bool Holds => Findings.All(finding => finding.Holds);

    /// <summary>A line for each promise.</summary>
    public override string ToString()
    {
        var text = new StringBuilder();
        var width = Findings.Max(finding => finding.Promise.Length);
        foreach (var (promise, holds, detail) in Findings)
        {
            text.Append(holds ? "ok    " : "FAILS ").Append(promise.PadRight(width)).Append("  ").AppendLine(detail);
        }

        return text.ToString();
    }
}

/// <summary>
/// Checks what trainer, evaluators and generator take for granted of a model, whatever its mixers are: of one of your own too, before you
/// trust its figures.
/// </summary>
/// <remarks>
/// The model is in float64 and its weights all matter: differences beyond rounding are mistakes. An mLSTM's epsilon, which counts in units
/// of a running maximum and so differs a little between its forms, is taken as 0.
/// </remarks>
public static class ModelContract
{
    private const double Rounding = 1e-9;
    private const int Rows = 3;
    private const int Length = 23;

    /// <summary>Checks the models of a configuration.</summary>
    /// <param name="config">A small architecture: a few blocks of a width below 100.</param>
    /// <param name="seed">What weights and tokens are drawn with.</param>
    /// <exception cref="ConfigException">The configuration cannot be.</exception>
    public static ContractReport Check(LanguageModelConfig config, int seed = 1)
    {
        ArgumentNullException.ThrowIfNull(config);
        config.Validate();
        using var scope = NewDisposeScope();
        config = WithoutEpsilon(config);
        using var model = Model(config, seed);
        var check = new Checks(model, seed);
        (string Promise, Func<string?> Check)[] promises =
        [
            ("read in pieces, a sequence gives the same as read whole", check.Pieces),
            ("no token sees a later one", check.Causality),
            ("rows do not depend on each other", check.Batch),
            ("documents in a row give the same as documents alone", () => check.Documents(withPadding: false)),
            ("padding changes nothing, wherever it is", () => check.Documents(withPadding: true)),
            ("a given state stays as it was, and its rows can be chosen", check.Fork),
            ("states of different lengths can be joined", check.Join),
            ("a state can be saved and loaded", check.SaveState),
            ("gradients are finite, reach all weights and go through a state", check.Gradients),
            ("one seed gives one model", () => Seeds(config, seed)),
            ("configuration and weights can be saved and loaded", check.SaveModel),
            ("parameters and bytes of state are as counted", check.Counts),
            ("what an observer is shown is named", check.Observables),
            ("bfloat16 stays near", () => BFloat16(config, seed)),
            ("no tensor is left behind", check.Tensors),
        ];
        return new([.. promises.Select(promise => Finding(promise.Promise, promise.Check))]);
    }

    private static ContractFinding Finding(string promise, Func<string?> check)
    {
        try
        {
            using var scope = NewDisposeScope();
            return check() is { } fault ? new(promise, false, fault) : new(promise, true, "");
        }
        catch (Exception e) when (e is not OutOfMemoryException)
        {
            return new(promise, false, $"{e.GetType().Name}: {e.Message.Split('\n')[0]}");
        }
    }

    private static LanguageModelConfig WithoutEpsilon(LanguageModelConfig config)
    {
        if (config is not XlstmConfig xlstm)
        {
            return config;
        }

        xlstm = xlstm with { Epsilon = 0 };
        return xlstm.Mixers.Any(mixer => mixer is MLstmMixerConfig)
            ? xlstm with
            {
                Mixers = [.. xlstm.Mixers.Select(mixer => mixer is MLstmMixerConfig mlstm ? mlstm with { Epsilon = 0 } : mixer)],
            }
            : xlstm;
    }

    /// <summary>A model in float64, with weights far from their initial zeros and ones.</summary>
    private static LanguageModel Model(LanguageModelConfig config, int seed)
    {
        var model = config.CreateModel(seed);
        model.to(ScalarType.Float64);
        model.eval();
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        using var generator = new Generator((ulong)seed, CPU);
        foreach (var parameter in model.parameters())
        {
            parameter.add_(randn(parameter.shape, ScalarType.Float64, generator: generator) * 0.1);
        }

        return model;
    }

    private static string? Seeds(LanguageModelConfig config, int seed)
    {
        using var one = config.CreateModel(seed);
        using var same = config.CreateModel(seed);
        using var other = config.CreateModel(seed + 1);
        var differing = one.named_parameters().Zip(same.parameters()).FirstOrDefault(
            pair => !pair.First.parameter.equal(pair.Second).all().item<bool>());
        return differing.Second is not null
            ? $"{differing.First.name} differs: it is drawn from something else than the generator, or not at all"
            : one.parameters().Zip(other.parameters()).All(pair => pair.First.equal(pair.Second).all().item<bool>())
                ? "another seed gives the same model"
                : null;
    }

    private static string? BFloat16(LanguageModelConfig config, int seed)
    {
        using var grad = no_grad();
        using var wide = config.CreateModel(seed);
        using var narrow = config.CreateModel(seed);
        narrow.ComputeType = ScalarType.BFloat16;
        wide.to(ScalarType.Float64);
        wide.eval();
        narrow.eval();
        var tokens = Tokens(config.VocabularySize, 2, Length, seed);
        var (expected, actual) = (wide.Forward(tokens).Logits, narrow.Forward(tokens).Logits);
        var error = ((actual - expected).square().mean() / expected.square().mean()).sqrt().item<double>();
        return error <= 0.1 ? null : string.Create(CultureInfo.InvariantCulture, $"logits are {error:P1} off");
    }

    /// <summary>Random tokens [B, S].</summary>
    internal static Tensor Tokens(int vocabulary, long batch, long length, long seed)
    {
        using var generator = new Generator((ulong)seed, CPU);
        return randint(0, vocabulary, [batch, length], dtype: ScalarType.Int64, generator: generator);
    }

    /// <summary>How two tensors differ beyond the rounding of float64; null where they do not.</summary>
    internal static string? Difference(Tensor expected, Tensor actual, string what)
    {
        if (!expected.shape.AsSpan().SequenceEqual(actual.shape))
        {
            return $"{what}: expected [{string.Join(", ", expected.shape)}], got [{string.Join(", ", actual.shape)}]";
        }

        var difference = expected.NumberOfElements == 0 ? 0 : (expected - actual).abs().max().item<double>();
        var size = expected.NumberOfElements == 0 ? 1 : Math.Max(1, expected.abs().max().item<double>());
        return difference <= Rounding * size ? null : string.Create(
            CultureInfo.InvariantCulture, $"{what}: the largest difference is {difference:G3}");
    }

    /// <summary>The logits of a sequence that is read in pieces, each of the size that its start gives.</summary>
    internal static Tensor InPieces(LanguageModel model, Tensor tokens, SequenceLayout? layout, Func<long, long> size)
    {
        ModelState? state = null;
        var parts = new List<Tensor>();
        for (long start = 0, length; start < tokens.shape[1]; start += length)
        {
            length = Math.Min(size(start), tokens.shape[1] - start);
            using var before = state;
            (var part, state) = model.Forward(tokens.narrow(1, start, length), before, layout?.Narrow(start, length), returnState: true);
            parts.Add(part);
        }

        state?.Dispose();
        return cat(parts, 1);
    }

    /// <summary>The positions of each document's tokens; a document's start may lie on padding.</summary>
    internal static List<long[]> Apart(ReadOnlySpan<bool> starts, ReadOnlySpan<bool> padding)
    {
        var documents = new List<List<long>> { new() };
        for (var t = 0; t < starts.Length; t++)
        {
            if (starts[t])
            {
                documents.Add([]);
            }

            if (!padding[t])
            {
                documents[^1].Add(t);
            }
        }

        return [.. documents.Where(d => d.Count > 0).Select(d => d.ToArray())];
    }

    private sealed class Checks(LanguageModel model, int seed)
    {
        private readonly int _vocabulary = model.VocabularySize;

        public string? Pieces()
        {
            using var grad = no_grad();
            var tokens = Draw(Rows, Length);
            var whole = model.Forward(tokens).Logits;
            return Difference(whole, InPieces(model, tokens, null, _ => 1), "token by token")
                ?? Difference(whole, InPieces(model, tokens, null, start => start % 3 == 0 ? 5 : 2), "in pieces of 2 and 5")
                ?? Difference(whole, InPieces(model, tokens, null, start => start == 0 ? Length - 1 : 1), "the last token by itself");
        }

        public string? Causality()
        {
            using var grad = no_grad();
            var tokens = Draw(Rows, Length);
            var whole = model.Forward(tokens).Logits;
            var changed = tokens.clone();
            changed.narrow(1, Length / 2, Length - Length / 2).add_(1).remainder_(_vocabulary);
            return Difference(
                whole.narrow(1, 0, Length / 2), model.Forward(changed).Logits.narrow(1, 0, Length / 2), "tokens before a changed one");
        }

        public string? Batch()
        {
            using var grad = no_grad();
            var tokens = Draw(Rows, Length);
            var whole = model.Forward(tokens).Logits;
            return Enumerable.Range(0, Rows)
                .Select(row => Difference(whole.narrow(0, row, 1), model.Forward(tokens.narrow(0, row, 1)).Logits, $"row {row} by itself"))
                .FirstOrDefault(fault => fault is not null);
        }

        public string? Documents(bool withPadding)
        {
            using var grad = no_grad();
            for (var round = 1; round <= (withPadding ? 4 : 2); round++)
            {
                using var scope = NewDisposeScope();
                var random = new SplitMix64(seed + round, 0);
                var (starts, padding) = (new bool[Rows * Length], new bool[Rows * Length]);
                for (var at = 0; at < starts.Length; at++)
                {
                    starts[at] = random.NextDouble() < (round == 4 && withPadding ? 0 : 0.12);
                    padding[at] = withPadding && random.NextDouble() < 0.15 * round;
                }

                var layout = new SequenceLayout(tensor(starts, [Rows, Length]), withPadding ? tensor(padding, [Rows, Length]) : null);
                var tokens = Draw(Rows, Length, round);
                var whole = model.Forward(tokens, layout: layout).Logits;
                var pieces = InPieces(model, tokens, layout, start => 1 + start % 6);
                for (var row = 0; row < Rows; row++)
                {
                    foreach (var document in Apart(starts.AsSpan(row * Length, Length), padding.AsSpan(row * Length, Length)))
                    {
                        var index = tensor(document);
                        var alone = model.Forward(tokens[row].index_select(0, index).unsqueeze(0)).Logits[0];
                        if ((Difference(alone, whole[row].index_select(0, index), "whole rows")
                            ?? Difference(alone, pieces[row].index_select(0, index), "rows in pieces")) is { } fault)
                        {
                            return fault;
                        }
                    }
                }
            }

            return null;
        }

        public string? Fork()
        {
            using var grad = no_grad();
            using var state = model.Forward(Draw(2, 7), returnState: true).State!;
            using var copy = state.Clone();
            using var swapped = state.SelectRows(1, 0, 1);
            var next = Draw(2, 5, 3);
            var (logits, last) = model.Forward(next, state, returnState: true);
            last?.Dispose();
            var rows = model.Forward(next.index_select(0, tensor(new long[] { 1, 0, 1 })), swapped).Logits;
            return state.Tensors.Where(pair => !copy[pair.Key].equal(pair.Value).all().item<bool>())
                .Select(pair => $"{pair.Key} was changed").FirstOrDefault()
                ?? Difference(logits.index_select(0, tensor(new long[] { 1, 0, 1 })), rows, "chosen rows");
        }

        public string? Join()
        {
            using var grad = no_grad();
            var prompts = new[] { Draw(1, 9, 2), Draw(1, 2, 3), Draw(1, 5, 4) };
            var states = prompts.Select(prompt => model.Forward(prompt, returnState: true).State!).ToList();
            try
            {
                using var joined = model.JoinStates(states);
                var next = Draw(3, 6, 5);
                var together = model.Forward(next, joined).Logits;
                return Enumerable.Range(0, 3)
                    .Select(row => Difference(
                        model.Forward(next.narrow(0, row, 1), states[row]).Logits[0], together[row], $"row {row} of joined states"))
                    .FirstOrDefault(fault => fault is not null);
            }
            finally
            {
                states.ForEach(state => state.Dispose());
            }
        }

        public string? SaveState()
        {
            using var grad = no_grad();
            using var state = model.Forward(Draw(2, 7), returnState: true).State!;
            var file = Path.Combine(Path.GetTempPath(), $"xlstm-{Guid.NewGuid():N}.safetensors");
            try
            {
                ModelStateFile.Save(state, file);
                using var read = ModelStateFile.Load(file);
                var next = Draw(2, 4, 3);
                return Difference(model.Forward(next, state).Logits, model.Forward(next, read).Logits, "after loading");
            }
            finally
            {
                File.Delete(file);
            }
        }

        public string? Gradients()
        {
            var tokens = Draw(2, 12);
            model.zero_grad();
            Operations.Gradients.Backward(model.Forward(tokens).Logits.square().sum());
            var whole = new Dictionary<string, Tensor>();
            foreach (var (name, parameter) in model.named_parameters().Where(p => p.parameter.requires_grad))
            {
                if (parameter.grad is not { } gradient)
                {
                    return $"{name} has none";
                }

                if (!gradient.isfinite().all().item<bool>())
                {
                    return $"{name} has one that is not finite";
                }

                if (gradient.count_nonzero().item<long>() == 0)
                {
                    return $"{name} has zeros alone";
                }

                whole[name] = gradient.clone();
            }

            model.zero_grad();
            var (first, state) = model.Forward(tokens.narrow(1, 0, 5), returnState: true);
            var second = model.Forward(tokens.narrow(1, 5, 7), state).Logits;
            Operations.Gradients.Backward(first.square().sum() + second.square().sum());
            state?.Dispose();
            var fault = model.named_parameters().Where(p => whole.ContainsKey(p.name))
                .Select(p => p.parameter.grad is { } gradient
                    ? Difference(whole[p.name], gradient, $"{p.name} through a state") : $"{p.name} has none")
                .FirstOrDefault(f => f is not null);
            model.zero_grad();
            return fault;
        }

        public string? SaveModel()
        {
            using var grad = no_grad();
            var read = ModelConfigJson.Parse(ModelConfigJson.Text(model.Config));

            // mLSTMs and sLSTMs alone are written as slstm_at, in whatever form they were given.
            var given = model.Config is XlstmConfig { Mixers.IsOwn: true } xlstm ? xlstm with { SLstmAt = xlstm.SLstmAt } : model.Config;
            if (read != given)
            {
                return "the configuration that is read is not the one that was written";
            }

            using var copy = read.CreateModel(seed + 1);
            copy.to(ScalarType.Float64);
            copy.eval();
            var (own, others) = (model.state_dict(), copy.state_dict());
            if (own.Keys.Except(others.Keys).Concat(others.Keys.Except(own.Keys)).FirstOrDefault() is { } name)
            {
                return $"{name} is in one state dict alone";
            }

            foreach (var (key, value) in others)
            {
                value.copy_(own[key]);
            }

            var tokens = Draw(2, 9);
            return Difference(model.Forward(tokens).Logits, copy.Forward(tokens).Logits, "after loading");
        }

        public string? Counts()
        {
            using var grad = no_grad();
            var (counted, actual) = (model.Config.CountParameters(), model.parameters().Sum(p => p.NumberOfElements));
            if (counted != actual)
            {
                return $"{counted} parameters are counted, and there are {actual}";
            }

            using var narrow = model.Config.CreateModel(seed);
            narrow.eval();
            using var state = narrow.Forward(Draw(1, 11), returnState: true).State!;
            var flops = model.Config.ForwardFlopsPerToken(11);
            return model.Config.StateBytes(11) != state.SizeInBytes
                ? $"{model.Config.StateBytes(11)} bytes of state are counted, and there are {state.SizeInBytes}"
                : !double.IsFinite(flops) || flops <= 0 ? string.Create(
                    CultureInfo.InvariantCulture, $"{flops} operations are counted for a token")
                : null;
        }

        public string? Observables()
        {
            using var grad = no_grad();
            var seen = new HashSet<(int Block, string Name)>();
            model.Observer = (block, name, _) => seen.Add((block, name));
            try
            {
                model.Forward(Draw(2, 5));
            }
            finally
            {
                model.Observer = null;
            }

            return model.Config is XlstmConfig config
                ? Enumerable.Range(0, config.BlockCount)
                    .SelectMany(block => config.MixerAt(block).Observables.Select(name => (block, name)))
                    .Where(named => !seen.Contains(named))
                    .Select(named => $"block {named.block} names '{named.name}' and does not show it")
                    .FirstOrDefault()
                : seen.Count == 0 ? "nothing is shown" : null;
        }

        public string? Tensors()
        {
            Step();
            Step();
            var before = DisposeScopeManager.Statistics.ThreadTotalLiveCount;
            Step();
            Step();
            var left = DisposeScopeManager.Statistics.ThreadTotalLiveCount - before;
            return left == 0 ? null : $"{left} tensors stay after two steps";

            void Step()
            {
                using (NewDisposeScope())
                {
                    var starts = zeros(2, 6, dtype: ScalarType.Bool);
                    starts[0, 3] = true;
                    Operations.Gradients.Backward(model.Forward(Draw(2, 6), layout: new(starts)).Logits.sum());
                    using var grad = no_grad();
                    using var state = model.Forward(Draw(2, 6), returnState: true).State;
                    using var next = model.Forward(Draw(2, 1), state, returnState: true).State;
                }

                model.zero_grad();
            }
        }

        private Tensor Draw(long batch, long length, int number = 0) => Tokens(_vocabulary, batch, length, seed + number);
    }
}
