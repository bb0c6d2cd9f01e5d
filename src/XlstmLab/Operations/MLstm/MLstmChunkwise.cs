using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>The mLSTM in chunks of L tokens: parallel inside a chunk, recurrent between chunks, time linear in the length.</summary>
/// <remarks>
/// <para>
/// Tiled Flash Linear Attention (Beck et al. 2025b), section 3. The normaliser n rides as one more column of the values,
/// v' = [v, 1], so that C' = [C, n] and the row sum of the weights needs no formula of its own.
/// </para>
/// <para>
/// The backward pass keeps q, k, v, gates and two numbers a position, and computes weights and states anew. m scales what it is
/// taken from and cancels in h but for epsilon, which counts in units of exp(m), and in the last state: so gradients first count m as a
/// constant, and what passes through m is added to the gates that made it (<see cref="ThroughScale"/>).
/// </para>
/// </remarks>
public static class MLstmChunkwise
{
    /// <summary>
    /// Reads a sequence in chunks; arguments and results as <see cref="MLstmRecurrent.Forward"/>, the state if it is asked for.
    /// </summary>
    internal static (Tensor H, MLstmState? Last) Forward(
        Tensor q, Tensor k, Tensor v, Tensor logI, Tensor logF, MLstmState initial, Tensor? documentStarts, MLstmOptions options,
        bool returnState)
    {
        var outputs = Function.apply(q, k, v, logI, logF, initial.C, initial.N, initial.M, documentStarts!, new Call(options, returnState));
        if (!returnState)
        {
            return (outputs[0], null);
        }

        var (dk, dv) = (q.shape[3], v.shape[3]);
        var state = outputs[1].narrow(2, 0, dk * (dv + 1)).unflatten(2, [dk, dv + 1]); // (B, NH, DK, DV + 1)
        var m = outputs[1].narrow(2, dk * (dv + 1), 1); // (B, NH, 1)
        return (outputs[0], new(state.narrow(3, 0, dv), state.select(3, dv), options.HasPathThroughScale ? m : m.detach()));
    }

    /// <summary>What a call needs beside tensors with gradients.</summary>
    private sealed record Call(MLstmOptions Options, bool ReturnState);

    /// <remarks>The last state is one tensor, [C, n] and m end to end: an unused one of several would count as alive for ever.</remarks>
    private sealed class Function : GradientFunction<Function>
    {
        protected override List<Tensor> Forward(autograd.AutogradContext ctx, params object[] vars)
        {
            using var scope = NewDisposeScope();
            var (q, k, v, logI, logF) = ((Tensor)vars[0], (Tensor)vars[1], (Tensor)vars[2], (Tensor)vars[3], (Tensor)vars[4]);
            var (c0, n0, m0, starts) = ((Tensor)vars[5], (Tensor)vars[6], (Tensor)vars[7], (Tensor?)vars[8]);
            var (options, returnState) = (Call)vars[9];
            var chunks = new Chunks(q, k, v, logI, logF, c0, n0, m0, starts, options);

            var numerator = chunks.Weights().matmul(chunks.V) + (chunks.Inter * chunks.Q).matmul(chunks.StatesBefore());
            var dv = v.shape[3];
            var sum = numerator.select(4, dv); // n q, (B, NH, NC, L)
            var h = numerator.narrow(4, 0, dv);
            h = chunks.Flatten(options.Normalize ? MLstmNormalizer.Divide(h, sum, chunks.M, options) : h);
            ctx.Save(scope, q, k, v, logI, logF, c0, n0, m0, h.detach(), chunks.Flatten(sum), starts);
            ctx.save_data("options", options);
            ctx.set_materialize_grads(false); // TorchSharp would make zeros after a tensor that its scope has freed.
            h.MoveToOuterDisposeScope();
            if (!returnState)
            {
                return [h];
            }

            var state = chunks.States.select(2, -1);
            var last = MLstmNormalizer.Narrowed(state.narrow(3, 0, dv), state.select(3, dv), chunks.MLast);
            return [h, cat([cat([last.C, last.N.unsqueeze(3)], 3).flatten(2), last.M], 2).MoveToOuterDisposeScope()];
        }

        protected override List<Tensor?> Backward(autograd.AutogradContext ctx, List<Tensor> gradients)
        {
            var saved = ctx.Load();
            var (q, k, v, logI, logF) = (saved[0]!, saved[1]!, saved[2]!, saved[3]!, saved[4]!);
            var (c0, n0, m0, h, sum, starts) = (saved[5]!, saved[6]!, saved[7]!, saved[8]!, saved[9]!, saved[10]);
            var options = (MLstmOptions)ctx.get_data("options");
            var chunks = new Chunks(q, k, v, logI, logF, c0, n0, m0, starts, options);

            // Through the division: h = numerator u / d, d = (max(|sum|, exp(-m)) + eps) u.
            var dNumerator = chunks.Split(gradients[0].IsInvalid ? zeros_like(h) : gradients[0]); // (B, NH, NC, L, DV)
            var dSum = zeros_like(dNumerator.select(4, 0)).unsqueeze(4);
            var dM = zeros_like(logF); // (B, NH, S)
            if (options.Normalize)
            {
                var chunkSum = chunks.Split(sum);
                var (unit, d, fromSum) = MLstmNormalizer.Denominator(chunkSum, chunks.M, options.Epsilon);
                var factor = unit / d;
                if (options.NormalizerGradient == NormalizerGradient.Exact)
                {
                    var dDenominator = -(dNumerator * chunks.Split(h)).sum(-1) * factor;
                    dSum = (dDenominator * chunkSum.sign() * fromSum).unsqueeze(4);
                    dM = chunks.Flatten(dDenominator * options.Epsilon);
                }

                dNumerator = dNumerator * factor.unsqueeze(4);
            }

            var dO = cat([dNumerator, dSum], 4); // (B, NH, NC, L, DV + 1), the gradient of [numerator, sum]

            // States, last to first: each gets what its chunk's outputs and the next state pass back.
            var states = chunks.States;
            var interQ = chunks.Inter * chunks.Q;
            var chunkCount = chunks.Count;
            var dStates = empty_like(states);
            var dLast = dStates.select(2, chunkCount);
            if (gradients.Count < 2 || gradients[1].IsInvalid)
            {
                dLast.zero_();
            }
            else
            {
                var count = gradients[1].shape[2] - 1;
                dLast.copy_(gradients[1].narrow(2, 0, count).view(dLast.shape));
                dLast.mul_(exp(chunks.MLast - chunks.MLast.to(q.dtype)).unsqueeze(3)); // as the state is narrowed
                var ofMemory = (dLast * states.select(2, chunkCount)).sum([2, 3]).unsqueeze(2);
                dM.narrow(2, -1, 1).add_(gradients[1].narrow(2, count, 1) - ofMemory);
            }

            var read = interQ.transpose(3, 4).matmul(dO); // (B, NH, NC, DK, DV + 1)
            for (var c = chunkCount - 1; c >= 0; c--)
            {
                Advance(dStates.select(2, c), dStates.select(2, c + 1), chunks.Decay.select(2, c), read.select(2, c));
            }

            var dAfter = dStates.narrow(2, 1, chunkCount);
            var decays = chunks.Decays;
            var weights = chunks.Scores().mul_(decays); // (B, NH, NC, L, L)
            var dScores = dO.matmul(chunks.V.transpose(3, 4)).mul_(decays);
            var dQ = dScores.matmul(chunks.K) + chunks.Inter * dO.matmul(chunks.StatesBefore().transpose(3, 4));
            var dK = dScores.transpose(3, 4).matmul(chunks.Q) + chunks.Write * chunks.V.matmul(dAfter.transpose(3, 4));
            var dV = weights.transpose(3, 4).matmul(dO) + (chunks.Write * chunks.K).matmul(dAfter);

            // A log gate scales what its key writes, and a log forget gate all that is read after and written before it.
            var dLogI = (chunks.K * dK).sum(-1); // (B, NH, NC, L)
            var dB = (chunks.Q * dQ).sum(-1) - dLogI;
            var carried = (dAfter * states.narrow(2, 1, chunkCount)).sum([3, 4]).unsqueeze(3); // (B, NH, NC, 1)
            var dLogF = dB.flip(3).cumsum(3).flip(3) + carried;
            if (starts is not null)
            {
                // Nothing is kept across a document's start, so its forget gate moves nothing.
                dLogF = dLogF.masked_fill(chunks.Starts!, 0.0);
            }

            var first = dStates.select(2, 0);
            var dM0 = (first * states.select(2, 0)).sum([2, 3]).unsqueeze(2); // m0 scales the state that is read
            (dLogI, dLogF) = (chunks.Flatten(dLogI), chunks.Flatten(dLogF));
            if (options.HasPathThroughScale)
            {
                var (toInput, toForget, toInitial) = ThroughScale(dM, chunks.Flatten(chunks.InputWins), starts?.unsqueeze(1));
                (dLogI, dLogF, dM0) = (dLogI + toInput, dLogF + toForget, dM0 + toInitial);
            }

            var dv = v.shape[3];
            return
            [
                chunks.Flatten(dQ * chunks.Scale),
                chunks.Flatten(dK),
                chunks.Flatten(dV.narrow(4, 0, dv)),
                dLogI,
                dLogF,
                first.narrow(3, 0, dv).clone(),
                first.select(3, dv).clone(),
                dM0,
                null,
                null,
            ];
        }
    }

    /// <summary>
    /// The gradient of every m handed to what made it: m_t = max(log f_t + m_(t-1), log i_t), where m_(t-1) is 0 at a document's start.
    /// </summary>
    /// <param name="dM">[B, NH, S].</param>
    /// <param name="inputWins">[B, NH, S] bool, whether m_t is log i_t.</param>
    /// <param name="starts">[B, 1, S] bool, or null.</param>
    /// <returns>The shares of log i and log f, [B, NH, S], and of the initial m, [B, NH, 1].</returns>
    private static (Tensor ToInput, Tensor ToForget, Tensor ToInitial) ThroughScale(Tensor dM, Tensor inputWins, Tensor? starts)
    {
        // A gate has the gradients of all m from its own to the last before m is made anew: differences of running sums.
        var length = dM.shape[2];
        var sums = LogSums.Running(dM);
        var isNew = starts is null ? inputWins : inputWins.logical_or(starts);
        var next = where(isNew, arange(length, device: dM.device), full(1, length, ScalarType.Int64, dM.device)).narrow(2, 1, length - 1);
        next = next.flip(2).neg().cummax(2).values.neg().flip(2);
        next = cat([next, full_like(next.narrow(2, 0, 1), length)], 2);
        var own = (sums.gather(2, next - 1) - sums + dM).to(dM.dtype);
        var (toInput, toForget) = (own.masked_fill(inputWins.logical_not(), 0.0), own.masked_fill(inputWins, 0.0));
        var first = toForget.narrow(2, 0, 1);
        return (toInput, toForget, starts is null ? first : first.masked_fill(starts.narrow(2, 0, 1), 0.0));
    }

    /// <summary>target = addend + state * decay, in place.</summary>
    private static void Advance(Tensor target, Tensor state, Tensor decay, Tensor addend)
    {
        target.copy_(addend);
        target.addcmul_(state, decay, 1);
    }

    /// <summary>A sequence cut into NC chunks of L tokens, with all that depends on the gates alone.</summary>
    private sealed class Chunks
    {
        private readonly TokenChunks _chunks;
        private readonly Tensor _k;

        public Chunks(
            Tensor q, Tensor k, Tensor v, Tensor logI, Tensor logF, Tensor c0, Tensor n0, Tensor m0, Tensor? starts, MLstmOptions options)
        {
            _chunks = new(q.shape[2], options.ChunkSize);
            var size = _chunks.Size;
            Scale = Math.Pow(q.shape[3], -0.5);

            Q = Split(q * Scale);
            K = _k = Split(k);
            V = Split(cat([v, ones_like(v.narrow(3, 0, 1))], 3));
            logF = Split(logF); // (B, NH, NC, L): what pads the last chunk forgets nothing,
            var b = LogSums.Running(logF);
            var u = Split(logI, double.NegativeInfinity) - b; // and writes nothing
            var causal = ones(size, size, dtype: ScalarType.Bool, device: q.device).tril();
            var before = zeros_like(b);
            var opens = ones_like(b); // 1 where a position still belongs to the document that the chunk opens with
            Tensor? document = null;
            if (starts is not null)
            {
                Starts = Split(starts.unsqueeze(1).expand(-1, q.shape[1], -1)); // (B, NH, NC, L)
                document = Starts.to(ScalarType.Int64).cumsum(3);
                causal = causal.logical_and(document.unsqueeze(4).eq(document.unsqueeze(3)));
                opens = document.eq(0).to(b.dtype);
                var start =
                    where(Starts, arange(size, device: q.device), zeros(1, dtype: ScalarType.Int64, device: q.device)).cummax(3).values;
                before = (b - logF).gather(3, start) * (1 - opens);
            }

            // The scale of the states, chunk after chunk: b + p with p the largest weight of what is read, all up to the reader's share b.
            var stabilise = options.Stabilizes;
            var largest = LogSums.LargestSoFar(u, document);
            Tensor AtEnd(Tensor x) => x.narrow(3, size - 1, 1); // (B, NH, NC, 1)
            var (total, carries, fresh, written) = (AtEnd(b), AtEnd(opens), AtEnd(before), AtEnd(largest));
            var scales = new List<Tensor> { m0.unsqueeze(2).to(b.dtype) };
            for (long c = 0; c < Count; c++)
            {
                Tensor At(Tensor x) => x.narrow(2, c, 1);
                scales.Add(stabilise
                    ? At(total) + maximum(scales[^1] * At(carries) - At(fresh), At(written))
                    : zeros_like(scales[0]));
            }

            var m = cat(scales, 2); // (B, NH, NC + 1, 1)
            MLast = m.select(2, Count); // (B, NH, 1)
            var carried = m.narrow(2, 0, Count) * opens - before; // (B, NH, NC, L): the weight of the state that is read
            var p = stabilise ? maximum(carried, largest) : -b;
            M = (b + p).to(q.dtype);
            InputWins = u.ge(p);
            Inter = (exp(carried - p) * opens).to(q.dtype).unsqueeze(4); // (B, NH, NC, L, 1)
            Decays = LogSums.Decays(-p, u, causal, q.dtype);

            // A state is what a query at its chunk's last position would read.
            Decay = Inter.narrow(3, size - 1, 1); // (B, NH, NC, 1, 1)
            Write = Decays.select(3, size - 1).unsqueeze(4); // (B, NH, NC, L, 1)
            States = ComputeStates(c0, n0);
        }

        public long Count => _chunks.Count;

        public double Scale { get; }

        /// <summary>Scaled queries, (B, NH, NC, L, DK).</summary>
        public Tensor Q { get; }

        /// <summary>Keys, (B, NH, NC, L, DK).</summary>
        public Tensor K { get; }

        /// <summary>Values with a column of ones, (B, NH, NC, L, DV + 1).</summary>
        public Tensor V { get; }

        /// <summary>Document starts, (B, NH, NC, L), or null.</summary>
        public Tensor? Starts { get; }

        /// <summary>The logarithm of each position's scale, (B, NH, NC, L).</summary>
        public Tensor M { get; }

        /// <summary>Where that scale is the position's own log i, (B, NH, NC, L) bool.</summary>
        public Tensor InputWins { get; }

        /// <summary>The last state's scale, (B, NH, 1), of the sums' type.</summary>
        public Tensor MLast { get; }

        /// <summary>What a state keeps over a chunk, (B, NH, NC, 1, 1).</summary>
        public Tensor Decay { get; }

        /// <summary>What each token writes into the state after its chunk, (B, NH, NC, L, 1).</summary>
        public Tensor Write { get; }

        /// <summary>What each position sees of the state before its chunk, (B, NH, NC, L, 1).</summary>
        public Tensor Inter { get; }

        /// <summary>What each position sees of the tokens of its chunk, (B, NH, NC, L, L).</summary>
        public Tensor Decays { get; }

        /// <summary>The states [C, n] at the chunks' borders, (B, NH, NC + 1, DK, DV + 1).</summary>
        public Tensor States { get; }

        public Tensor StatesBefore() => States.narrow(2, 0, Count);

        public Tensor Scores() => Q.matmul(_k.transpose(3, 4));

        public Tensor Weights() => Scores().mul_(Decays);

        /// <inheritdoc cref="TokenChunks.Split"/>
        public Tensor Split(Tensor x, double filling = 0) => _chunks.Split(x, filling);

        /// <inheritdoc cref="TokenChunks.Flatten"/>
        public Tensor Flatten(Tensor x) => _chunks.Flatten(x);

        private Tensor ComputeStates(Tensor c0, Tensor n0)
        {
            var written = (Write * _k).transpose(3, 4).matmul(V); // (B, NH, NC, DK, DV + 1)
            var shape = written.shape;
            shape[2] = Count + 1;
            var states = empty(shape, dtype: written.dtype, device: written.device);
            states.select(2, 0).copy_(cat([c0, n0.unsqueeze(3)], 3));
            for (long c = 0; c < Count; c++)
            {
                Advance(states.select(2, c + 1), states.select(2, c), Decay.select(2, c), written.select(2, c));
            }

            return states;
        }
    }
}
