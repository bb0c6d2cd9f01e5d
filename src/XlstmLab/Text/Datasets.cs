namespace XlstmLab.Text;

/// <summary>The datasets that can be opened by name.</summary>
public static class Datasets
{
    /// <summary>The environment variable that names the folder of all datasets.</summary>
    public const string FolderVariable = "XLSTM_DATASETS";

    /// <summary>The dataset that experiments use if they name no other.</summary>
    public const string Default = "state-of-the-union";

    /// <summary>
    /// The folder of all datasets: what <see cref="FolderVariable"/> names or, without it, the first folder <c>datasets</c> with
    /// a dataset in it, beside or above the working directory and then the program.
    /// </summary>
    /// <exception cref="DirectoryNotFoundException">There is none; the message says where was looked.</exception>
    public static string Folder
    {
        get
        {
            if (Environment.GetEnvironmentVariable(FolderVariable) is { Length: > 0 } named)
            {
                return Directory.Exists(named)
                    ? named
                    : throw new DirectoryNotFoundException(
                        $"The environment variable {FolderVariable} names '{named}', which is no folder.");
            }

            string[] starts = [Directory.GetCurrentDirectory(), AppContext.BaseDirectory];
            return starts.SelectMany(Above).Select(f => Path.Combine(f, "datasets")).FirstOrDefault(f => Names(f).Count > 0)
                ?? throw new DirectoryNotFoundException(
                    $"There is no folder 'datasets' in or above '{starts[0]}' and '{starts[1]}'. Set {FolderVariable} to the folder "
                    + "'datasets' of a clone of the repository, or name a file or a folder of text.");
        }
    }

    /// <summary>The names of all datasets, in ordinal order.</summary>
    /// <exception cref="DirectoryNotFoundException">There is no folder of datasets.</exception>
    public static IReadOnlyList<string> Names() => Names(Folder);

    /// <summary>The folder of a dataset.</summary>
    /// <exception cref="FileNotFoundException">There is no such dataset; the message lists those there are.</exception>
    public static string FolderOf(string name)
    {
        string folder;
        try
        {
            folder = Folder;
        }
        catch (DirectoryNotFoundException e)
        {
            throw new FileNotFoundException($"There is no file or folder '{name}', and no dataset of that name: {e.Message}", name, e);
        }

        var names = Names(folder);
        return names.Contains(name)
            ? Path.Combine(folder, name)
            : throw new FileNotFoundException(
                $"There is no file or folder '{name}', and no dataset of that name in '{folder}'.{NearestName.Hint(name, names)} There "
                + $"are: {string.Join(", ", names)}.", name);
    }

    private static IReadOnlyList<string> Names(string folder) =>
        Directory.Exists(folder)
            ? [.. Directory.EnumerateDirectories(folder)
                .Where(f => File.Exists(Path.Combine(f, DatasetCard.FileName)))
                .Select(f => Path.GetFileName(f))
                .Order(StringComparer.Ordinal)]
            : [];

    private static IEnumerable<string> Above(string folder)
    {
        for (var current = new DirectoryInfo(folder); current is not null; current = current.Parent)
        {
            yield return current.FullName;
        }
    }
}
