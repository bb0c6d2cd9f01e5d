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

    public override void Write(char value) => Write(value.ToString());

    public override void Write(char[] buffer, int index, int count) => Write(new string(buffer, index, count));

    public override void Write(ReadOnlySpan<char> buffer) => Write(new string(buffer));

    public override void WriteLine(string? value) => Write(value + "\n");

    public override void WriteLine() => Write("\n");

    public override void Write(string? value)
    {
        if (CellContext.Current is { } cell)
        {
            cell.Outputs.WriteStream(stream, (value ?? "").Replace("\r\n", "\n", StringComparison.Ordinal));
        }
        else
        {
            host.Write(value);
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
