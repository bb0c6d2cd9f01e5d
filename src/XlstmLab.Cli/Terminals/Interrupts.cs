using System.Runtime.InteropServices;

namespace XlstmLab.Cli.Terminals;

/// <summary>Ctrl-C, and a request to end: the first asks the command to stop, the second ends the process.</summary>
internal sealed class Interrupts : IDisposable
{
    private readonly CancellationTokenSource _source = new();
    private readonly List<PosixSignalRegistration> _registrations;

    /// <summary>Listens from now on.</summary>
    /// <param name="stderr">Where the user is told that a second Ctrl-C aborts.</param>
    public Interrupts(TextWriter stderr) =>
        _registrations = [.. new[] { PosixSignal.SIGINT, PosixSignal.SIGTERM }
            .Select(signal => PosixSignalRegistration.Create(signal, context =>
            {
                if (signal == PosixSignal.SIGINT && Instead is { } instead)
                {
                    context.Cancel = true;
                    instead();
                    return;
                }

                if (_source.IsCancellationRequested)
                {
                    return;
                }

                context.Cancel = true;
                stderr.WriteLine();
                stderr.WriteLine("Stopping cleanly; Ctrl-C again aborts at once.");
                _source.Cancel();
            }))];

    /// <summary>What Ctrl-C does in a command that goes on after it.</summary>
    public static Action? Instead { get; set; }

    /// <summary>Cancelled by the first interrupt.</summary>
    public CancellationToken Token => _source.Token;

    /// <inheritdoc/>
    public void Dispose()
    {
        _registrations.ForEach(r => r.Dispose());
        _source.Dispose();
    }
}
