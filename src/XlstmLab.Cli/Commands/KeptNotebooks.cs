using System.IO.Pipes;
using System.Security.Cryptography;
using System.Text;

namespace XlstmLab.Cli.Commands;

/// <summary>
/// Finds the process that a run left behind with the state of a notebook, by a pipe of the notebook's name that only the same user can
/// open.
/// </summary>
internal static class KeptNotebooks
{
    /// <summary>What is asked of such a process to end it.</summary>
    public const string EndRequest = "end";

    /// <summary>The pipe is on this machine: who does not answer at once is not there.</summary>
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(2);

    /// <summary>The pipe to the process that keeps a notebook; null if there is none.</summary>
    /// <param name="notebook">The notebook, an absolute path.</param>
    public static async Task<NamedPipeClientStream?> FindAsync(string notebook)
    {
        var pipe = new NamedPipeClientStream(
            ".", Name(notebook), PipeDirection.InOut, PipeOptions.Asynchronous | PipeOptions.CurrentUserOnly);
        try
        {
            await pipe.ConnectAsync(Patience, CancellationToken.None);
            return pipe;
        }
        catch (Exception e) when (e is TimeoutException or IOException or UnauthorizedAccessException)
        {
            await pipe.DisposeAsync();
            return null;
        }
    }

    /// <summary>Ends the process that keeps a notebook.</summary>
    /// <param name="notebook">The notebook, an absolute path.</param>
    /// <returns>Whether there was one.</returns>
    public static async Task<bool> EndAsync(string notebook)
    {
        await using var pipe = IsServed(Name(notebook)) ? await FindAsync(notebook) : null;
        if (pipe is null)
        {
            return false;
        }

        await using var writer = new StreamWriter(pipe);
        await writer.WriteLineAsync(EndRequest);
        await writer.FlushAsync();
        return true;
    }

    /// <summary>The other side of that pipe; the next one may be there before the one that answers is gone.</summary>
    /// <param name="notebook">The notebook, an absolute path.</param>
    public static NamedPipeServerStream Serve(string notebook) => new(
        Name(notebook), PipeDirection.InOut, 2, PipeTransmissionMode.Byte, PipeOptions.Asynchronous | PipeOptions.CurrentUserOnly);

    /// <summary>
    /// Whether there is such a pipe, or on Unix one that a process did not live to remove: connecting would wait for one to come.
    /// </summary>
    private static bool IsServed(string name) =>
        OperatingSystem.IsWindows() ? Directory.EnumerateFiles(@"\\.\pipe\", name).Any() : File.Exists(name);

    private static string Name(string notebook)
    {
        var name = "xlstm-" + Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(notebook)))[..16];
        return OperatingSystem.IsWindows() ? name : Path.Combine(Path.GetTempPath(), name);
    }
}
