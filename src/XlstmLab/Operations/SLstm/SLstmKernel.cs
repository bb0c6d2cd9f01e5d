using System.Numerics;
using static XlstmLab.Operations.VectorFunctions;

namespace XlstmLab.Operations;

/// <summary>What a token continues, where it is no earlier position of its row.</summary>
internal static class Predecessor
{
    /// <summary>The state given for the start.</summary>
    public const int Initial = -1;

    /// <summary>The empty state.</summary>
    public const int Empty = -2;

    /// <summary>Nothing: there is no token here.</summary>
    public const int Padding = -3;

    /// <summary>Nothing, but a document starts: the state becomes empty.</summary>
    public const int EmptyPadding = -4;

    /// <summary>Whether the state is emptied before this position.</summary>
    public static bool Resets(int predecessor) => predecessor is Empty or EmptyPadding;

    /// <summary>Whether there is no token.</summary>
    public static bool IsPadding(int predecessor) => predecessor is Padding or EmptyPadding;
}

/// <summary>The loops of <see cref="SLstmFused"/>, over contiguous memory.</summary>
/// <remarks>
/// Work is shared out by heads and rows of the batch. Each sum is taken by one thread in an order that
/// depends on the shapes alone, so that the number of threads changes no bit of the results.
/// </remarks>
/// <param name="batch">B.</param>
/// <param name="length">S.</param>
/// <param name="heads">NH.</param>
/// <param name="size">D, a multiple of <see cref="Panel"/>.</param>
/// <param name="predecessors">[B, S]: an earlier position of the row, or one of <see cref="Predecessor"/>.</param>
/// <param name="hasExponentialForgetGate">Whether log f is f~, and not logsig(f~).</param>
/// <param name="clip">The bound of the recurrent gradient's elements.</param>
/// <param name="threads">How many threads may work.</param>
internal sealed unsafe class SLstmKernel<T>(
    int batch, int length, int heads, int size, int[] predecessors, bool hasExponentialForgetGate, T clip, int threads)
    where T : unmanaged, IBinaryFloatingPointIeee754<T>
{
    /// <summary>The values kept of each unit and token for backward: i', f', z, o, the derivative of log f by f~, c, n.</summary>
    public const int ActivationCount = 7;

    /// <summary>How many tokens the parameters' gradients take at a time: their slices stay in the nearest caches.</summary>
    public const int TokenBlock = 64;

    /// <summary>The columns that <see cref="Multiply"/> holds in registers for a few rows.</summary>
    public static readonly int Panel = 2 * Vector<T>.Count;

    private const int RowBlock = 4;
    private const int WantedUnits = 16;
    private const long SmallestSharedWork = 1 << 17;

    /// <summary>How many parts the rows of the batch are worked on in, for each head.</summary>
    public int Pieces => (batch + RowsOfPiece - 1) / RowsOfPiece;

    // Whole row blocks, since half-filled ones cost as much; pieces for some sixteen threads, however many there are.
    private int RowsOfPiece { get; } = RowsOfEachPiece(batch, heads);

    private readonly int _heads = heads;
    private readonly int _size = size;
    private readonly int _length = length;
    private readonly nint _gateStride = (nint)heads * size;
    private readonly nint _tokenStride = (nint)4 * heads * size;

    /// <summary>All tokens forward.</summary>
    /// <param name="x">[B, S, 4, NH, D].</param>
    /// <param name="panels">The recurrent kernel as [NH, 4*D/Panel, D (read), Panel (written)].</param>
    /// <param name="bias">[4, NH, D].</param>
    /// <param name="raw">Room for [NH, B, 4*D].</param>
    /// <param name="output">Is given h, [B, NH, S, D].</param>
    /// <param name="activations">Is given what backward needs, [NH, S, B, 7, D]; or null.</param>
    /// <param name="h">The initial, then the last state: [B, NH, D], as for the following three.</param>
    /// <param name="c">The cell state.</param>
    /// <param name="n">The normaliser.</param>
    /// <param name="m">The running maximum.</param>
    public void Forward(T* x, T* panels, T* bias, T* raw, T* output, T* activations, T* h, T* c, T* n, T* m) =>
        ShareRows((head, firstRow, rows) =>
        {
            var gates = raw + ((nint)head * batch + firstRow) * 4 * _size;
            var headPanels = panels + (nint)head * 4 * _size * _size;
            for (var t = 0; t < _length; t++)
            {
                for (var r = 0; r < rows; r++)
                {
                    var row = firstRow + r;
                    if (Predecessor.Resets(predecessors[row * _length + t]))
                    {
                        var unit = State(row, head);
                        Clear(h + unit);
                        Clear(c + unit);
                        Clear(n + unit);
                        Clear(m + unit);
                    }

                    for (var g = 0; g < 4; g++)
                    {
                        Add(
                            x + Token(row, t, head) + g * _gateStride, bias + g * _gateStride + (nint)head * _size,
                            gates + (r * 4 + g) * (nint)_size);
                    }
                }

                Multiply(h + State(firstRow, head), rows, _gateStride, 1, headPanels, _size, 4 * _size, gates, 4 * _size);

                for (var r = 0; r < rows; r++)
                {
                    var row = firstRow + r;
                    var at = Output(row, head, t);
                    if (Predecessor.IsPadding(predecessors[row * _length + t]))
                    {
                        Clear(output + at);
                        continue;
                    }

                    var unit = State(row, head);
                    StepForward(
                        gates + (nint)r * 4 * _size, h + unit, c + unit, n + unit, m + unit,
                        activations is null ? null : activations + Activation(row, head, t));
                    Copy(h + unit, output + at);
                }
            }
        });

    /// <summary>All tokens backward.</summary>
    /// <param name="activations">[NH, S, B, 7, D] of the forward pass.</param>
    /// <param name="output">h, [B, NH, S, D].</param>
    /// <param name="panels">The recurrent kernel as [NH, D/Panel, 4*D (written), Panel (read)].</param>
    /// <param name="initialH">[B, NH, D], or null if there was no initial state; so the following two.</param>
    /// <param name="initialC">The initial cell state.</param>
    /// <param name="initialN">The initial normaliser.</param>
    /// <param name="gradOutput">[B, NH, S, D].</param>
    /// <param name="raw">Room for [NH, B, 4*D].</param>
    /// <param name="blocks">Room for [<see cref="Pieces"/>, NH, 5, TokenBlock, D].</param>
    /// <param name="gradX">Is given the gradient of x, [B, S, 4, NH, D].</param>
    /// <param name="gradKernel">
    /// Zeros; is given the recurrent kernel's gradient in parts to be added up, [<see cref="Pieces"/>, NH, 4, D, D].
    /// </param>
    /// <param name="gradBias">The same of the bias, [<see cref="Pieces"/>, 4, NH, D].</param>
    /// <param name="h">The gradient of the last, then of the initial state's h: [B, NH, D], as for the following three.</param>
    /// <param name="c">That of c.</param>
    /// <param name="n">That of n.</param>
    /// <param name="m">That of m.</param>
    public void Backward(
        T* activations, T* output, T* panels, T* initialH, T* initialC, T* initialN, T* gradOutput, T* raw, T* blocks,
        T* gradX, T* gradKernel, T* gradBias, T* h, T* c, T* n, T* m) =>
        ShareRows((head, firstRow, rows) =>
        {
            var gates = raw + ((nint)head * batch + firstRow) * 4 * _size;
            var headPanels = panels + (nint)head * 4 * _size * _size;

            // The kernel's gradient is a sum of outer products: it is added to in blocks of tokens, which then is a matrix product.
            var piece = (nint)(firstRow / RowsOfPiece);
            var block = blocks + (piece * _heads + head) * 5 * TokenBlock * _size;       // [4, TokenBlock, D]
            var blockPanels = block + (nint)4 * TokenBlock * _size;                     // [D/Panel, TokenBlock, Panel]
            var kernelSum = gradKernel + (piece * _heads + head) * 4 * _size * _size;
            var biasSum = gradBias + (piece * 4 * _heads + head) * _size;
            var tokens = 0;
            for (var t = _length - 1; t >= 0; t--)
            {
                for (var r = 0; r < rows; r++)
                {
                    var row = firstRow + r;
                    var predecessor = predecessors[row * _length + t];
                    var rowGates = gates + (nint)r * 4 * _size;
                    if (Predecessor.IsPadding(predecessor))
                    {
                        new Span<T>(rowGates, 4 * _size).Clear();
                    }
                    else
                    {
                        var unit = State(row, head);
                        var at = Output(row, head, t);
                        var before = predecessor >= 0 ? activations + Activation(row, head, predecessor) : null;
                        StepBackward(
                            activations + Activation(row, head, t),
                            predecessor switch { >= 0 => before + 5 * _size, Predecessor.Initial => initialC + unit, _ => null },
                            predecessor switch { >= 0 => before + 6 * _size, Predecessor.Initial => initialN + unit, _ => null },
                            gradOutput + at,
                            rowGates, h + unit, c + unit, n + unit, m + unit);
                        for (var g = 0; g < 4; g++)
                        {
                            Add(biasSum + g * _gateStride, rowGates + (nint)g * _size, biasSum + g * _gateStride);
                        }

                        if (predecessor != Predecessor.Empty)
                        {
                            TakeToken(
                                rowGates, predecessor >= 0 ? output + Output(row, head, predecessor) : initialH + unit,
                                block, blockPanels, tokens++);
                        }

                        if (tokens == TokenBlock)
                        {
                            AddOuterProducts(block, blockPanels, tokens, kernelSum);
                            tokens = 0;
                        }
                    }

                    for (var g = 0; g < 4; g++)
                    {
                        Copy(rowGates + (nint)g * _size, gradX + Token(row, t, head) + g * _gateStride);
                    }
                }

                Multiply(gates, rows, 4 * _size, 1, headPanels, 4 * _size, _size, h + State(firstRow, head), _gateStride);

                for (var r = 0; r < rows; r++)
                {
                    var row = firstRow + r;
                    var unit = State(row, head);
                    if (Predecessor.Resets(predecessors[row * _length + t]))
                    {
                        Clear(h + unit);
                        Clear(c + unit);
                        Clear(n + unit);
                        Clear(m + unit);
                    }
                    else if (!T.IsInfinity(clip))
                    {
                        Clamp(h + unit);
                    }
                }
            }

            AddOuterProducts(block, blockPanels, tokens, kernelSum);
        });

    private void TakeToken(T* gates, T* before, T* block, T* panels, int slot)
    {
        for (var g = 0; g < 4; g++)
        {
            Copy(gates + (nint)g * _size, block + ((nint)g * TokenBlock + slot) * _size);
        }

        for (var d = 0; d < _size; d += Panel)
        {
            var target = panels + (nint)d * TokenBlock + (nint)slot * Panel;
            Vector.Store(Vector.Load(before + d), target);
            Vector.Store(Vector.Load(before + d + Vector<T>.Count), target + Vector<T>.Count);
        }
    }

    private void AddOuterProducts(T* block, T* panels, int tokens, T* kernelSum)
    {
        for (var d = 0; tokens < TokenBlock && d < _size; d += Panel)
        {
            new Span<T>(panels + (nint)d * TokenBlock + (nint)tokens * Panel, (TokenBlock - tokens) * Panel).Clear();
        }

        for (var g = 0; g < 4; g++)
        {
            var gateBlock = block + (nint)g * TokenBlock * _size;
            new Span<T>(gateBlock + (nint)tokens * _size, (TokenBlock - tokens) * _size).Clear();
            Multiply(gateBlock, _size, 1, _size, panels, TokenBlock, _size, kernelSum + (nint)g * _size * _size, _size);
        }
    }

    private nint State(int row, int head) => ((nint)row * _heads + head) * _size;

    private nint Output(int row, int head, int t) => (((nint)row * _heads + head) * _length + t) * _size;

    private nint Activation(int row, int head, int t) => (((nint)head * _length + t) * batch + row) * ActivationCount * _size;

    private nint Token(int row, int t, int head) => ((nint)row * _length + t) * _tokenStride + (nint)head * _size;

    private static int RowsOfEachPiece(int batch, int heads)
    {
        var blocks = (batch + RowBlock - 1) / RowBlock;
        var pieces = Math.Clamp((WantedUnits + heads - 1) / heads, 1, blocks);
        return (blocks + pieces - 1) / pieces * RowBlock;
    }

    private delegate void RowsBody(int head, int firstRow, int rows);

    private void ShareRows(RowsBody body)
    {
        Share(_heads * Pieces, unit =>
        {
            var firstRow = unit % Pieces * RowsOfPiece;
            body(unit / Pieces, firstRow, Math.Min(RowsOfPiece, batch - firstRow));
        });
    }

    private void Share(int units, Action<int> body)
    {
        var work = (long)batch * _length * _heads * _size * _size;
        if (threads == 1 || units == 1 || work < SmallestSharedWork)
        {
            for (var unit = 0; unit < units; unit++)
            {
                body(unit);
            }
        }
        else
        {
            Parallel.For(0, units, new ParallelOptions { MaxDegreeOfParallelism = threads }, body);
        }
    }

    private void StepForward(T* gates, T* h, T* c, T* n, T* m, T* activations)
    {
        for (var d = 0; d < _size; d += Vector<T>.Count)
        {
            var i = Vector.Load(gates + d);
            var f = Vector.Load(gates + _size + d);
            var z = Tanh(Vector.Load(gates + 2 * _size + d));
            var o = Vector.Load(gates + 3 * _size + d);
            var (cOld, nOld) = (Vector.Load(c + d), Vector.Load(n + d));
            var eForget = ExpOfNegative(-Vector.Abs(f));
            var eOutput = ExpOfNegative(-Vector.Abs(o));
            var logForget = (hasExponentialForgetGate ? f : Vector.Min(f, Vector<T>.Zero) - LogOfOnePlus(eForget)) + Vector.Load(m + d);

            // One of i', f' is 1, the other the exponential of the distance; an empty unit keeps nothing.
            var isEmpty = Vector.Equals(nOld, Vector<T>.Zero);
            var inputWins = Vector.BitwiseOr(isEmpty, Vector.GreaterThanOrEqual(i, logForget));
            var smaller = ExpOfNegative(-Vector.Abs(i - logForget));
            var igate = Vector.ConditionalSelect(inputWins, Vector<T>.One, smaller);
            var fgate = Vector.ConditionalSelect(isEmpty, Vector<T>.Zero, Vector.ConditionalSelect(inputWins, smaller, Vector<T>.One));

            var cNew = fgate * cOld + igate * z;
            var nNew = fgate * nOld + igate;

            // sigmoid(o~) = above / (1 + e^-|o~|), and one division for it and for c / n.
            var above = Vector.ConditionalSelect(Vector.LessThan(o, Vector<T>.Zero), eOutput, Vector<T>.One);
            var scale = above / ((Vector<T>.One + eOutput) * nNew);
            Vector.Store(scale * cNew, h + d);
            Vector.Store(cNew, c + d);
            Vector.Store(nNew, n + d);
            Vector.Store(Vector.ConditionalSelect(inputWins, i, logForget), m + d);
            if (activations is not null)
            {
                Vector.Store(igate, activations + d);
                Vector.Store(fgate, activations + _size + d);
                Vector.Store(z, activations + 2 * _size + d);
                Vector.Store(scale * nNew, activations + 3 * _size + d);
                var forgetSlope = hasExponentialForgetGate
                    ? Vector<T>.One
                    : Vector.ConditionalSelect(Vector.LessThan(f, Vector<T>.Zero), Vector<T>.One, eForget) / (Vector<T>.One + eForget);
                Vector.Store(forgetSlope, activations + 4 * _size + d);
                Vector.Store(cNew, activations + 5 * _size + d);
                Vector.Store(nNew, activations + 6 * _size + d);
            }
        }
    }

    private void StepBackward(T* activations, T* cBefore, T* nBefore, T* gradOutput, T* gates, T* h, T* c, T* n, T* m)
    {
        for (var d = 0; d < _size; d += Vector<T>.Count)
        {
            var igate = Vector.Load(activations + d);
            var fgate = Vector.Load(activations + _size + d);
            var z = Vector.Load(activations + 2 * _size + d);
            var o = Vector.Load(activations + 3 * _size + d);
            var cNew = Vector.Load(activations + 5 * _size + d);
            var nNew = Vector.Load(activations + 6 * _size + d);
            var cOld = cBefore is null ? Vector<T>.Zero : Vector.Load(cBefore + d);
            var nOld = nBefore is null ? Vector<T>.Zero : Vector.Load(nBefore + d);

            var dh = Vector.Load(h + d) + Vector.Load(gradOutput + d);
            var ratio = cNew / nNew;
            var scaled = dh * o / nNew;
            var dc = Vector.Load(c + d) + scaled;
            var dn = Vector.Load(n + d) - scaled * ratio;

            // e^m cancels in h, not in the state: what reaches i' and f' leaves m again, and m hands it to the larger exponent.
            var di = igate * (dc * z + dn);
            var df = fgate * (dc * cOld + dn * nOld);
            var dm = Vector.Load(m + d) - di - df;
            var inputWon = Vector.Equals(igate, Vector<T>.One);
            di += Vector.ConditionalSelect(inputWon, dm, Vector<T>.Zero);
            df += Vector.ConditionalSelect(inputWon, Vector<T>.Zero, dm);

            Vector.Store(di, gates + d);
            Vector.Store(df * Vector.Load(activations + 4 * _size + d), gates + _size + d);
            Vector.Store(dc * igate * (Vector<T>.One - z * z), gates + 2 * _size + d);
            Vector.Store(dh * ratio * o * (Vector<T>.One - o), gates + 3 * _size + d);
            Vector.Store(Vector<T>.Zero, h + d);
            Vector.Store(dc * fgate, c + d);
            Vector.Store(dn * fgate, n + d);
            Vector.Store(df, m + d);
        }
    }

    /// <summary>c[rows, columns] += a[rows, depth] b[depth, columns], with b as [columns/Panel, depth, Panel].</summary>
    private static void Multiply(T* a, int rows, nint aRow, nint aDepth, T* b, int depth, int columns, T* c, nint cRow)
    {
        for (var column = 0; column < columns; column += Panel, b += (nint)depth * Panel)
        {
            var row = 0;
            for (; row <= rows - RowBlock; row += RowBlock)
            {
                MultiplyFour(a + row * aRow, aRow, aDepth, b, depth, c + row * cRow + column, cRow);
            }

            for (; row < rows; row++)
            {
                MultiplyOne(a + row * aRow, aDepth, b, depth, c + row * cRow + column);
            }
        }
    }

    private static void MultiplyFour(T* a, nint aRow, nint aDepth, T* b, int depth, T* c, nint cRow)
    {
        var width = Vector<T>.Count;
        T* c1 = c + cRow, c2 = c1 + cRow, c3 = c2 + cRow;
        Vector<T> s00 = Vector.Load(c), s01 = Vector.Load(c + width);
        Vector<T> s10 = Vector.Load(c1), s11 = Vector.Load(c1 + width);
        Vector<T> s20 = Vector.Load(c2), s21 = Vector.Load(c2 + width);
        Vector<T> s30 = Vector.Load(c3), s31 = Vector.Load(c3 + width);
        for (var k = 0; k < depth; k++)
        {
            Vector<T> b0 = Vector.Load(b), b1 = Vector.Load(b + width);
            var a0 = new Vector<T>(a[0]);
            s00 = MultiplyAdd(a0, b0, s00);
            s01 = MultiplyAdd(a0, b1, s01);
            var a1 = new Vector<T>(a[aRow]);
            s10 = MultiplyAdd(a1, b0, s10);
            s11 = MultiplyAdd(a1, b1, s11);
            var a2 = new Vector<T>(a[2 * aRow]);
            s20 = MultiplyAdd(a2, b0, s20);
            s21 = MultiplyAdd(a2, b1, s21);
            var a3 = new Vector<T>(a[3 * aRow]);
            s30 = MultiplyAdd(a3, b0, s30);
            s31 = MultiplyAdd(a3, b1, s31);
            a += aDepth;
            b += 2 * width;
        }

        Vector.Store(s00, c);
        Vector.Store(s01, c + width);
        Vector.Store(s10, c1);
        Vector.Store(s11, c1 + width);
        Vector.Store(s20, c2);
        Vector.Store(s21, c2 + width);
        Vector.Store(s30, c3);
        Vector.Store(s31, c3 + width);
    }

    // The same order of additions as MultiplyFour: a row's result does not depend on how many rows are computed with it.
    private static void MultiplyOne(T* a, nint aDepth, T* b, int depth, T* c)
    {
        var width = Vector<T>.Count;
        Vector<T> s0 = Vector.Load(c), s1 = Vector.Load(c + width);
        for (var k = 0; k < depth; k++)
        {
            var a0 = new Vector<T>(a[0]);
            s0 = MultiplyAdd(a0, Vector.Load(b), s0);
            s1 = MultiplyAdd(a0, Vector.Load(b + width), s1);
            a += aDepth;
            b += 2 * width;
        }

        Vector.Store(s0, c);
        Vector.Store(s1, c + width);
    }

    private void Add(T* left, T* right, T* sum)
    {
        for (var d = 0; d < _size; d += Vector<T>.Count)
        {
            Vector.Store(Vector.Load(left + d) + Vector.Load(right + d), sum + d);
        }
    }

    private void Clamp(T* values)
    {
        var bound = new Vector<T>(clip);
        for (var d = 0; d < _size; d += Vector<T>.Count)
        {
            Vector.Store(Vector.Clamp(Vector.Load(values + d), -bound, bound), values + d);
        }
    }

    private void Clear(T* values) => new Span<T>(values, _size).Clear();

    private void Copy(T* source, T* target) => new ReadOnlySpan<T>(source, _size).CopyTo(new Span<T>(target, _size));
}
