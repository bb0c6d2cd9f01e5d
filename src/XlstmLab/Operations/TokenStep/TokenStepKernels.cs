using XlstmLab.Native.Cuda;
using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>
/// The kernels that take one token of each of a few sequences through an mLSTM block's parts: nothing of it has a gradient.
/// </summary>
internal static class TokenStepKernels
{
    /// <summary>Sequences side by side at most.</summary>
    public const int MostSequences = 64;

    /// <summary>The channels of which a matrix's rows are summed by a block, and squares of the stream.</summary>
    public const int Rows = 16;

    /// <summary>What widths that a matrix reads are multiples of.</summary>
    public const int InputStep = 32;

    /// <summary>Sequences from which on a product copies x before it multiplies (<c>TokenBatchProduct.cu</c>).</summary>
    private const int FewestInBatch = 17;

    /// <summary>
    /// The width of a model from which on a multiprocessor's one block goes through many tiles of few sequences' products
    /// (<c>TokenStreamProduct.cu</c>).
    /// </summary>
    private const int FewestStreamed = 1024;

    private const int Parts = 6;
    private static readonly int[] Clusters = [8, 4, 2, 1];
    private const int MemoryThreads = 256;
    private const int MemoryStage = 4; // turns, of 4 KB
    private const int MemoryBlocks = 256;
    private const int MostTurnsInRegisters = 16; // 4 stages, of few sequences
    private const int MostMemoryStages = 5; // so that two blocks leave a multiprocessor's memory to one of the next kernel's
    private const int MostKeyDim = 4096; // of which q and k lie beside them

    /// <summary>What a token's matrix makes of its product.</summary>
    public enum Result
    {
        /// <summary>The product.</summary>
        Plain,

        /// <summary>The stream with the product added.</summary>
        Stream,

        /// <summary>SiLU of one part's times the other's.</summary>
        Gated,

        /// <summary>The product under its soft cap.</summary>
        Capped,
    }

    /// <summary>
    /// The cluster that has a head's memory: for few heads as many blocks as share a head's columns, for more as fill a large GPU twice; 0
    /// where there is none for these sizes.
    /// </summary>
    /// <param name="keyDim">Rows of a head's memory.</param>
    /// <param name="valueDim">Its columns.</param>
    /// <param name="cells">Numbers of a row that are read together: 16 bytes.</param>
    /// <param name="heads">Those of all sequences, where there are many.</param>
    public static int Slices(int keyDim, int valueDim, int cells, long heads = 1)
    {
        var possible = Clusters.Where(slices =>
            valueDim % (cells * slices) == 0 && valueDim / slices <= cells * MemoryThreads && keyDim <= MostKeyDim);
        return possible.Where(slices => slices * heads >= MemoryBlocks).DefaultIfEmpty(possible.FirstOrDefault()).Last();
    }

    /// <summary>
    /// Whether kernels that take so much shared memory that all of them want a multiprocessor's memory divided alike read the sequences.
    /// </summary>
    public static bool IsBatch(long sequences) => sequences >= FewestInBatch;

    /// <summary>The same of a model as wide as this, where the kernel knows how wide it is.</summary>
    private static bool IsMostlyShared(long sequences, long width) => IsBatch(sequences) || width >= FewestStreamed;

    /// <summary>The rows of a table as the stream.</summary>
    /// <param name="tokens">[B, 1] int64.</param>
    /// <param name="table">[V, d] float32 or bfloat16, contiguous.</param>
    /// <param name="stream">What the stream becomes.</param>
    /// <param name="scale">[d] float32 the first norm's weights.</param>
    public static void Embed(Tensor tokens, Tensor table, TokenStream stream, Tensor scale)
    {
        const int threads = 256;
        var dim = table.shape[1];
        Kernel.Launch(
            "TokenEmbedding.cu", "token_embedding", [$"WIDTH={dim}", $"WIDE={(table.dtype == ScalarType.Float32 ? 1 : 0)}"],
            new((dim + threads - 1) / threads, threads)
            {
                BlocksY = (int)tokens.shape[0],
                MostlyShared = IsMostlyShared(tokens.shape[0], dim),
            },
            table, tokens, table, stream.Values, scale, stream.Scaled, stream.Squares);
    }

    /// <summary>A product of each sequence's x with matrices one below the other.</summary>
    /// <param name="result">What becomes of it.</param>
    /// <param name="weights">
    /// Each [rows, d] bfloat16, contiguous, at most six; of a gated result g's and u's. The first, of a gated result both, may be int8, or
    /// uint8 that hold e4m3.
    /// </param>
    /// <param name="x">[B, d] bfloat16; for a normed product what the stream has.</param>
    /// <param name="normed">The stream whose norm x is, or null.</param>
    /// <param name="y">[B, rows] float32, or of a gated result [B, rows / 2] bfloat16; null for the stream.</param>
    /// <param name="stream">The stream that it is added to, or null.</param>
    /// <param name="scale">[d] float32 the weights of the norm behind that addition, or null.</param>
    /// <param name="epsilon">The norm's.</param>
    /// <param name="cap">The soft cap; 0 for none.</param>
    /// <param name="units">
    /// [rows] float32, by which sums of the rows of int8 or e4m3 are multiplied; null where all weights are bfloat16.
    /// </param>
    public static void Multiply(
        Result result, IReadOnlyList<Tensor> weights, Tensor x, TokenStream? normed, Tensor? y = null, TokenStream? stream = null,
        Tensor? scale = null,
        double epsilon = 0, double cap = 0, Tensor? units = null)
    {
        var (inputs, sequences) = ((int)x.shape[1], x.shape[0]);
        var groups = (int)(sequences + 7) / 8;
        var arguments = new KernelArgument[2 * Parts + 12];
        var rows = 0L;
        for (var k = 0; k < Parts; k++)
        {
            rows += k < weights.Count ? weights[k].shape[0] : 0;
            (arguments[k], arguments[Parts + k]) = (k < weights.Count ? weights[k] : (Tensor?)null, (int)rows);
        }

        var gated = result == Result.Gated;
        (arguments[12], arguments[13]) = (x, normed?.Squares);
        (arguments[14], arguments[15]) = (gated ? null : y, gated ? y : null);
        (arguments[16], arguments[17], arguments[18], arguments[19]) = (stream?.Values, scale, stream?.Scaled, stream?.Squares);
        (arguments[20], arguments[21], arguments[22]) = ((int)sequences, (float)epsilon, (float)cap);
        arguments[23] = units;

        // Rows of one byte and of two never share a tile; of a gated result both parts are whole tiles.
        var beside = units is null || gated ? 0 : weights.Skip(1).Sum(part => part.shape[0]);
        var tiles = (rows - beside + Rows - 1) / Rows + (beside + Rows - 1) / Rows;
        string[] Macros(params ReadOnlySpan<string> own) =>
        [
            $"INPUTS={inputs}", $"GROUPS={groups}", .. own, $"RESULT={(int)result}", $"NORMED={(normed is null ? 0 : 1)}",
            .. units is null ? Array.Empty<string>() : [$"WEIGHTS={(weights[0].dtype == ScalarType.Int8 ? 1 : 2)}"],
        ];
        if (IsBatch(sequences) && BatchLayout.Of(inputs, groups, tiles, isNarrow: units is not null) is { } batch)
        {
            Kernel.Launch("TokenBatchProduct.cu", "token_batch_product", Macros(batch.Macros), batch.Launch, x, arguments);
            return;
        }

        // The stream's rows are as many as the model is wide, and of other products what they read is.
        var width = stream is null ? inputs : Math.Min(inputs, rows);
        if (!IsBatch(sequences) && width >= FewestStreamed)
        {
            var layout = StreamLayout.Of(groups, width, isNarrow: units is not null);
            var shape = layout.Launch(Math.Min(tiles, Kernel.Multiprocessors(x)));
            Kernel.Launch(
                "TokenStreamProduct.cu", "token_stream_product", Macros(layout.Macros), shape, x, [.. arguments, (int)tiles]);
            return;
        }

        const int warps = 8;
        Kernel.Launch(
            "TokenProduct.cu", "token_product", Macros($"WARPS={warps}"),
            new(tiles, 32 * warps, sizeof(float) * (8 * groups * warps * (Rows + 1) + Math.Max(8 * groups, warps))), x, arguments);
    }

    /// <summary>The mLSTM's step with head norm and output gate.</summary>
    /// <param name="projections">
    /// [B, NH (2 DK + 2 DV + 4)] float32: q, k, v, o, and i, f by the upper and by the lower halves of their weights.
    /// </param>
    /// <param name="biases">[2 NH] float32: of i, of f.</param>
    /// <param name="c">
    /// [B, NH, DK, DV] float32 or bfloat16, contiguous, changed in place; so are n [B, NH, DK] and m [B, NH, 1], of float32.
    /// </param>
    /// <param name="n">See c.</param>
    /// <param name="m">See c.</param>
    /// <param name="normWeight">[NH DV] float32.</param>
    /// <param name="y">[B, NH DV] bfloat16.</param>
    /// <param name="options">The cell's gates and normaliser.</param>
    /// <param name="gateCap">The gates' soft cap; 0 for none.</param>
    /// <param name="centers">Whether the head norm is a LayerNorm, else an RMSNorm.</param>
    /// <param name="normEpsilon">The head norm's.</param>
    public static void Remember(
        Tensor projections, Tensor biases, Tensor c, Tensor n, Tensor m, Tensor normWeight, Tensor y, MLstmOptions options, double gateCap,
        bool centers,
        double normEpsilon)
    {
        var (batch, heads, dk, dv) = (c.shape[0], c.shape[1], (int)c.shape[2], (int)c.shape[3]);
        var cells = 16 / (int)c.ElementSize;
        var slices = Slices(dk, dv, cells, IsBatch(batch) ? heads * batch : 1);
        var width = dv / slices;
        var groups = MemoryThreads / (width / cells);
        var turns = (dk + groups - 1) / groups;
        var held = !IsBatch(batch) && turns <= MostTurnsInRegisters ? 0
            : Math.Min((turns + MemoryStage - 1) / MemoryStage, MostMemoryStages);
        var floats = 2 * dk + groups * width + width + MemoryThreads / 32;
        var bytes = (held * MemoryStage * MemoryThreads * 16 + 8 + 8 * slices + 4 * floats + 15) / 16 * 16;
        Kernel.Launch(
            "TokenMemory.cu", "token_memory",
            [
                $"DK={dk}", $"DV={dv}", $"SLICES={slices}", $"HEADS={heads}", $"EXPONENTIAL={(options.Stabilizes ? 1 : 0)}",
                $"NORMALIZE={(options.Normalize ? 1 : 0)}", $"CENTER={(centers ? 1 : 0)}", $"HALVES={(cells == 8 ? 1 : 0)}",
                $"STAGE={MemoryStage}", $"HELD={held}", $"ROOM_BYTES={bytes}",
            ],
            new(slices, MemoryThreads, bytes)
            {
                BlocksY = (int)heads,
                BlocksZ = (int)batch,
                Cluster = slices,
                MostlyShared = IsMostlyShared(batch, heads * dv),
            },
            c,
            projections, biases, c, n, m, normWeight, y, (float)gateCap, (float)options.Epsilon, (float)normEpsilon);
    }

    /// <summary>How a block goes through rows of a product for few sequences.</summary>
    /// <param name="StageBytes">Of a row that are copied at a time.</param>
    /// <param name="Stages">Of rows that are on their way.</param>
    /// <param name="Blocks">That registers of a multiprocessor are to suffice for.</param>
    /// <param name="SharedBytes">A Room of the kernel's.</param>
    private sealed record StreamLayout(int StageBytes, int Stages, int Blocks, int SharedBytes)
    {
        private const int Warps = 8;

        public string[] Macros =>
            [$"WARPS={Warps}", $"STAGES={Stages}", $"STAGE_BYTES={StageBytes}", $"BLOCKS={Blocks}", $"ROOM_BYTES={SharedBytes}"];

        public LaunchShape Launch(long blocks) => new(blocks, 32 * (Warps + 1), SharedBytes) { MostlyShared = true };

        /// <summary>
        /// As many stages as there is room for. A wide model's block has a multiprocessor to itself and copies long pieces of rows; a
        /// narrow one's leaves room for a block of the next kernel, whose rows are on their way while it ends.
        /// </summary>
        public static StreamLayout Of(int groups, long width, bool isNarrow)
        {
            const int wide = 2048;
            var (bytes, room) = width >= wide ? (4096, 216 << 10) : (2048, 108 << 10);
            var stage = Rows * (bytes + 64) + 2 * sizeof(long);
            var sums = sizeof(float) * (2 * Warps * 8 * groups * (Rows + 1) + 8 * groups);
            var stages = (room - sums) / stage;
            return new(bytes, stages, width >= wide || isNarrow ? 1 : 2, (stages * stage + sums + 15) / 16 * 16);
        }
    }

    /// <summary>How a cluster of blocks divides a product for many sequences.</summary>
    /// <param name="Split">Blocks that divide the columns.</param>
    /// <param name="Tiles">Tiles of rows that each of them has.</param>
    /// <param name="Columns">A block's columns, whole loads of a warp.</param>
    /// <param name="Stride">Numbers from a sequence to the next in shared memory.</param>
    /// <param name="Groups">Of 8 sequences.</param>
    /// <param name="Clusters">How many of them there are.</param>
    private sealed record BatchLayout(int Split, int Tiles, int Columns, int Stride, int Groups, long Clusters)
    {
        private const int Threads = 256;
        private const int MostSharedBytes = 227 << 10;

        public string[] Macros =>
            [$"SPLIT={Split}", $"TILES={Tiles}", $"BLOCK_COLUMNS={Columns}", $"STRIDE={Stride}", $"ROOM_BYTES={SharedBytes}"];

        public LaunchShape Launch => new(Split * Clusters, Threads, SharedBytes) { Cluster = Split, MostlyShared = true };

        /// <summary>A Room of the kernel's.</summary>
        private int SharedBytes
        {
            get
            {
                var (sequences, pairs, height) = (8 * Groups, ((4 * Groups) + Split - 1) / Split, Rows * Tiles);
                var inputs = Math.Max(2 * sequences * Stride, Tiles == Threads / 32 ? 512 * Groups : 512 * Groups * Tiles);
                return (inputs + (8 * Split * pairs * (height + 8)) + (8 * pairs) + 8 + 15) / 16 * 16;
            }
        }

        /// <summary>
        /// The layout by which a product has about as many blocks as a large GPU has multiprocessors, or more, and as few as that of them
        /// to a cluster; null where a block's columns are too many for its memory.
        /// </summary>
        public static BatchLayout? Of(int inputs, int groups, long tiles, bool isNarrow)
        {
            const int blocks = 128;
            (int Split, int Tiles)[] candidates = [(4, 8), (4, 4), (8, 4)];
            var layouts = candidates.Select(c => Of(inputs, groups, tiles, isNarrow, c.Split, c.Tiles)).ToArray();
            var layout = layouts.FirstOrDefault(l => l.Split * l.Clusters >= blocks && l.SharedBytes <= MostSharedBytes / 2) ?? layouts[^1];
            return layout.SharedBytes <= MostSharedBytes ? layout : null;
        }

        private static BatchLayout Of(int inputs, int groups, long tiles, bool isNarrow, int split, int tilesOfBlock)
        {
            var width = isNarrow ? 64 : 32;
            var columns = ((inputs + width - 1) / width + split - 1) / split * width;

            // Lanes of a load lie 16 bytes apart and 64 from a sequence to the next; of weights of one byte 32 and 16.
            var stride = isNarrow ? columns + 8 : columns % 64 == 0 ? columns + 32 : columns;
            return new(split, tilesOfBlock, columns, stride, groups, (tiles + tilesOfBlock - 1) / tilesOfBlock);
        }
    }
}

/// <summary>The residual stream of one token of each of B sequences, and what the next norm needs of it.</summary>
/// <param name="Values">[B, d] float32.</param>
/// <param name="Scaled">[B, d] bfloat16: times the next norm's weights.</param>
/// <param name="Squares">[B, d / 16] float32: the sums of the squares of 16 channels.</param>
internal sealed record TokenStream(Tensor Values, Tensor Scaled, Tensor Squares) : IDisposable
{
    /// <summary>A stream of nothing, outside of every scope.</summary>
    public static TokenStream Empty(long sequences, long dim, Device device) => new(
        empty(sequences, dim, ScalarType.Float32, device).DetachFromDisposeScope(),
        empty(sequences, dim, ScalarType.BFloat16, device).DetachFromDisposeScope(),
        empty(sequences, dim / TokenStepKernels.Rows, ScalarType.Float32, device).DetachFromDisposeScope());

    /// <inheritdoc/>
    public void Dispose()
    {
        Values.Dispose();
        Scaled.Dispose();
        Squares.Dispose();
    }
}
