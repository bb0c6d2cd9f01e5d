namespace XlstmLab.Collectives;

/// <summary>Ranks could not work together; the message says which of them, why, and what to do.</summary>
public sealed class CollectiveException(string message, Exception? inner = null) : Exception(message, inner);
