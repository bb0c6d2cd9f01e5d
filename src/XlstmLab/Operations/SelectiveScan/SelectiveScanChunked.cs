using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>
/// The selective scan in libtorch's operations, on any device: chunks one after the other, the tokens of a chunk in parallel.
/// </summary>
/// <remarks>
/// Only the states between chunks are kept for the backward pass, which computes those within a chunk again: memory grows as S / L,
/// with L tokens a chunk. It cannot be differentiated twice.
/// </remarks>
public static class SelectiveScanChunked
{
    /// <summary>The number of tokens of a chunk, L.</summary>
    public const int ChunkSize = 64;

    /// <inheritdoc cref="SelectiveScan.Forward"/>
    public static (Tensor Y, Tensor Last) Forward(
        Tensor x, Tensor dt, Tensor a, Tensor b, Tensor c, Tensor? initial = null, Tensor? starts = null)
    {
        SelectiveScan.Check(x, dt, a, b, c, initial, starts);
        using var scope = NewDisposeScope();
        initial ??= zeros(x.shape[0], x.shape[2], a.shape[1], dtype: x.dtype, device: x.device);
        var results = Function.apply(x, dt, a, b, c, initial, starts)[0];
        var split = results.split([x.NumberOfElements, initial.NumberOfElements]);
        return (split[0].view(x.shape).MoveToOuterDisposeScope(), split[1].view(initial.shape).MoveToOuterDisposeScope());
    }

    /// <summary>h_t = decay_t h_{t-1} + h_t over dimension 1 in place, by doubling; the decays become products.</summary>
    private static void Scan(Tensor decay, Tensor h)
    {
        var length = h.shape[1];
        for (var shift = 1L; shift < length; shift *= 2)
        {
            using var scope = NewDisposeScope();
            var later = decay.narrow(1, shift, length - shift);
            var add = later * h.narrow(1, 0, length - shift);
            var product = later * decay.narrow(1, 0, length - shift);
            h.narrow(1, shift, length - shift).add_(add);
            later.copy_(product);
        }
    }

    /// <summary>The decays [B, L, D, N] of a chunk, zero at documents' starts.</summary>
    private static Tensor Decays(Tensor dt, Tensor a, Tensor? starts)
    {
        var decays = (dt.unsqueeze(3) * a).exp_();
        return starts is null ? decays : decays.masked_fill_(starts.unsqueeze(2).unsqueeze(3), 0.0);
    }

    /// <summary>The states [B, L, D, N] of a chunk that begins with the state h [B, D, N].</summary>
    private static Tensor States(Tensor x, Tensor dt, Tensor b, Tensor decays, Tensor h)
    {
        var states = (dt * x).unsqueeze(3) * b.unsqueeze(2);
        states.select(1, 0).addcmul_(decays.select(1, 0), h, 1);
        Scan(decays.clone(), states);
        return states;
    }

    /// <remarks>
    /// The result is one tensor, y and the last state end to end: an unused one of several would count as alive for ever.
    /// </remarks>
    private sealed class Function : GradientFunction<Function>
    {
        protected override List<Tensor> Forward(autograd.AutogradContext ctx, params object?[] vars)
        {
            using var guard = no_grad();
            using var scope = NewDisposeScope();
            var (x, dt, a, b, c) = ((Tensor)vars[0]!, (Tensor)vars[1]!, (Tensor)vars[2]!, (Tensor)vars[3]!, (Tensor)vars[4]!);
            var (h, starts) = ((Tensor)vars[5]!, (Tensor?)vars[6]);
            var (outputs, before) = (new List<Tensor>(), new List<Tensor>());
            for (var start = 0L; start < x.shape[1]; start += ChunkSize)
            {
                using var chunkScope = NewDisposeScope();
                var length = Math.Min(ChunkSize, x.shape[1] - start);
                Tensor Cut(Tensor t) => t.narrow(1, start, length);
                before.Add(h);
                var decays = Decays(Cut(dt), a, starts is null ? null : Cut(starts));
                var states = States(Cut(x), Cut(dt), Cut(b), decays, h);
                outputs.Add(states.matmul(Cut(c).unsqueeze(3)).squeeze(3).MoveToOuterDisposeScope()); // (B, L, D)
                h = states.select(1, length - 1).clone().MoveToOuterDisposeScope();
            }

            ctx.Save(scope, x, dt, a, b, c, stack(before, 1), starts);
            return [cat([cat(outputs, 1).flatten(), h.flatten()], 0).MoveToOuterDisposeScope()];
        }

        protected override List<Tensor?> Backward(autograd.AutogradContext ctx, List<Tensor> gradients)
        {
            var saved = ctx.Load();
            var (x, dt, a, b, c, before, starts) = (saved[0]!, saved[1]!, saved[2]!, saved[3]!, saved[4]!, saved[5]!, saved[6]);
            var dY = gradients[0].narrow(0, 0, x.NumberOfElements).view(x.shape);
            var dH = gradients[0].narrow(0, x.NumberOfElements, gradients[0].NumberOfElements - x.NumberOfElements)
                .view(x.shape[0], x.shape[2], a.shape[1]);
            var (dX, dDt, dB, dC, dA) = (empty_like(x), empty_like(x), empty_like(b), empty_like(c), zeros_like(a));
            for (var chunk = before.shape[1] - 1; chunk >= 0; chunk--)
            {
                using var chunkScope = NewDisposeScope();
                var start = chunk * ChunkSize;
                var length = Math.Min(ChunkSize, x.shape[1] - start);
                Tensor Cut(Tensor t) => t.narrow(1, start, length);
                var (xNow, dtNow, bNow, dYNow, h) = (Cut(x), Cut(dt), Cut(b), Cut(dY), before.select(1, chunk));
                var decays = Decays(dtNow, a, starts is null ? null : Cut(starts)); // (B, L, D, N)
                var states = States(xNow, dtNow, bNow, decays, h);

                // The gradient of a state is what its own output gives and what the next state hands back.
                var g = dYNow.unsqueeze(3) * Cut(c).unsqueeze(2);
                g.select(1, length - 1).add_(dH);
                g = g.flip(1);
                Scan(cat([zeros_like(decays.narrow(1, 0, 1)), decays.narrow(1, 1, length - 1).flip(1)], 1), g);
                g = g.flip(1); // (B, L, D, N)

                var through = g.matmul(bNow.unsqueeze(3)).squeeze(3); // (B, L, D)
                var dLog = cat([h.unsqueeze(1), states.narrow(1, 0, length - 1)], 1).mul_(decays).mul_(g);
                Cut(dX).copy_(through * dtNow);
                Cut(dDt).copy_((dLog * a).sum(-1) + through * xNow);
                Cut(dB).copy_((dtNow * xNow).unsqueeze(2).matmul(g).squeeze(2));
                Cut(dC).copy_(dYNow.unsqueeze(2).matmul(states).squeeze(2));
                dA.add_((dLog * dtNow.unsqueeze(3)).sum([0, 1]));
                dH = (decays.select(1, 0) * g.select(1, 0)).MoveToOuterDisposeScope();
            }

            return [dX, dDt, dA, dB, dC, dH.contiguous(), null];
        }
    }
}
