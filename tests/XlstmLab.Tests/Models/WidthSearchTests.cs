using XlstmLab.Models;
using Xunit;

namespace XlstmLab.Tests.Models;

public sealed class WidthSearchTests
{
    [Fact]
    public void WithParameters_EveryKind_ComesNearAndOnlyWidens()
    {
        foreach (var (name, preset) in Presets.All.Where(p => p.Value.CountParameters() < 20_000_000))
        {
            var wanted = 3 * preset.CountParameters();
            var found = preset.WithParameters(wanted);
            found.Validate();
            Assert.True(Math.Abs(found.CountParameters() - wanted) < 0.25 * wanted, $"{name}: {found.CountParameters()} for {wanted}");
            Assert.Equal(preset.BlockCount, found.BlockCount);
            Assert.Equal(preset.VocabularySize, found.VocabularySize);
            Assert.Equal(preset.GetType(), found.GetType());
        }
    }

    [Fact]
    public void WithParameters_ItsOwnNumber_IsItself()
    {
        Assert.Equal(XlstmPresets.Bytes1M, XlstmPresets.Bytes1M.WithParameters(XlstmPresets.Bytes1M.CountParameters()));
        Assert.Equal(LlamaPresets.Llama7B, LlamaPresets.Llama7B.WithParameters(LlamaPresets.Llama7B.CountParameters()));
        Assert.Equal(Mamba2Presets.Bytes1M, Mamba2Presets.Bytes1M.WithParameters(Mamba2Presets.Bytes1M.CountParameters()));
    }

    [Fact]
    public void WithParameters_Nearest_IsNotBeatenByItsNeighbours()
    {
        const long Wanted = 1_000_000;
        var found = XlstmPresets.Bytes1M.WithParameters(Wanted);
        foreach (var width in new[] { found.EmbeddingDim - 16, found.EmbeddingDim - 8, found.EmbeddingDim + 8, found.EmbeddingDim + 16 })
        {
            var other = found with { EmbeddingDim = width };
            try
            {
                other.Validate();
            }
            catch (ConfigException)
            {
                continue;
            }

            Assert.True(Math.Abs(found.CountParameters() - Wanted) <= Math.Abs(other.CountParameters() - Wanted));
        }
    }
}
