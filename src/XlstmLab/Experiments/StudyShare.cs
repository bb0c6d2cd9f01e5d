namespace XlstmLab.Experiments;

/// <summary>The part of a study that one process does beside others, on machines that share the study's folder.</summary>
/// <param name="Runs">The ids of its runs.</param>
/// <param name="Table">
/// The file for the rows of this process alone: below <see cref="Study.SharesFolder"/>, so that others find them and
/// <see cref="Study.Merge"/> does.
/// </param>
public sealed record StudyShare(IReadOnlyList<string> Runs, string Table);
