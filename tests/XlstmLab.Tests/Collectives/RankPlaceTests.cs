using XlstmLab.Collectives;
using Xunit;

namespace XlstmLab.Tests.Collectives;

public sealed class RankPlaceTests
{
    [Theory]
    [InlineData("node", "node")]
    [InlineData("gpu[01-03,7],login,x[9]", "gpu01 gpu02 gpu03 gpu7 login x9")]
    [InlineData("a[099-101]", "a099 a100 a101")]
    public void Hosts_ListsAsSlurmWritesThem_AreAllNamed(string list, string expected) => Assert.Equal(
        expected.Split(' '), RankPlace.Hosts(list));

    [Theory]
    [InlineData("a[1-")]
    [InlineData("a[1-x]")]
    [InlineData("a[1]b")]
    [InlineData("")]
    public void Hosts_OtherForms_AreRefused(string list) => Assert.Throws<CollectiveException>(() => RankPlace.Hosts(list));

    [Fact]
    public void FromVariables_Slurm_TellsRankHostAndFile()
    {
        var variables = new Dictionary<string, string>
        {
            ["SLURM_PROCID"] = "3",
            ["SLURM_STEP_NUM_TASKS"] = "4",
            ["SLURM_NTASKS"] = "4",
            ["SLURM_LOCALID"] = "1",
            ["SLURM_STEP_ID"] = "0",
            ["SLURM_JOB_ID"] = "77",
            ["SLURM_STEP_NODELIST"] = "gpu[2-3]",
        };
        var place = RankPlace.FromVariables(variables.GetValueOrDefault)!;
        Assert.Equal((3, 4, 1, "gpu2", ".ranks-77.0"), (place.Rank, place.World, place.LocalRank, place.Host, place.MeetingFile));

        variables["SLURM_STEP_NUM_TASKS"] = "1";
        Assert.Null(RankPlace.FromVariables(variables.GetValueOrDefault));
        variables.Remove("SLURM_STEP_ID"); // a batch script
        variables["SLURM_STEP_NUM_TASKS"] = "4";
        Assert.Null(RankPlace.FromVariables(variables.GetValueOrDefault));
    }

    [Theory]
    [InlineData("XLSTM_RANK", "2", "rank 2")]
    [InlineData("XLSTM_WORLD", "two", "expected a whole number")]
    [InlineData("XLSTM_RANK_TOKEN", "short", "16 at least")]
    [InlineData("XLSTM_RANK_TIMEOUT", "-1", "expected seconds")]
    public void FromVariables_OfNoSense_IsRefusedWithWords(string name, string value, string expected)
    {
        var variables = new Dictionary<string, string>
        {
            [RankPlace.RankVariable] = "1",
            [RankPlace.WorldVariable] = "2",
            [RankPlace.PortVariable] = "4000",
            [RankPlace.TokenVariable] = Ranks.Token,
        };
        Assert.Equal(
            (1, 2, 4000),
            RankPlace.FromVariables(variables.GetValueOrDefault) is { } place
                ? (place.Rank, place.World, place.Port) : default);
        variables[name] = value;
        Assert.Contains(
            expected, Assert.Throws<CollectiveException>(() => RankPlace.FromVariables(variables.GetValueOrDefault)).Message,
            StringComparison.Ordinal);
    }
}
