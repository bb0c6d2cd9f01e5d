using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>
/// The sLSTM token by token, written like its equations, with automatic gradients: the reference for <see cref="SLstmFused"/>.
/// </summary>
public static class SLstmRecurrent
{
    /// <summary>Reads the tokens, on any device. Arguments, results and exceptions are those of <see cref="SLstmCell.Forward"/>.</summary>
    /// <inheritdoc cref="SLstmCell.Forward"/>
    public static (Tensor H, SLstmState Last) Forward(
        Tensor gatePreacts,
        Tensor recurrentKernel,
        Tensor bias,
        SLstmState? initial = null,
        SequenceLayout? layout = null,
        SLstmOptions? options = null)
    {
        SLstmCell.Check(gatePreacts, recurrentKernel, bias, initial, layout, options);
        using var scope = NewDisposeScope();
        var type = SLstmCell.StateType(gatePreacts);
        var (batch, heads, size) = (gatePreacts.shape[0], gatePreacts.shape[3], gatePreacts.shape[4]);

        var x = gatePreacts.to(type);
        if (layout?.Padding is { } padding)
        {
            x = x.masked_fill(padding.reshape(batch, -1, 1, 1, 1), 0); // what lies under padding must not reach a gradient
        }

        var tokens = (x + bias.to(type)).unbind(1);                                              // S of [B, 4, NH, D]
        var starts = layout?.DocumentStarts?.reshape(batch, -1, 1, 1).unbind(1);                 // S of [B, 1, 1]
        var pads = layout?.Padding?.reshape(batch, -1, 1, 1).unbind(1);                          // S of [B, 1, 1]
        var kernel = recurrentKernel.to(type).reshape(heads, 4 * size, size).transpose(1, 2);    // [NH, D, 4*D]
        var state = initial?.Map(t => t.to(type)) ?? SLstmState.Empty(batch, heads, size, type, gatePreacts.device);

        var outputs = new Tensor[tokens.Length];
        for (var t = 0; t < tokens.Length; t++)
        {
            using var step = NewDisposeScope();
            var before = starts is null ? state : state.Map(s => s.masked_fill(starts[t], 0));
            var after = Step(tokens[t], kernel, before, options);
            outputs[t] = (pads is null ? after.H.alias() : after.H.masked_fill(pads[t], 0)).MoveToOuterDisposeScope();
            state = (pads is null
                ? after
                : new(
                    where(pads[t], before.H, after.H),
                    where(pads[t], before.C, after.C),
                    where(pads[t], before.N, after.N),
                    where(pads[t], before.M, after.M))).MoveToOuterDisposeScope();
        }

        var h = stack(outputs, 2).to(gatePreacts.dtype);                                         // [B, NH, S, D]
        return (h.MoveToOuterDisposeScope(), state.MoveToOuterDisposeScope());
    }

    private static SLstmState Step(Tensor x, Tensor kernel, SLstmState state, SLstmOptions? options)
    {
        var (batch, heads, size) = (x.shape[0], x.shape[2], x.shape[3]);
        var h = options?.RecurrentGradientClip is { } clip ? ClipGradient.apply(state.H, clip)[0] : state.H;
        var recurrent = h.transpose(0, 1).bmm(kernel).reshape(heads, batch, 4, size).permute(1, 2, 0, 3);
        var raw = (x + recurrent).unbind(1);                                                     // 4 of [B, NH, D]
        var (i, f, z, o) = (raw[0], raw[1], raw[2], raw[3]);

        var logForget = (options?.ForgetGate ?? ForgetGate.Sigmoid).Log(f) + state.M;
        logForget = logForget.masked_fill(state.N.eq(0), double.NegativeInfinity);               // nothing to keep
        var m = MLstmNormalizer.Larger(logForget, i);
        var igate = (i - m).exp();
        var fgate = (logForget - m).exp();
        var c = fgate * state.C + igate * z.tanh();
        var n = fgate * state.N + igate;
        return new(o.sigmoid() * c / n, c, n, m);
    }

    /// <summary>Its argument, with each element of the gradient held within [-clip, clip].</summary>
    private sealed class ClipGradient : GradientFunction<ClipGradient>
    {
        protected override List<Tensor> Forward(autograd.AutogradContext ctx, params object[] vars)
        {
            ctx.save_data("clip", vars[1]);
            return [((Tensor)vars[0]).alias()];
        }

        protected override List<Tensor?> Backward(autograd.AutogradContext ctx, List<Tensor> gradients)
        {
            var clip = (double)ctx.get_data("clip");
            return [gradients[0].clamp(-clip, clip), null];
        }
    }
}
