using XlstmLab.Experiments;
using Xunit;

namespace XlstmLab.Tests.Experiments;

[Collection(nameof(TextCollection))]
public sealed class StudyReportTests
{
    [Fact]
    public void Conclusion_OfRuns_SaysWhatTheyDoAndNoMore()
    {
        var whole = Result(3);
        Assert.Equal("all 6 runs", whole.Progress());
        Assert.Equal(
            [
                "tried: all 6 runs, on GPU X.",
                "- HOLDS: b beats a. Ours 1.9 ± 0.12 against 2 ± 0.12 (test_loss, 3 seeds); better by 0.1, interval 0.1 to 0.1. "
                + "Published: 1.5 against 2 (ppl). Note: after a look.",
                "1 claim: 1 holds.",
            ],
            Lines(whole));

        var some = whole with { Rows = [.. whole.Rows.Take(2)] };
        Assert.Equal("2 of 6 runs", some.Progress());
        Assert.Equal(
            ["tried: 2 of 6 runs, on GPU X.", "- NOT RUN YET: b beats a. So far 1.95 against 2.05 (test_loss). Note: after a look.",
                "1 claim: 1 is not run yet."], Lines(some));
        Assert.Equal(
            ["tried: not run yet: 0 of 6 runs.", "- NOT RUN YET: b beats a. Note: after a look.", "1 claim: 1 is not run yet."],
            Lines(whole with { Rows = [] }));

        var diverged =
            whole with { Rows = [.. whole.Rows.Select(row => row.Variant == "b" ? row with { Status = StudyStatus.Diverged } : row)] };
        Assert.Contains("- 3 of 3 runs of 'b' diverged; they are in no mean.", Lines(diverged));
        Assert.Contains("Ours no run against", diverged.Conclusion(), StringComparison.Ordinal);

        static string[] Lines(StudyResult result) => result.Conclusion().Split('\n');
    }

    [Fact]
    public void Settings_OfAStudy_CountWhatIsDone()
    {
        var table = (Result(3) with { Rows = [.. Result(3).Rows.Take(3)] }).ToSettings();
        Assert.Equal([2, 1], table.Columns.Single(c => c.Name == "done").Values.Cast<int>());
        Assert.Equal(["a", "b"], table.Columns.Single(c => c.Name == "variant").Values.Cast<string>());
    }

    [Fact]
    public void Claims_Studies_AreARowEachWithVerdictAndPicture()
    {
        var study = new ReportedStudy(Result(3), "42-tried.ipynb");
        Assert.Equal(0.2, study.GpuMinutes, 1e-9);
        var text = StudyReport.Claims(
            [study, new(Result(3) with { Rows = [] }, null)], new Dictionary<string, string> { ["tried"] = "pictures/tried.svg" });
        Assert.StartsWith("2 claims: 1 holds, 1 is not run yet. 6 of 12 runs, 0.2 minutes of a GPU.\n", text, StringComparison.Ordinal);
        Assert.Contains("| b beats a (after a look) | nowhere | 1.5 against 2 (ppl) |", text, StringComparison.Ordinal);
        Assert.Contains(
            "| **holds** | [42](../notebooks/42-tried.ipynb) [tried](studies/tried/study.json) | 6 of 6 | 0.2 |",
            text, StringComparison.Ordinal);
        Assert.Contains("| not run yet | [tried](studies/tried/study.json) | 0 of 6 | 0.0 |", text, StringComparison.Ordinal);
        Assert.Contains("![Which?](pictures/tried.svg)", text, StringComparison.Ordinal);
    }

    [Fact]
    public void Log_Rows_AreByDayAndProgramAndSayWhatFailed()
    {
        var result = Result(3);
        var rows = result.Rows.ToArray();
        rows[0] = rows[0] with { Status = StudyStatus.Failed, Error = "no memory\nat all" };
        rows[5] = rows[5] with { EndedAt = rows[5].EndedAt.AddDays(1) };
        var log = StudyReport.Log([new(result with { Rows = rows }, null)]);
        Assert.Contains(
            "| 2026-01-02 | tried | 5 | 0 | 1 | 10.0 | GPU X, driver 1 | kernels on | 012345678 |", log, StringComparison.Ordinal);
        Assert.Contains("| 2026-01-03 | tried | 1 | 0 | 0 | 2.0 |", log, StringComparison.Ordinal);
        Assert.Contains($"- tried, `{rows[0].Id}`: failed: no memory\n", log, StringComparison.Ordinal);
    }

    [Fact]
    public void Put_ADocument_HasThePartBetweenItsMarks()
    {
        var put = StudyReport.Put("before\n<!-- studies -->\nold\n<!-- /studies -->\nafter", "new\n");
        Assert.Equal("before\n<!-- studies -->\n\nnew\n\n<!-- /studies -->\nafter", put);
        Assert.Equal(put, StudyReport.Put(put, "new\n"));
        Assert.Throws<InvalidDataException>(() => StudyReport.Put("without", "new"));
    }

    private static StudyResult Result(int seeds)
    {
        var study = new Study
        {
            Name = "tried",
            Question = "Which?",
            Axes = [new("kind", [new("a", []), new("b", ["beta1=0.8"])])],
            Seeds = [.. Enumerable.Range(1, seeds)],
            Claims =
            [
                new()
                {
                    Text = "b beats a",
                    Source = "nowhere",
                    Better = "b",
                    Worse = "a",
                    PublishedBetter = 1.5,
                    PublishedWorse = 2,
                    PublishedUnit = "ppl",
                    Note = "after a look",
                },
            ],
        };
        return new(study, [.. study.Expand().Select(run => StudyTableTests.Row(
            run.Id, (run.Variant == "b" ? 1.9 : 2) + 0.05 * (2 - run.Training.Seed), run.Training.Seed, run.Variant) with
        {
            Seconds = 4,
            SideBySide = 2,
            Device = "GPU X, driver 1",
            Backend = "kernels on",
            Commit = "0.1.0+0123456789abcdef",
            EndedAt = new(2026, 1, 2, 3, 4, 5, TimeSpan.Zero),
        })]);
    }
}
