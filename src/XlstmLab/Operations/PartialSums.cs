using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>
/// Gradients of a training's weights that blocks of kernels have summed a part of each: what is left of the sums, of many weights, is one
/// launch.
/// </summary>
/// <remarks>
/// What waits lies in memory of its own: a piece of what a pass allocates would keep libtorch's allocator from giving the whole large block
/// that it was cut out of to anything else as long, which took a third of a large model's memory.
/// </remarks>
internal sealed class PartialSums : IDisposable
{
    private const string Source = "ColumnSums.cu";
    private const int Warps = 32;

    private const int Most = 64; // gradients of a launch
    private const long RoomLength = 8 << 20; // elements of what waits
    private const long Line = 32; // elements

    private static readonly string[] Defines = [$"WARPS={Warps}", $"MOST={Most}", $"PARTS_BYTES={Unsafe.SizeOf<Table>()}"];

    private readonly List<Waiting> _waiting = [];
    private readonly Tensor _room;
    private long _taken;

    /// <summary>Nothing waits yet.</summary>
    /// <param name="device">Where the weights are.</param>
    public PartialSums(Device device) => _room = empty(RoomLength, ScalarType.Float32, device).DetachFromDisposeScope();

    /// <summary>The sums over the rows of [rows, columns] float32, contiguous, always in the same order: [columns].</summary>
    public static Tensor Of(Tensor partials)
    {
        var sums = empty(partials.size(1), ScalarType.Float32, partials.device);
        var table = new Table();
        var blocks = Append(ref table, 0, new(sums, partials, 0), sums, adds: false);
        Launch(ref table, blocks, partials);
        return sums;
    }

    /// <summary>
    /// Memory for what <see cref="Add"/> is to be given next: what waits is summed before it where there is no room beside it.
    /// </summary>
    /// <returns>[rows, columns] float32, contiguous; null where it would not fit by itself.</returns>
    public Tensor? Take(long rows, long columns)
    {
        var count = (rows * columns + Line - 1) / Line * Line;
        if (count > RoomLength)
        {
            return null;
        }

        lock (_waiting)
        {
            if (_taken + count > RoomLength)
            {
                Give();
            }

            _taken += count;
            return _room.narrow(0, _taken - count, rows * columns).view(rows, columns);
        }
    }

    /// <summary>Whether this is memory of <see cref="Take"/>, in which it may wait.</summary>
    public bool Keeps(Tensor partials)
    {
        var place = Kernel.Address(partials) - Kernel.Address(_room);
        return place >= 0 && place < RoomLength * sizeof(float);
    }

    /// <summary>Keeps what is to be summed, on whichever thread, and sums when enough has come together.</summary>
    /// <param name="weight">The weight whose gradient it is.</param>
    /// <param name="partials">[rows, columns] float32, contiguous: of <see cref="Take"/>, or to be summed at once.</param>
    /// <param name="first">The first of the weight's columns.</param>
    public void Add(Tensor weight, Tensor partials, long first)
    {
        lock (_waiting)
        {
            _waiting.Add(new(weight, partials, first));
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
                var weights = new HashSet<Tensor>(ReferenceEqualityComparer.Instance);
                var end = given;
                while (end < _waiting.Count && weights.Add(_waiting[end].Weight))
                {
                    end++;
                }

                Give(_waiting[given..end]);
                given = end;
            }

            Clear();
        }
    }

    /// <summary>Forgets what is to be summed.</summary>
    public void Clear()
    {
        lock (_waiting)
        {
            _waiting.Clear();
            _taken = 0;
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        Clear();
        _room.Dispose();
    }

    private void Give(List<Waiting> gradients)
    {
        var table = new Table();
        var fresh = new List<(Tensor Weight, Tensor Gradient)>();
        var joint = empty(gradients.Sum(g => Aligned(g.Count)), ScalarType.Float32, _room.device);
        long place = 0;
        var blocks = 0;
        foreach (var waiting in gradients)
        {
            var (weight, count) = (waiting.Weight, waiting.Count);
            var before = weight.grad;
            var adds = before is not null && before.dtype == ScalarType.Float32 && before.is_contiguous();
            var gradient = adds ? before! : weight.dim() == 1 ? joint.narrow(0, place, count)
                : joint.narrow(0, place, count).view(weight.shape);
            blocks += Append(ref table, blocks, waiting, gradient, adds);
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

    private static int Append(ref Table table, int start, Waiting waiting, Tensor sums, bool adds)
    {
        var columns = checked((int)waiting.Count);
        table.Parts[table.Count++] = new()
        {
            Partials = waiting.Address,
            Sums = Kernel.Address(sums),
            Rows = waiting.Rows,
            Stride = waiting.Stride,
            Columns = columns,
            Start = start,
            Adds = adds ? 1 : 0,
        };
        return (columns + 31) / 32;
    }

    private static void Launch(ref Table table, int blocks, Tensor on) =>
        Kernel.Launch(Source, "column_sums", Defines, new(blocks, 32 * Warps, 4 * Warps * 33), on, ref table);

    /// <summary>A sum that is to be made: where its columns lie, and the weight, or tensor of its shape, whose it is.</summary>
    private readonly struct Waiting(Tensor weight, Tensor partials, long first)
    {
        public Tensor Weight { get; } = weight;

        public long Count { get; } = weight.NumberOfElements;

        public nint Address { get; } = Kernel.Address(partials) + (nint)(first * sizeof(float));

        public int Rows { get; } = (int)partials.size(0);

        public int Stride { get; } = checked((int)partials.size(1));
    }

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
