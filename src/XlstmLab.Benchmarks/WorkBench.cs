using System.Diagnostics;
using System.Globalization;
using TorchSharp;
using XlstmLab.Inference;
using XlstmLab.Models;
using XlstmLab.Native;
using XlstmLab.Native.Cuda;
using XlstmLab.Operations;
using XlstmLab.Text;
using XlstmLab.Training;
using static TorchSharp.torch;
using TensorPrimitives = System.Numerics.Tensors.TensorPrimitives;

namespace XlstmLab.Benchmarks;

/// <summary>Measures one work in this process, on the CPU or on a GPU.</summary>
internal static class WorkBench
{
    /// <summary>The steps, prompts or tokens that tell where their time goes.</summary>
    private const int ProfiledSteps = 5;

    /// <summary>Measures.</summary>
    public static BenchResult Run(WorkTask task, CancellationToken cancellationToken)
    {
        var device = Compute.Device(task.Device);
        var type = Compute.Type(task.ComputeType) ?? ScalarType.Float32;
        random.manual_seed(1).Dispose();
        return task.Work switch
        {
            MLstmWork work => Cell(
                task, device, work.Length, work.ForwardBytes, length => MLstmInputs(work, length, type, device),
                x => MLstmCell.ForwardOutput(
                    x[0], x[1], x[2], x[3], x[4],
                    options: new() { InputGate = work.Gate == "sigmoid" ? InputGate.Sigmoid : InputGate.Exponential }),
                cancellationToken),
            SLstmWork work => Cell(
                task, device, work.Length, work.ForwardBytes, length => SLstmInputs(work, length, type, device),
                x => SLstmCell.Forward(x[0], x[1], x[2]).H,
                cancellationToken),
            TrainingWork work => Training(work, task, device, type, cancellationToken),
            PrefillWork work => Prefill(work, task, device, type, cancellationToken),
            DecodeWork work => Decode(work, task, device, type, cancellationToken),
            _ => throw new ArgumentException($"There is no measurement of {task.Work.GetType().Name}.", nameof(task)),
        };
    }

    /// <summary>q, k, v, i~ and f~ as the layers have them, a token's heads side by side, and the gradient of h.</summary>
    private static Tensor[] MLstmInputs(MLstmWork work, long length, ScalarType type, Device device)
    {
        Tensor Heads(long dim) => randn([work.Batch, length, work.Heads, dim], device: device).to(type).transpose(1, 2);
        Tensor Gate(double bias) => randn([work.Batch, work.Heads, length], device: device) + bias;
        return [Heads(work.QkHeadDim), Heads(work.QkHeadDim), Heads(work.VHeadDim), Gate(0), Gate(3), Heads(work.VHeadDim)];
    }

    /// <summary>Pre-activations, recurrent weights and biases, and the gradient of h.</summary>
    private static Tensor[] SLstmInputs(SLstmWork work, long length, ScalarType type, Device device) =>
    [
        randn([work.Batch, length, 4, work.Heads, work.HeadDim], device: device).to(type),
        randn([work.Heads, 4, work.HeadDim, work.HeadDim], device: device) / Math.Sqrt(work.HeadDim),
        zeros([4, work.Heads, work.HeadDim], device: device),
        randn([work.Batch, length, work.Heads, work.HeadDim], device: device).to(type).transpose(1, 2),
    ];

    private static BenchResult Cell(
        WorkTask task, Device device, int length, double bytes, Func<long, Tensor[]> inputs, Func<Tensor[], Tensor> forward,
        CancellationToken cancellationToken)
    {
        MemoryNeed.Require("A cell of this shape", bytes, device, "Choose a smaller batch, length or width.");
        // What libtorch and the runtime set up once is no part of the cell's memory.
        using (var scope = NewDisposeScope())
        {
            Pass(inputs(Math.Min(length, 256)), forward, backward: true);
        }

        var memory = new MemoryGrowth(device);
        var first = inputs(length);
        Pass(first, forward, backward: false);
        var forwardPeak = memory.Bytes;
        Pass(first, forward, backward: true);
        var trainingPeak = memory.Bytes;

        // More than a cache holds: in a model the cell's inputs have just come from memory too.
        const double cache = 256e6;
        Tensor[][] sets = [first, .. Enumerable.Range(1, (int)Math.Clamp(cache / bytes, 1, 7)).Select(_ => inputs(length))];
        var (forwardSeconds, _) = Median(k => Pass(sets[k % sets.Length], forward, backward: false), task, device, cancellationToken);
        var (trainingSeconds, count) = Median(k => Pass(sets[k % sets.Length], forward, backward: true), task, device, cancellationToken);
        return new()
        {
            ForwardSeconds = forwardSeconds,
            TrainingSeconds = trainingSeconds,
            ForwardPeak = forwardPeak,
            TrainingPeak = trainingPeak,
            Repetitions = count,
        };
    }

    /// <summary>Forward without a gradient, or forward and backward from the last of the inputs.</summary>
    private static void Pass(Tensor[] inputs, Func<Tensor[], Tensor> forward, bool backward)
    {
        using var scope = NewDisposeScope();
        if (!backward)
        {
            using var none = no_grad();
            forward(inputs);
            return;
        }

        var leaves = inputs[..^1].Select(t => t.detach().requires_grad_()).ToArray();

        // Into the leaves the engine would copy what a pass of ours returns, which PyTorch's hands over.
        autograd.grad([forward(leaves)], leaves, [inputs[^1]], allow_unused: true);
    }

    private static (double Seconds, int Count) Median(
        Action<int> operation, WorkTask task, Device device, CancellationToken cancellationToken)
    {
        var calls = 0;
        return device.type == DeviceType.CUDA
            ? Rates.MedianOnGpu(operation, Math.Max(0, device.index), task.MinSeconds, task.Repetitions, cancellationToken)
            : Rates.Median(() => operation(calls++), task.MinSeconds, task.Repetitions, cancellationToken);
    }

    private static BenchResult Training(
        TrainingWork work, WorkTask task, Device device, ScalarType type, CancellationToken cancellationToken)
    {
        if (work.ByHost)
        {
            // The process is this row's own.
            Environment.SetEnvironmentVariable(CudaGraph.Variable, "off");
        }

        var config = BenchModels.ByName(work.Preset);
        var training = new TrainingConfig
        {
            Steps = 1_000_000,
            BatchSize = work.Batch,
            ContextLength = work.Context,
            StatisticsEvery = 0,
            ComputeType = type,
        };
        TrainingMemory.Require(config, training, device);
        var memory = new MemoryGrowth(device);
        var pace = new Pace(work.Runs, task, device);
        var members = Enumerable.Range(0, work.Runs).Select(run => new GroupMember($"run {run + 1}", config, training, token =>
        {
            using var model = config.CreateModel(seed: run);
            model.to(device);
            return new Trainer(model, training, RandomTokens(config.VocabularySize, work.Batch, work.Context), [], runFolder: null)
            {
                Hooks = new() { AfterStep = moment => pace.Look(run, moment) },
            }.Run(token);
        })).ToArray();
        var outcomes = TrainingGroup.Run(members, work.Runs, cancellationToken);
        cancellationToken.ThrowIfCancellationRequested();
        if (outcomes.FirstOrDefault(o => o.Failure is not null) is { Failure: { } failure })
        {
            throw new InvalidOperationException(failure.Message, failure);
        }

        return new() { TrainingSeconds = pace.Seconds, TrainingPeak = memory.Bytes, Repetitions = pace.Rounds, Profile = pace.Profile };
    }

    private static BenchResult Prefill(PrefillWork work, WorkTask task, Device device, ScalarType type, CancellationToken cancellationToken)
    {
        Require(work.Preset, work.Batch, work.Length, device);
        var memory = new MemoryGrowth(device);
        using var model = BenchModels.Untrained(BenchModels.ByName(work.Preset), device, type);
        using var scope = NewDisposeScope();
        using var mode = inference_mode();
        var prompts = randint(0, model.VocabularySize, [work.Batch, work.Length], dtype: int64, device: device);
        var ends = (arange(1, work.Batch + 1, dtype: int64, device: device) * work.Length) - 1; // where the next token is asked for
        void Read()
        {
            using var pass = NewDisposeScope();
            model.Forward(prompts, returnState: true, positions: ends).State!.Dispose();
        }

        var (seconds, count) = Median(_ => Read(), task, device, cancellationToken);
        return new() { ForwardSeconds = seconds, TrainingPeak = memory.Bytes, Repetitions = count, Profile = Profile(task, device, Read) };
    }

    /// <summary>Where the time goes of the same work once more, if that was asked for.</summary>
    private static StepProfile? Profile(WorkTask task, Device device, Action work)
    {
        if (!task.Profiles)
        {
            return null;
        }

        Wait(device);
        var cupti = Cupti.Begin();
        var watch = Stopwatch.StartNew();
        for (var step = 0; step < ProfiledSteps; step++)
        {
            work();
        }

        Wait(device);
        return cupti.End(watch.Elapsed.TotalSeconds, ProfiledSteps);
    }

    private static BenchResult Decode(DecodeWork work, WorkTask task, Device device, ScalarType type, CancellationToken cancellationToken)
    {
        const int prompt = 16, warmUp = 8, rehearsals = 2;
        Require(work.Preset, work.Batch, prompt, device);
        var memory = new MemoryGrowth(device);
        using var model = BenchModels.Untrained(BenchModels.ByName(work.Preset), device, type);
        using var scope = NewDisposeScope();
        using var mode = inference_mode();
        var (token, state) = Next(model, randint(0, model.VocabularySize, [work.Batch, prompt], dtype: int64, device: device), null);
        using var step = XlstmTokenStep.Of(model, work.Weights ?? WeightFormat.Float32);
        if (work.IsOwnOnly && (step?.Serves(work.Batch) != true || work.States is not null)
            && !(RecordedTokenStep.MayRecord(model) && XlstmGpuStep.MayRead(model, work.Batch, work.States ?? StateFormat.Float32)))
        {
            throw new InvalidOperationException(
                $"{work.Weights} weights and {work.States} states are for xLSTMs in float32 on the CPU, of up to {XlstmTokenStep.MostRows} "
                + $"sequences, and in the 7B's shape in bf16 on a GPU, of up to {TokenStepKernels.MostSequences}.");
        }

        // What generation reads tokens by, where it can: loops of its own on the CPU, a graph on a GPU.
        ITokenSteps? steps = step?.Serves(work.Batch) == true ? new TokenSteps(step, token, state) : null;
        var watch = new Stopwatch();
        var times = new List<double>();
        using var process = Process.GetCurrentProcess();
        var processor = TimeSpan.Zero;
        var count = -warmUp;
        while (count < task.Repetitions || watch.Elapsed.TotalSeconds < task.MinSeconds)
        {
            cancellationToken.ThrowIfCancellationRequested();
            if (count == rehearsals - warmUp && steps is null && RecordedTokenStep.MayRecord(model))
            {
                steps = RecordedSteps.Of(model, token, state, work.Weights ?? WeightFormat.Float32, work.States ?? StateFormat.Float32);
            }

            if (count == 0)
            {
                Wait(device);
                processor = process.TotalProcessorTime;
                watch.Start();
            }

            var start = Stopwatch.GetTimestamp();
            Step();
            if (count++ >= 0)
            {
                times.Add(Stopwatch.GetElapsedTime(start).TotalSeconds);
            }

            // Without a look from time to time the launches, and so the clock, run ahead of the device.
            if (count % 32 == 0)
            {
                Wait(device);
            }
        }

        Wait(device);

        // On a GPU the host runs ahead of what it has launched.
        times.Sort();
        var seconds = device.type == DeviceType.CUDA ? watch.Elapsed.TotalSeconds / count : times[times.Count / 2];
        var peak = memory.Bytes;
        process.Refresh();
        processor = process.TotalProcessorTime - processor;
        var profile = Profile(task, device, Step);
        var bytes = steps is TokenSteps ? TokenBytesOf(step!, state, processor.TotalSeconds / count, cancellationToken)
            : work.Weights is not null && steps is RecordedSteps { WeightBytes: { } read } recorded ? new(read, recorded.StateBytes)
            : null;
        state.Dispose();
        steps?.Dispose();
        return new() { ForwardSeconds = seconds, TrainingPeak = peak, Repetitions = count, Profile = profile, TokenBytes = bytes };

        void Step()
        {
            if (steps is not null)
            {
                steps.Next();
                return;
            }

            var (readToken, readState) = (token, state);
            (token, state) = Next(model, readToken, readState);
            readToken.Dispose();
            readState.Dispose();
        }
    }

    private static TokenBytes TokenBytesOf(XlstmTokenStep step, ModelState state, double processor, CancellationToken cancellationToken)
    {
        const double seconds = 0.5;
        var bytes = step.WeightBytes;
        return new(
            bytes, StateBytes(state), Rates.MemoryRead(bytes, get_num_threads(), seconds, cancellationToken),
            processor);
    }

    private static long StateBytes(ModelState state) => state.Tensors.Values.Sum(t => t.NumberOfElements * sizeof(float));

    /// <summary>Refuses prompts whose tokens and stream alone do not fit into memory.</summary>
    internal static void Require(string preset, int batch, int length, Device device)
    {
        var config = BenchModels.ByName(preset);
        MemoryNeed.RequireModel(config);
        MemoryNeed.Require(
            string.Create(CultureInfo.InvariantCulture, $"Reading {batch:N0} x {length:N0} tokens"),
            (double)batch * length * (sizeof(long) + 2.0 * config.EmbeddingDim),
            device,
            "Choose fewer or shorter prompts.");
    }

    /// <summary>The most likely next token of each row, [B, 1] on the device, and the state after what was read.</summary>
    private static (Tensor Token, ModelState State) Next(LanguageModel model, Tensor tokens, ModelState? state)
    {
        using var scope = NewDisposeScope();
        var (logits, last) = model.Forward(tokens, state, returnState: true);
        return (logits.select(1, -1).argmax(-1, keepdim: true).MoveToOuterDisposeScope(), last!);
    }

    /// <summary>Random tokens: a step takes the same time whatever they are.</summary>
    internal static PackedTokens RandomTokens(int vocabulary, int batch, int context)
    {
        var draw = new Random(1);
        var documents = Enumerable.Range(0, 16)
            .Select(_ =>
                Enumerable.Range(0, (int)Math.Min(1 << 28, 2 + (long)batch * context / 8))
                    .Select(t => t == 0 ? vocabulary - 1 : draw.Next(vocabulary - 1)).ToArray())
            .ToArray();
        return new(documents, vocabulary - 1, context);
    }

    /// <summary>Waits until a GPU has done what it was given.</summary>
    internal static void Wait(Device device)
    {
        if (device.type == DeviceType.CUDA)
        {
            cuda.synchronize(device);
        }
    }

    /// <summary>Measures how long a round takes, a step of every run, once all runs are warm, and then stops them.</summary>
    /// <remarks>
    /// Metrics may come some steps late, by as many at the start as at the end: between both lie whole steps. A run alone waits for the
    /// device at both ends; of several none may, since it would wait for the others.
    /// </remarks>
    private sealed class Pace(int runs, WorkTask task, Device device)
    {
        private const int WarmUp = 5;

        private readonly Lock _gate = new();
        private readonly Stopwatch _watch = new();
        private readonly int[] _steps = new int[runs];
        private int _first;
        private int _last;
        private double _seconds;
        private Cupti? _cupti;

        public StepProfile? Profile { get; private set; }

        public double Seconds => _seconds * runs / (_last - _first);

        public int Rounds => (_last - _first) / runs;

        public void Look(int run, TrainingMoment moment)
        {
            lock (_gate)
            {
                _steps[run] = moment.Metrics.Step;
                if (_last > 0)
                {
                    if (_cupti is not null && _steps[run] < _last + ProfiledSteps)
                    {
                        return;
                    }

                    if (_cupti is not null)
                    {
                        Wait(device);
                        Profile = _cupti.End(_watch.Elapsed.TotalSeconds, ProfiledSteps);
                        _cupti = null;
                    }

                    moment.Stop();
                    return;
                }

                var steps = _steps.Sum();
                if (_steps.Min() < WarmUp
                    || (_watch.IsRunning && (steps < _first + task.Repetitions * runs || _watch.Elapsed.TotalSeconds < task.MinSeconds)))
                {
                    return;
                }

                if (runs == 1)
                {
                    Wait(device);
                }

                if (!_watch.IsRunning)
                {
                    _first = steps;
                    _watch.Start();
                    return;
                }

                _watch.Stop();
                _last = steps;
                _seconds = _watch.Elapsed.TotalSeconds;
                if (!task.Profiles)
                {
                    moment.Stop();
                    return;
                }

                _cupti = Cupti.Begin();
                _watch.Restart();
            }
        }
    }

    /// <summary>Tokens of a few sequences read one after the other, each the likeliest after the last.</summary>
    private interface ITokenSteps : IDisposable
    {
        /// <summary>Reads the next token of each row and chooses those after them.</summary>
        void Next();
    }

    /// <summary>By the loops of a step of its own on the CPU.</summary>
    private sealed class TokenSteps : ITokenSteps
    {
        private readonly XlstmTokenStep _step;
        private readonly ModelState _state;
        private readonly StepState _places;
        private readonly int[] _tokens;

        /// <summary>Begins with tokens [B, 1] behind a state, which stays as it is.</summary>
        public TokenSteps(XlstmTokenStep step, Tensor tokens, ModelState state)
        {
            _step = step;
            (_state, _places) = step.Own(state);
            _tokens = [.. tokens.data<long>().ToArray().Select(id => (int)id)];
        }

        public void Next()
        {
            var logits = _step.Read(_tokens, _places);
            var vocabulary = logits.Length / _tokens.Length;
            for (var r = 0; r < _tokens.Length; r++)
            {
                _tokens[r] = TensorPrimitives.IndexOfMax(logits.Slice(r * vocabulary, vocabulary));
            }
        }

        /// <inheritdoc/>
        public void Dispose() => _state.Dispose();
    }

    /// <summary>
    /// The same by a graph of the GPU, which chooses the tokens too; the host reads their ids a few tokens later, as in a generation.
    /// </summary>
    private sealed class RecordedSteps : ITokenSteps
    {
        /// <summary>The tokens that a state which grows with them has room for; behind those it begins anew.</summary>
        private const long Room = 256;

        private readonly RecordedTokenStep _step;
        private readonly ModelState _state;
        private readonly StateRoom? _room;

        /// <summary>Where keys and values go, and what is seen of them, before the first token.</summary>
        private readonly ModelState? _begin;
        private readonly long _filled;

        private RecordedSteps(RecordedTokenStep step, ModelState state, StateRoom? room, ModelState? begin)
        {
            (_step, _state, _room, _begin, _filled) = (step, state, room, begin, room?.Filled ?? 0);
        }

        /// <summary>The bytes of weights that a token reads; null where they are the model's own.</summary>
        public long? WeightBytes => _step.WeightBytes;

        /// <summary>Those of its state.</summary>
        public long StateBytes => _state.SizeInBytes;

        /// <summary>Begins with tokens [B, 1] behind a state, which stays as it is; null where the host starts every kernel.</summary>
        public static RecordedSteps? Of(LanguageModel model, Tensor tokens, ModelState state, WeightFormat weights, StateFormat states)
        {
            var own = state.Clone();
            var room = StateRoom.Enter(model, own, Room);
            own = room?.State ?? own;
            var begin = room is null ? null : new ModelState(
                StateRoom.EndOf(own).Select(pair => KeyValuePair.Create(pair.Key, pair.Value.clone())));
            var (next, after) = WorkBench.Next(model, tokens, own);
            next.Dispose();
            bool keepsForm;
            using (after)
            {
                keepsForm = RecordedTokenStep.KeepsForm(own, after);
            }

            if (states != StateFormat.Float32)
            {
                using var wide = own;
                own = states.Keep(wide);
            }

            if (keepsForm && RecordedTokenStep.Of(model, new(model), own, model.VocabularySize, weights) is { } step)
            {
                var greedy = new TokenChoiceRow { Mode = TokenChoiceMode.Greedy, Repetition = 1 };
                step.Choice.Set([.. Enumerable.Repeat(greedy, (int)tokens.shape[0])]);
                step.Write(tokens.cpu().data<long>().ToArray());
                return new(step, own, room?.Room, begin);
            }

            own.Dispose();
            begin?.Dispose();
            return null;
        }

        /// <inheritdoc/>
        public void Next()
        {
            if (_room is { Left: 0 })
            {
                Rewind();
            }

            _step.Start();
            if (_room is not null)
            {
                _room.Filled++;
            }

            if (_step.Choice.Choices.Pending == RecordedTokenStep.MostAhead)
            {
                _ = _step.Choice.Choices.Take();
            }
        }

        /// <inheritdoc/>
        public void Dispose()
        {
            _step.Dispose();
            _state.Dispose();
            _begin?.Dispose();
        }

        /// <summary>Forgets the tokens that were read here: what nobody sees is as good as not there.</summary>
        private void Rewind()
        {
            while (_step.Choice.Choices.Pending > 0)
            {
                _ = _step.Choice.Choices.Take();
            }

            _room!.Filled = _filled;
            foreach (var (name, tensor) in _begin!.Tensors)
            {
                _state[name].copy_(tensor);
            }
        }
    }
}
