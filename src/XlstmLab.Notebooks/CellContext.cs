using System.Text;

namespace XlstmLab.Notebooks;

/// <summary>What the code that a cell runs belongs to. It follows awaits and the threads and tasks that the cell starts.</summary>
internal sealed class CellContext(CellOutputs outputs, CellEngine engine, CancellationToken cancellation)
{
    private static readonly AsyncLocal<CellContext?> Local = new();

    /// <summary>The cell that runs the calling code; null outside of cells.</summary>
    public static CellContext? Current
    {
        get => Local.Value;
        set => Local.Value = value;
    }

    public CellOutputs Outputs => outputs;

    public CellEngine Engine => engine;

    public CancellationToken Cancellation => cancellation;

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
    private static int _users;
    private static (TextWriter Out, TextWriter Error) _host;

    public override Encoding Encoding => host.Encoding;

    public override void Write(char value) => Write([value], endsLine: false);

    public override void Write(char[] buffer, int index, int count) => Write(buffer.AsSpan(index, count), endsLine: false);

    public override void Write(ReadOnlySpan<char> buffer) => Write(buffer, endsLine: false);

    public override void Write(string? value) => Write(value, endsLine: false);

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

    /// <summary>Puts itself before the console while any cell runs.</summary>
    public static void Attach()
    {
        lock (Gate)
        {
            if (_users++ == 0)
            {
                _host = (Console.Out, Console.Error);
                Console.SetOut(new CellConsole(_host.Out, "stdout"));
                Console.SetError(new CellConsole(_host.Error, "stderr"));
            }
        }
    }

    /// <summary>Gives the console back when the last running cell has ended.</summary>
    public static void Detach()
    {
        lock (Gate)
        {
            if (--_users == 0)
            {
                Console.SetOut(_host.Out);
                Console.SetError(_host.Error);
            }
        }
    }
}
