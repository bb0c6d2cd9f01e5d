namespace XlstmLab.Notebooks;

/// <summary>A notebook that cannot be read, run or exported; the message says where and what to do.</summary>
public sealed class NotebookException : Exception
{
    /// <summary>Creates the exception.</summary>
    /// <param name="message">What was expected, what came, and what to do.</param>
    /// <param name="innerException">What caused it, if anything.</param>
    public NotebookException(string message, Exception? innerException = null)
        : base(message, innerException)
    {
    }
}
