using TorchSharp;
using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>
/// The sLSTM with block-diagonal recurrence (Beck et al. 2024, eqs. 8 to 18): one memory cell for each unit, heads that mix within
/// themselves.
/// </summary>
/// <remarks>
/// <para>For each token, with g one of the gates i, f, z, o and all products but the recurrent one elementwise:</para>
/// <code>
/// g~_t = x_g,t + R_g h_{t-1} + b_g
/// m_t  = max(i~_t, logsig(f~_t) + m_{t-1})        i~_t where n_{t-1} is zero
/// i'_t = exp(i~_t - m_t)                          f'_t = exp(logsig(f~_t) + m_{t-1} - m_t), 0 where n_{t-1} is zero
/// c_t  = f'_t c_{t-1} + i'_t tanh(z~_t)           n_t = f'_t n_{t-1} + i'_t
/// h_t  = sigmoid(o~_t) c_t / n_t
/// </code>
/// <para>With the exponential forget gate, f~ stands where logsig(f~) does.</para>
/// <para>
/// The published CPU code takes the empty-state branch of m only where n is zero in the whole batch. Here each unit decides
/// for itself: the same at the start of a batch, and right too where one row starts a document and its neighbours do not.
/// </para>
/// </remarks>
public static class SLstmCell
{
    /// <summary>
    /// Reads the tokens: bfloat16 on a GPU by a CUDA kernel, on the CPU by <see cref="SLstmFused"/>, and what is left, a single token on
    /// the CPU among it, by <see cref="SLstmRecurrent"/>.
    /// </summary>
    /// <param name="gatePreacts">
    /// x, [B, S, 4, NH, D] in the gates' order i, f, z, o; float32, float64 or bfloat16; S at least 1. A projection's output
    /// [B, S, 4*NH*D] has this layout already.
    /// </param>
    /// <param name="recurrentKernel">R, [NH, 4, D, D] as (head, gate, unit written, unit read).</param>
    /// <param name="bias">b, [4, NH, D].</param>
    /// <param name="initial">The state before the first token, left as it is; null is the empty state.</param>
    /// <param name="layout">
    /// Document starts and padding. A document start makes the state exactly empty before that token; padding leaves the
    /// state as it is, its output is zero, and its inputs may hold anything.
    /// </param>
    /// <param name="options">Null for the defaults.</param>
    /// <returns>
    /// h as [B, NH, S, D] in the type of <paramref name="gatePreacts"/>, and the state after the last token. States and gates
    /// are float64 where <paramref name="gatePreacts"/> is, else float32. Both results belong to the caller's dispose scope.
    /// </returns>
    /// <exception cref="ArgumentException">A shape, type or device does not fit.</exception>
    public static (Tensor H, SLstmState Last) Forward(
        Tensor gatePreacts,
        Tensor recurrentKernel,
        Tensor bias,
        SLstmState? initial = null,
        SequenceLayout? layout = null,
        SLstmOptions? options = null)
    {
        if (gatePreacts is { dtype: ScalarType.BFloat16 } && gatePreacts.dim() == 5 && SLstmSequenceKernel.Serves(gatePreacts))
        {
            Check(gatePreacts, recurrentKernel, bias, initial, layout, options);
            return SLstmSequenceKernel.Forward(gatePreacts, recurrentKernel, bias, initial, layout, options);
        }

        // Arranging the weights for the fused form pays from two tokens on.
        return gatePreacts.device_type == DeviceType.CPU && gatePreacts.shape is not [_, 1, ..]
            ? SLstmFused.Forward(gatePreacts, recurrentKernel, bias, initial, layout, options)
            : SLstmRecurrent.Forward(gatePreacts, recurrentKernel, bias, initial, layout, options);
    }

    /// <summary>The type of gates and states.</summary>
    internal static ScalarType StateType(Tensor gatePreacts) =>
        gatePreacts.dtype == ScalarType.Float64 ? ScalarType.Float64 : ScalarType.Float32;

    /// <summary>Refuses what does not fit together, before any native code sees it.</summary>
    internal static void Check(
        Tensor gatePreacts, Tensor recurrentKernel, Tensor bias, SLstmState? initial, SequenceLayout? layout, SLstmOptions? options)
    {
        if (gatePreacts.dim() != 5 || gatePreacts.shape[2] != 4 || gatePreacts.shape.Contains(0))
        {
            throw new ArgumentException(
                $"The gate pre-activations must be [B, S, 4 (i, f, z, o), NH, D] with no size zero, but are {Show(gatePreacts)}.",
                nameof(gatePreacts));
        }

        if (gatePreacts.dtype is not (ScalarType.Float32 or ScalarType.Float64 or ScalarType.BFloat16))
        {
            throw new ArgumentException(
                $"The gate pre-activations must be float32, float64 or bfloat16, but are {gatePreacts.dtype}. Convert them first.",
                nameof(gatePreacts));
        }

        var (batch, length, heads, size) = (gatePreacts.shape[0], gatePreacts.shape[1], gatePreacts.shape[3], gatePreacts.shape[4]);
        CheckTensor("recurrent kernel", "[NH, 4, D, D]", recurrentKernel, [heads, 4, size, size], nameof(recurrentKernel));
        CheckTensor("bias", "[4, NH, D]", bias, [4, heads, size], nameof(bias));
        foreach (var (name, state) in new[] { ("H", initial?.H), ("C", initial?.C), ("N", initial?.N), ("M", initial?.M) })
        {
            CheckTensor($"initial state's {name}", "[B, NH, D]", state, [batch, heads, size], nameof(initial));
        }

        foreach (var (name, mask) in new[] { ("document starts", layout?.DocumentStarts), ("padding", layout?.Padding) })
        {
            CheckTensor($"layout's {name}", "[B, S]", mask, [batch, length], nameof(layout));
            if (mask is not null && mask.dtype != ScalarType.Bool)
            {
                throw new ArgumentException($"The layout's {name} must be bool, but are {mask.dtype}. Convert them first.", nameof(layout));
            }
        }

        if (options is { ForgetGate: not (ForgetGate.Sigmoid or ForgetGate.Exponential) })
        {
            throw new ArgumentException(
                $"The sLSTM's forget gate must be sigmoid or exponential, but is {options.ForgetGate}.", nameof(options));
        }

        if (options?.RecurrentGradientClip is { } clip && !(clip > 0))
        {
            throw new ArgumentException(
                FormattableString.Invariant($"RecurrentGradientClip must be positive, or null for none, but is {clip}."), nameof(options));
        }

        void CheckTensor(string name, string form, Tensor? tensor, long[] shape, string parameter)
        {
            if (tensor is null)
            {
                return;
            }

            if (!tensor.shape.SequenceEqual(shape))
            {
                throw new ArgumentException(
                    $"The {name} must be {form} = [{string.Join(", ", shape)}] to fit gate pre-activations {Show(gatePreacts)}, "
                    + $"but is {Show(tensor)}.", parameter);
            }

            if (tensor.device_type != gatePreacts.device_type || tensor.device_index != gatePreacts.device_index)
            {
                throw new ArgumentException(
                    $"The {name} lies on {tensor.device} and the gate pre-activations on {gatePreacts.device}. Move one to the other.",
                    parameter);
            }
        }
    }

    private static string Show(Tensor tensor) => $"[{string.Join(", ", tensor.shape)}]";
}
