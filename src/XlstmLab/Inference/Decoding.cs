using System.Runtime.InteropServices;
using XlstmLab.Models;
using XlstmLab.Operations;
using XlstmLab.Text;
using static TorchSharp.torch;
using TensorPrimitives = System.Numerics.Tensors.TensorPrimitives;

namespace XlstmLab.Inference;

/// <summary>Texts that are being generated side by side: reads the prompts, then adds a token to each unfinished row at each step.</summary>
internal sealed class Decoding : IDisposable
{
    /// <summary>How many tokens the host reads before the step is recorded, so that nothing is left to be compiled or looked up.</summary>
    private const int Rehearsals = 2;

    private readonly LanguageModel _model;
    private readonly ITokenizer _tokenizer;
    private readonly GenerationOptions _options;
    private readonly Device _device;
    private readonly EvaluationMode _mode;
    private readonly RowInProgress[] _rows;
    private readonly bool _keepStates;

    /// <summary>The rows of <see cref="_state"/>.</summary>
    private List<RowInProgress> _active;

    /// <summary>What the active rows have read; null before anything was.</summary>
    private ModelState? _state;

    /// <summary>Whether <see cref="_state"/> is ours and not the caller's.</summary>
    private bool _ownsState;

    /// <summary>Reads tokens without libtorch, where the model and the number of rows allow it.</summary>
    private XlstmTokenStep? _step;

    /// <summary>Whether the model turned out to have no step.</summary>
    private bool _hasNoStep;

    /// <summary>Where <see cref="_state"/> lies, if the step may write into it.</summary>
    private StepState? _places;

    /// <summary>Reads tokens of the active rows as a graph of the GPU, which writes <see cref="_state"/> in place.</summary>
    private RecordedTokenStep? _recorded;

    /// <summary>How many tokens of the active rows the host has read, one operation at a time, with a state that keeps its form.</summary>
    private int _rehearsed;

    /// <summary>Whether the model's device records nothing, or not this model.</summary>
    private bool _cannotRecord;

    private Decoding(LanguageModel model, ITokenizer tokenizer, int[][] prompts, GenerationOptions options, ModelState? state, bool keepStates)
    {
        (_model, _tokenizer, _options, _state, _keepStates) = (model, tokenizer, options, state, keepStates);
        _mode = new(model);
        _device = model.WeightsDevice;
        _cannotRecord = !RecordedTokenStep.MayRecord(model);
        _rows = [.. prompts.Select((prompt, r) => new RowInProgress(options, r, prompt, tokenizer))];
        _active = [.. _rows];
    }

    /// <summary>The number of ids that can be drawn; no tokenizer has more than its model.</summary>
    private int KnownIds => _tokenizer.VocabularySize;

    /// <summary>The number of rows that are not finished.</summary>
    public int ActiveCount => _active.Count;

    /// <summary>What each row holds so far, in the order of the prompts.</summary>
    public IReadOnlyList<RowInProgress> Rows => _rows;

    /// <summary>Reads the prompts, of one token at least each.</summary>
    public static Decoding Start(
        LanguageModel model, ITokenizer tokenizer, int[][] prompts, GenerationOptions options, ModelState? state, int prefillLength, bool keepStates,
        CancellationToken cancellationToken)
    {
        var decoding = new Decoding(model, tokenizer, prompts, options, state, keepStates);
        try
        {
            decoding.RequireStep();
            decoding.ReadPrompts(prompts, prefillLength, cancellationToken);
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
        if (!_active[0].HasLogits)
        {
            ReadLastTokens();
        }

        var finished = new HashSet<RowInProgress>();
        foreach (var row in _active)
        {
            if (row.Add(_options, _tokenizer) is not null)
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
        _recorded?.Dispose();
        SetState(null);
        _step?.Dispose();
        foreach (var row in _rows)
        {
            row.State?.Dispose();
        }
    }

    private void ReadPrompts(int[][] prompts, int prefillLength, CancellationToken cancellationToken)
    {
        var longest = prompts.Max(p => p.Length);
        for (var start = 0; start < longest; start += prefillLength)
        {
            cancellationToken.ThrowIfCancellationRequested();
            using var scope = NewDisposeScope();
            using var mode = _mode.Enter();
            var length = Math.Min(prefillLength, longest - start);
            var tokens = new long[prompts.Length * length];
            var padding = new bool[tokens.Length];
            for (var r = 0; r < prompts.Length; r++)
            {
                for (var t = 0; t < length; t++)
                {
                    var there = start + t < prompts[r].Length;
                    tokens[r * length + t] = there ? prompts[r][start + t] : 0;
                    padding[r * length + t] = !there;
                }
            }

            var layout = padding.Contains(true) ? new SequenceLayout(Padding: tensor(padding, [prompts.Length, length], device: _device)) : null;
            var logits = Forward(tensor(tokens, [prompts.Length, length], device: _device), layout);
            for (var r = 0; r < prompts.Length; r++)
            {
                var last = prompts[r].Length - 1 - start;
                if (last >= 0 && last < length)
                {
                    _rows[r].SetLogits(MemoryMarshal.Cast<byte, double>(Known(logits[r, last]).bytes));
                }
            }
        }
    }

    private void ReadLastTokens()
    {
        if (StepOfModel() is { } step)
        {
            ReadLastTokens(step);
            return;
        }

        if (RecordedStep() is { } recorded)
        {
            ReadLastTokens(recorded);
            return;
        }

        using var scope = NewDisposeScope();

        // A fifth faster than no_grad with a small model. Such a state cannot be trained from, but what TakeState gives is computed outside.
        using var mode = _mode.Enter();
        using var inference = inference_mode();
        var tokens = _active.Select(row => (long)row.Tokens[^1]).ToArray();
        var (output, state) = _model.Forward(tensor(tokens, [tokens.Length, 1], device: _device), _state, returnState: true);
        _rehearsed = RecordedTokenStep.KeepsForm(_state!, state!) ? _rehearsed + 1 : 0;
        SetState(state);
        var logits = Known(output);
        var values = MemoryMarshal.Cast<byte, double>(logits.bytes);
        for (var r = 0; r < tokens.Length; r++)
        {
            _active[r].SetLogits(values.Slice(r * KnownIds, KnownIds));
        }
    }

    /// <summary>The recorded step of the active rows, recorded when the host has read a few tokens; null where there is none.</summary>
    private RecordedTokenStep? RecordedStep()
    {
        if (_recorded?.Serves() == false)
        {
            ForgetRecorded();
        }

        if (_recorded is null && !_cannotRecord && _rehearsed >= Rehearsals)
        {
            using var inference = inference_mode();
            SetState(_state!.Clone());
            _recorded = RecordedTokenStep.Of(_model, _mode, _state!, KnownIds);
            _cannotRecord = _recorded is null;
        }

        return _recorded;
    }

    private void ForgetRecorded()
    {
        _recorded?.Dispose();
        (_recorded, _rehearsed) = (null, 0);
    }

    private void ReadLastTokens(RecordedTokenStep step)
    {
        using var scope = NewDisposeScope();
        var (logits, likeliest) = step.Start([.. _active.Select(row => (long)row.Tokens[^1])]);
        if (_options.IsGreedy)
        {
            var choices = MemoryMarshal.Cast<byte, double>(likeliest.cpu().bytes);
            for (var r = 0; r < _active.Count; r++)
            {
                _active[r].SetChoice((int)choices[2 * r], choices[2 * r + 1]);
            }

            return;
        }

        var values = MemoryMarshal.Cast<byte, float>(logits.cpu().bytes);
        for (var r = 0; r < _active.Count; r++)
        {
            _active[r].SetLogits(values.Slice(r * KnownIds, KnownIds));
        }
    }

    /// <summary>The step for the active rows, made anew if the weights were moved; null where there is none.</summary>
    private XlstmTokenStep? StepOfModel()
    {
        if (_hasNoStep || _active.Count > XlstmTokenStep.MostRows || !XlstmTokenStep.MayRead(_model))
        {
            return null;
        }

        if (_step?.Serves(_active.Count) != true)
        {
            _step?.Dispose();
            _step = XlstmTokenStep.Of(_model, _options.Weights);
            _hasNoStep = _step is null;
        }

        return _step;
    }

    private void RequireStep()
    {
        if (_options.Weights != WeightFormat.Float32 && StepOfModel() is null)
        {
            throw new ArgumentException(
                $"Weights of {_options.Weights} serve up to {XlstmTokenStep.MostRows} texts side by side, of an xLSTM of mLSTM and sLSTM blocks in float32 on the CPU that "
                + $"nobody observes; these are {_active.Count} of {_model.GetName()}. {nameof(RoundedWeights)}.{nameof(RoundedWeights.Round)} gives any model the values of such weights.");
        }
    }

    private void ReadLastTokens(XlstmTokenStep step)
    {
        if (_places is null)
        {
            var (copy, places) = step.Own(_state!);
            SetState(copy);
            _places = places;
        }

        Span<int> tokens = stackalloc int[XlstmTokenStep.MostRows];
        for (var r = 0; r < _active.Count; r++)
        {
            tokens[r] = _active[r].Tokens[^1];
        }

        var logits = step.Read(tokens[.._active.Count], _places);
        for (var r = 0; r < _active.Count; r++)
        {
            _active[r].SetLogits(logits.Slice(r * _model.VocabularySize, KnownIds));
        }
    }

    /// <summary>Reads on from the state; logits [B, S, V].</summary>
    private Tensor Forward(Tensor tokens, SequenceLayout? layout)
    {
        var (logits, state) = _model.Forward(tokens, _state, layout, returnState: true);
        SetState(state);
        return logits;
    }

    private void SetState(ModelState? state)
    {
        if (_ownsState)
        {
            _state?.Dispose();
        }

        (_state, _ownsState, _places) = (state, true, null);
    }

    private void DropFinished(HashSet<RowInProgress> finished)
    {
        if (_keepStates)
        {
            foreach (var (row, index) in _active.Select((row, index) => (row, index)).Where(p => finished.Contains(p.row)))
            {
                row.State = _state!.SelectRows(index);
            }
        }

        ForgetRecorded();
        var rest = Enumerable.Range(0, _active.Count).Where(r => !finished.Contains(_active[r])).ToList();
        SetState(rest.Count == 0 ? null : _state!.SelectRows([.. rest.Select(r => (long)r)]));
        _active = [.. rest.Select(r => _active[r])];
    }

    /// <summary>On the CPU in double precision, without ids that the tokenizer does not know: those were never trained.</summary>
    private Tensor Known(Tensor logits) =>
        (KnownIds < _model.VocabularySize ? logits.narrow(-1, 0, KnownIds) : logits).to(ScalarType.Float64).cpu().contiguous();
}

/// <summary>One text in the making.</summary>
internal sealed class RowInProgress(GenerationOptions options, int row, int[] prompt, ITokenizer tokenizer)
{
    private readonly TokenSampler _sampler = new(options, options.Seed + row, prompt);
    private readonly StopStringFilter _filter = new(options.StopStrings);
    private readonly Utf8StreamDecoder _decoder = Begin(options, tokenizer);
    private readonly double[] _logits = new double[tokenizer.VocabularySize];
    private (int Id, double LogProbability)? _choice;

    /// <summary>The ids so far.</summary>
    public List<int> Tokens { get; } = [];

    /// <summary>The last of <see cref="Tokens"/>.</summary>
    public GeneratedToken Last { get; private set; }

    /// <summary>Text that the last token made sure of.</summary>
    public string Piece { get; private set; } = "";

    /// <summary>All pieces.</summary>
    public System.Text.StringBuilder Text { get; } = new();

    /// <summary>The sum over all tokens.</summary>
    public double LogProbability { get; private set; }

    /// <summary>Whether the model has read the last token.</summary>
    public bool HasLogits { get; private set; }

    /// <summary>The state after the row finished, where it is wanted.</summary>
    public ModelState? State { get; set; }

    /// <summary>Takes what the model makes of all that was read, [V].</summary>
    public void SetLogits(ReadOnlySpan<double> logits)
    {
        logits.CopyTo(_logits);
        HasLogits = true;
    }

    /// <inheritdoc cref="SetLogits(ReadOnlySpan{double})"/>
    public void SetLogits(ReadOnlySpan<float> logits)
    {
        TensorPrimitives.ConvertTruncating(logits, _logits);
        HasLogits = true;
    }

    /// <summary>Takes the token that is to come next, where it was chosen beside the model.</summary>
    public void SetChoice(int id, double logProbability)
    {
        if (!double.IsFinite(logProbability))
        {
            throw TokenSampler.NoNumbers();
        }

        _choice = (id, logProbability);
        HasLogits = true;
    }

    /// <summary>Chooses a token; returns why it is the last, if it is.</summary>
    public FinishReason? Add(GenerationOptions options, ITokenizer tokenizer)
    {
        var (id, logProbability) = _choice ?? _sampler.Next(_logits);
        (_choice, HasLogits) = (null, false);
        Tokens.Add(id);
        LogProbability += logProbability;
        Piece = _filter.Push(_decoder.Push(id));
        FinishReason? reason =
            _filter.Stopped ? FinishReason.StopString
            : options.StopAtEndOfDocument && id == tokenizer.EndOfDocument ? FinishReason.EndOfDocument
            : Tokens.Count == options.MaxNewTokens ? FinishReason.Length
            : null;
        if (reason is not null)
        {
            Piece += _filter.Push(options.GoesOn ? "" : _decoder.Flush()) + _filter.Flush();
        }

        Text.Append(Piece);
        Last = new(id, logProbability, reason);
        return reason;
    }

    private static Utf8StreamDecoder Begin(GenerationOptions options, ITokenizer tokenizer)
    {
        var decoder = new Utf8StreamDecoder(tokenizer);
        decoder.PushBytes([.. options.EarlierBytes]);
        return decoder;
    }

    /// <summary>The finished text.</summary>
    public GeneratedSequence ToSequence() => new([.. Tokens], Text.ToString(), LogProbability, Last.FinishReason ?? FinishReason.Length);
}
