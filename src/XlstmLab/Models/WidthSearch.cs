namespace XlstmLab.Models;

/// <summary>Models of one architecture with a given number of parameters.</summary>
public static class WidthSearch
{
    private const int Step = 8;
    private const int Widest = 1 << 17;

    /// <summary>The same architecture, wide enough for a number of parameters, so that models can be compared that have as many.</summary>
    /// <remarks>
    /// Only widths change: that of the stream, in multiples of 8, and with it in proportion the feed-forward width where a record states it
    /// as a number. Blocks, vocabulary and factors stay, and the number of heads does too; of a Mamba2 the width of a head stays, and the
    /// number of heads follows, as its record wants it. Widths that the architecture cannot have are passed over, so that the result is
    /// the nearest that can be reached: its <see cref="LanguageModelConfig.CountParameters"/> says how near.
    /// </remarks>
    /// <param name="config">The architecture.</param>
    /// <param name="parameters">The number of parameters that is wanted.</param>
    /// <exception cref="ConfigException">No width makes a model of this architecture.</exception>
    public static T WithParameters<T>(this T config, long parameters)
        where T : LanguageModelConfig
    {
        ArgumentNullException.ThrowIfNull(config);
        ArgumentOutOfRangeException.ThrowIfLessThan(parameters, 1);
        (T? nearest, var distance, ConfigException? refused) = (null, long.MaxValue, null);
        for (var width = Step; width <= Widest; width += Step)
        {
            var wider = (T)Widened(config, width);
            try
            {
                wider.Validate();
            }
            catch (ConfigException e)
            {
                refused = e;
                continue;
            }

            var count = wider.CountParameters();
            var missed = Math.Abs(count - parameters);
            if (missed < distance)
            {
                (nearest, distance) = (wider, missed);
            }

            // Wider ones only have more.
            if (count > parameters)
            {
                break;
            }
        }

        return nearest ?? throw new ConfigException($"No width makes a model of this architecture: {refused?.Message}", refused);
    }

    private static LanguageModelConfig Widened(LanguageModelConfig config, int width)
    {
        var factor = width / (double)Math.Max(1, config.EmbeddingDim);
        return config switch
        {
            LlamaConfig llama => llama with { EmbeddingDim = width, FeedForwardDim = Scaled(llama.FeedForwardDim, factor) },
            GlaConfig gla => gla with { EmbeddingDim = width, FeedForwardWidth = Scaled(gla.FeedForwardWidth, factor) },
            LstmConfig lstm => lstm with { EmbeddingDim = width, FeedForwardWidth = Scaled(lstm.FeedForwardWidth, factor) },
            Mamba2Config mamba2 => mamba2 with
            {
                EmbeddingDim = width,
                HeadCount = (int)((long)mamba2.Expand * width / Math.Max(1, mamba2.HeadDim)),
            },
            _ => config with { EmbeddingDim = width },
        };
    }

    private static int? Scaled(int? width, double factor) => width is { } given ? Scaled(given, factor) : null;

    /// <summary>A width in proportion, as round as before: a multiple of the power of two up to 64 that it was one of.</summary>
    private static int Scaled(int width, double factor)
    {
        var unit = 64;
        while (width % unit != 0)
        {
            unit /= 2;
        }

        return Math.Max(1, (int)Math.Round(width * factor / unit)) * unit;
    }
}
