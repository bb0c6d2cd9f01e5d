namespace XlstmLab.Tests.Checkpoints;

/// <summary>An empty folder for one test, deleted after it.</summary>
internal sealed class TempFolder : IDisposable
{
    private readonly string _path = Directory.CreateTempSubdirectory("xlstm-test-").FullName;

    /// <summary>A path inside the folder.</summary>
    public string this[params string[] parts] => Path.Combine([_path, .. parts]);

    /// <summary>The names of all that is in the folder.</summary>
    public string[] Entries => [.. Directory.EnumerateFileSystemEntries(_path).Select(e => Path.GetFileName(e)!).Order(StringComparer.Ordinal)];

    public void Dispose() => Directory.Delete(_path, recursive: true);
}
