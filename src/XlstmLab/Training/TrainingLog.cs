using Microsoft.Extensions.Logging;

namespace XlstmLab.Training;

/// <summary>Tells the run's <c>log.txt</c>, if there is a folder, and a logger.</summary>
internal sealed class TrainingLog(RunFolder? run, ILogger logger)
{
    public void Write(LogLevel level, FormattableString text)
    {
        var message = FormattableString.Invariant(text);
        run?.Log(level >= LogLevel.Warning ? $"{level}: {message}" : message);
        logger.Log(level, "{Message}", message);
    }

    /// <summary>Notes what ended the run, unless that is what keeps it from being noted: a full disk must not hide behind itself.</summary>
    /// <param name="error">What ended it.</param>
    /// <param name="metadata">What the run's folder is to say of it; null where there is no folder.</param>
    public void WriteFailure(Exception error, RunMetadata? metadata)
    {
        try
        {
            Write(LogLevel.Error, $"The run failed: {error.Message}");
            if (metadata is not null)
            {
                run?.WriteMetadata(metadata with { Error = error.Message });
            }
        }
        catch (IOException e)
        {
            logger.LogError(e, "The failure of the run could not be noted in its folder.");
        }
    }
}
