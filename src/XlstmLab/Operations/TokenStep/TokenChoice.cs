using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>Whether and how a row's tokens are chosen on a device.</summary>
internal enum TokenChoiceMode
{
    /// <summary>They are not.</summary>
    None,

    /// <summary>The largest score.</summary>
    Greedy,

    /// <summary>A draw of those that filters leave.</summary>
    Drawn,
}

/// <summary>What the choice of a row's tokens needs, as <c>TokenChoice.cu</c> reads it; the default chooses nothing.</summary>
[StructLayout(LayoutKind.Sequential)]
internal readonly record struct TokenChoiceRow
{
    /// <summary>The repetition penalty; 1 for none.</summary>
    public double Repetition { get; init; }

    public double Frequency { get; init; }

    public double Presence { get; init; }

    /// <summary>How much more than the largest score another may be, T log(min-p): less than 0, minus infinity for any.</summary>
    public double Least { get; init; }

    /// <summary>1 for all.</summary>
    public double TopP { get; init; }

    /// <summary>The state of the row's <see cref="Text.SplitMix64"/>, which a draw changes.</summary>
    public ulong Random { get; init; }

    /// <summary>log2(e) / T, not 0 and not infinite: neither makes no number of the other.</summary>
    public float Steepness { get; init; }

    /// <summary>Less than the number of ids; 0 for all.</summary>
    public int TopK { get; init; }

    public TokenChoiceMode Mode { get; init; }

    /// <summary>Keeps the rows of a whole number of 8 bytes.</summary>
    public int Unused { get; init; }
}

/// <summary>Chooses tokens on a device, for rows that come and go: what their choices need lies in memory that stays.</summary>
internal sealed class TokenChoice : IDisposable
{
    private const int MostThreads = 1024;
    private const int LeastThreads = 256;
    private static readonly int[] Slices = [8, 4, 2, 1];
    private readonly DeviceInput<long> _options;
    private readonly Tensor _counts;
    private readonly Tensor _tokens;
    private readonly int _ids;

    /// <summary>Rows that choose nothing.</summary>
    /// <param name="tokens">[B, 1] int64, where a row's choice is left.</param>
    /// <param name="ids">The number of ids that may be chosen, the first of the logits.</param>
    /// <param name="turns">How many steps may be started before the first one's choices are taken.</param>
    public TokenChoice(Tensor tokens, int ids, int turns)
    {
        (_tokens, _ids) = (tokens, ids);
        var rows = tokens.shape[0];
        _options = new(ScalarType.Int64, tokens.device, rows, Unsafe.SizeOf<TokenChoiceRow>() / sizeof(long));
        _counts = zeros(rows, ids, ScalarType.Int32, tokens.device).DetachFromDisposeScope();
        Choices = new(turns, ScalarType.Float64, tokens.device, rows, 2);
    }

    /// <summary>[B, 2] float64: of each row the id, and its log softmax of the logits, which is no number where logits are none.</summary>
    public DeviceOutput<double> Choices { get; }

    /// <summary>Chooses a token of each row, and does not wait for it.</summary>
    /// <param name="logits">[B, V] float32, rows of contiguous numbers.</param>
    public void Choose(Tensor logits)
    {
        var isLong = _ids >= 8 * MostThreads;
        var threads = isLong ? MostThreads : LeastThreads;

        // As many blocks as run at a time, where a row is long enough.
        var rows = (int)_tokens.shape[0];
        var slices = isLong ? Slices.First(s => s * rows <= 128 || s == 1) : 1;
        var bytes = 32 + (24 * slices) + (threads / 32 * 40) + (8 * 2048) + (8 * 4096) + 16;
        Kernel.Launch(
            "TokenChoice.cu", "token_choice", [$"THREADS={threads}", $"SLICES={slices}"],
            new(slices, threads, bytes) { BlocksY = rows, Cluster = slices, MostlyShared = TokenStepKernels.IsBatch(rows) }, logits,
            logits, logits.stride(0), _ids, _options.Values, _counts, _tokens, Choices.Values);
    }

    /// <summary>Gives the device the options of all rows.</summary>
    /// <param name="rows">As many as there are rows; the default chooses nothing.</param>
    public void Set(ReadOnlySpan<TokenChoiceRow> rows) => _options.Write(MemoryMarshal.Cast<TokenChoiceRow, long>(rows));

    /// <summary>Writes what occurred in a row's text.</summary>
    /// <param name="row">The row.</param>
    /// <param name="occurred">The ids, each once, with how often they were generated.</param>
    public void SetCounts(int row, IEnumerable<(int Id, int Generated)> occurred)
    {
        using var scope = NewDisposeScope();
        using var inference = inference_mode();
        var counts = new int[_ids];
        foreach (var (id, generated) in occurred.Where(pair => pair.Id < _ids))
        {
            counts[id] = (2 * generated) | 1;
        }

        _counts[row].copy_(tensor(counts));
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _options.Dispose();
        _counts.Dispose();
        Choices.Dispose();
    }
}
