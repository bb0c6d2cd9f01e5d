using System.Globalization;
using System.Text;
using XlstmLab.Training;

namespace XlstmLab.Notebooks;

/// <summary>What the code that a cell runs belongs to. It follows awaits and the threads and tasks that the cell starts.</summary>
internal sealed class CellContext(CellOutputs outputs, CellEngine engine, CancellationToken cancellation)
{
    /// <summary>How long an interrupted cell may take to end by itself, as one does that heeds its token.</summary>
    private static readonly TimeSpan Grace = TimeSpan.FromSeconds(1);

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

    /// <summary>Set when the cell has been interrupted and has had the time to end by itself.</summary>
    public CancellationToken Abort { get; } = After(cancellation);

    /// <summary>Tells how far a training of the cell is.</summary>
    public void Watch(TrainingMetrics metrics, TrainingConfig recipe)
    {
        double left = metrics.Seconds * (recipe.Steps - metrics.Step) / metrics.Step;
        string time = left < 90 ? string.Create(CultureInfo.InvariantCulture, $"{left:F0} s") : string.Create(CultureInfo.InvariantCulture, $"{left / 60:F0} min");
        Outputs.Status(string.Create(
            CultureInfo.InvariantCulture,
            $"step {metrics.Step:N0} of {recipe.Steps:N0}, loss {metrics.Loss:F3}, {metrics.TokensPerSecond:N0} tokens/s, {time} of training left"));
    }

    private static CancellationToken After(CancellationToken cancellation)
    {
        // Never disposed, nor is the registration: what a cell leaves running may outlive all of its engine.
        CancellationTokenSource abort = new();
        cancellation.Register(() => abort.CancelAfter(Grace));
        return abort.Token;
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
