using XlstmLab.Native.Cuda;
using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>The embedding in bfloat16 from a float32 table, and the table's gradient, summed in the order of the positions.</summary>
internal static class EmbeddingKernel
{
    private const string Source = "Embedding.cu";
    private const int Warps = 4;
    private const int Tile = 32; // sorted positions a warp
    private const int Chunk = 1024; // positions sorted together
    private const int SortThreads = 256;

    /// <summary>Whether there is a kernel for this table.</summary>
    public static bool Serves(Tensor table) =>
        table.dtype == ScalarType.Float32 && Kernel.Reaches(table) && table.is_contiguous() && table.size(1) % 8 == 0
            && table.size(0) < 1 << 22;

    /// <summary>The rows of the table; NaN for an id that has none.</summary>
    /// <param name="table">[V, d] float32.</param>
    /// <param name="ids">[...] int64.</param>
    /// <returns>[..., d] bfloat16.</returns>
    public static Tensor Forward(Tensor table, Tensor ids)
    {
        using var scope = NewDisposeScope();
        return Function.apply(table, ids.contiguous(), LeafGradients.Of(table)!)[0].MoveToOuterDisposeScope();
    }

    private static string[] Defines(long dim) =>
    [
        $"DIM={dim}", $"SLICE={Slice(dim)}", $"TILE={Tile}", $"CHUNK={Chunk}", $"WARPS={Warps}", $"SORT_THREADS={SortThreads}",
    ];

    /// <summary>The channels of a row that a warp has.</summary>
    private static long Slice(long dim) => Math.Min(Up(dim, 256) * 256, 1024);

    private static long Up(long count, long size) => (count + size - 1) / size;

    private sealed class Function : GradientFunction<Function>
    {
        protected override List<Tensor> Forward(autograd.AutogradContext ctx, params object[] vars)
        {
            var (table, ids) = ((Tensor)vars[0], (Tensor)vars[1]);
            var (vocabulary, dim) = (table.size(0), table.size(1));
            var y = empty([.. ids.shape, dim], ScalarType.BFloat16, table.device);
            var positions = (int)ids.NumberOfElements;
            Kernel.Launch(
                Source, "embedding_forward", Defines(dim),
                new(Math.Min(Up(positions, Warps), 8 * Kernel.Multiprocessors(table)), 32 * Warps) { BlocksY = Slices(dim) }, table,
                table, ids, y, positions, (int)vocabulary);
            ctx.save_for_backward([ids]);
            ctx.save_data("shape", table.shape);
            ctx.save_data("leaves", vars[2]);
            return [y];
        }

        protected override List<Tensor?> Backward(autograd.AutogradContext ctx, List<Tensor> gradients)
        {
            var ids = ctx.get_saved_variables()[0];
            var shape = (long[])ctx.get_data("shape");
            var (vocabulary, dim, positions) = ((int)shape[0], shape[1], (int)ids.NumberOfElements);
            var dy = gradients[0].contiguous();
            var (chunks, tiles) = (Up(positions, Chunk), Up(positions, Tile));
            var defines = Defines(dim);
            var keys = empty(chunks * Chunk, ScalarType.Int32, dy.device);
            var order = empty(positions, ScalarType.Int32, dy.device);
            var sorted = empty(positions, ScalarType.Int32, dy.device);
            var partials = empty(tiles, 2, dim, dtype: ScalarType.Float32, device: dy.device);
            var dtable = empty(shape, ScalarType.Float32, dy.device);
            var sorting = new LaunchShape(chunks * (Chunk / SortThreads), SortThreads, 4 * Chunk);
            Kernel.Launch(Source, "embedding_sort_chunks", defines, sorting, dy, ids, keys, positions, vocabulary);
            Kernel.Launch(
                Source, "embedding_merge", defines, sorting with { SharedBytes = 0 }, dy, keys, order, sorted, positions, vocabulary);
            Kernel.Launch(
                Source, "embedding_sum_tiles", defines, new(Up(tiles, Warps), 32 * Warps) { BlocksY = Slices(dim) }, dy,
                dy, order, sorted, dtable, partials, positions, vocabulary);
            Kernel.Launch(
                Source, "embedding_join_tiles", defines, new(tiles, 32 * Warps) { BlocksY = (int)Up(dim / 4, 32 * Warps) }, dy,
                partials, sorted, dtable, positions, vocabulary);
            Kernel.Launch(
                Source, "embedding_zero_absent", defines, new(Up(vocabulary, 32 * Warps), 32 * Warps), dy, sorted, dtable, positions,
                vocabulary);
            return [LeafGradients.Give((LeafGradients?)ctx.get_data("leaves"), 0, dtable), null, null];
        }

        /// <summary>How many warps share a row.</summary>
        private static int Slices(long dim) => (int)Up(dim, Slice(dim));
    }
}
