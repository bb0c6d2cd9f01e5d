using System.Text;

namespace XlstmLab.Notebooks;

/// <summary>Keeps the start of what is written and counts the rest.</summary>
/// <param name="limit">How many characters are kept.</param>
internal sealed class LimitedWriter(int limit) : TextWriter
{
    private readonly StringBuilder _kept = new();

    /// <summary>How many characters were not kept.</summary>
    public long LeftOut { get; private set; }

    public override Encoding Encoding => Encoding.Unicode;

    public override void Write(char value) => Write([value]);

    public override void Write(char[] buffer, int index, int count) => Write(buffer.AsSpan(index, count));

    public override void Write(string? value) => Write(value.AsSpan());

    public override void Write(ReadOnlySpan<char> buffer)
    {
        int room = Math.Min(buffer.Length, limit - _kept.Length);
        _kept.Append(buffer[..room]);
        LeftOut += buffer.Length - room;
    }

    public override string ToString() => _kept.ToString();
}
