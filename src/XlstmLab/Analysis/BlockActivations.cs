using XlstmLab.Mixers;
using XlstmLab.Models;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Analysis;

/// <summary>Shows the activations of each block of a model together, while the model reads a batch from an empty state.</summary>
internal static class BlockActivations
{
    /// <summary>What the mLSTM of a block computes, where the model says so; otherwise what the 7B model's does.</summary>
    public static MLstmOptions CellOf(LanguageModel model, int block) =>
        (model.Config as XlstmConfig)?.MixerAt(block) is MLstmMixerConfig mlstm ? mlstm.Cell : new();

    /// <summary>[1, S] int64 on the model's device, in the caller's dispose scope.</summary>
    /// <exception cref="ArgumentException">There are no tokens.</exception>
    public static Tensor Sequence(LanguageModel model, ReadOnlySpan<int> tokens)
    {
        ArgumentNullException.ThrowIfNull(model);
        return tokens.IsEmpty
            ? throw new ArgumentException("Expected at least one token, got none.", nameof(tokens))
            : tensor(tokens.ToArray(), [1, tokens.Length], int64, model.WeightsDevice);
    }

    /// <summary>The shape of a batch of tokens.</summary>
    /// <exception cref="ArgumentException">It is no [B, S] with at least one token.</exception>
    public static (int Sequences, int Length) Shape(Tensor tokens)
    {
        ArgumentNullException.ThrowIfNull(tokens);
        return tokens.dim() == 2 && tokens.NumberOfElements > 0
            ? ((int)tokens.shape[0], (int)tokens.shape[1])
            : throw new ArgumentException(
                $"Expected tokens of shape [B, S], at least one, got [{string.Join(", ", tokens.shape)}].", nameof(tokens));
    }

    /// <summary>Reads a batch.</summary>
    /// <param name="model">
    /// The model; it is left as it is. An observer that it has does not see this pass and is there again afterwards.
    /// </param>
    /// <param name="tokens">[B, S] int64 on the model's device.</param>
    /// <param name="layout">Document starts and padding.</param>
    /// <param name="names">The activations wanted.</param>
    /// <param name="last">Those among them after which a block has nothing more to show.</param>
    /// <param name="see">Told each block, and those of the wanted activations that it has; they are valid during the call.</param>
    /// <exception cref="ArgumentException">Shapes or tokens do not fit the model.</exception>
    public static void Observe(
        LanguageModel model,
        Tensor tokens,
        SequenceLayout? layout,
        IReadOnlyCollection<string> names,
        IReadOnlyCollection<string> last,
        Action<int, IReadOnlyDictionary<string, Tensor>> see)
    {
        ArgumentNullException.ThrowIfNull(model);
        Shape(tokens);
        using var mode = EvaluationMode.Of(model);
        using var scope = NewDisposeScope();
        var seen = new Dictionary<string, Tensor>();
        var current = -1;
        var previous = model.Observer;
        model.Observer = (block, name, value) =>
        {
            if (block != current)
            {
                Forget();
                current = block;
            }

            if (!names.Contains(name))
            {
                return;
            }

            if (seen.Remove(name, out var earlier))
            {
                earlier.Dispose();
            }

            seen[name] = value.detach().DetachFromDisposeScope();
            if (last.Contains(name))
            {
                see(block, seen);
                Forget();
            }
        };
        try
        {
            // One position's logits are the fewest there are.
            model.Forward(tokens, layout: layout, positions: zeros(1, ScalarType.Int64, tokens.device));
        }
        finally
        {
            model.Observer = previous;
            Forget();
        }

        void Forget()
        {
            foreach (var value in seen.Values)
            {
                value.Dispose();
            }

            seen.Clear();
        }
    }

    /// <summary>The elements row by row, as float32.</summary>
    public static float[] ToArray(Tensor value)
    {
        using var scope = NewDisposeScope();
        return value.detach().to(ScalarType.Float32).cpu().contiguous().data<float>().ToArray();
    }

    /// <summary>A mask's elements; all false where there is none.</summary>
    /// <exception cref="ArgumentException">It is no mask of that many positions.</exception>
    public static bool[] Flags(Tensor? mask, int count)
    {
        if (mask is null)
        {
            return new bool[count];
        }

        if (mask.NumberOfElements != count || mask.dtype != ScalarType.Bool)
        {
            throw new ArgumentException(
                $"Expected a layout of {count} bools like the tokens, got [{string.Join(", ", mask.shape)}] {mask.dtype}.");
        }

        using var scope = NewDisposeScope();
        return mask.cpu().contiguous().data<bool>().ToArray();
    }
}
