using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using XlstmLab.Native.Cuda;
using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>What a model has that <see cref="TokenWalk"/> takes a token through.</summary>
internal sealed record TokenWalkShape
{
    /// <summary>The width of the stream, d.</summary>
    public required int Dim { get; init; }

    /// <summary>The inner width of the feed-forward layers.</summary>
    public required int Inner { get; init; }

    /// <summary>The heads of a block, NH.</summary>
    public required int Heads { get; init; }

    /// <summary>The width of a head's keys, DK.</summary>
    public required int KeyDim { get; init; }

    /// <summary>The width of a head's values, DV.</summary>
    public required int ValueDim { get; init; }

    /// <summary>The number of ids, V.</summary>
    public required int Vocabulary { get; init; }

    /// <summary>The cells' gates and normaliser.</summary>
    public required MLstmOptions Cell { get; init; }

    /// <summary>The gates' soft cap; 0 for none.</summary>
    public required double GateCap { get; init; }

    /// <summary>Whether head norms are LayerNorms, else RMSNorms.</summary>
    public required bool Centers { get; init; }

    /// <summary>The head norms' epsilon.</summary>
    public required double HeadNormEpsilon { get; init; }

    /// <summary>The stream's norms' epsilon.</summary>
    public required double NormEpsilon { get; init; }

    /// <summary>The logits' soft cap; 0 for none.</summary>
    public required double LogitCap { get; init; }
}

/// <summary>A block's weights: matrices [rows, inputs] bfloat16, the others float32, all contiguous.</summary>
/// <param name="Projections">Of q, k, v, o: four, or one of all rows.</param>
/// <param name="Gates">[4 NH, d]: of i, f the upper halves, and the lower ones.</param>
/// <param name="GateBiases">[2 NH]: of i, of f.</param>
/// <param name="HeadNorm">[NH DV].</param>
/// <param name="Out">[d, NH DV].</param>
/// <param name="InnerNorm">[d].</param>
/// <param name="Gate">[inner, d].</param>
/// <param name="Up">[inner, d].</param>
/// <param name="Down">[d, inner].</param>
/// <param name="NextNorm">[d]: of the norm behind the block.</param>
internal sealed record TokenWalkBlock(
    IReadOnlyList<Tensor> Projections, Tensor Gates, Tensor GateBiases, Tensor HeadNorm, Tensor Out, Tensor InnerNorm, Tensor Gate, Tensor Up, Tensor Down,
    Tensor NextNorm);

/// <summary>One token of each of a few sequences through embedding, all blocks and head in one launch (<c>TokenWalk.cu</c>).</summary>
/// <remarks>Weights are where they were when it was made; their values may change.</remarks>
internal sealed class TokenWalk : IDisposable
{
    /// <summary>Sequences side by side at most.</summary>
    public const int MostSequences = 8;

    private const int MostBlocks = 64;
    private const int WeightsOfBlock = 16;
    private const int Warps = 16;
    private const int StageBytes = 8 * ((2 * 1024) + 64);
    private const int FewestStages = 4;
    private const int Depth = 3; // copies on their way

    private readonly TokenWalkShape _shape;
    private readonly int _sequences;
    private readonly string[] _defines;
    private readonly LaunchShape _launch;
    private readonly Tensor _table;
    private readonly Tensor _firstNorm;
    private readonly Tensor _head;
    private readonly Tensor _weights;
    private readonly Tensor _starts;
    private readonly Tensor _scaled;
    private readonly Tensor _squares;
    private readonly Tensor _projections;
    private readonly Tensor _mixed;
    private readonly Tensor _moments;
    private readonly Tensor _inner;

    private TokenWalk(
        TokenWalkShape shape, int sequences, string[] defines, LaunchShape launch, int slices, Tensor table, Tensor firstNorm, IReadOnlyList<TokenWalkBlock> blocks,
        Tensor head)
    {
        (_shape, _sequences, _defines, _launch, _table, _firstNorm, _head) = (shape, sequences, defines, launch, table, firstNorm, head);
        var (device, most) = (table.device, Capacity(sequences));
        _weights = tensor(blocks.SelectMany(b => Places(shape, b)).ToArray(), device: device).DetachFromDisposeScope();
        _starts = zeros(1, ScalarType.Int64, device).DetachFromDisposeScope();
        _scaled = Words(most * (shape.Dim / 2));
        _squares = Words(most * (shape.Dim / 8));
        _projections = Words(most * Rows(shape));
        _mixed = Words(most * shape.Heads * shape.ValueDim);
        _moments = Words(most * shape.Heads * slices * 2);
        _inner = Words(most * (shape.Inner / 2));

        // Without the tag of any launch.
        Tensor Words(long count) => zeros(count, ScalarType.Int64, device).DetachFromDisposeScope();
    }

    /// <summary>The walk through a model; null for one that it does not fit: too many sequences or blocks, or too little shared memory.</summary>
    /// <param name="shape">The model.</param>
    /// <param name="sequences">Sequences side by side, B.</param>
    /// <param name="table">[V, d] float32 or bfloat16, contiguous.</param>
    /// <param name="firstNorm">[d] float32: the weights of the first block's norm.</param>
    /// <param name="blocks">The blocks.</param>
    /// <param name="head">[V, d] bfloat16, contiguous.</param>
    public static TokenWalk? Of(
        TokenWalkShape shape, long sequences, Tensor table, Tensor firstNorm, IReadOnlyList<TokenWalkBlock> blocks, Tensor head)
    {
        var multiprocessors = Kernel.Multiprocessors(table);
        var (most, slice) = (Capacity(sequences), 0);
        if (sequences > MostSequences || blocks.Count > MostBlocks || shape.Heads * shape.KeyDim % 2 != 0 || shape.ValueDim % 4 != 0
            || (slice = Slice(shape, most, multiprocessors)) == 0)
        {
            return null;
        }

        // The ring has what the rest leaves.
        var room = RoomBytes(shape, most, slice, multiprocessors);
        var stages = (Kernel.SharedMemory(table) - room) / (StageBytes + 16);
        if (stages < FewestStages)
        {
            return null;
        }

        room += 16 * stages;
        string[] defines =
        [
            $"DIM={shape.Dim}", $"INNER={shape.Inner}", $"HEADS={shape.Heads}", $"DK={shape.KeyDim}", $"DV={shape.ValueDim}", $"BLOCKS={blocks.Count}",
            $"VOCABULARY={shape.Vocabulary}", $"MOST={most}", $"SLICE={slice}", $"MULTIPROCESSORS={multiprocessors}", $"STAGES={stages}", $"DEPTH={Depth}", $"WARPS={Warps}",
            $"WIDE={(table.dtype == ScalarType.Float32 ? 1 : 0)}", $"EXPONENTIAL={(shape.Cell.Stabilizes ? 1 : 0)}",
            $"NORMALIZE={(shape.Cell.Normalize ? 1 : 0)}", $"CENTER={(shape.Centers ? 1 : 0)}", $"WALK_BYTES={Unsafe.SizeOf<Arguments>()}", $"ROOM_BYTES={room}",
        ];
        LaunchShape launch = new(multiprocessors, 32 * (Warps + 1), (stages * StageBytes) + room) { Cooperative = true };
        return new(shape, (int)sequences, defines, launch, shape.ValueDim / slice, table, firstNorm, blocks, head);
    }

    /// <summary>Reads tokens, and does not wait for it.</summary>
    /// <param name="tokens">[B, 1] int64.</param>
    /// <param name="states">Of each block c [B, NH, DK, DV], n [B, NH, DK] and m [B, NH, 1], float32, contiguous, changed in place.</param>
    /// <param name="logits">What is written: [B, V] float32.</param>
    public void Read(Tensor tokens, IReadOnlyList<Tensor> states, Tensor logits)
    {
        Arguments arguments = new()
        {
            Tokens = Kernel.Address(tokens),
            Table = Kernel.Address(_table),
            FirstNorm = Kernel.Address(_firstNorm),
            Head = Kernel.Address(_head),
            Weights = Kernel.Address(_weights),
            Starts = Kernel.Address(_starts),
            Scaled = Kernel.Address(_scaled),
            Squares = Kernel.Address(_squares),
            Projections = Kernel.Address(_projections),
            Mixed = Kernel.Address(_mixed),
            Moments = Kernel.Address(_moments),
            Inner = Kernel.Address(_inner),
            Logits = Kernel.Address(logits),
            Epsilon = (float)_shape.NormEpsilon,
            GateCap = (float)_shape.GateCap,
            CellEpsilon = (float)_shape.Cell.Epsilon,
            HeadNormEpsilon = (float)_shape.HeadNormEpsilon,
            Cap = (float)_shape.LogitCap,
            Sequences = _sequences,
        };
        for (var k = 0; k < states.Count; k++)
        {
            arguments.States[k] = Kernel.Address(states[k]);
        }

        Kernel.Launch("TokenWalk.cu", "token_walk", _defines, _launch, _table, ref arguments);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (var tensor in (Tensor[])[_weights, _starts, _scaled, _squares, _projections, _mixed, _moments, _inner])
        {
            tensor.Dispose();
        }
    }

    private static int Rows(TokenWalkShape shape) => shape.Heads * ((2 * shape.KeyDim) + (2 * shape.ValueDim) + 4);

    /// <summary>What a compiled kernel has room for.</summary>
    private static int Capacity(long sequences) => sequences switch { 1 => 1, 2 => 2, <= 4 => 4, _ => MostSequences };

    /// <summary>
    /// The columns of a head's C that are a multiprocessor's at a time: whole lines of a cache if there can be, those with which the busiest has
    /// fewest columns, and of them the most.
    /// </summary>
    private static int Slice(TokenWalkShape shape, int most, int multiprocessors)
    {
        int[] lines = [128, 64, 32];
        int[] pieces = [16, 8, 4];
        return (lines.Any(Divides) ? lines : pieces).Where(Divides).OrderBy(w => Items(shape, most, w, multiprocessors) * w).FirstOrDefault();

        bool Divides(int width) => shape.ValueDim % width == 0;
    }

    private static int Items(TokenWalkShape shape, int most, int slice, int multiprocessors) =>
        (int)(((long)most * shape.Heads * (shape.ValueDim / slice) + multiprocessors - 1) / multiprocessors);

    /// <summary>The bytes of shared memory beside the ring and its barriers.</summary>
    private static int RoomBytes(TokenWalkShape shape, int most, int slice, int multiprocessors)
    {
        var partial = (most > 4 ? 4 : 8) * Warps * 8 * most;
        var cell = (Warps * slice) + slice + 4 + (2 * shape.KeyDim) + Warps;
        var own = ((shape.Dim / 8) + multiprocessors - 1) / multiprocessors;
        var items = Items(shape, most, slice, multiprocessors);
        var heads = most * shape.Heads;
        var floats = Math.Max(partial, cell) + 2 + (2 * heads) + (heads * (shape.ValueDim / slice)) + most + (own * most * 8) + (2 * own * 8)
            + (items * (shape.KeyDim + 1 + slice)) + (2 * shape.Heads);
        return ((sizeof(float) * floats) + 7) / 8 * 8;
    }

    /// <summary>Where a block's weights are, in the kernel's order.</summary>
    private static long[] Places(TokenWalkShape shape, TokenWalkBlock block)
    {
        var (q, row) = (Kernel.Address(block.Projections[0]), (nint)sizeof(short) * shape.Dim);
        var (keys, values) = (shape.Heads * shape.KeyDim * row, shape.Heads * shape.ValueDim * row);
        nint[] projections = block.Projections.Count == 1
            ? [q, q + keys, q + (2 * keys), q + (2 * keys) + values]
            : [.. block.Projections.Select(Kernel.Address)];
        var places = new long[WeightsOfBlock];
        Tensor[] others =
        [
            block.Gates, block.Out, block.Gate, block.Up, block.Down, block.GateBiases, block.HeadNorm, block.InnerNorm, block.NextNorm,
        ];
        long[] known = [.. projections.Select(p => (long)p), .. others.Select(t => (long)Kernel.Address(t))];
        known.CopyTo(places, 0);
        return places;
    }

    [StructLayout(LayoutKind.Sequential)]
    private struct Arguments
    {
        public nint Tokens;
        public nint Table;
        public nint FirstNorm;
        public nint Head;
        public nint Weights;
        public nint Starts;
        public nint Scaled;
        public nint Squares;
        public nint Projections;
        public nint Mixed;
        public nint Moments;
        public nint Inner;
        public nint Logits;
        public float Epsilon;
        public float GateCap;
        public float CellEpsilon;
        public float HeadNormEpsilon;
        public float Cap;
        public int Sequences;
        public StateList States;
    }

    [InlineArray(3 * MostBlocks)]
    private struct StateList
    {
        private nint _first;
    }
}
