using System.Text;

namespace XlstmLab.Notebooks;

/// <summary>What the code that a cell runs belongs to. It follows awaits and the threads and tasks that the cell starts.</summary>
internal sealed class CellContext
{
    /// <summary>How long an interrupted cell may take to end by itself, as one does that heeds its token.</summary>
    private static readonly TimeSpan Grace = TimeSpan.FromSeconds(1);

    private static readonly AsyncLocal<CellContext?> Local = new();

    public CellContext(CellOutputs outputs, CellEngine engine, CancellationToken cancellation)
    {
        (Outputs, Engine, Cancellation) = (outputs, engine, cancellation);
        Trainings = new CellTrainings(outputs, cancellation);

        // Never disposed, nor is the registration: what a cell leaves running may outlive all of its engine.
        CancellationTokenSource abort = new();
        Abort = abort.Token;
        cancellation.Register(() => _ = CancelLaterAsync(abort));
    }

    /// <summary>The cell that runs the calling code; null outside of cells.</summary>
    public static CellContext? Current
    {
        get => Local.Value;
        set => Local.Value = value;
    }

    public CellOutputs Outputs { get; }

    public CellEngine Engine { get; }

    public CancellationToken Cancellation { get; }

    /// <summary>The trainings that the cell runs.</summary>
    public CellTrainings Trainings { get; }

    /// <summary>Set when the cell has been interrupted and has had the time to end by itself.</summary>
    public CancellationToken Abort { get; }

    private async Task CancelLaterAsync(CancellationTokenSource abort)
    {
        await Task.Delay(Grace).ConfigureAwait(false);
        if (Trainings.AreEnding)
        {
            // They finish their update and write a checkpoint, which an abort would spoil, and hand the model back.
            await Trainings.EndAsync().ConfigureAwait(false);
            await Task.Delay(Grace).ConfigureAwait(false);
        }

        await abort.CancelAsync().ConfigureAwait(false);
    }

    /// <summary>Runs a callback of the host: what it writes to the console is the host's, not the cell's.</summary>
    public static void Outside(Action callback)
    {
        var cell = Current;
        Current = null;
        try
        {
            callback();
        }
        finally
        {
            Current = cell;
        }
    }
}

/// <summary>A console writer that gives a cell's text to its outputs and passes all other text on.</summary>
internal sealed class CellConsole(TextWriter host, string stream) : TextWriter
{
    private static readonly Lock Gate = new();
    private static int _cells;
    private static int _attached;
    private static (TextWriter Out, TextWriter Error) _host;
    private static (TextWriter Out, TextWriter Error) _behind;
    private static TextWriter? _own;

    public override Encoding Encoding => host.Encoding;

    public override void Write(char value) => Write([value], endsLine: false);

    public override void Write(char[] buffer, int index, int count) => Write(buffer.AsSpan(index, count), endsLine: false);

    public override void Write(ReadOnlySpan<char> buffer) => Write(buffer, endsLine: false);

    public override void Write(string? value) => Write(value, endsLine: false);

    /// <summary>The text of a builder is not put together for it.</summary>
    public override void Write(StringBuilder? value)
    {
        if (value is not null)
        {
            foreach (var chunk in value.GetChunks())
            {
                Write(chunk.Span, endsLine: false);
            }
        }
    }

    public override void Write(object? value)
    {
        if (value is StringBuilder builder)
        {
            Write(builder);
        }
        else
        {
            base.Write(value);
        }
    }

    public override void WriteLine(char[] buffer, int index, int count) => Write(buffer.AsSpan(index, count), endsLine: true);

    public override void WriteLine(ReadOnlySpan<char> buffer) => Write(buffer, endsLine: true);

    public override void WriteLine(string? value) => Write(value, endsLine: true);

    public override void WriteLine() => Write([], endsLine: true);

    /// <summary>Passes text on without a copy of it: a cell may write half a gigabyte at once.</summary>
    private void Write(ReadOnlySpan<char> text, bool endsLine)
    {
        if (CellContext.Current is { } cell)
        {
            cell.Outputs.WriteStream(stream, text, endsLine);
        }
        else if (endsLine)
        {
            host.WriteLine(text);
        }
        else
        {
            host.Write(text);
        }
    }

    public override void Flush()
    {
        if (CellContext.Current is null)
        {
            host.Flush();
        }
    }

    /// <summary>A cell begins: text that is no cell's goes from now on to where it goes now.</summary>
    public static void Enter()
    {
        lock (Gate)
        {
            if (_cells++ == 0)
            {
                _host = (Console.Out, Console.Error);
            }
        }
    }

    /// <summary>A cell has ended.</summary>
    public static void Leave()
    {
        lock (Gate)
        {
            _cells--;
        }
    }

    /// <summary>Puts itself before the console, where the engine has its own writers, while code of a cell runs.</summary>
    public static void Attach()
    {
        lock (Gate)
        {
            _attached++;
            if (ReferenceEquals(Console.Out, _own))
            {
                return;
            }

            _behind = (Console.Out, Console.Error);
            Console.SetOut(new CellConsole(_host.Out, "stdout"));
            Console.SetError(new CellConsole(_host.Error, "stderr"));
            _own = Console.Out;
        }
    }

    /// <summary>Gives the console back when the last code has ended.</summary>
    public static void Detach()
    {
        lock (Gate)
        {
            // Another cell may have put the console back meanwhile, if this one was left behind.
            if (--_attached == 0 && ReferenceEquals(Console.Out, _own))
            {
                Console.SetOut(_behind.Out);
                Console.SetError(_behind.Error);
            }
        }
    }
}
