using System.Runtime.InteropServices;
using TorchSharp;
using XlstmLab.Native;
using XlstmLab.Native.Cuda;
using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>
/// One parameter as <see cref="AdamWKernel"/> updates it: float32 tensors of one shape, contiguous. Without moments it counts for the norm,
/// and another optimiser updates it.
/// </summary>
internal sealed record AdamWParameter(Tensor Weight, Tensor? Mean, Tensor? Square, bool Decays, Tensor? Average = null);

/// <summary>What one step of <see cref="AdamWKernel"/> takes; as the source has it.</summary>
[StructLayout(LayoutKind.Sequential)]
internal readonly record struct AdamWSettings
{
    public required double Rate { get; init; }

    public double Beta1 { get; init; }

    public double Beta2 { get; init; }

    public double Epsilon { get; init; }

    public double Decay { get; init; }

    /// <summary>The greatest norm that gradients are left with; 0 for any.</summary>
    public double Clip { get; init; }

    /// <summary>The loss beyond which no update is made; 0 for any finite one.</summary>
    public double LossLimit { get; init; }

    /// <summary>The gradients' norm beyond which no update is made; 0 for any finite one.</summary>
    public double NormLimit { get; init; }

    /// <summary>The share of the running average of weights that an update keeps.</summary>
    public double AverageDecay { get; init; }
}

/// <summary>How the last step went, and all before it; as the source has it.</summary>
[StructLayout(LayoutKind.Sequential)]
internal readonly record struct AdamWRecord
{
    public double Loss { get; init; }

    public double Norm { get; init; }

    public long Updates { get; init; }

    public long Skipped { get; init; }

    public long SkippedInARow { get; init; }

    public long Applied { get; init; }
}

/// <summary>
/// AdamW in three launches for all parameters together: the gradients' norm, its clipping, and the update unless loss or norm forbid it,
/// without a word to the host.
/// </summary>
internal sealed class AdamWKernel : IDisposable
{
    private const string Source = "AdamW.cu";
    private const int Block = 4096; // elements
    private const int Threads = 256;
    private const int PrepareThreads = 1024;
    private const int SegmentWords = 8;
    private const int GradientWord = 1;
    private const int CopyWord = 4;
    internal const int RuleWords = 10;

    private static readonly string[] Defines =
    [
        $"BLOCK={Block}", $"THREADS={Threads}", $"PREPARE_THREADS={PrepareThreads}",
        $"SEGMENT_BYTES={8 * SegmentWords}", $"RULE_BYTES={4 * RuleWords}",
        $"SETTINGS_BYTES={Marshal.SizeOf<AdamWSettings>()}", $"RECORD_BYTES={Marshal.SizeOf<AdamWRecord>()}",
    ];

    private readonly AdamWParameter[] _parameters;
    private readonly TrainedProducts? _products;
    private readonly Device _device;
    private readonly Tensor _owners;
    private readonly DeviceInput<long> _segments;
    private readonly Tensor _partials;
    private readonly DeviceInput<double> _settings;
    private readonly Tensor _record;
    private readonly Tensor _rule;
    private readonly long[] _table;
    private AdamWSettings? _written;

    /// <summary>A table of the parameters.</summary>
    /// <param name="parameters">All on one device, each beginning at a multiple of 16 bytes.</param>
    /// <param name="products">Whose copies of the weights are written too, or null.</param>
    public AdamWKernel(IEnumerable<AdamWParameter> parameters, TrainedProducts? products = null)
    {
        (_parameters, _products) = ([.. parameters], products);
        using var scope = NewDisposeScope();
        _device = _parameters[0].Weight.device;
        _table = new long[SegmentWords * _parameters.Length];
        var owners = new List<int>();
        for (var k = 0; k < _parameters.Length; k++)
        {
            var parameter = _parameters[k];
            var count = parameter.Weight.NumberOfElements;
            long[] words =
            [
                Address(parameter.Weight), 0, Address(parameter.Mean), Address(parameter.Square), 0, Address(parameter.Average),
                count, owners.Count + (parameter.Decays ? 1L << 32 : 0),
            ];
            words.CopyTo(_table, SegmentWords * k);
            owners.AddRange(Enumerable.Repeat(k, (int)((count + Block - 1) / Block)));
        }

        _owners = tensor(owners, ScalarType.Int32, _device).DetachFromDisposeScope();
        _segments = NewTable();
        _partials = empty(owners.Count, ScalarType.Float64, _device).DetachFromDisposeScope();
        _settings = new(ScalarType.Float64, _device, Marshal.SizeOf<AdamWSettings>() / 8);
        _record = zeros(Marshal.SizeOf<AdamWRecord>() / 8, ScalarType.Int64, _device).DetachFromDisposeScope();
        _rule = zeros(RuleWords, ScalarType.Float32, _device).DetachFromDisposeScope();
    }

    /// <summary>Has the kernels compiled (<see cref="Kernel.Prepare"/>).</summary>
    /// <param name="on">A tensor on the device.</param>
    public static void Prepare(Tensor on) => Kernel.Prepare(
        true, () => Kernel.Launch(Source, "adamw_update", Defines, new(1, Threads), on));

    /// <summary>The numbers of the update that was prepared last, as <c>UpdateRule.cuh</c> has them.</summary>
    public Tensor Rule => _rule;

    /// <summary>What <see cref="Tell"/> told, as <c>UpdateRule.cuh</c> has it.</summary>
    public Tensor Settings => _settings.Values;

    /// <summary>How the steps went; the only method that waits for the device.</summary>
    public AdamWRecord Last
    {
        get
        {
            using var scope = NewDisposeScope();
            return MemoryMarshal.Cast<long, AdamWRecord>(_record.cpu().data<long>().ToArray())[0];
        }

        set
        {
            using var noGrad = no_grad();
            using var values = tensor(MemoryMarshal.Cast<AdamWRecord, long>([value]).ToArray(), device: CPU).ToDevice(_device);
            _record.copy_(values);
        }
    }

    /// <summary>One step from the parameters' gradients; a parameter without one is left as it is.</summary>
    /// <param name="settings">The step's numbers.</param>
    /// <param name="loss">[] float64, the step's loss, or null.</param>
    public void Step(AdamWSettings settings, Tensor? loss = null)
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        if (FindTensors(_table) || _written is null)
        {
            _segments.Write(_table);
        }

        Tell(settings);
        Launch(_segments.Values, loss);
    }

    /// <summary>
    /// Behind a step, when the parameters without moments have been updated by others: their copies and averages.
    /// </summary>
    /// <param name="table">The table of a graph that is being recorded (<see cref="Record"/>), else null.</param>
    public void Adopt(DeviceInput<long>? table = null) => Kernel.Launch(
        Source, "adamw_adopt", Defines, new(_owners.shape[0], Threads), _partials, (table ?? _segments).Values, _owners, _rule);

    /// <summary>The numbers of all steps from here on.</summary>
    public void Tell(AdamWSettings settings)
    {
        if (_written != settings)
        {
            _settings.Write(MemoryMarshal.Cast<AdamWSettings, double>([settings]));
            _written = settings;
        }
    }

    /// <summary>A table for <see cref="Record"/>.</summary>
    public DeviceInput<long> NewTable() => new(ScalarType.Int64, _device, _table.Length);

    /// <summary>The step of a graph that is being recorded. Before each start <see cref="Tell"/> tells its numbers.</summary>
    /// <param name="table">
    /// The graph's own, filled here, to be sent when the recording is over: in a graph, gradients lie where they lie now.
    /// </param>
    /// <param name="loss">[] float64, the step's loss.</param>
    public void Record(DeviceInput<long> table, Tensor loss)
    {
        _table.CopyTo(table.Next());
        FindTensors(table.Next());
        Launch(table.Values, loss);
    }

    /// <summary>Asks for <see cref="Last"/> as it is when the device gets here, without waiting for it.</summary>
    /// <returns>Waits for the record; to be called once.</returns>
    public Func<AdamWRecord> ReadLater()
    {
        using var scope = NewDisposeScope();
        if (_device.type == DeviceType.CPU)
        {
            var now = Last;
            return () => now;
        }

        var host = empty(_record.shape, ScalarType.Int64, CPU).pin_memory().DetachFromDisposeScope();
        host.copy_(_record, true);
        CudaDriver.Check(CudaDriver.cuEventCreate(out var arrival, CudaDriver.EventWithoutTiming), "make an event");
        CudaDriver.Check(CudaDriver.cuEventRecord(arrival, CudaStream.CurrentHandle(Math.Max(0, _device.index))), "record an event");
        return () =>
        {
            using (host)
            {
                CudaDriver.Check(CudaDriver.cuEventSynchronize(arrival), "train: a kernel failed, or the device ran out of memory");
                _ = CudaDriver.cuEventDestroy(arrival);
                return MemoryMarshal.Cast<long, AdamWRecord>(host.data<long>().ToArray())[0];
            }
        };
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (var held in new IDisposable[] { _owners, _segments, _partials, _settings, _record, _rule })
        {
            held.Dispose();
        }
    }

    /// <summary>Notes where gradients and copies lie, and says whether one lies elsewhere than was noted.</summary>
    private bool FindTensors(Span<long> table)
    {
        var changed = false;
        for (var k = 0; k < _parameters.Length; k++)
        {
            using var gradient = _parameters[k].Weight.grad;
            var words = table.Slice(SegmentWords * k, SegmentWords);
            var (gradientAddress, copyAddress) = (Address(gradient), Address(_products?.CopyOf(_parameters[k].Weight)));
            changed |= words[GradientWord] != gradientAddress || words[CopyWord] != copyAddress;
            (words[GradientWord], words[CopyWord]) = (gradientAddress, copyAddress);
        }

        return changed;
    }

    private void Launch(Tensor segments, Tensor? loss)
    {
        var blocks = _owners.shape[0];
        Kernel.Launch(Source, "squared_sums", Defines, new(blocks, Threads, Threads / 4), _partials, segments, _owners, _partials);
        Kernel.Launch(
            Source, "adamw_prepare", Defines, new(1, PrepareThreads, PrepareThreads / 4), _partials,
            _partials, loss, _settings.Values, _record, _rule, (int)blocks);
        Kernel.Launch(Source, "adamw_update", Defines, new(blocks, Threads), _partials, segments, _owners, _rule);
    }

    private static long Address(Tensor? tensor) => tensor is null ? 0 : Kernel.Address(tensor);
}
