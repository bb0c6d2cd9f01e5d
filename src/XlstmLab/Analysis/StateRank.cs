using System.Globalization;
using XlstmLab.Models;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Analysis;

/// <summary>How full the matrix memory of one head is after a token.</summary>
/// <param name="Sequence">The row of the batch.</param>
/// <param name="Layer">The block, from 0.</param>
/// <param name="Head">The head, from 0.</param>
/// <param name="Token">The position of the token, from 0.</param>
/// <param name="EffectiveRank">
/// exp(-sum p ln p) with p = s / sum s of the singular values s (Roy and Vetterli 2007): the number of directions in use if all were used
/// alike. From 1 to <paramref name="FullRank"/>; 0 of an empty memory.
/// </param>
/// <param name="StableRank">
/// The squared Frobenius over the squared spectral norm, sum s^2 / max s^2: as above, with the weak counting less.
/// </param>
/// <param name="NumericalRank">The singular values above float32's resolution, max s times max(DK, DV) times 2^-23.</param>
/// <param name="Norm">The Frobenius norm in units of 1, exp(m) |C|.</param>
/// <param name="FullRank">The greatest rank there can be, min(DK, DV).</param>
public sealed record StateRank(
    int Sequence, int Layer, int Head, int Token, double EffectiveRank, double StableRank, int NumericalRank, double Norm, int FullRank);

/// <summary>Rank and norm of states over time.</summary>
public static class StateRanks
{
    /// <summary>Reads a sequence from an empty state and measures the matrix memories every so many tokens, and after the last.</summary>
    /// <param name="model">The model; it is left as it is.</param>
    /// <param name="tokens">The token ids, at least one.</param>
    /// <param name="every">The tokens between two measurements.</param>
    /// <param name="state">As in <see cref="Measure(LanguageModel, Tensor, int, SequenceLayout, string)"/>.</param>
    /// <exception cref="ArgumentException">There are no tokens, or the model does not know them.</exception>
    /// <exception cref="InvalidOperationException">The model's state has no matrix of that name.</exception>
    public static IReadOnlyList<StateRank> Measure(LanguageModel model, ReadOnlySpan<int> tokens, int every = 16, string state = "c")
    {
        using var scope = NewDisposeScope();
        return Measure(model, BlockActivations.Sequence(model, tokens), every, null, state);
    }

    /// <summary>Reads a batch from an empty state and measures the matrix memories every so many tokens, and after the last.</summary>
    /// <param name="model">The model; it is left as it is.</param>
    /// <param name="tokens">[B, S] int64 on the model's device.</param>
    /// <param name="every">The tokens between two measurements.</param>
    /// <param name="layout">Document starts and padding.</param>
    /// <param name="state">
    /// The name of the matrices [B, NH, DK, DV] in the model's state, after its block: <c>c</c> of an mLSTM. Where the block also has an
    /// <c>m</c> [B, NH, 1], that is the logarithm of their scale.
    /// </param>
    /// <returns>By token, block, sequence and head.</returns>
    /// <exception cref="ArgumentException">Shapes or tokens do not fit the model.</exception>
    /// <exception cref="InvalidOperationException">The model's state has no matrix of that name.</exception>
    public static IReadOnlyList<StateRank> Measure(
        LanguageModel model, Tensor tokens, int every = 16, SequenceLayout? layout = null, string state = "c")
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentOutOfRangeException.ThrowIfLessThan(every, 1);
        var (_, length) = BlockActivations.Shape(tokens);
        var ranks = new List<StateRank>();
        using var mode = EvaluationMode.Of(model);
        ModelState? before = null;
        try
        {
            for (var start = 0; start < length; start += every)
            {
                using var scope = NewDisposeScope();
                var count = Math.Min(every, length - start);
                var output = model.Forward(
                    tokens.narrow(1, start, count),
                    before,
                    layout?.Narrow(start, count),
                    returnState: true,
                    positions: zeros(1, ScalarType.Int64, tokens.device));
                before?.Dispose();
                before = output.State!;
                foreach (var (layer, matrices, scale) in Matrices(before, state))
                {
                    Measure(ranks, layer, start + count - 1, matrices, scale);
                }
            }
        }
        finally
        {
            before?.Dispose();
        }

        return ranks;
    }

    /// <summary>The effective rank of a matrix with these singular values; see <see cref="StateRank.EffectiveRank"/>.</summary>
    public static double EffectiveRank(ReadOnlySpan<double> singularValues)
    {
        var (sum, entropy) = (0.0, 0.0);
        foreach (var value in singularValues)
        {
            sum += value;
        }

        foreach (var value in singularValues)
        {
            entropy -= value > 0 ? value / sum * Math.Log(value / sum) : 0;
        }

        return sum > 0 ? Math.Exp(entropy) : 0;
    }

    /// <summary>The stable rank of a matrix with these singular values; see <see cref="StateRank.StableRank"/>.</summary>
    public static double StableRank(ReadOnlySpan<double> singularValues)
    {
        var (greatest, squares) = (0.0, 0.0);
        foreach (var value in singularValues)
        {
            greatest = Math.Max(greatest, value);
            squares += value * value;
        }

        return greatest > 0 ? squares / (greatest * greatest) : 0;
    }

    /// <summary>The blocks that have matrices of that name: [B, NH, DK, DV], and the logarithm of their scale [B, NH, 1] or none.</summary>
    private static IEnumerable<(int Layer, Tensor Matrices, Tensor? Scale)> Matrices(ModelState state, string name)
    {
        var found = state.Tensors
            .Select(t => (Parts: t.Key.Split('.'), t.Value))
            .Where(t => t.Parts is ["blocks", _, var last] && last == name && t.Value.dim() == 4)
            .Select(t => (Layer: int.Parse(t.Parts[1], CultureInfo.InvariantCulture), t.Value))
            .OrderBy(t => t.Layer)
            .ToArray();
        return found.Length > 0
            ? found.Select(t => (t.Layer, t.Value, state.Tensors.GetValueOrDefault($"blocks.{t.Layer}.m")))
            : throw new InvalidOperationException(
                $"The model's state has no matrices [B, NH, DK, DV] named '{name}'. "
                + $"It has {string.Join(", ", state.Tensors.Take(6).Select(t => $"{t.Key} [{string.Join(", ", t.Value.shape)}]"))}.");
    }

    private static void Measure(List<StateRank> ranks, int layer, int token, Tensor matrices, Tensor? scale)
    {
        using var scope = NewDisposeScope();
        var (sequences, heads) = ((int)matrices.shape[0], (int)matrices.shape[1]);
        var resolution = Math.Max(matrices.shape[2], matrices.shape[3]) * Math.Pow(2, -23);
        var values = linalg.svdvals(matrices.detach().cpu().to(ScalarType.Float64)); // (B, NH, min(DK, DV))
        var full = (int)values.shape[2];
        var all = values.contiguous().data<double>().ToArray();
        var scales = scale is null ? null : BlockActivations.ToArray(scale);
        for (var row = 0; row < sequences * heads; row++)
        {
            var singular = all.AsSpan(row * full, full);
            var (square, numerical) = (0.0, 0);
            foreach (var value in singular)
            {
                square += value * value;
                numerical += value > singular[0] * resolution ? 1 : 0;
            }

            ranks.Add(new(
                row / heads,
                layer,
                row % heads,
                token,
                EffectiveRank(singular),
                StableRank(singular),
                numerical,
                Math.Exp((scales?[row] ?? 0) + Math.Log(Math.Sqrt(square))),
                full));
        }
    }
}
