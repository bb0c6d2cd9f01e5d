namespace XlstmLab.Checkpoints;

/// <summary>A checkpoint's file or folder cannot be used; the message names the file, the tensor and what is wrong.</summary>
public sealed class CheckpointException(string message, Exception? inner = null) : IOException(message, inner)
{
    /// <summary>At most ten names and how many there are besides, so that a message can be read.</summary>
    internal static string List(IReadOnlyCollection<string> names) =>
        string.Join(", ", names.Take(10).Select(Quote)) + (names.Count > 10 ? $" and {names.Count - 10} more" : "");

    /// <summary>The name in quotes, shortened: names come from files that may be damaged.</summary>
    internal static string Quote(string name)
    {
        const int most = 100;
        var shown = new string([.. name.Take(most).Select(c => char.IsControl(c) || char.IsSurrogate(c) ? '?' : c)]);
        return $"'{shown}{(name.Length > most ? "..." : "")}'";
    }
}
