using XlstmLab.Mixers;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Models;

/// <summary>Tells what of a model has no CUDA kernel of the library and is left to libtorch's operations, and why.</summary>
/// <remarks>
/// A model trains either way; by many small operations more slowly. What libtorch computes in one piece, such as matrix products, attention
/// or an LSTM, is no gap. Kernels compute in bfloat16.
/// <code>
/// foreach (var gap in KernelCoverage.Gaps(config)) // "block 0: queries of 20 a head: the mLSTM kernels serve multiples of 8"
/// {
///     Console.WriteLine(gap);
/// }
/// </code>
/// </remarks>
public static class KernelCoverage
{
    /// <summary>What an architecture's training in bfloat16 on a GPU has no kernel for, a line each; empty if nothing.</summary>
    /// <param name="config">The architecture; of one that is not the library's own nothing is known, and nothing said.</param>
    public static IReadOnlyList<string> Gaps(LanguageModelConfig config)
    {
        ArgumentNullException.ThrowIfNull(config);
        var inBlocks = Enumerable.Range(0, config.BlockCount)
            .SelectMany(block => OfBlock(config, block).Where(gap => gap is not null).Select(gap => (Block: block, Gap: gap!)))
            .GroupBy(found => found.Gap, found => found.Block, StringComparer.Ordinal)
            .Select(group => $"{Blocks([.. group])}: {group.Key}");
        return [.. inBlocks, .. OfModel(config).OfType<string>()];
    }

    /// <summary>
    /// A line for a log about the gaps of a model; null if it has none, or if no kernels run where it is or in this type.
    /// </summary>
    internal static string? Warning(LanguageModel model, ScalarType computeType)
    {
        if (computeType != ScalarType.BFloat16 || model.parameters().FirstOrDefault() is not { } weight || !Kernel.Reaches(weight))
        {
            return null;
        }

        var gaps = Gaps(model.Config);
        return gaps.Count == 0 ? null : $"Slower than it could be, as some operations have no kernel: {string.Join("; ", gaps)}.";
    }

    private static IEnumerable<string?> OfBlock(LanguageModelConfig config, int block) => config switch
    {
        XlstmConfig xlstm => OfBlock(xlstm, block),
        LlamaConfig llama => [Pieces("a feed-forward width", llama.FeedForwardDim)],
        GlaConfig gla => [Unserved("gla"), Pieces("a feed-forward width", gla.FeedForwardDim)],
        MambaConfig mamba => [Scan(mamba.StateSize, mamba.InnerDim), Convolution(mamba.ConvKernelSize, mamba.InnerDim)],
        Mamba2Config mamba2 =>
        [
            MLstmSequenceKernel.Lack(mamba2.StateSize, mamba2.HeadDim, "states", "channels", "state space"),
            Convolution(mamba2.ConvKernelSize, mamba2.ConvDim),
        ],
        _ => [],
    };

    private static IEnumerable<string?> OfBlock(XlstmConfig config, int block)
    {
        var mixer = config.MixerAt(block);
        var (site, taps) = (config.Site(mixer, block), config.TapsBefore(mixer));
        var feedForward = config.BlockStyle switch
        {
            BlockStyle.PostUp when config.FeedForward != FeedForwardKind.None => config.FeedForwardDim,
            BlockStyle.PreUp when mixer is not SLstmMixerConfig => config.InnerDim,
            BlockStyle.PreUp when config.SLstmFeedForward != FeedForwardKind.None => config.SLstmFeedForwardDim,
            BlockStyle.PostUp or BlockStyle.PreUp => 0,
            var style => throw UnknownValue.Of(style),
        };
        return
        [
            .. OfMixer(mixer, site),
            taps > 0 ? Convolution(taps, site.Width) : null,
            Pieces("a feed-forward width", feedForward),
        ];
    }

    private static IEnumerable<string?> OfMixer(MixerConfig mixer, MixerSite site) => mixer switch
    {
        MLstmMixerConfig mlstm => OfMLstm(mlstm, site),
        SLstmMixerConfig slstm => [SLstmSequenceKernel.Lack(site.Width / slstm.HeadCount)],
        GlaMixerConfig or DeltaMixerConfig or Mamba3MixerConfig => [Unserved(mixer.Kind)],
        MambaMixerConfig mamba => [Scan(mamba.StateSize, (long)mamba.Expand * site.Width)],
        _ => [],
    };

    private static IEnumerable<string?> OfMLstm(MLstmMixerConfig config, MixerSite site)
    {
        var (heads, qk, v) = (config.HeadCount, config.QkDim(site.Width), config.VDim(site.Width));
        return
        [
            config.Form == MLstmForm.Chunkwise
                ? MLstmSequenceKernel.Lack(qk / heads, v / heads)
                : $"mlstm_form {config.Form.ToString().ToLowerInvariant()}: the mLSTM kernels compute the chunkwise form",
            heads > GateKernel.MostHeads ? $"gates of {heads} heads: the kernel serves up to {GateKernel.MostHeads}" : null,
            Pieces("gates that look at a width", config.LooksAt == GateSource.Qkv ? 2 * qk + v : site.StreamWidth),
            config.HeadNorm == HeadNormKind.Group && (config.HeadNormGroups ?? heads) != heads
                ? $"head_norm group with {config.HeadNormGroups} groups: the kernel serves one a head"
                : null,
            config.HeadNorm == HeadNormKind.None && config.OutputGate && !config.Headwise
                ? "an output gate without a head_norm: the kernel computes both"
                : null,
        ];
    }

    private static IEnumerable<string?> OfModel(LanguageModelConfig config)
    {
        var (d, vocabulary) = (config.EmbeddingDim, config.VocabularySize);
        return
        [
            Pieces("a stream", d),
            d > NormKernel.WidestRow ? $"norms of {d} channels: the kernel serves up to {NormKernel.WidestRow}" : null,
            CrossEntropyKernel.Fits(vocabulary) ? null
                : $"a head of {vocabulary} tokens: its loss's kernel keeps a row of logits in shared memory",
        ];
    }

    private static string? Scan(int states, long channels) =>
        states != SelectiveScanSequenceKernel.States
            ? $"{states} states a channel: the scan's kernel serves {SelectiveScanSequenceKernel.States}"
        : Pieces("a scan", channels);

    private static string? Convolution(int taps, long channels) =>
        taps is < 2 or > 8 ? $"a convolution of {taps} taps: the kernel serves 2 to 8"
        : channels % 4 != 0 ? $"a convolution of {channels} channels: the kernel serves multiples of 4"
        : null;

    private static string? Pieces(string what, long channels) =>
        channels % 8 == 0 ? null : $"{what} of {channels} channels: the kernels serve multiples of 8";

    private static string Unserved(string kind) => $"{kind}: there is no kernel of it";

    /// <summary>Such as "blocks 0-3, 5".</summary>
    private static string Blocks(int[] blocks)
    {
        var runs = new List<(int First, int Last)>();
        foreach (var block in blocks)
        {
            if (runs.Count > 0 && runs[^1].Last == block - 1)
            {
                runs[^1] = (runs[^1].First, block);
            }
            else
            {
                runs.Add((block, block));
            }
        }

        var numbers = runs.Select(run => run.First == run.Last ? $"{run.First}" : $"{run.First}-{run.Last}");
        return $"block{(blocks.Length > 1 ? "s" : "")} {string.Join(", ", numbers)}";
    }
}
