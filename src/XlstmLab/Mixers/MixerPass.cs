using TorchSharp;
using XlstmLab.Layers;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Mixers;

/// <summary>One pass through a mixer: where its memory comes from and goes to, where documents start, and who looks on.</summary>
public sealed class MixerPass
{
    /// <summary>What the names of the memory that all blocks share are; others belong to a block.</summary>
    internal static readonly string[] SharedNames = [AttentionMixer.Visible, AttentionMixer.Position, AttentionMixer.End];

    private readonly int? _block;
    private readonly IReadOnlyDictionary<string, Tensor>? _before;
    private readonly Dictionary<string, Tensor>? _after;

    /// <summary>A pass through a mixer by itself.</summary>
    /// <param name="layout">Document starts and padding.</param>
    /// <param name="before">What an earlier pass kept, by name, left as it is; null is the empty memory.</param>
    /// <param name="after">Is given what this pass keeps; null if it is not wanted.</param>
    /// <param name="observe">Shown activations by name, or null.</param>
    public MixerPass(
        SequenceLayout? layout = null,
        IReadOnlyDictionary<string, Tensor>? before = null,
        Dictionary<string, Tensor>? after = null,
        Action<string, Tensor>? observe = null)
        : this(new LayoutWork(layout, null), null, before, after, observe)
    {
    }

    /// <summary>A pass through a block of a model.</summary>
    internal MixerPass(
        LayoutWork work,
        int? block,
        IReadOnlyDictionary<string, Tensor>? before,
        Dictionary<string, Tensor>? after,
        Action<string, Tensor>? observe)
    {
        (Work, _block, _before, _after, Observe) = (work, block, before, after, observe);
    }

    /// <summary>Document starts and padding; null where each row goes on with one document.</summary>
    public SequenceLayout? Layout => Work.Layout;

    /// <summary>Whether the memory after the last token is wanted.</summary>
    public bool ReturnState => _after is not null;

    /// <summary>Whether there is a memory to begin with; otherwise it is empty.</summary>
    public bool HasState => _before is not null;

    /// <summary>Shows an activation under a name; null where nobody looks. What it is shown is valid during the call only.</summary>
    public Action<string, Tensor>? Observe { get; }

    /// <summary>What the block reads of the stream, [B, S, stream's d], for a mixer inside an up-projection; null elsewhere.</summary>
    public Tensor? Stream { get; internal set; }

    /// <summary>What the mixers of all blocks need of the layout.</summary>
    internal LayoutWork Work { get; }

    /// <summary>The memory of that name before the first token; null where it is empty.</summary>
    /// <param name="name">As it was kept under: <c>h</c>, <c>c</c>, ...</param>
    /// <exception cref="KeyNotFoundException">There is a memory without that name: another model made it.</exception>
    public Tensor? Before(string name) => _before is null ? null : Read(Name(name));

    /// <summary>Keeps what is remembered after the last token, if it is wanted.</summary>
    /// <param name="name">A name that no other of the mixer's has.</param>
    /// <param name="value">[B, ...], float32 or wider if it is computed with.</param>
    public void Keep(string name, Tensor value) => _after?.Add(Name(name), value);

    /// <summary>
    /// A recurrence token by token, h_t = step(h_(t-1), t): a document starts from the empty memory, padding leaves it as it is, and the
    /// last one is kept. Simple and slow, since every token is a step of the program.
    /// </summary>
    /// <param name="name">The memory's name.</param>
    /// <param name="empty">[B, ...] the memory of no token, whose type the recurrence is computed in: float32 or wider.</param>
    /// <param name="length">S.</param>
    /// <param name="step">Makes h_t of h_(t-1) and t, both [B, ...].</param>
    /// <returns>[B, S, ...], all h_t.</returns>
    public Tensor Recur(string name, Tensor empty, long length, Func<Tensor, long, Tensor> step)
    {
        ArgumentNullException.ThrowIfNull(empty);
        ArgumentNullException.ThrowIfNull(step);
        ArgumentOutOfRangeException.ThrowIfLessThan(length, 1);
        var h = Before(name)?.to(empty.dtype) ?? empty;
        var all = new Tensor[length];
        for (var t = 0L; t < length; t++)
        {
            h = Layout?.DocumentStarts is { } starts ? where(At(starts, t), empty, h) : h;
            var next = step(h, t);
            h = Layout?.Padding is { } padding ? where(At(padding, t), h, next) : next;
            all[t] = h;
        }

        Keep(name, h.alias());
        return stack(all, 1);

        Tensor At(Tensor mask, long t) => mask.select(1, t).view([-1, .. Enumerable.Repeat(1L, (int)empty.dim() - 1)]);
    }

    /// <summary>The memory of that name that all blocks share; null where there is none of it.</summary>
    internal Tensor? BeforeShared(string name) => _before?.GetValueOrDefault(name);

    /// <summary>Keeps a memory that is every block's: the first to keep it does.</summary>
    internal void KeepShared(string name, Tensor value) => _after?.TryAdd(name, value);

    /// <summary>SiLU(conv(x)), with the convolution's memory read and kept; x itself where there is no convolution.</summary>
    /// <param name="conv">The convolution, or null.</param>
    /// <param name="x">[B, S, C].</param>
    /// <param name="name">The name of its memory, which none of the mixer's may have.</param>
    internal Tensor Convolve(CausalConv1d? conv, Tensor x, string name)
    {
        if (conv is null)
        {
            return x;
        }

        var before = conv.Taps == 1 ? null : Before(name);
        var (y, last) = conv.Forward(x, before, Layout, ReturnState, activate: true);
        if (last is not null)
        {
            Keep(name, last);
        }

        return y;
    }

    /// <summary>As the other, of rows whose padding is last.</summary>
    /// <param name="conv">The convolution, or null.</param>
    /// <param name="x">[B, S, C].</param>
    /// <param name="name">The name of its memory, which none of the mixer's may have.</param>
    /// <param name="rows">Document starts and padding of x.</param>
    internal Tensor Convolve(CausalConvolution? conv, Tensor x, string name, PaddingLast rows)
    {
        if (conv is null)
        {
            return x;
        }

        var remembers = conv.Taps > 1;
        var (y, last) = conv.Forward(
            x, remembers ? Before(name) : null, rows.DocumentStarts, rows.Real, activate: true, remembers && ReturnState);
        if (last is not null)
        {
            Keep(name, last.Widened());
        }

        return y;
    }

    /// <summary>What a state without a name that is asked for says.</summary>
    internal static KeyNotFoundException Missing(string name, IEnumerable<string> names)
    {
        var all = names.ToList();
        var some = string.Join(", ", all.Take(6)) + (all.Count > 6 ? ", ..." : "");
        return new($"The state has no tensor '{name}'; it holds {some}. It was made by another model.");
    }

    private string Name(string name) => _block is { } block ? $"blocks.{block}.{name}" : name;

    private Tensor Read(string name) => _before!.TryGetValue(name, out var tensor) ? tensor : throw Missing(name, _before.Keys);
}

/// <summary>
/// What the mixers of a forward pass need of a batch's layout, made when the first one asks and then there for all blocks.
/// </summary>
/// <param name="layout">Document starts and padding.</param>
/// <param name="pass">The dispose scope of a model's pass, where its tensors belong; null is that of the mixer which asks.</param>
internal sealed class LayoutWork(SequenceLayout? layout, DisposeScope? pass)
{
    private readonly Dictionary<(int Window, int Sinks), AttentionSpan> _windows = [];
    private readonly Dictionary<(int HeadDim, double Theta, ScalarType Type), (Tensor Cos, Tensor Sin)> _angles = [];
    private PaddingLast? _rows;
    private AttentionSpan? _span;
    private List<LstmPiece>? _pieces;

    /// <summary>A layout whose padding is behind all tokens already, as <see cref="PaddingLast"/> has it.</summary>
    public static LayoutWork Of(PaddingLast rows, DisposeScope pass) =>
        new(rows.DocumentStarts is null && rows.Real is null ? null : new(rows.DocumentStarts, rows.Real?.logical_not()), pass)
        {
            _rows = rows.Moved(),
        };

    public SequenceLayout? Layout => layout;

    /// <summary>A sequence with its padding moved behind its tokens.</summary>
    public PaddingLast Rows(Tensor x) => _rows is null ? _rows = Made(() => PaddingLast.Of(x, layout)) : _rows.Of(x);

    /// <summary>What each token attends to, with T keys of earlier passes.</summary>
    public AttentionSpan Span(Tensor x, long cached, Tensor? visible, Tensor? next) =>
        _span ??= Made(() => AttentionSpan.Of(x.shape[0], x.shape[1], cached, visible, next, layout, x.device));

    /// <summary>What a token attends to of keys with room behind them.</summary>
    public AttentionSpan Room(Tensor x, Tensor visible, Tensor next, Tensor end) => x.shape[1] == 1 && layout is null
        ? _span ??= Made(() => AttentionSpan.OfRoom(visible, next, end, x.dtype))
        : throw new ArgumentException(
            $"Expected one token of a document that goes on, got {x.shape[1]}{(layout is null ? "" : " with a layout")}.", nameof(x));

    /// <summary>What each token attends to of a window and the first tokens of its document.</summary>
    public AttentionSpan Window(Tensor x, int window, int sinks, Tensor? at, Tensor? next) =>
        _windows.TryGetValue((window, sinks), out var span)
            ? span
            : _windows[(window, sinks)] = Made(
                () => AttentionSpan.OfWindow(x.shape[0], x.shape[1], window, sinks, at, next, layout, x.device));

    /// <summary>The rotations of a full attention's positions.</summary>
    public (Tensor Cos, Tensor Sin) Angles(AttentionSpan span, int headDim, double theta, ScalarType type)
    {
        if (span != _span)
        {
            return RotaryEmbedding.Angles(span.Positions, headDim, theta, type);
        }

        return _angles.TryGetValue((headDim, theta, type), out var angles)
            ? angles
            : _angles[(headDim, theta, type)] = Made(() => RotaryEmbedding.Angles(span.Positions, headDim, theta, type));
    }

    /// <summary>The stretches in which no document starts but at the beginning.</summary>
    public List<LstmPiece> Pieces(long length) => _pieces ??= Made(() => LstmPiece.Cut(layout, length));

    /// <summary>What a block makes for those after it.</summary>
    private T Made<T>(Func<T> make)
    {
        if (pass is null)
        {
            return make();
        }

        using var scope = NewDisposeScope();
        var made = make();
        scope.MoveToOther(pass, scope.DisposablesView);
        return made;
    }
}
