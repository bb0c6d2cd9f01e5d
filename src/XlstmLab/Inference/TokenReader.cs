using System.Runtime.InteropServices;
using XlstmLab.Models;
using XlstmLab.Native;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Inference;

/// <summary>
/// Reads a token of each of several sequences by what is fastest for the model: loops on the CPU, a graph of a GPU, or libtorch's
/// operations.
/// </summary>
/// <remarks>
/// A state that it was given at first is left as it is; from the first token on it has one of its own. Where rows stay and sequences
/// change, rows are written in place (<see cref="SetRow"/>).
/// </remarks>
internal sealed class TokenReader : IDisposable
{
    /// <summary>How many tokens the host reads before the step is recorded, so that nothing is left to be compiled or looked up.</summary>
    private const int Rehearsals = 2;

    private readonly LanguageModel _model;
    private readonly EvaluationMode _mode;
    private readonly Device _device;
    private readonly int _knownIds;
    private readonly bool _rowByRow;
    private readonly WeightFormat _weights;
    private readonly StateFormat _states;

    /// <summary>Whether <see cref="State"/> is ours and not the caller's.</summary>
    private bool _ownsState;

    /// <summary>Reads tokens without libtorch, where the model and the number of rows allow it.</summary>
    private XlstmTokenStep? _step;

    /// <summary>Whether the model turned out to have no step.</summary>
    private bool _hasNoStep;

    /// <summary>
    /// Where <see cref="State"/> lies, if the step may write into it: of as many rows as it reads at once, the next as many, and so on.
    /// </summary>
    private StepState[]? _places;

    /// <summary>Reads tokens as a graph of the GPU, which writes <see cref="State"/> in place.</summary>
    private RecordedRows? _recorded;

    /// <summary>The room of a <see cref="State"/> that would grow with every token, where a graph reads tokens or soon will.</summary>
    private StateRoom? _room;

    /// <summary>How many tokens the host has read, one operation at a time, with a state that keeps its form.</summary>
    private int _rehearsed;

    /// <summary>Whether the model's device records nothing, or not this model.</summary>
    private bool _cannotRecord;

    /// <summary>A reader of sequences that have read a state, or nothing yet.</summary>
    /// <param name="model">The model.</param>
    /// <param name="knownIds">The number of ids that can be drawn, the first of the vocabulary.</param>
    /// <param name="state">The state, which stays the caller's; null where nothing was read.</param>
    /// <param name="rowByRow">
    /// Whether loops on the CPU read however many rows, a few at a time, so that no row's logits depend on those beside it.
    /// </param>
    /// <param name="weights">What projections are kept as by the loops on the CPU, or by the kernels of a graph.</param>
    /// <param name="rows">The most rows that are read at once.</param>
    /// <param name="states">What memories are kept as by the kernels of a graph.</param>
    /// <exception cref="ArgumentException">The model cannot be read with such weights, or such states.</exception>
    public TokenReader(
        LanguageModel model, int knownIds, ModelState? state, bool rowByRow, WeightFormat weights = WeightFormat.Float32, int rows = 1,
        StateFormat states = StateFormat.Float32)
    {
        (_model, _knownIds, State, _rowByRow, _weights, _states) = (model, knownIds, state, rowByRow, weights, states);
        _mode = new(model);
        _device = model.WeightsDevice;
        _cannotRecord = !RecordedTokenStep.MayRecord(model);
        if (weights != WeightFormat.Float32 && StepOfModel(rows) is null && !(WantsAllRows && XlstmGpuStep.MayRead(model, rows)))
        {
            throw new ArgumentException(
                $"{nameof(GenerationOptions.Weights)} of {weights} serve up to {XlstmTokenStep.MostRows} texts side by side, "
                + $"of an xLSTM of mLSTM and sLSTM blocks in float32 on the CPU that nobody observes (not {nameof(WeightFormat.Float8)}), "
                + $"or up to {TokenStepKernels.MostSequences} of one in the 7B's shape in bfloat16 on a GPU with kernels and graphs; "
                + $"these are {rows} of {model.GetName()}. {nameof(RoundedWeights)}.{nameof(RoundedWeights.Round)} gives any model the "
                + "values of such weights.");
        }

        if (states.Fault(model, rows) is { } fault)
        {
            throw new ArgumentException($"{nameof(GenerationOptions.States)} of {states}: {fault}.");
        }
    }

    /// <summary>
    /// What the sequences have read, a row each; null before anything was. Where it may have a <see cref="StateRoom"/>, others are given
    /// <see cref="SelectRows"/>'.
    /// </summary>
    public ModelState? State { get; private set; }

    /// <summary>Whether tokens are read by a graph, or soon will be: then it takes a token for every row of the state.</summary>
    public bool WantsAllRows => !_cannotRecord;

    /// <summary>Whether tokens are read by a graph, which is made anew for another number of rows.</summary>
    public bool IsRecorded => _recorded is not null;

    /// <summary>How many tokens of each row were read ahead of what rows were given.</summary>
    public int Pending => _recorded?.Pending ?? 0;

    /// <summary>Whether a row's logits are the same bits whatever other rows there are.</summary>
    public bool IsRowByRow => _rowByRow && StepOfModel(1) is not null;

    /// <summary>
    /// A state of some rows of <see cref="State"/>, as the model itself reads it: they may be left out, reordered and repeated.
    /// </summary>
    public ModelState SelectRows(params long[] rows)
    {
        using var plain = _room?.Leave(State!);
        var selected = (plain ?? State!).SelectRows(rows);
        if (_recorded is null || _states == StateFormat.Float32)
        {
            return selected;
        }

        using (selected)
        {
            return _states.Restore(selected);
        }
    }

    /// <summary>Takes another state, of any number of rows, and owns it.</summary>
    public void SetState(ModelState? state)
    {
        ForgetRecorded();
        Replace(state);
    }

    /// <summary>Writes a row of the state, which has to be the reader's own.</summary>
    /// <param name="row">The row.</param>
    /// <param name="source">A state of this model.</param>
    /// <param name="sourceRow">The row of it that is copied; the state may be this one.</param>
    public void SetRow(int row, ModelState source, int sourceRow)
    {
        // What the step made in inference mode can be written in that mode only.
        using var scope = NewDisposeScope();
        using var inference = inference_mode();
        foreach (var (name, tensor) in State!.Tensors)
        {
            tensor.narrow(0, row, 1).copy_(source[name].narrow(0, sourceRow, 1));
        }
    }

    /// <summary>Reads tokens in evaluation mode without choosing any, in one pass.</summary>
    /// <param name="tokens">[B, S] int64 on the model's device.</param>
    /// <param name="layout">What is padding.</param>
    /// <param name="positions">[N] int64, the positions b S + s whose logits are wanted.</param>
    /// <returns>Logits [N, V] on the CPU in double precision, of known ids only.</returns>
    public Tensor ReadMany(Tensor tokens, SequenceLayout? layout, Tensor positions)
    {
        LeaveRoom();
        using var scope = NewDisposeScope();
        using var mode = _mode.Enter();
        var (logits, state) = _model.Forward(tokens, State, layout, returnState: true, positions);
        Replace(state);
        return Known(logits).MoveToOuterDisposeScope();
    }

    /// <summary>Reads a token of each row, and gives rows what the model makes of it.</summary>
    /// <param name="tokens">The ids, of as many rows as are read: all of the state's, or its first.</param>
    /// <param name="rows">As many; null where nobody wants a row's logits.</param>
    /// <param name="ahead">
    /// How many tokens of each row may be read before it gets the first, at least 1: a graph starts as many as that, or a few, and rows get
    /// one at each call. <see cref="State"/> is then ahead of the rows by <see cref="Pending"/> tokens.
    /// </param>
    public void Read(ReadOnlySpan<int> tokens, IReadOnlyList<RowInProgress?> rows, int ahead = 1)
    {
        if (Pending > 0)
        {
            Read(_recorded!, tokens, rows, _recorded!.Serves() ? ahead : 1);
        }
        else if (StepOfModel(tokens.Length) is { } step)
        {
            Read(step, tokens, rows);
        }
        else if (RecordedStep() is { } recorded)
        {
            Read(recorded, tokens, rows, ahead);
        }
        else
        {
            ReadByOperations(tokens, rows);
        }
    }

    /// <summary>Gives rows all that was read ahead.</summary>
    public void TakePending()
    {
        while (Pending > 0)
        {
            _recorded!.Take();
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _recorded?.Dispose();
        Replace(null);
        _step?.Dispose();
    }

    private void ReadByOperations(ReadOnlySpan<int> tokens, IReadOnlyList<RowInProgress?> rows)
    {
        using var scope = NewDisposeScope();

        // A fifth faster than no_grad with a small model. Such a state cannot be trained from, but what is selected of it outside can.
        using var mode = _mode.Enter();
        using var inference = inference_mode();
        var ids = Ids(tokens);
        EnterRoom(rows);
        var isPart = State is not null && ids.Length < State.BatchSize;
        using var part = isPart ? State!.Map(t => t.narrow(0, 0, ids.Length)) : null;
        var (output, after) = _model.Forward(tensor(ids, [ids.Length, 1], device: _device), part ?? State, returnState: true);
        if (isPart)
        {
            using (after)
            {
                foreach (var (name, tensor) in part!.Tensors)
                {
                    tensor.copy_(after![name]);
                }
            }
        }
        else
        {
            var keepsForm = State is not null && RecordedTokenStep.KeepsForm(State, after!);
            _rehearsed = keepsForm ? _rehearsed + 1 : 0;
            if (State is not null && !keepsForm)
            {
                HeapMemory.GiveBack();
            }

            var room = _room;
            Replace(after);
            if (room is not null)
            {
                (_room, room.Filled) = (room, room.Filled + 1);
            }
        }

        var values = MemoryMarshal.Cast<byte, double>(Known(output).bytes);
        for (var r = 0; r < ids.Length; r++)
        {
            rows[r]?.SetLogits(values.Slice(r * _knownIds, _knownIds));
        }
    }

    /// <summary>Reads tokens by a graph, no further than there is room.</summary>
    private void Read(RecordedRows recorded, ReadOnlySpan<int> tokens, IReadOnlyList<RowInProgress?> rows, int ahead)
    {
        var pending = Pending;
        recorded.Read(tokens, rows, _room is null ? ahead : (int)Math.Min(ahead, pending + _room.Left));
        if (_room is not null)
        {
            _room.Filled += Pending + 1 - pending;
        }
    }

    /// <summary>
    /// Gives a state that grows with every token room for some more, if a graph could then read them; again where the room is full.
    /// </summary>
    private void EnterRoom(IReadOnlyList<RowInProgress?> rows)
    {
        var isAgain = _room is { Left: 0 };
        if (isAgain)
        {
            LeaveRoom();
        }

        if (_cannotRecord || State is null || _room is not null || rows.Count != State.BatchSize)
        {
            return;
        }

        var given = _ownsState ? State : State.Detach();
        if (StateRoom.Enter(_model, given, Math.Max(1, rows.Max(row => row?.Remaining ?? 0))) is var (room, state))
        {
            Replace(state);
            _room = room;

            // All that is new are the sizes.
            _rehearsed = isAgain ? Rehearsals - 1 : 0;
        }
        else if (!_ownsState)
        {
            given.Dispose();
        }
    }

    /// <summary>Goes on with the state as everybody knows it, which has no room.</summary>
    private void LeaveRoom()
    {
        if (_room is { } room)
        {
            ForgetRecorded();
            Replace(room.Leave(State!));
        }
    }

    /// <summary>The recorded step of the rows, recorded when the host has read a few tokens; null where there is none.</summary>
    private RecordedRows? RecordedStep()
    {
        if (_recorded?.Serves() == false || _room is { Left: 0 })
        {
            ForgetRecorded();
        }

        if (_recorded is null && !_cannotRecord && _rehearsed >= Rehearsals)
        {
            using var inference = inference_mode();
            var room = _room;
            Replace(room?.Own(State!) ?? _states.Keep(State!));
            _room = room;
            var step = RecordedTokenStep.Of(_model, _mode, State!, _knownIds, _weights);
            _recorded = step is null ? null : new(step, (int)State!.BatchSize);
            _cannotRecord = step is null;
            if (step is null)
            {
                LeaveRoom();
                RestoreState();
            }
        }

        return _recorded;
    }

    private void ForgetRecorded()
    {
        var hadState = _recorded is not null;
        _recorded?.Dispose();
        (_recorded, _rehearsed) = (null, 0);
        if (hadState)
        {
            RestoreState();
        }
    }

    /// <summary>Makes the state of a graph that is gone the model's own again.</summary>
    private void RestoreState()
    {
        if (_states != StateFormat.Float32)
        {
            using var inference = inference_mode();
            Replace(_states.Restore(State!));
        }
    }

    /// <summary>The step for a number of rows, made anew if the weights were moved; null where there is none.</summary>
    private XlstmTokenStep? StepOfModel(int rows)
    {
        if (_hasNoStep || (rows > XlstmTokenStep.MostRows && !_rowByRow) || !XlstmTokenStep.MayRead(_model))
        {
            return null;
        }

        if (_step?.Serves(Math.Min(rows, XlstmTokenStep.MostRows)) != true)
        {
            _step?.Dispose();
            _step = XlstmTokenStep.Of(_model, _weights);
            _hasNoStep = _step is null;
        }

        return _step;
    }

    private void Read(XlstmTokenStep step, ReadOnlySpan<int> tokens, IReadOnlyList<RowInProgress?> rows)
    {
        if (_places is null)
        {
            var (copy, places) = step.Own(State!);
            Replace(copy);
            _places = [.. Enumerable.Range(0, Parts((int)copy.BatchSize)).Select(part => places.From(part * XlstmTokenStep.MostRows))];
        }

        for (var k = 0; k < Parts(tokens.Length); k++)
        {
            var first = k * XlstmTokenStep.MostRows;
            var part = tokens.Slice(first, Math.Min(XlstmTokenStep.MostRows, tokens.Length - first));
            var logits = step.Read(part, _places[k]);
            for (var r = 0; r < part.Length; r++)
            {
                rows[first + r]?.SetLogits(logits.Slice(r * _model.VocabularySize, _knownIds));
            }
        }
    }

    /// <summary>Ids as models take them.</summary>
    public static long[] Ids(ReadOnlySpan<int> tokens)
    {
        var ids = new long[tokens.Length];
        for (var t = 0; t < ids.Length; t++)
        {
            ids[t] = tokens[t];
        }

        return ids;
    }

    private static int Parts(int rows) => (rows + XlstmTokenStep.MostRows - 1) / XlstmTokenStep.MostRows;

    private void Replace(ModelState? state)
    {
        if (_ownsState)
        {
            State?.Dispose();
        }

        (State, _ownsState, _places, _room) = (state, true, null, null);
    }

    /// <summary>On the CPU in double precision, without ids that the tokenizer does not know: those were never trained.</summary>
    private Tensor Known(Tensor logits) =>
        (_knownIds < _model.VocabularySize ? logits.narrow(-1, 0, _knownIds) : logits).to(ScalarType.Float64).cpu().contiguous();
}
