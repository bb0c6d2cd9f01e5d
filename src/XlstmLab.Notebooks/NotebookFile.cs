namespace XlstmLab.Notebooks;

/// <summary>Writes notebooks and pages whole, and says in the notebook's own terms why it could not.</summary>
internal static class NotebookFile
{
    public static void Write(string path, byte[] content)
    {
        try
        {
            AtomicFile.Write(path, stream => stream.Write(content));
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new NotebookException($"{path} cannot be written: {e.Message}", e);
        }
    }
}
