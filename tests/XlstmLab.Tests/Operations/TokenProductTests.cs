using XlstmLab.Operations;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Operations;

/// <summary>A token's products with weights of one byte, and with bfloat16 where those are not in the step's tests.</summary>
public sealed class TokenProductTests
{
    private const double Epsilon = 1e-6;

    /// <summary>Whole loads and parts of pieces, several turns, one group of sequences and all; rows that fill no block.</summary>
    public static TheoryData<WeightFormat, string, int, int, int> Cases => new(
        from format in new[] { WeightFormat.Int8, WeightFormat.Float8 }
        from shape in new (TokenStepKernels.Result, int, int, int)[]
        {
            (TokenStepKernels.Result.Plain, 96, 1, 24), (TokenStepKernels.Result.Stream, 1056, 3, 32),
            (TokenStepKernels.Result.Gated, 32, 9, 64),
            (TokenStepKernels.Result.Capped, 160, 64, 40), (TokenStepKernels.Result.Stream, 10944, 2, 16),
        }
        select (format, shape.Item1.ToString(), shape.Item2, shape.Item3, shape.Item4));

    /// <summary>
    /// Clusters of 8 blocks and of 4, by 4 tiles and by 8; blocks without columns, with a part of their pieces, and with more turns than
    /// are asked for at once; sequences, and pairs of them, that not every block has; rows that fill neither a tile nor a block.
    /// </summary>
    public static TheoryData<WeightFormat, string, int, int, int> BatchCases => new(
        from format in new[] { WeightFormat.BFloat16, WeightFormat.Int8, WeightFormat.Float8 }
        from shape in new (TokenStepKernels.Result, int, int, int)[]
        {
            (TokenStepKernels.Result.Plain, 96, 17, 24), (TokenStepKernels.Result.Stream, 2752, 64, 48),
            (TokenStepKernels.Result.Gated, 1056, 33, 112),
            (TokenStepKernels.Result.Capped, 160, 63, 2052), (TokenStepKernels.Result.Gated, 1024, 64, 4096),
            (TokenStepKernels.Result.Plain, 64, 41, 2056), (TokenStepKernels.Result.Stream, 10944, 18, 16),
        }
        select (format, shape.Item1.ToString(), shape.Item2, shape.Item3, shape.Item4));

    /// <summary>
    /// Blocks with several tiles, or one; parts of stages, and of pieces; one group of sequences and two; rows that fill no tile.
    /// </summary>
    public static TheoryData<WeightFormat, string, int, int, int> StreamCases => new(
        from format in new[] { WeightFormat.BFloat16, WeightFormat.Int8, WeightFormat.Float8 }
        from shape in new (TokenStepKernels.Result, int, int, int)[]
        {
            (TokenStepKernels.Result.Plain, 2080, 1, 40), (TokenStepKernels.Result.Stream, 2080, 2, 2048),
            (TokenStepKernels.Result.Gated, 2048, 9, 72), (TokenStepKernels.Result.Capped, 10944, 1, 60),
            (TokenStepKernels.Result.Plain, 4096, 16, 100), (TokenStepKernels.Result.Stream, 10944, 13, 2048),
            (TokenStepKernels.Result.Plain, 1056, 3, 40), (TokenStepKernels.Result.Stream, 2752, 9, 1024),
        }
        select (format, shape.Item1.ToString(), shape.Item2, shape.Item3, shape.Item4));

    [Theory]
    [MemberData(nameof(StreamCases))]
    public void Multiply_WideMatrix_IsTheProductWithTheWeightsRoundedValues(
        WeightFormat format, string result, int inputs, int sequences, int rows)
    {
        LongTests.SkipUnless(inputs * rows < 5_000_000 && (format == WeightFormat.BFloat16 || inputs != 4096));
        AssertMultiplies("token_stream_product", format, result, inputs, sequences, rows);
    }

    /// <summary>Which rows a block has depends on the number of blocks, no sum does.</summary>
    [Theory]
    [InlineData(WeightFormat.BFloat16, 3)]
    [InlineData(WeightFormat.Int8, 16)]
    [InlineData(WeightFormat.Float8, 3)]
    public void Multiply_WideMatrix_IsTheSameOfAnyNumberOfBlocks(WeightFormat format, int sequences)
    {
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        using var generator = new Generator(6, CPU);
        var device = get_default_device();
        Tensor Draw(params long[] shape) => randn(shape, generator: generator, device: CPU);
        var (numbers, units, _) = Packed(format, Draw(88, 2080));
        var (x, gates) = (Draw(sequences, 2080).to(ScalarType.BFloat16).to(device), Draw(8, 2080).to(ScalarType.BFloat16).to(device));
        using TokenStream normed = new(empty(0), x, Draw(sequences, 2080 / TokenStepKernels.Rows).square().to(device));
        Tensor Multiplied(int multiprocessors)
        {
            run.Multiprocessors = multiprocessors;
            var y = full(sequences, 96, double.NaN, ScalarType.Float32);
            TokenStepKernels.Multiply(
                TokenStepKernels.Result.Plain, [numbers.to(device), gates], x, normed, y, epsilon: Epsilon, units: units?.to(device));
            return y;
        }

        var one = Multiplied(1);
        foreach (var multiprocessors in new[] { 3, 4, 1000 })
        {
            Assert.True(one.eq(Multiplied(multiprocessors)).all().item<bool>(), $"{multiprocessors} blocks at most");
        }

        Assert.Equal(["token_stream_product"], run.Launched);
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void Multiply_WeightsOfOneByte_IsTheProductWithTheirRoundedValues(
        WeightFormat format, string result, int inputs, int sequences, int rows) =>
        AssertMultiplies(sequences > 16 ? "token_batch_product" : "token_product", format, result, inputs, sequences, rows);

    [Theory]
    [MemberData(nameof(BatchCases))]
    public void Multiply_ManySequences_IsTheProductWithTheWeightsRoundedValues(
        WeightFormat format, string result, int inputs, int sequences, int rows)
    {
        LongTests.SkipUnless(format == WeightFormat.BFloat16 ? rows < 4096 : rows < 64);
        AssertMultiplies("token_batch_product", format, result, inputs, sequences, rows);
    }

    private static void AssertMultiplies(string kernel, WeightFormat format, string result, int inputs, int sequences, int rows)
    {
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        using var generator = new Generator(5, CPU);
        Tensor Draw(params long[] shape) => randn(shape, generator: generator, device: CPU);
        var kind = Enum.Parse<TokenStepKernels.Result>(result);
        var device = get_default_device();
        var weights = Draw(rows, inputs) * (Draw(rows, 1).exp() + 0.1);
        weights[1].zero_();
        var (numbers, units, rounded) = Packed(format, weights);
        var x = Draw(sequences, inputs).to(ScalarType.BFloat16);
        var squares = Draw(sequences, inputs / TokenStepKernels.Rows).square();
        var expected = x.to(ScalarType.Float64).matmul(rounded.to(ScalarType.Float64).T); // (B, rows)
        var r = (squares.to(ScalarType.Float64).sum(1, keepdim: true) / inputs + Epsilon).rsqrt();
        var (xThere, unitsThere) = (x.to(device), units?.to(device));
        using TokenStream normed = new(empty(0), xThere, squares.to(device));
        switch (kind)
        {
            case TokenStepKernels.Result.Plain:
                // Beside them the gates', of bfloat16.
                var gates = Draw(8, inputs).to(ScalarType.BFloat16);
                var all = full(sequences, rows + 8, double.NaN, ScalarType.Float32);
                TokenStepKernels.Multiply(
                    kind, [numbers.to(device), gates.to(device)], xThere, normed, all, epsilon: Epsilon, units: unitsThere);
                var beside = x.to(ScalarType.Float64).matmul(gates.to(ScalarType.Float64).T);
                AssertNear(all, cat([expected, beside], 1) * r, 1e-6);
                break;
            case TokenStepKernels.Result.Stream:
                var (before, scale) = (Draw(sequences, rows), Draw(rows));
                using (var stream = TokenStream.Empty(sequences, rows, device))
                {
                    stream.Values.copy_(before);
                    TokenStepKernels.Multiply(
                        kind, [numbers.to(device)], xThere, null, stream: stream, scale: scale.to(device), units: unitsThere);
                    var after = before.to(ScalarType.Float64) + expected;
                    AssertNear(stream.Values, after, 2e-6);
                    AssertNear(stream.Scaled, after * scale, 4e-3);
                    AssertNear(stream.Squares, after.square().view(sequences, -1, TokenStepKernels.Rows).sum(-1), 1e-5);
                }

                break;
            case TokenStepKernels.Result.Gated:
                var inner = full(sequences, rows / 2, double.NaN, ScalarType.BFloat16);
                TokenStepKernels.Multiply(kind, numbers.to(device).chunk(2), xThere, normed, inner, epsilon: Epsilon, units: unitsThere);
                var parts = (expected * r).chunk(2, 1);
                AssertNear(inner, nn.functional.silu(parts[0]) * parts[1], 4e-3);
                break;
            case TokenStepKernels.Result.Capped:
                var logits = full(sequences, rows, double.NaN, ScalarType.Float32);
                TokenStepKernels.Multiply(kind, [numbers.to(device)], xThere, normed, logits, epsilon: Epsilon, cap: 30, units: unitsThere);
                AssertNear(logits, 30 * (expected * r / 30).tanh(), 1e-6);
                break;
            default:
                throw UnknownValue.Of(kind);
        }

        Assert.Equal([kernel], run.Launched);

        static void AssertNear(Tensor actual, Tensor expected, double bound) => Assert.InRange(
            KernelRun.Error(actual, expected.to(actual.device)), 0, bound);
    }

    /// <summary>All of int8, and of e4m3 all but its NaN.</summary>
    [Theory]
    [InlineData(WeightFormat.Int8)]
    [InlineData(WeightFormat.Float8)]
    public void Multiply_AllNumbersOfAFormat_AreExact(WeightFormat format)
    {
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        var device = get_default_device();
        byte[] codes = [.. Enumerable.Range(0, 4 * 64).Select(code => (byte)code)];
        float[] values = [.. codes.Select(
            code => format == WeightFormat.Int8 ? (sbyte)code : float.IsNaN(Float8.Widen(code)) ? 0 : Float8.Widen(code))];
        codes = [.. codes.Select((code, k) => values[k] == 0 && format == WeightFormat.Float8 ? (byte)(code & 0x80) : code)];
        var bytes = tensor(codes, [4, 64], ScalarType.Byte);
        var numbers = (format == WeightFormat.Int8 ? bytes.to(ScalarType.Int8) : bytes.clone()).to(device);
        var y = full(64, 4, double.NaN, ScalarType.Float32);

        // Each sequence asks for a column.
        TokenStepKernels.Multiply(
            TokenStepKernels.Result.Plain, [numbers], eye(64, 64, ScalarType.BFloat16), null, y,
            units: full(4, 0.75, ScalarType.Float32));
        Assert.Equal(values.Select(x => 0.75f * x), y.T.contiguous().cpu().data<float>().ToArray());
    }

    [Fact]
    public void Multiply_RowThatIsNotFinite_IsNoNumber()
    {
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        var weights = ones(4, 64, ScalarType.Float32, CPU);
        weights[2, 5] = float.PositiveInfinity;
        var (numbers, units, _) = Packed(WeightFormat.Float8, weights);
        var y = zeros(64, 4, ScalarType.Float32);
        var device = get_default_device();
        TokenStepKernels.Multiply(
            TokenStepKernels.Result.Plain, [numbers.to(device)], eye(64, 64, ScalarType.BFloat16), null, y, units: units!.to(device));
        Assert.Equal([false, false, true, false], y.isnan().sum([0]).gt(0).cpu().data<bool>().ToArray());
    }

    private static unsafe (Tensor Numbers, Tensor? Units, Tensor Rounded) Packed(WeightFormat format, Tensor weights)
    {
        if (!PackedRows.HasUnits(format))
        {
            var halves = weights.to(ScalarType.BFloat16);
            return (halves, null, halves);
        }

        var (rows, columns) = ((int)weights.shape[0], (int)weights.shape[1]);
        var source = weights.contiguous();
        var numbers = empty(rows, columns, format == WeightFormat.Int8 ? ScalarType.Int8 : ScalarType.Byte, CPU);
        var units = empty(rows, ScalarType.Float32, CPU);
        PackedRows.Pack(format, CpuMemory.Floats(source), rows, columns, CpuMemory.Data<byte>(numbers), CpuMemory.Floats(units));
        var rounded = source.clone();
        PackedRows.Round(format, new(CpuMemory.Floats(rounded), rows * columns), columns);
        return (numbers, units, rounded);
    }
}
