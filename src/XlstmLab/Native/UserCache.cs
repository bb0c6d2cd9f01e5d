namespace XlstmLab.Native;

/// <summary>The folder for what can be made again: weakened libraries, compiled kernels.</summary>
internal static class UserCache
{
    /// <summary>A folder of the cache, which is there when this returns.</summary>
    public static string Folder(params string[] names)
    {
        var root = Environment.GetFolderPath(Environment.SpecialFolder.LocalApplicationData, Environment.SpecialFolderOption.Create);
        return Directory.CreateDirectory(Path.Combine([root, "xlstmlab", .. names])).FullName;
    }
}
