using XlstmLab.Experiments;
using XlstmLab.Notebooks;
using XlstmLab.Visualization;

namespace XlstmLab.Cli.Commands;

/// <summary>The files that a report of studies consists of.</summary>
internal static class StudyReportFiles
{
    /// <summary>The texts of all files, by their paths in the folder of results.</summary>
    /// <param name="results">The folder, with its <c>README.md</c> and <c>LOG.md</c>.</param>
    /// <exception cref="FileNotFoundException">One of the documents is not there.</exception>
    /// <exception cref="InvalidDataException">A document has no marks, or a table of runs is damaged.</exception>
    public static SortedDictionary<string, string> Of(string results)
    {
        var studies = StudyReport.Read(results);
        var files = new SortedDictionary<string, string>(StringComparer.Ordinal);
        var pictures = new Dictionary<string, string>();
        foreach (var study in studies.Where(study => study.Result.Rows.Any(row => row.Status == StudyStatus.Completed)))
        {
            if (Plots.StudyOverview(study.Result).ToSvg() is { } svg)
            {
                var path = $"pictures/{study.Result.Study.Name}.svg";
                files[path] = svg;
                pictures[study.Result.Study.Name] = path;
            }
        }

        files["README.md"] = Document("README.md", StudyReport.Claims(studies, pictures));
        files["LOG.md"] = Document("LOG.md", StudyReport.Log(studies));
        return files;

        string Document(string name, string part)
        {
            try
            {
                return StudyReport.Put(File.ReadAllText(Path.Combine(results, name)), part);
            }
            catch (InvalidDataException e)
            {
                throw new InvalidDataException($"{Path.Combine(results, name)}: {e.Message}", e);
            }
        }
    }
}
