namespace XlstmLab.Training;

/// <summary>The data of a run as its <c>config.json</c> describes them.</summary>
/// <param name="Description">What the data are.</param>
/// <param name="Fingerprint">Tells one text, cut and encoded in one way, from others.</param>
/// <param name="TokenCount">The training tokens; null where they cannot be counted.</param>
/// <param name="Seed">The seed of their order.</param>
public sealed record RunData(string? Description, string? Fingerprint, long? TokenCount, long? Seed);
