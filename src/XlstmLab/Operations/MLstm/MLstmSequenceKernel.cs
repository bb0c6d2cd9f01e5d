using XlstmLab.Native.Cuda;
using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>
/// The mLSTM in chunks on tensor cores: memory at the chunks' borders, a triangle of weights a chunk, and the products of both.
/// </summary>
/// <remarks>
/// The kernels' sources have the equations. Kept for the backward pass are the inputs, ten numbers a token and head, and memory and
/// normalisers at the chunks' borders. Gradients are those of <see cref="MLstmChunkwise"/>, through m too. All sums have a fixed order.
/// Sums of log gates within a chunk are float32: a weight errs by 2^-24 of the chunk's whole log forgetting in bits, which is less than its
/// rounding to bfloat16 as long as a chunk forgets less than e^-22000.
/// </remarks>
internal static class MLstmSequenceKernel
{
    private const int Chunk = 128;
    private const int TileThreads = 256;
    private const int Step = 64; // of a product's inner dimension
    private const int StageBytes = 2 * Chunk * 2 * Step; // a left and a right tile
    private const int ForwardStages = 6;
    private const int BackwardStages = 5;
    private const int TriangleBytes = 2 * Chunk * Chunk;
    private const int KeptBytes = 3 * Chunk * Chunk; // float32 of the three quarters of a triangle that are not all right of the diagonal
    private const int SumBytes = 4 * Chunk * ((TileThreads / 32) + 3);
    private const int MostSegments = 16; // of a walk over the chunks; what joins them goes through them one after the other
    private const int FewestSpared = 8; // turns of a walk, or two launches take longer than one
    private const int LargestJoined = 1 << 19; // elements at a border: joining reads and writes them again, longer than it spares turns
    private const int JoinThreads = 256;
    private const int WidestDk = 256;
    private const int WidestDv = 512;

    /// <summary>Whether there are kernels for these queries [B, NH, S, DK] and values [B, NH, S, DV].</summary>
    public static bool Serves(Tensor q, Tensor v) =>
        Kernel.Serve(q) && Kernel.Serve(v) && q.size(2) > 1 && Lack(q.size(3), v.size(3)) is null;

    /// <summary>Why there are no kernels for heads of these widths; null where there are.</summary>
    /// <param name="dk">DK.</param>
    /// <param name="dv">DV.</param>
    /// <param name="queries">What the user calls queries,</param>
    /// <param name="values">values,</param>
    /// <param name="cell">and the cell.</param>
    public static string? Lack(long dk, long dv, string queries = "queries", string values = "values", string cell = "mLSTM")
    {
        const int step = 8;
        return dk % step != 0 ? $"{queries} of {dk} a head: the {cell} kernels serve multiples of {step}"
            : dv % step != 0 ? $"{values} of {dv} a head: the {cell} kernels serve multiples of {step}"
            : dk > WidestDk ? $"{queries} of {dk} a head: the {cell} kernels serve up to {WidestDk}"
            : dv > WidestDv ? $"{values} of {dv} a head: the {cell} kernels serve up to {WidestDv}"
            : null;
    }

    /// <summary>
    /// Arguments and results as <see cref="MLstmCell.Forward"/>; the gates are float32, and one that is a logarithm already counts as
    /// exponential.
    /// </summary>
    public static (Tensor H, MLstmState? Last) Forward(
        Tensor q, Tensor k, Tensor v, Tensor input, Tensor forget, InputGate inputGate, ForgetGate forgetGate,
        MLstmState? initial, SequenceLayout? layout, MLstmOptions options, bool returnState)
    {
        using var scope = NewDisposeScope();
        var call = new Call(inputGate, forgetGate, options, returnState);
        Tensor?[] inputs =
        [
            Aligned(q), Aligned(k), Aligned(v), input, forget,
            initial?.C.to(ScalarType.Float32).contiguous(), initial?.N.to(ScalarType.Float32).contiguous(),
            initial?.M.to(ScalarType.Float32).contiguous(),
            layout?.DocumentStarts?.contiguous(), layout?.Padding?.contiguous(),
        ];
        var outputs = is_grad_enabled() && inputs.Any(t => t is not null && t.requires_grad)
            ? Function.apply([.. inputs!, call])
            : Run(new Pass(inputs, call)).Outputs;
        if (!returnState)
        {
            return (outputs[0].MoveToOuterDisposeScope(), null);
        }

        var (n, m) = outputs is [_, _, var joined]
            ? (joined.narrow(2, 0, q.size(3)), joined.narrow(2, q.size(3), 1)) : (outputs[2], outputs[3]);
        var last = new MLstmState(outputs[1], n, options.HasPathThroughScale ? m : m.detach());
        return (outputs[0].MoveToOuterDisposeScope(), last.MoveToOuterDisposeScope());
    }

    /// <summary>The tensor, or a copy of it if its rows do not lie as the kernels load them, 16 bytes at a time.</summary>
    private static Tensor Aligned(Tensor x) =>
        x.stride(3) == 1 && x.stride(0) % 8 == 0 && x.stride(1) % 8 == 0 && x.stride(2) % 8 == 0 && Kernel.Address(x) % 16 == 0 ? x
            : x.contiguous();

    private static (List<Tensor> Outputs, Tensor Rows, Tensor Keep, Tensor Sums, Tensor States, Tensor? N) Run(Pass pass)
    {
        using var scope = NewDisposeScope();
        var (rows, keep, lastScale) = pass.Gates();
        var n = pass.Options.Normalize || pass.Call.ReturnState ? pass.Borders() : null;
        var lastC = pass.Call.ReturnState ? empty([pass.Batch, pass.Heads, pass.Dk, pass.Dv], ScalarType.Float32, pass.Device) : null;
        var lastN = pass.Call.ReturnState ? empty([pass.Batch, pass.Heads, pass.Dk], ScalarType.Float32, pass.Device) : null;
        var states = pass.States(pass.K, pass.V, keep, new(rows[3], pass.C0, lastC), new(rows[3], pass.N0, lastN), null, n, reverse: false);
        var sums = pass.Plane(4);
        var h = pass.Tokens(pass.Dv);
        KernelArgument[] arguments =
        [
            .. Strided(pass.Q), .. Strided(pass.K), .. Strided(pass.V), rows, n, states, sums, .. Strided(h),
        ];
        if (pass.IsNarrow)
        {
            pass.Launch(
                "MLstmNarrowForward.cu", "mlstm_forward", pass.Blocks(
                    pass.NarrowBytes(values: 1, memories: 1) + pass.StagedBytes + pass.NumberBytes(5, normalizers: 1)),
                [.. arguments, pass.Length, pass.Scale, (float)pass.Options.Epsilon]);
        }
        else
        {
            pass.Launch(
                "MLstmForward.cu", "mlstm_forward", pass.Lasting((ForwardStages * StageBytes) + (2 * 4 * Chunk)),
                [.. arguments, .. pass.Sizes, pass.Scale, (float)pass.Options.Epsilon]);
        }

        List<Tensor> outputs = pass.Call.ReturnState ? [h, lastC!, lastN!, lastScale!] : [h];
        foreach (var kept in new[] { rows, keep, sums, states, n }.Concat(outputs))
        {
            kept?.MoveToOuterDisposeScope();
        }

        return (outputs, rows, keep, sums, states, n);
    }

    /// <summary>A tensor's address and its strides of batch, head and token.</summary>
    private static KernelArgument[] Strided(Tensor x) => [x, x.stride(0), (int)x.stride(1), (int)x.stride(2)];

    /// <summary>What a walk over the chunks weighs tokens by, starts from and ends with.</summary>
    private readonly record struct Walk(Tensor Weight, Tensor? First, Tensor? Last);

    private sealed record Call(InputGate InputGate, ForgetGate ForgetGate, MLstmOptions Options, bool ReturnState);

    /// <summary>The inputs of a forward or backward pass, and the launches that both make.</summary>
    private sealed class Pass(IReadOnlyList<Tensor?> inputs, Call call)
    {
        public Tensor Q { get; } = inputs[0]!;

        public Tensor K { get; } = inputs[1]!;

        public Tensor V { get; } = inputs[2]!;

        public Tensor? C0 { get; } = inputs[5];

        public Tensor? N0 { get; } = inputs[6];

        public Tensor? M0 { get; } = inputs[7];

        public Call Call => call;

        public MLstmOptions Options => call.Options;

        public Device Device => Q.device;

        public long Batch { get; } = inputs[0]!.size(0);

        public long Heads { get; } = inputs[0]!.size(1);

        public int Length { get; } = (int)inputs[0]!.size(2);

        public long Dk { get; } = inputs[0]!.size(3);

        public long Dv { get; } = inputs[2]!.size(3);

        public long Chunks => (Length + Chunk - 1) / Chunk;

        public float Scale => (float)Math.Pow(Dk, -0.5);

        /// <summary>Whole 32 of what tiles and steps are made of; what is beyond the real width is zero in shared memory only.</summary>
        private long WholeDk => (Dk + 31) / 32 * 32;

        private long WholeDv => (Dv + 31) / 32 * 32;

        /// <summary>Whether a chunk of a head lies in shared memory whole, at least twice a multiprocessor.</summary>
        public bool IsNarrow => WholeDk == 32 && WholeDv <= 64;

        /// <summary>
        /// Whether the backward pass has a chunk of a head in shared memory whole: larger triangles than inputs are not worth their way to
        /// memory.
        /// </summary>
        public bool HasNarrowBackward => WholeDk <= 64 && WholeDv <= 128;

        /// <summary>The bytes of a chunk's q and k, of v, or v and dh, and of memories in shared memory.</summary>
        public int NarrowBytes(int values, int memories) =>
            2 * Chunk * Pitch(WholeDk) + values * Chunk * Pitch(WholeDv) + memories * (int)WholeDk * Pitch(WholeDv);

        /// <summary>The bytes of what each warp of a narrow head's block writes at a time.</summary>
        public int StagedBytes => TileThreads / 32 * 16 * Pitch(Math.Max(WholeDk, WholeDv));

        /// <summary>
        /// Threads that own a head's memory, half as many rows at a time: few for few queries, as a warp without rows takes as long as
        /// another.
        /// </summary>
        private int StateThreads => Dk <= TileThreads / 4 ? TileThreads / 2 : TileThreads;

        private int StateRows => StateThreads / 2;

        /// <summary>The bytes of arrays of a number a token of a narrow head's chunk, and of normalisers.</summary>
        public int NumberBytes(int arrays, int normalizers) => 4 * (arrays * Chunk + normalizers * (int)WholeDk);

        private long RowTiles => (Dk + StateRows - 1) / StateRows;

        /// <summary>Columns of a block's memory: many, so that queries are read less often, where there are blocks enough.</summary>
        private int StateN =>
            StateRows == Chunk && WholeDv % 128 == 0 && StateTiles(128) * Segments(128) >= 0.9 * Kernel.Multiprocessors(Q) ? 128
            : WholeDv % 64 == 0 ? 64 : 32;

        /// <summary>Steps in shared memory: as many as there is room for where a block has a multiprocessor for itself.</summary>
        private int StateStages =>
            StateRows < Chunk || StateN == 128 ? 6
            : StateTiles(StateN) * Segments(StateN) <= Kernel.Multiprocessors(Q) ? 8
            : 4;

        private long StateTiles(int columns) => Batch * Heads * RowTiles * (WholeDv / columns);

        /// <summary>
        /// The chunks that a block walks over: all, or a segment's, as many segments as there is room for, where joining them pays.
        /// </summary>
        private int Turns(int columns)
        {
            if (Batch * Heads * Dk * Dv > LargestJoined)
            {
                return (int)Chunks;
            }

            var blocksAtATime = columns == 128 ? 1 : 2; // of a multiprocessor
            var segments = Math.Clamp(
                Kernel.Multiprocessors(Q) * blocksAtATime / StateTiles(columns), 1, Math.Min(Chunks, MostSegments));
            var turns = (Chunks + segments - 1) / segments;
            return (int)(Chunks - turns > FewestSpared ? turns : Chunks);
        }

        private long Segments(int columns) => (Chunks + Turns(columns) - 1) / Turns(columns);

        private int StateStageBytes => 2 * Step * (StateRows + Math.Max(64, StateN));

        /// <summary>Planes of a number a token and head, [planes, B NH, NC CHUNK] float32.</summary>
        public Tensor Plane(long planes) => empty(planes, Batch * Heads, Chunks * Chunk, dtype: ScalarType.Float32, device: Device);

        /// <summary>[B, NH, S, d] bfloat16 whose tokens lie together in memory, as the layers around the cell read them.</summary>
        public Tensor Tokens(long dim) => empty([Batch, Length, Heads, dim], ScalarType.BFloat16, Device).transpose(1, 2);

        /// <summary>Memory for the gradients of q, k and v: beside each other if they are slices of one product.</summary>
        public (Tensor Q, Tensor K, Tensor V) Gradients()
        {
            if (new[] { Q, K, V }.Any(x => x.stride(3) != 1 || x.stride(1) != x.size(3)))
            {
                return (Tokens(Dk), Tokens(Dk), Tokens(Dv));
            }

            var rows = JointProjection.EmptyLike([.. new[] { Q, K, V }.Select(x => x.transpose(1, 2).flatten(2))]); // (B, S, NH d)
            Tensor Heads(int k, long dim) => rows[k].view(Batch, Length, (int)(rows[k].size(2) / dim), dim).transpose(1, 2);
            return (Heads(0, Dk), Heads(1, Dk), Heads(2, Dv));
        }

        /// <summary>A number a token and head, [B, NH, S] float32.</summary>
        public Tensor Gate() => empty(Batch, Heads, Length, dtype: ScalarType.Float32, device: Device);

        public Tensor Triangle() => empty([Batch * Heads, Chunks, Chunk, Chunk], ScalarType.BFloat16, Device);

        public void Launch(string file, string function, LaunchShape shape, KernelArgument[] arguments) =>
            Kernel.Launch(file, function, Defines(file), shape, Q, arguments);

        /// <summary>
        /// Has the backward pass's kernels, which take longest, compiled while the forward pass goes on (<see cref="Kernel.Prepare"/>).
        /// </summary>
        public void PrepareBackward()
        {
            foreach (var file in HasNarrowBackward ? new[] { "MLstmNarrowBackward.cu" } : ["MLstmBackwardScores.cu", "MLstmBackward.cu"])
            {
                Launch(file, "mlstm_backward", new(1, TileThreads), []);
            }
        }

        public (Tensor Rows, Tensor Keep, Tensor? LastScale) Gates()
        {
            var (rows, keep) = (Plane(6), empty(Batch * Heads, Chunks, dtype: ScalarType.Float32, device: Device));
            var lastScale = call.ReturnState ? empty(Batch, Heads, 1, dtype: ScalarType.Float32, device: Device) : null;
            Launch(
                "MLstmGates.cu", "mlstm_gates", GateShape(12),
                [.. GateArguments(), M0, rows, keep, lastScale, Length, Scale]);
            return (rows, keep, lastScale);
        }

        /// <summary>A warp a chunk as far as they go, and a block for eight chunks of a head as far as there are multiprocessors.</summary>
        public LaunchShape GateShape(int bytesPerChunk) =>
            new(Heads, (int)Math.Min(1024, 32 * Chunks), (int)(bytesPerChunk * Chunks))
            {
                BlocksY = (int)Batch,
                BlocksZ = (int)Math.Clamp(Kernel.Multiprocessors(Q) / (Heads * Batch), 1, (Chunks + 7) / 8),
            };

        /// <summary>Both gates and the layout, as MLstmGates.cu takes them.</summary>
        public KernelArgument[] GateArguments()
        {
            var (input, forget) = (inputs[3]!, inputs[4]!);
            return
            [
                input, input.stride(0), (int)input.stride(1), (int)input.stride(2),
                forget, forget.stride(0), (int)forget.stride(1), (int)forget.stride(2), inputs[8], inputs[9],
            ];
        }

        /// <summary>Normalisers at the chunks' borders, [B NH, NC, DK] float32.</summary>
        public Tensor Borders() => empty(Batch * Heads, Chunks, Dk, dtype: ScalarType.Float32, device: Device);

        /// <summary>
        /// The memory before each chunk, or its gradient behind it, [B NH, NC, DK, DV], and into <paramref name="n"/> the normalisers,
        /// whose weights are multiplied by <paramref name="factor"/>.
        /// </summary>
        public Tensor States(Tensor x, Tensor y, Tensor keep, Walk memory, Walk normalizer, Tensor? factor, Tensor? n, bool reverse)
        {
            using var scope = NewDisposeScope();
            var states = empty([Batch * Heads, Chunks, Dk, Dv], ScalarType.BFloat16, Device);
            var shared = StateStages * (StateStageBytes + (3 * 4 * Step)); // three numbers a token
            var (segments, turns) = (Segments(StateN), Turns(StateN));
            var shape = new LaunchShape(segments * RowTiles * (WholeDv / StateN), StateThreads, shared)
            {
                BlocksY = (int)Heads,
                BlocksZ = (int)Batch,
            };
            var (last, lastN) = (memory.Last, normalizer.Last);
            if (segments > 1)
            {
                last = empty([Batch * Heads, segments, Dk, Dv], ScalarType.Float32, Device);
                lastN = n is null ? null : empty([Batch * Heads, segments, Dk], ScalarType.Float32, Device);
            }

            Launch(
                "MLstmStates.cu", "mlstm_states", shape,
                [
                    .. Strided(x), .. Strided(y), memory.Weight, keep, memory.First, last, states,
                    normalizer.Weight, factor, normalizer.First, lastN, n, Length, turns, reverse ? 1 : 0,
                ]);
            if (segments > 1)
            {
                var pairs = ((Dk * Dv) + (n is null ? 0 : Dk)) / 2;
                Launch(
                    "MLstmStates.cu", "mlstm_states_join",
                    new((pairs + JoinThreads - 1) / JoinThreads, JoinThreads) { BlocksY = (int)Heads, BlocksZ = (int)Batch },
                    [keep, last, memory.Last, states, lastN, normalizer.Last, n, (int)Chunks, turns, reverse ? 1 : 0]);
            }

            return states.MoveToOuterDisposeScope();
        }

        private static int Pitch(long columns) => (int)(2 * columns) + 16;

        /// <summary>What MLstmTiles.cuh is told.</summary>
        private string[] Tiles(int threads = TileThreads) => [$"CHUNK={Chunk}", $"DQK={Dk}", $"DHV={Dv}", $"TILE_THREADS={threads}"];

        /// <summary>What MLstmProducts.cuh is told.</summary>
        private string[] Products(int stages, int stageBytes = StageBytes, int threads = TileThreads) =>
            [.. Tiles(threads), $"K_STEP={Step}", $"STAGES={stages}", $"STAGE_BYTES={stageBytes}", $"TRIANGLE_BYTES={TriangleBytes}"];

        /// <summary>A block for each chunk of each head.</summary>
        public LaunchShape Blocks(int shared) => new(Chunks, TileThreads, shared) { BlocksY = (int)Heads, BlocksZ = (int)Batch };

        /// <summary>A block for each multiprocessor, which has one chunk after the other.</summary>
        public LaunchShape Lasting(int shared) => new(Math.Min(Batch * Heads * Chunks, Kernel.Multiprocessors(Q)), TileThreads, shared);

        /// <summary>The length, heads and batch, as kernels take them that deal chunks among blocks.</summary>
        public KernelArgument[] Sizes => [Length, (int)Heads, (int)Batch];

        private string Normalizes => $"NORMALIZE={(Options.Normalize ? 1 : 0)}";

        private string[] Defines(string file) => file switch
        {
            "MLstmGates.cu" =>
            [
                $"CHUNK={Chunk}", $"STABILIZE={(Options.Stabilizes ? 1 : 0)}",
                $"INPUT_GATE=GATE_{call.InputGate.ToString().ToUpperInvariant()}",
                $"FORGET_GATE=GATE_{call.ForgetGate.ToString().ToUpperInvariant()}",
            ],
            "MLstmStates.cu" => [.. Products(StateStages, StateStageBytes, StateThreads), $"STATE_N={StateN}"],
            "MLstmForward.cu" => [.. Products(ForwardStages), Normalizes],
            "MLstmBackwardScores.cu" => [.. Products(BackwardStages), $"KEPT_BYTES={KeptBytes}"],
            "MLstmBackward.cu" => Products(BackwardStages),
            "MLstmNarrowForward.cu" => [.. Tiles(), Normalizes],
            "MLstmNarrowBackward.cu" => Tiles(),
            _ => throw new ArgumentException($"There are no macros for {file}.", nameof(file)),
        };
    }

    private sealed class Function : GradientFunction<Function>
    {
        protected override List<Tensor> Forward(autograd.AutogradContext ctx, params object[] vars)
        {
            using var scope = NewDisposeScope();
            var (inputs, call) = (vars.Take(10).Cast<Tensor?>().ToArray(), (Call)vars[10]);
            var pass = new Pass(inputs, call);
            var (outputs, rows, keep, sums, states, n) = Run(pass);
            if (Kernel.Prepares)
            {
                pass.PrepareBackward();
            }

            if (call.ReturnState)
            {
                outputs = [outputs[0], outputs[1], cat([outputs[2], outputs[3]], 2)]; // n and m end to end
            }

            ctx.Save(scope, [.. inputs, rows, keep, sums, states, n]);
            ctx.save_data("call", call);
            ctx.set_materialize_grads(false);
            outputs.ForEach(t => t.MoveToOuterDisposeScope());
            return outputs;
        }

        protected override List<Tensor?> Backward(autograd.AutogradContext ctx, List<Tensor> gradients)
        {
            var (saved, call) = (ctx.Load(), (Call)ctx.get_data("call"));
            var pass = new Pass(saved, call);
            var (rows, keep, sums, states, n) = (saved[10]!, saved[11]!, saved[12]!, saved[13]!, saved[14]);
            var dh = gradients[0].IsInvalid ? zeros_like(pass.V) : Aligned(gradients[0]);
            var (dLastC, dLast) = call.ReturnState ? (Given(gradients[1]), Given(gradients[2])) : default;
            var dLastN = dLast?.narrow(2, 0, pass.Dk).contiguous();
            var exact = call.Options is { Normalize: true, NormalizerGradient: NormalizerGradient.Exact };

            var firstC = pass.C0 is null ? null : empty_like(pass.C0);
            var (dz, dots, writes) = (pass.Plane(1), pass.Plane(4), pass.Plane(1));
            var (dq, dk, dv) = pass.Gradients();
            KernelArgument[] activations = [.. Strided(pass.Q), .. Strided(pass.K), .. Strided(pass.V), .. Strided(dh)];
            KernelArgument[] results = [.. Strided(dq), .. Strided(dk), .. Strided(dv)];
            var epsilon = exact ? (float)call.Options.Epsilon : 0f;
            var hasNormalizer = exact || dLastN is not null;
            var dn = hasNormalizer ? pass.Borders() : null;
            var firstN = hasNormalizer ? empty([pass.Batch, pass.Heads, pass.Dk], ScalarType.Float32, pass.Device) : null;
            Tensor DStates() => // behind dz
                pass.States(pass.Q, dh, keep, new(sums[2], dLastC, firstC), new(rows[2], dLastN, firstN), dz, dn, reverse: true);
            if (pass.HasNarrowBackward)
            {
                const string source = "MLstmNarrowBackward.cu";
                pass.Launch(
                    source, "mlstm_backward_scores", pass.Blocks(
                        pass.NarrowBytes(values: 2, memories: 1) + pass.NumberBytes(7, normalizers: 0)),
                    [.. activations, rows, sums, states, exact ? 1 : 0, dz, dots, pass.Length, pass.Scale, epsilon]);
                var dStates = DStates();
                pass.Launch(
                    source, "mlstm_backward",
                    pass.Blocks(
                        pass.NarrowBytes(values: 2, memories: 2) + 16 * Chunk + pass.StagedBytes + pass.NumberBytes(5, normalizers: 2)),
                    [.. activations, rows, sums, states, exact ? n : null, dz, dStates, dn, .. results,
                        dots, writes, pass.Length, pass.Scale]);
            }
            else
            {
                var reads = empty(pass.Batch * pass.Heads, pass.Chunks * Chunk, pass.Dk, dtype: ScalarType.BFloat16, device: pass.Device);
                var (weights, scores) = (pass.Triangle(), pass.Triangle());
                pass.Launch(
                    "MLstmBackwardScores.cu", "mlstm_backward_scores", pass.Lasting((BackwardStages * StageBytes) + KeptBytes + SumBytes),
                    [.. activations, rows, sums, states, exact ? 1 : 0, reads, weights, scores, dz, dots,
                        .. pass.Sizes, pass.Scale, epsilon]);
                var dStates = DStates();
                pass.Launch(
                    "MLstmBackward.cu", "mlstm_backward", new(
                        2 * pass.Batch * pass.Heads * pass.Chunks, TileThreads, (BackwardStages * StageBytes) + TriangleBytes),
                    [.. activations, rows, sums, reads, weights, scores, exact ? n : null, dz, dStates,
                        dn, .. results, writes, .. pass.Sizes]);
            }

            var hasLast = dLastC is not null || dLastN is not null;
            var first = pass.C0 is null || !(hasLast || pass.M0!.requires_grad) ? null : (pass.C0 * firstC!).sum([2, 3]);
            first = first is null || firstN is null ? first : first.add_((pass.N0! * firstN).sum(2));
            var hasScale = call.Options.HasPathThroughScale;
            var dLastScale = hasScale ? dLast?.narrow(2, pass.Dk, 1).contiguous() : null;
            var firstScale = hasScale && pass.C0 is not null ? empty([pass.Batch, pass.Heads], ScalarType.Float32, pass.Device) : null;
            var (dInput, dForget) = (pass.Gate(), pass.Gate());
            pass.Launch(
                "MLstmGates.cu", "mlstm_gates_backward", pass.GateShape(16),
                [
                    .. pass.GateArguments(), dots, writes, keep, hasLast ? first : null, hasLast ? 1 : 0,
                    hasScale ? rows : null, dLastScale, dInput, dForget, firstScale, pass.Length,
                ]);
            if (pass.N0 is not null && firstN is null)
            {
                firstN = zeros_like(pass.N0);
            }

            var dScale = first is null || !call.Options.Stabilizes ? null : (firstScale is null ? first : first + firstScale).unsqueeze(2);
            return [dq, dk, dv, dInput, dForget, firstC, pass.N0 is null ? null : firstN, dScale, null, null, null];
        }

        private static Tensor? Given(Tensor gradient) => gradient.IsInvalid ? null : gradient.contiguous();
    }
}
