namespace XlstmLab.Cli.Benchmarks;

/// <summary>What others' implementations took on an H100, each measured once on the machine that results/h100 comes from.</summary>
internal static class Rivals
{
    /// <summary>The device that all of it was measured on.</summary>
    public const string Device = "H100";

    private const string Torch = "PyTorch 2.11, H100 80GB";
    private const string Triton = "mlstm_kernels 2.0.2, Triton 3.6, " + Torch;
    private const string NxAi = "NX-AI xlstm 2.0.5 and " + Triton;
    private const string Transformers = "transformers 5.17, SDPA flash, " + Torch;

    /// <summary>All measurements.</summary>
    public static IReadOnlyList<Measurement> Measured { get; } = [.. Cells(), .. Training(), .. Decoding(), .. Prefilling()];

    /// <summary>Those of one work, in the order they are listed.</summary>
    public static IEnumerable<Measurement> Of(Workload work) => Measured.Where(r => r.Work == work);

    private static IEnumerable<Measurement> Cells()
    {
        foreach (var (work, implementation, forward, both) in new (MLstmWork, string, double?, double)[]
        {
            (MLstm("exponential", 2, 8, 8192, 256, 512), "TFLA chunk 128", 1.454, 5.229),
            (MLstm("exponential", 2, 8, 8192, 256, 512), "TFLA chunk 256", 1.547, 5.421),
            (MLstm("exponential", 2, 8, 8192, 256, 512), "limit_chunk 64", 2.329, 7.234),
            (MLstm("exponential", 8, 4, 2048, 128, 256), "TFLA chunk 128", 0.458, 2.244),
            (MLstm("exponential", 8, 4, 2048, 128, 256), "TFLA chunk 256", 0.476, 2.250),
            (MLstm("exponential", 8, 4, 2048, 128, 256), "limit_chunk 64", 0.450, 1.559),
            (MLstm("exponential", 8, 4, 2048, 96, 192), "TFLA chunk 128", 0.660, 1.667),
            (MLstm("exponential", 8, 4, 2048, 96, 192), "TFLA chunk 256", 0.537, 2.316),
            (MLstm("exponential", 8, 4, 2048, 96, 192), "limit_chunk 64", 0.357, 1.748),
            (MLstm("sigmoid", 2, 8, 8192, 256, 512), "TFLA chunk 128", 1.915, 5.201),
            (MLstm("sigmoid", 8, 4, 2048, 128, 256), "TFLA chunk 128", 0.510, 2.344),
            (MLstm("sigmoid", 8, 4, 2048, 96, 192), "TFLA chunk 128", 0.868, 1.901),
        })
        {
            yield return Milliseconds(work, implementation, Triton, forward, both);
        }

        // Attention is no mLSTM, but what a Transformer has in its place.
        yield return Milliseconds(MLstm("exponential", 2, 8, 8192, 256, 512), "attention, heads of 256", "SDPA flash, " + Torch, null, 4.539) with { IsOtherWork = true };
        yield return Milliseconds(MLstm("exponential", 8, 4, 2048, 128, 256), "attention, heads of 256", "SDPA flash, " + Torch, null, 0.895) with { IsOtherWork = true };
        yield return Milliseconds(MLstm("exponential", 8, 4, 2048, 96, 192), "attention, heads of 192", "SDPA flash, " + Torch, null, 0.764) with { IsOtherWork = true };

        const string vanilla = "NX-AI xlstm 2.0.5, its plain PyTorch cell (its CUDA one does not build with CUDA 13), " + Torch;
        yield return Milliseconds(new SLstmWork(16, 1024, 4, 192), "vanilla", vanilla, 628, 2849);
        yield return Milliseconds(new SLstmWork(8, 2048, 4, 256), "vanilla", vanilla, 1247, 5575);
    }

    private static IEnumerable<Measurement> Training()
    {
        foreach (var (work, source, eager, eagerGB, compiled, compiledGB) in new[]
        {
            (new TrainingWork(BenchModels.Xlstm162M, 16, 2048), NxAi, 162_176.0, 48.1, 268_916.0, 37.0),
            (new TrainingWork("xlstm-400m", 8, 2048), NxAi, 65_751.0, 46.1, 111_247.0, 31.3),
            (new TrainingWork("llama-160m", 16, 2048), Transformers, 194_315.0, 39.4, 277_746.0, 34.0),
            (new TrainingWork("llama-400m", 8, 2048), Transformers, 77_684.0, 37.0, 117_590.0, 29.8),
        })
        {
            var name = source == NxAi ? "xlstm_large, TFLA chunk 128" : "Llama";
            var tokens = (double)work.Batch * work.Context;
            yield return new(work, name + ", eager", source) { TrainingSeconds = tokens / eager, PeakBytes = 1e9 * eagerGB };
            yield return new(work, name + ", torch.compile", source) { TrainingSeconds = tokens / compiled, PeakBytes = 1e9 * compiledGB };
        }
    }

    private static IEnumerable<Measurement> Decoding()
    {
        foreach (var (work, eager, graph, compiled) in new[]
        {
            (new DecodeWork("xlstm-7b", 1), (double?)64.2, (double?)8.32, 6.55),
            (new DecodeWork("xlstm-400m", 1), 29.7, 2.50, 1.25),
            (new DecodeWork("xlstm-400m", 8), null, null, 1.44),
        })
        {
            foreach (var (name, milliseconds) in new[] { ("eager", eager), ("CUDA graph", graph), ("torch.compile and CUDA graph", compiled) })
            {
                if (milliseconds is not null)
                {
                    yield return Milliseconds(work, "xlstm_large, " + name, NxAi, milliseconds, null);
                }
            }
        }
    }

    private static IEnumerable<Measurement> Prefilling() => new[]
    {
        (new PrefillWork("xlstm-7b", 1, 2048), 76.3),
        (new PrefillWork("xlstm-7b", 1, 8192), 270.2),
        (new PrefillWork("xlstm-400m", 1, 2048), 58.8),
        (new PrefillWork("xlstm-400m", 1, 8192), 51.0),
    }.Select(r => Milliseconds(r.Item1, "xlstm_large", NxAi, r.Item2, null));

    private static MLstmWork MLstm(string gate, int batch, int heads, int length, int qk, int v) => new(gate, batch, heads, length, qk, v);

    private static Measurement Milliseconds(Workload work, string implementation, string source, double? forward, double? both) =>
        new(work, implementation, source) { ForwardSeconds = forward / 1e3, TrainingSeconds = both / 1e3 };
}
