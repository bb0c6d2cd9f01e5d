namespace XlstmLab.Benchmarks;

/// <summary>The columns of comparisons.</summary>
public static class ComparisonTables
{
    private static BenchColumn<Measurement> Implementation { get; } = new("implementation", r => r.Implementation);

    private static BenchColumn<Measurement> Source { get; } = new("source", r => r.Source);

    private static BenchColumn<Measurement> Remark { get; } = new("remark", r => r.Remark);

    private static BenchColumn<Measurement> Memory { get; } = new("memory GB", r => r.PeakBytes / 1e9, 2);

    private static BenchColumn<Measurement> Threads { get; } = new("threads", r => r.Threads);

    /// <summary>Cells against the operations and bytes that they cannot do without.</summary>
    public static IReadOnlyList<BenchColumn<Measurement>> Cells(DeviceLimit? limit) =>
    [
        new("cell", r => r.Work is MLstmWork w ? $"mLSTM {w.Gate}" : "sLSTM"),
        new("B", r => r.Work is MLstmWork w ? w.Batch : ((SLstmWork)r.Work).Batch),
        new("NH", r => r.Work is MLstmWork w ? w.Heads : ((SLstmWork)r.Work).Heads),
        new("S", r => Length(r.Work)),
        new("DK", r => r.Work is MLstmWork w ? w.QkHeadDim : null),
        new("DV", r => r.Work is MLstmWork w ? w.VHeadDim : ((SLstmWork)r.Work).HeadDim),
        Implementation,
        new("forward ms", r => 1e3 * r.ForwardSeconds, 3),
        new("fwd+bwd ms", r => 1e3 * r.TrainingSeconds, 3),
        new("fwd TFLOP/s", r => Rate(r, Flops(r.Work), r.ForwardSeconds), 2),
        new("fwd GB/s", r => 1e3 * Rate(r, Bytes(r.Work), r.ForwardSeconds)),
        new("fwd+bwd TFLOP/s", r => Rate(r, 3 * Flops(r.Work), r.TrainingSeconds), 2),
        new("fwd+bwd GB/s", r => 1e3 * Rate(r, 3 * Bytes(r.Work), r.TrainingSeconds)),
        new("% of limit fwd", r => Share(r, limit?.Seconds(Bytes(r.Work), Flops(r.Work)), r.ForwardSeconds), 1),
        new("% of limit fwd+bwd", r => Share(r, limit?.Seconds(3 * Bytes(r.Work), 3 * Flops(r.Work)), r.TrainingSeconds), 1),
        new("memory MB", r => r.PeakBytes / 1e6),
        Source,
        Remark,
    ];

    /// <summary>Training steps.</summary>
    public static IReadOnlyList<BenchColumn<Measurement>> Training { get; } =
    [
        new("preset", r => ((TrainingWork)r.Work).Preset),
        new("parameters", r => Parameters(((TrainingWork)r.Work).Preset)),
        new("S", r => ((TrainingWork)r.Work).Context),
        new("B", r => ((TrainingWork)r.Work).Batch),
        new("runs", r => ((TrainingWork)r.Work).Runs),
        Threads,
        new("implementation", r => r.Implementation + (((TrainingWork)r.Work).ByHost ? ", by the host" : "")),
        new("tokens/s", r => Tokens(r.Work) / r.TrainingSeconds),
        new("step ms", r => 1e3 * r.TrainingSeconds, 1),
        new(
            "TFLOP/s",
            r => Tokens(r.Work) * 3 * BenchModels.ByName(((TrainingWork)r.Work).Preset).ForwardFlopsPerToken(Length(r.Work))
                / r.TrainingSeconds / 1e12, 3),
        Memory,
        Source,
        Remark,
    ];

    /// <summary>Where the time of steps, prompts and tokens goes.</summary>
    public static IReadOnlyList<BenchColumn<ProfileRow>> Profile { get; } =
    [
        new("work", r => r.Work),
        new("kernel", r => r.Kernel),
        new("launches", r => r.Launches, 1),
        new("ms", r => r.Milliseconds, 3),
        new("%", r => r.Share, 1),
    ];

    /// <summary>Prompts.</summary>
    public static IReadOnlyList<BenchColumn<Measurement>> Prefill { get; } =
    [
        new("preset", r => ((PrefillWork)r.Work).Preset),
        new("parameters", r => Parameters(((PrefillWork)r.Work).Preset)),
        new("S", r => ((PrefillWork)r.Work).Length),
        new("B", r => ((PrefillWork)r.Work).Batch),
        Threads,
        Implementation,
        new("prefill ms", r => 1e3 * r.ForwardSeconds, 2),
        new("tokens/s", r => Tokens(r.Work) / r.ForwardSeconds),
        new(
            "TFLOP/s",
            r => Tokens(r.Work) * BenchModels.ByName(((PrefillWork)r.Work).Preset).ForwardFlopsPerToken(Length(r.Work))
                / r.ForwardSeconds / 1e12, 3),
        Memory,
        Source,
        Remark,
    ];

    /// <summary>Generated tokens against the weights that each has to read.</summary>
    /// <param name="bytesPerWeight">The size of a weight.</param>
    /// <param name="limit">What the device can do.</param>
    public static IReadOnlyList<BenchColumn<Measurement>> Decode(int bytesPerWeight, DeviceLimit? limit) =>
    [
        new("preset", r => ((DecodeWork)r.Work).Preset),
        new("parameters", r => Parameters(((DecodeWork)r.Work).Preset)),
        new("B", r => ((DecodeWork)r.Work).Batch),
        Threads,
        Implementation,
        new("weights", r => ((DecodeWork)r.Work).Weights?.ToString()),
        new("ms a token", r => 1e3 * r.ForwardSeconds, 3),
        new("processor ms", r => 1e3 * r.TokenBytes?.ProcessorSeconds, 3),
        new("tokens/s", r => ((DecodeWork)r.Work).Batch / r.ForwardSeconds, 1),
        new("weights MB a token", r => r.TokenBytes?.Weights / 1e6, 2),
        new("states MB", r => r.TokenBytes?.State / 1e6, 2),
        new("weights GB/s", r => WeightBytes(r, bytesPerWeight) / r.ForwardSeconds / 1e9, 1),
        new("limit GB/s", r => r.TokenBytes?.ReadRate / 1e9, 1),
        new(
            "% of limit",
            r => 100 * WeightBytes(r, bytesPerWeight) / (r.TokenBytes?.ReadRate ?? limit?.BytesPerSecond) / r.ForwardSeconds, 1),
        Memory,
        Source,
        Remark,
    ];

    private static double WeightBytes(Measurement row, int bytesPerWeight) =>
        row.TokenBytes?.Weights ?? bytesPerWeight * Parameters(((DecodeWork)row.Work).Preset);

    private static long Parameters(string preset) => BenchModels.ByName(preset).CountParameters();

    private static int Length(Workload work) => work switch
    {
        MLstmWork w => w.Length,
        SLstmWork w => w.Length,
        TrainingWork w => w.Context,
        PrefillWork w => w.Length,
        _ => 1,
    };

    private static double Tokens(Workload work) => work switch
    {
        TrainingWork w => (double)w.Runs * w.Batch * w.Context,
        PrefillWork w => (double)w.Batch * w.Length,
        DecodeWork w => w.Batch,
        _ => 0,
    };

    private static double Flops(Workload work) => work is MLstmWork w ? w.ForwardFlops : ((SLstmWork)work).ForwardFlops;

    private static double Bytes(Workload work) => work is MLstmWork w ? w.ForwardBytes : ((SLstmWork)work).ForwardBytes;

    /// <summary>Millions of millions a second.</summary>
    private static double? Rate(Measurement row, double amount, double? seconds) => row.IsOtherWork ? null : amount / seconds / 1e12;

    private static double? Share(Measurement row, double? least, double? seconds) => row.IsOtherWork ? null : 100 * least / seconds;
}
