using System.Runtime.InteropServices;
using TorchSharp;
using XlstmLab.Models;
using XlstmLab.Operations;
using XlstmLab.Text;
using static TorchSharp.torch;

namespace XlstmLab.Inference;

/// <summary>
/// Texts that are being generated side by side: reads the prompts, then adds a token to each unfinished row at each step.
/// </summary>
internal sealed class Decoding : IDisposable
{
    private readonly LanguageModel _model;
    private readonly Device _device;
    private readonly TokenReader _reader;
    private readonly RowInProgress[] _rows;
    private readonly bool _keepStates;
    private readonly bool _readsAhead;

    /// <summary>The rows of the reader's state; null for one that is finished and still read.</summary>
    private List<RowInProgress?> _active;

    private Decoding(
        LanguageModel model, ITokenizer tokenizer, int[][] prompts, GenerationOptions options, ModelState? state, bool keepStates,
        bool readsAhead)
    {
        (_model, _keepStates, _readsAhead) = (model, keepStates, readsAhead);
        _device = model.WeightsDevice;
        _reader = new(model, tokenizer.VocabularySize, state, rowByRow: false, options.Weights, prompts.Length, options.States);
        _rows = [.. prompts.Select((prompt, r) => new RowInProgress(options, r, prompt, tokenizer))];
        _active = [.. _rows];
    }

    /// <summary>The number of rows that are not finished.</summary>
    public int ActiveCount => Active.Count();

    /// <summary>What each row holds so far, in the order of the prompts.</summary>
    public IReadOnlyList<RowInProgress> Rows => _rows;

    private IEnumerable<RowInProgress> Active => _active.OfType<RowInProgress>();

    /// <summary>Reads the prompts, of one token at least each.</summary>
    /// <param name="model">The model.</param>
    /// <param name="tokenizer">What spells its ids.</param>
    /// <param name="prompts">The ids that are read first, of each row.</param>
    /// <param name="options">How tokens are chosen.</param>
    /// <param name="state">The state to start from, which stays the caller's; null where nothing was read.</param>
    /// <param name="prefillLength"><see cref="TextGenerator.PrefillLength"/>.</param>
    /// <param name="keepStates">Whether <see cref="TakeState"/> is wanted.</param>
    /// <param name="readsAhead">
    /// Whether the model may read tokens before the caller sees those in front of them, who then must not change it.
    /// </param>
    /// <param name="cancellationToken">Stops between chunks.</param>
    public static Decoding Start(
        LanguageModel model, ITokenizer tokenizer, int[][] prompts, GenerationOptions options, ModelState? state, int? prefillLength,
        bool keepStates,
        bool readsAhead, CancellationToken cancellationToken)
    {
        var decoding = new Decoding(model, tokenizer, prompts, options, state, keepStates, readsAhead);
        try
        {
            decoding.ReadPrompts(prompts, prefillLength ?? UsualPrefill(decoding._device.type, prompts.Length), cancellationToken);
            if (options.MaxNewTokens == 0)
            {
                decoding.DropFinished([.. decoding._rows]);
            }

            return decoding;
        }
        catch
        {
            decoding.Dispose();
            throw;
        }
    }

    /// <summary>Adds a token to each active row; rows that finish with it are active no more.</summary>
    public void Step()
    {
        if (!Active.First().HasLogits)
        {
            _reader.Read([.. _active.Select(row => row?.Unread ?? 0)], _active, Ahead());
        }

        var finished = new HashSet<RowInProgress>();
        foreach (var row in Active)
        {
            if (row.Add() is not null)
            {
                finished.Add(row);
            }
        }

        if (finished.Count > 0)
        {
            DropFinished(finished);
        }
    }

    /// <summary>The rows' states in the order of the prompts, once all are finished; the caller owns the result.</summary>
    public ModelState TakeState() => _model.JoinStates([.. _rows.Select(r => r.State!)]);

    /// <inheritdoc/>
    public void Dispose()
    {
        _reader.Dispose();
        foreach (var row in _rows)
        {
            row.State?.Dispose();
        }
    }

    /// <summary>What null stands for as <see cref="TextGenerator.PrefillLength"/>.</summary>
    internal static int UsualPrefill(DeviceType device, int prompts)
    {
        const int least = 512, ofAllOnGpu = 16_384;
        return device == DeviceType.CUDA ? Math.Max(least, ofAllOnGpu / prompts) : least;
    }

    private void ReadPrompts(int[][] prompts, int prefillLength, CancellationToken cancellationToken)
    {
        var longest = prompts.Max(p => p.Length);
        for (var start = 0; start < longest; start += prefillLength)
        {
            cancellationToken.ThrowIfCancellationRequested();
            using var scope = NewDisposeScope();
            var length = Math.Min(prefillLength, longest - start);
            var tokens = new long[prompts.Length * length];
            var padding = new bool[tokens.Length];
            var ends = new List<(int Row, long Position)>();
            for (var r = 0; r < prompts.Length; r++)
            {
                for (var t = 0; t < length; t++)
                {
                    var there = start + t < prompts[r].Length;
                    tokens[r * length + t] = there ? prompts[r][start + t] : 0;
                    padding[r * length + t] = !there;
                }

                var last = prompts[r].Length - 1 - start;
                if (last >= 0 && last < length)
                {
                    ends.Add((r, (long)r * length + last));
                }
            }

            // Only the last token of a prompt has logits that count. A chunk in which no prompt ends has those of one position, which
            // nobody reads.
            long[] positions = ends.Count > 0 ? [.. ends.Select(e => e.Position)] : [0];
            var layout = padding.Contains(true) ? new SequenceLayout(Padding: tensor(padding, [prompts.Length, length], device: _device))
                : null;
            var read = tensor(tokens, [prompts.Length, length], device: _device);
            var logits = _reader.ReadMany(read, layout, tensor(positions, device: _device)); // (N, V)
            foreach (var (at, (row, _)) in ends.Index())
            {
                _rows[row].SetLogits(MemoryMarshal.Cast<byte, double>(logits[at].bytes));
            }
        }
    }

    /// <summary>
    /// How many tokens may be read before any is looked at: as many as certainly come, or, where nobody wants the states, as may come.
    /// </summary>
    private int Ahead() => !_readsAhead || (_keepStates && Active.Any(row => row.MayEndEarly)) ? 1 : Active.Min(row => row.Remaining);

    private void DropFinished(HashSet<RowInProgress> finished)
    {
        for (var index = 0; index < _active.Count; index++)
        {
            if (_active[index] is { } row && finished.Contains(row))
            {
                row.State = _keepStates ? _reader.SelectRows(index) : null;
                _active[index] = null;
            }
        }

        var rest = Enumerable.Range(0, _active.Count).Where(r => _active[r] is not null).ToList();
        if (_reader.IsRecorded && 2 * rest.Count > _active.Count)
        {
            // To record a step anew takes longer than to read a few rows for nobody.
            return;
        }

        // The others' states are those after what was read ahead.
        _reader.TakePending();
        _reader.SetState(rest.Count == 0 ? null : _reader.SelectRows([.. rest.Select(r => (long)r)]));
        _active = [.. rest.Select(r => _active[r])];
    }
}
