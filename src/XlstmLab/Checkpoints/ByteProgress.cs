namespace XlstmLab.Checkpoints;

/// <summary>How much of a checkpoint has been read or written.</summary>
/// <param name="Done">The bytes of tensors so far.</param>
/// <param name="Total">The bytes of all tensors.</param>
public readonly record struct ByteProgress(long Done, long Total);
