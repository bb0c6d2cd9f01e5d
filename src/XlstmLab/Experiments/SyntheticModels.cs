using System.Globalization;
using System.Text.RegularExpressions;
using XlstmLab.Checkpoints;
using XlstmLab.Models;

namespace XlstmLab.Experiments;

/// <summary>Small models for synthetic tasks.</summary>
public static partial class SyntheticModels
{
    /// <summary>The architecture of a name.</summary>
    /// <param name="name">
    /// <c>xlstm[a:b]</c> in the first paper's form, <c>llama</c>, <c>mamba</c>, <c>mamba2</c>, a preset, or the path of a
    /// <c>config.json</c>.
    /// </param>
    /// <param name="vocabulary">V, whatever the preset or file has.</param>
    /// <param name="dim">d; not for a file.</param>
    /// <param name="blocks">The number of blocks; not for a file.</param>
    /// <param name="heads">The number of heads, of models that have some; not for a file.</param>
    /// <exception cref="ArgumentException">There is no such architecture; the message says which there are.</exception>
    /// <exception cref="ConfigException">The number of blocks does not fit the ratio.</exception>
    public static LanguageModelConfig Parse(string name, int vocabulary, int dim, int blocks, int heads)
    {
        if (Ratio().Match(name) is { Success: true } ratio)
        {
            var first = XlstmPresets.FirstPaper(dim, blocks) with { VocabularySize = vocabulary, HeadCount = heads };
            return XlstmPresets.WithRatio(first, Number(ratio.Groups[1]), Number(ratio.Groups[2]));
        }

        if (name.EndsWith(".json", StringComparison.OrdinalIgnoreCase))
        {
            return ModelConfigJson.Read(name) with { VocabularySize = vocabulary };
        }

        var kind = name switch
        {
            "llama" => LlamaPresets.Bytes1M,
            "mamba" => new MambaConfig(),
            "mamba2" => new Mamba2Config(),
            _ => Presets.All.GetValueOrDefault(name),
        };
        var config = kind switch
        {
            XlstmConfig xlstm => xlstm with { HeadCount = heads },
            LlamaConfig llama => llama with
            {
                HeadCount = heads,
                KeyValueHeads = null,
                HeadWidth = null,
                FeedForwardDim = (dim * 8 / 3 + 63) / 64 * 64,
            },
            Mamba2Config mamba => mamba with { HeadCount = heads, HeadDim = mamba.Expand * dim / heads, GroupCount = 1 },
            _ => kind,
        };
        return config is not null
            ? config with { VocabularySize = vocabulary, EmbeddingDim = dim, BlockCount = blocks }
            : throw new ArgumentException(
                $"There is no model '{name}'.{NearestName.Hint(name, Presets.All.Keys)} Expected xlstm[a:b] such as xlstm[1:1], llama, "
                + $"mamba, mamba2, a config.json, or one of {string.Join(", ", Presets.All.Keys)}.",
                nameof(name));
    }

    private static int Number(Group group) => int.Parse(group.Value, NumberStyles.None, CultureInfo.InvariantCulture);

    [GeneratedRegex(@"^xlstm\[(\d{1,3}):(\d{1,3})\]$", RegexOptions.IgnoreCase)]
    private static partial Regex Ratio();
}
