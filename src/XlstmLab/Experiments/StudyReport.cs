using System.Globalization;
using System.Text;
using System.Text.RegularExpressions;
using static System.FormattableString;

namespace XlstmLab.Experiments;

/// <summary>A study as a report has it.</summary>
/// <param name="Result">What it came to.</param>
/// <param name="Notebook">The name of the notebook that is about it; null where none is.</param>
public sealed record ReportedStudy(StudyResult Result, string? Notebook)
{
    /// <summary>Its claims with our numbers.</summary>
    public IReadOnlyList<JudgedClaim> Claims { get; } = StudyComparison.Judge(Result);

    /// <summary>The minutes that its runs kept a GPU busy; runs side by side share theirs.</summary>
    public double GpuMinutes =>
        Result.Rows.Where(row => !row.Device.StartsWith("CPU", StringComparison.Ordinal))
            .Sum(row => row.Seconds / Math.Max(1, row.SideBySide)) / 60;
}

/// <summary>
/// The report of claims: parts of documents that come of the studies' rows alone, between marks, so that a test can hold them to the rows.
/// </summary>
public static partial class StudyReport
{
    /// <summary>The studies of a folder, those with a notebook first, in the order of the notebooks.</summary>
    /// <param name="results">The folder that has them in <c>studies</c>; notebooks are beside it in <c>notebooks</c>.</param>
    /// <exception cref="DirectoryNotFoundException">There is no such folder.</exception>
    /// <exception cref="InvalidDataException">A study or a table is damaged.</exception>
    public static IReadOnlyList<ReportedStudy> Read(string results)
    {
        var studies = Path.Combine(results, "studies");
        if (!Directory.Exists(studies))
        {
            throw new DirectoryNotFoundException($"There is no folder {studies}; expected one with a folder for each study.");
        }

        var notebooks = Path.Combine(results, "..", "notebooks");
        var texts = !Directory.Exists(notebooks) ? [] : Directory.GetFiles(notebooks, "*.ipynb").Order(StringComparer.Ordinal)
            .Select(path => (Name: Path.GetFileName(path), Text: File.ReadAllText(path))).ToArray();
        return
        [
            .. Directory.GetDirectories(studies).Where(folder => File.Exists(Path.Combine(folder, Study.FileName)))
                .Select(folder => Study.ReadFile(folder).Read())
                .Select(result => new ReportedStudy(
                    result, texts.FirstOrDefault(n => n.Text.Contains($"studies/{result.Study.Name}\\\"", StringComparison.Ordinal)).Name))
                .OrderBy(study => study.Notebook ?? "~", StringComparer.Ordinal).ThenBy(
                    study => study.Result.Study.Name, StringComparer.Ordinal),
        ];
    }

    /// <summary>A table with a row a claim, then a picture of each study that has runs.</summary>
    /// <param name="studies">The studies.</param>
    /// <param name="pictures">The pictures of studies by name, relative to the document.</param>
    public static string Claims(IReadOnlyList<ReportedStudy> studies, IReadOnlyDictionary<string, string> pictures)
    {
        ArgumentNullException.ThrowIfNull(studies);
        ArgumentNullException.ThrowIfNull(pictures);
        JudgedClaim[] claims = [.. studies.SelectMany(study => study.Claims)];
        var text = new StringBuilder();
        text.Append(string.Create(
            CultureInfo.InvariantCulture,
            $"{StudyConclusion.Counts(claims)} {studies.Sum(s => s.Result.Rows.Count(row => row.IsDone)):N0} of "
            + $"{studies.Sum(s => s.Result.Study.Seeds.Count * s.Result.Study.Variants.Count):N0} runs, "
            + $"{studies.Sum(s => s.GpuMinutes):0.0} minutes of a GPU.\n\n"));
        text.Append(
            "| claim | source | published | ours, mean ± 95 % interval | gain, corrected interval "
            + "| verdict | notebook | runs | GPU min |\n"
            + "|---|---|---|---|---|---|---|---:|---:|\n");
        foreach (var study in studies)
        {
            var (name, total, missing) = (study.Result.Study.Name,
                study.Result.Study.Seeds.Count * study.Result.Study.Variants.Count, study.Result.Missing.Count);
            var notebook = study.Notebook is { } file ? $"[{file[..2]}](../notebooks/{file})" : "";
            foreach (var claim in study.Claims)
            {
                string[] cells =
                [
                    claim.Claim.Note is { } note ? $"{claim.Claim.Text} ({note})" : claim.Claim.Text, claim.Claim.Source,
                    StudyComparison.Published(claim.Claim), Ours(claim), Gain(claim),
                    claim.Verdict is ClaimVerdict.Holds or ClaimVerdict.DoesNotHold ? $"**{StudyComparison.Words(claim.Verdict)}**"
                        : StudyComparison.Words(claim.Verdict),
                    $"{notebook} [{name}](studies/{name}/study.json)", Invariant($"{total - missing} of {total}"),
                    Invariant($"{study.GpuMinutes:0.0}"),
                ];
                text.Append(
                    CultureInfo.InvariantCulture,
                    $"| {string.Join(" | ", cells.Select(cell => cell.Trim().Replace("|", "\\|", StringComparison.Ordinal)))} |\n");
            }
        }

        foreach (var study in studies.Where(s => pictures.ContainsKey(s.Result.Study.Name)))
        {
            var name = study.Result.Study.Name;
            text.Append(
                CultureInfo.InvariantCulture,
                $"\n**{name}**: {study.Result.Study.Question} {StudyConclusion.Counts(study.Claims)} "
                + $"({study.Result.Progress()})\n\n![{study.Result.Study.Question}]({pictures[name]})\n");
        }

        return text.ToString();
    }

    /// <summary>A row a day, study, program and device: its runs, what failed or diverged, and its time.</summary>
    /// <param name="studies">The studies.</param>
    public static string Log(IReadOnlyList<ReportedStudy> studies)
    {
        ArgumentNullException.ThrowIfNull(studies);
        var text = new StringBuilder(
            "| day (UTC) | study | runs | diverged | failed | seconds of the device | device | backend | program |\n"
            + "|---|---|---:|---:|---:|---:|---|---|---|\n");
        var sessions = studies.SelectMany(study => study.Result.Rows.Select(row => (study.Result.Study.Name, Row: row)))
            .GroupBy(r => (Day: r.Row.EndedAt.UtcDateTime.Date, r.Name, r.Row.Device, r.Row.Backend, r.Row.Commit))
            .OrderBy(g => g.Key.Day).ThenBy(g => g.Min(r => r.Row.EndedAt)).ThenBy(g => g.Key.Name, StringComparer.Ordinal);
        foreach (var session in sessions)
        {
            StudyRow[] rows = [.. session.Select(r => r.Row)];
            text.Append(string.Create(
                CultureInfo.InvariantCulture,
                $"| {session.Key.Day:yyyy-MM-dd} | {session.Key.Name} | {rows.Length} | {Count(StudyStatus.Diverged)} | "
                + $"{Count(StudyStatus.Failed)} | {rows.Sum(row => row.Seconds / Math.Max(1, row.SideBySide)):0.0} | "
                + $"{session.Key.Device} | {session.Key.Backend} | {Commit().Replace(session.Key.Commit, "$1")} |\n"));

            int Count(StudyStatus status) => rows.Count(row => row.Status == status);
        }

        foreach (var (name, row) in studies.SelectMany(study => study.Result.Rows.Select(row => (study.Result.Study.Name, Row: row))).Where(
            r => r.Row.Status != StudyStatus.Completed))
        {
            var end = row.Status == StudyStatus.Diverged ? "diverged" : "failed";
            var reason = row.Error is { } error ? $": {error.Split('\n')[0]}" : "";
            text.Append(CultureInfo.InvariantCulture, $"\n- {name}, `{row.Id}`: {end}{reason}\n");
        }

        return text.ToString();
    }

    /// <summary>A document with another text between the marks of studies.</summary>
    /// <param name="document">The document.</param>
    /// <param name="part">What comes between <c>&lt;!-- studies --&gt;</c> and <c>&lt;!-- /studies --&gt;</c>.</param>
    /// <exception cref="InvalidDataException">It has not just one such place.</exception>
    public static string Put(string document, string part)
    {
        ArgumentNullException.ThrowIfNull(document);
        const string begin = "<!-- studies -->", end = "<!-- /studies -->";
        var (from, to) = (document.IndexOf(begin, StringComparison.Ordinal), document.IndexOf(end, StringComparison.Ordinal));
        return from >= 0 && to > from && document.LastIndexOf(begin, StringComparison.Ordinal) == from
            ? $"{document[..(from + begin.Length)]}\n\n{part}\n{document[to..]}"
            : throw new InvalidDataException($"Expected one place between {begin} and {end}.");
    }

    private static string Ours(JudgedClaim claim) =>
        claim.Better.Count + claim.Worse.Count == 0 ? ""
            : $"{StudyComparison.Ours(claim.Better)} against {StudyComparison.Ours(claim.Worse)} ({claim.Claim.Metric})";

    private static string Gain(JudgedClaim claim) => claim.Verdict == ClaimVerdict.NotRun || double.IsNaN(claim.Difference.Low) ? ""
        : string.Create(
            CultureInfo.InvariantCulture,
            $"{claim.Difference.Mean:G3}, {claim.Difference.Low:G3} to "
            + $"{claim.Difference.High:G3}{(claim.Claim.Within is { } within ? Invariant($"; alike within {within:G3}") : "")}");

    /// <summary>The commit of a version, cut as Git cuts it.</summary>
    [GeneratedRegex(@"^[^+]*\+([0-9a-f]{9}).*$")]
    private static partial Regex Commit();
}
