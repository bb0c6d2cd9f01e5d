using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>
/// Gradients of a training's weights that blocks of kernels have summed a part of each: what is left of the sums, of several weights, is one
/// launch.
/// </summary>
internal sealed class PartialSums : IDisposable
{
    private const string Source = "ColumnSums.cu";
    private const int Warps = 32;

    /// <summary>
    /// The gradients of a launch, and thus how many wait at most: each holds a piece of memory that libtorch's allocator cut out of a larger one,
    /// which nothing else can have as long.
    /// </summary>
    private const int Most = 8;

    private static readonly string[] Defines = [$"WARPS={Warps}", $"MOST={Most}", $"PARTS_BYTES={Unsafe.SizeOf<Table>()}"];

    private readonly List<(Tensor Weight, Tensor Partials, long First)> _waiting = [];

    /// <summary>The sums over the rows of [rows, columns] float32, contiguous, always in the same order: [columns].</summary>
    public static Tensor Of(Tensor partials)
    {
        var sums = empty(partials.shape[1], ScalarType.Float32, partials.device);
        var table = new Table();
        var blocks = Append(ref table, 0, partials, 0, sums, adds: false);
        Launch(ref table, blocks, partials);
        return sums;
    }

    /// <summary>Keeps what is to be summed, on whichever thread, and sums when enough has come together.</summary>
    /// <param name="weight">The weight whose gradient it is.</param>
    /// <param name="partials">[rows, columns] float32, contiguous, in no dispose scope: it is freed with the sums.</param>
    /// <param name="first">The first of the weight's columns.</param>
    public void Add(Tensor weight, Tensor partials, long first)
    {
        lock (_waiting)
        {
            _waiting.Add((weight, partials, first));
            if (_waiting.Count == Most)
            {
                Give();
            }
        }
    }

    /// <summary>Gives weights their gradients, or adds them to those that they have.</summary>
    public void Give()
    {
        lock (_waiting)
        {
            using var scope = NewDisposeScope();
            using var noGrad = no_grad();
            for (var given = 0; given < _waiting.Count;)
            {
                // Blocks of one launch run side by side: a weight that is used twice has its second gradient added by the next.
                var part = _waiting.Skip(given).ToList();
                var again = Enumerable.Range(1, part.Count - 1).FirstOrDefault(k => part.Take(k).Any(p => ReferenceEquals(p.Weight, part[k].Weight)), part.Count);
                Give(part[..again]);
                given += again;
            }

            Clear();
        }
    }

    /// <summary>Forgets what is to be summed.</summary>
    public void Clear()
    {
        lock (_waiting)
        {
            _waiting.ForEach(wait => wait.Partials.Dispose());
            _waiting.Clear();
        }
    }

    /// <inheritdoc/>
    public void Dispose() => Clear();

    private static void Give(List<(Tensor Weight, Tensor Partials, long First)> gradients)
    {
        var table = new Table();
        var fresh = new List<(Tensor Weight, Tensor Gradient)>();
        var joint = empty(gradients.Sum(g => Aligned(g.Weight.NumberOfElements)), ScalarType.Float32, gradients[0].Partials.device);
        long place = 0;
        var blocks = 0;
        foreach (var (weight, partials, first) in gradients)
        {
            var count = weight.NumberOfElements;
            var before = weight.grad;
            var adds = before is not null && before.dtype == ScalarType.Float32 && before.is_contiguous();
            var gradient = adds ? before! : joint.narrow(0, place, count).view(weight.shape);
            blocks += Append(ref table, blocks, partials, first, gradient, adds);
            place += Aligned(count);
            if (!adds)
            {
                fresh.Add((weight, gradient));
            }
        }

        Launch(ref table, blocks, joint);
        foreach (var (weight, gradient) in fresh)
        {
            if (weight.grad is { } other)
            {
                other.add_(gradient);
            }
            else
            {
                weight.grad = gradient;
            }
        }
    }

    /// <summary>The optimiser's kernel reads 16 bytes at a time.</summary>
    private static long Aligned(long count) => (count + 3) / 4 * 4;

    private static int Append(ref Table table, int start, Tensor partials, long first, Tensor sums, bool adds)
    {
        var columns = checked((int)sums.NumberOfElements);
        table.Parts[table.Count++] = new()
        {
            Partials = Kernel.Address(partials) + (nint)(first * sizeof(float)),
            Sums = Kernel.Address(sums),
            Rows = (int)partials.shape[0],
            Stride = checked((int)partials.shape[1]),
            Columns = columns,
            Start = start,
            Adds = adds ? 1 : 0,
        };
        return (columns + 31) / 32;
    }

    private static void Launch(ref Table table, int blocks, Tensor on) =>
        Kernel.Launch(Source, "column_sums", Defines, new(blocks, 32 * Warps, 4 * Warps * 33), on, ref table);

    /// <summary>As the source has it.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private struct Part
    {
        public nint Partials;
        public nint Sums;
        public int Rows;
        public int Stride;
        public int Columns;
        public int Start;
        public int Adds;
        public int Unused;
    }

    [InlineArray(Most)]
    private struct PartList
    {
        private Part _first;
    }

    [StructLayout(LayoutKind.Sequential)]
    private struct Table
    {
        public PartList Parts;
        public int Count;
        public int Unused;
    }
}
