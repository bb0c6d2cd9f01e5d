using TorchSharp;
using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>Sums of logarithms of gates over stretches of tokens.</summary>
/// <remarks>
/// A decay is the exponential of a difference of running sums. In float32 it would keep the rounding of all that was summed before its
/// stretch, so running sums and what they are compared with are float64, in which they are a number a token and cost nothing.
/// </remarks>
internal static class LogSums
{
    /// <summary>The type of sums on a tensor's device: float64 where it has that.</summary>
    public static ScalarType Type(Tensor tensor) => tensor.device_type == DeviceType.MPS ? ScalarType.Float32 : ScalarType.Float64;

    /// <summary>The running sums of logarithms [..., S] along the tokens.</summary>
    public static Tensor Running(Tensor logs) => logs.to(Type(logs)).cumsum(-1);

    /// <summary>exp(reader_i + writer_j) for every pair of tokens that see each other, else 0: [..., L, L].</summary>
    /// <param name="reader">[..., L], the reading token's share, as wide as <see cref="Running"/>.</param>
    /// <param name="writer">[..., L], the written token's share.</param>
    /// <param name="visible">[L, L] or [..., L, L] bool, whether i reads j.</param>
    /// <param name="type">The type of the result.</param>
    public static Tensor Decays(Tensor reader, Tensor writer, Tensor visible, ScalarType type) =>
        (reader.unsqueeze(-1) + writer.unsqueeze(-2)).to(type).masked_fill_(visible.logical_not(), double.NegativeInfinity).exp_();

    /// <summary>The largest value [..., S] so far in each token's document; among equals the last one has the gradient.</summary>
    /// <param name="values">[..., S].</param>
    /// <param name="document">The number of each token's document, of a shape that expands to the values'; null for a single one.</param>
    public static Tensor LargestSoFar(Tensor values, Tensor? document)
    {
        if (document is null)
        {
            return values.cummax(-1).values;
        }

        var length = values.shape[^1];
        var largest = values.detach().clone();
        var index = arange(length, device: values.device).expand(values.shape).clone();
        for (var shift = 1L; shift < length; shift *= 2)
        {
            // Each token knows the largest of `shift` tokens; those of the `shift` before them are added.
            Tensor Earlier(Tensor x) => x.narrow(-1, 0, length - shift);
            Tensor Later(Tensor x) => x.narrow(-1, shift, length - shift);
            var wins = Earlier(largest).gt(Later(largest)).logical_and(Earlier(document).eq(Later(document)));
            foreach (var x in new[] { largest, index })
            {
                Later(x).copy_(where(wins, Earlier(x), Later(x)));
            }
        }

        return values.gather(-1, index);
    }
}
