using System.Numerics;
using System.Text.Json.Serialization;
using TorchSharp.Modules;
using XlstmLab.Layers;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Mixers;

/// <summary>An LSTM layer (Hochreiter and Schmidhuber 1997) of the width of what it reads.</summary>
public sealed record LstmMixerConfig : MixerConfig
{
    /// <inheritdoc/>
    public override string Kind => "lstm";

    /// <summary>The forget gates' bias as it is made (Jozefowicz et al. 2015: 1).</summary>
    [JsonPropertyName("forget_gate_bias")]
    public double ForgetGateBias { get; init; } = 1;

    /// <inheritdoc/>
    public override IReadOnlyList<string> Observables => ["h"];

    /// <inheritdoc/>
    public override Mixer Create(MixerSite site) => new LstmMixer(this, site);

    /// <inheritdoc/>
    public override void Validate(MixerSite site)
    {
        var faults = new ConfigFaults();
        faults.Require(double.IsFinite(ForgetGateBias), $"forget_gate_bias is {ForgetGateBias}; expected a finite number");
        faults.Throw();
    }

    /// <inheritdoc/>
    public override BigInteger CountParameters(MixerSite site) => 8 * (BigInteger)site.Width * (site.Width + 1L);

    /// <inheritdoc/>
    /// <remarks>The gates' nonlinearities and products are not counted.</remarks>
    public override double ForwardFlopsPerToken(MixerSite site, long length) => 16.0 * site.Width * site.Width;

    /// <inheritdoc/>
    public override BigInteger StateBytes(MixerSite site, long length) => (BigInteger)8 * site.Width;
}

/// <summary>
/// A GRU layer (Cho et al. 2014) of the width of what it reads, torch's own: its reset gate acts behind the recurrent product.
/// </summary>
public sealed record GruMixerConfig : MixerConfig
{
    /// <inheritdoc/>
    public override string Kind => "gru";

    /// <inheritdoc/>
    public override IReadOnlyList<string> Observables => ["h"];

    /// <inheritdoc/>
    public override Mixer Create(MixerSite site) => new GruMixer(site);

    /// <inheritdoc/>
    public override BigInteger CountParameters(MixerSite site) => 6 * (BigInteger)site.Width * (site.Width + 1L);

    /// <inheritdoc/>
    /// <remarks>The gates' nonlinearities and products are not counted.</remarks>
    public override double ForwardFlopsPerToken(MixerSite site, long length) => 12.0 * site.Width * site.Width;

    /// <inheritdoc/>
    public override BigInteger StateBytes(MixerSite site, long length) => (BigInteger)4 * site.Width;
}

/// <summary>torch's own LSTM, in float32 or wider whatever the type of the activations.</summary>
internal sealed class LstmMixer : Mixer
{
    private readonly LSTM _lstm;
    private readonly int _dim;
    private readonly double _forgetGateBias;

    public LstmMixer(LstmMixerConfig config, MixerSite site)
        : base(nameof(LstmMixer))
    {
        (_dim, _forgetGateBias) = (site.Width, config.ForgetGateBias);
        _lstm = Parameters.Undrawn(() => nn.LSTM(_dim, _dim, batchFirst: true));
        this.Register(("lstm", _lstm));
    }

    public override Tensor Forward(Tensor x, Tensor convolved, MixerPass pass) =>
        LstmPiece.Read(convolved, pass, ["h", "c"], (piece, state) =>
        {
            var (y, h, c) = _lstm.call(piece, (state[0].unsqueeze(0).contiguous(), state[1].unsqueeze(0).contiguous()));
            return (y, [h.squeeze(0), c.squeeze(0)]);
        });

    /// <summary>
    /// Weights uniform between -1/sqrt(d) and 1/sqrt(d), as torch draws them, and biases of 0 but the forget gates', whatever the standard
    /// deviations.
    /// </summary>
    public override void Initialize(double inputStd, double outputStd, Generator generator)
    {
        using var grad = no_grad();
        LstmPiece.Draw(_lstm, _dim, generator);
        _lstm.get_parameter("bias_ih_l0")!.narrow(0, _dim, _dim).fill_(_forgetGateBias); // gates are in the order i, f, g, o
    }

    /// <summary>Registered by hand.</summary>
    protected override void RegisterComponents()
    {
    }
}

/// <summary>torch's own GRU, in float32 or wider whatever the type of the activations.</summary>
internal sealed class GruMixer : Mixer
{
    private readonly GRU _gru;
    private readonly int _dim;

    public GruMixer(MixerSite site)
        : base(nameof(GruMixer))
    {
        _dim = site.Width;
        _gru = Parameters.Undrawn(() => nn.GRU(_dim, _dim, batchFirst: true));
        this.Register(("gru", _gru));
    }

    public override Tensor Forward(Tensor x, Tensor convolved, MixerPass pass) =>
        LstmPiece.Read(convolved, pass, ["h"], (piece, state) =>
        {
            var (y, h) = _gru.call(piece, state[0].unsqueeze(0).contiguous());
            return (y, [h.squeeze(0)]);
        });

    /// <summary>As the LSTM's, with all biases 0.</summary>
    public override void Initialize(double inputStd, double outputStd, Generator generator)
    {
        using var grad = no_grad();
        LstmPiece.Draw(_gru, _dim, generator);
    }

    /// <summary>Registered by hand.</summary>
    protected override void RegisterComponents()
    {
    }
}

/// <summary>A stretch of a batch in which no document starts but at its beginning, and each row is all tokens or all padding.</summary>
/// <param name="Start">Its first position.</param>
/// <param name="Length">Its number of positions.</param>
/// <param name="Starts">[B, 1] bool, the rows where a document starts at its beginning; null for none.</param>
/// <param name="Absent">[B, 1] bool, the rows that are padding; null for none.</param>
internal sealed record LstmPiece(long Start, long Length, Tensor? Starts, Tensor? Absent)
{
    /// <summary>Cuts a batch, which takes one look at the layout wherever it is; tensors are in the caller's dispose scope.</summary>
    public static List<LstmPiece> Cut(SequenceLayout? layout, long length)
    {
        var (starts, padding) = (Columns(layout?.DocumentStarts), Columns(layout?.Padding));
        var cuts = new List<long>();
        for (var t = 0; t < length; t++)
        {
            if (t == 0 || starts?[t].Contains(true) == true || (padding is not null && !padding[t].AsSpan().SequenceEqual(padding[t - 1])))
            {
                cuts.Add(t);
            }
        }

        cuts.Add(length);
        return
        [
            .. cuts.Zip(cuts.Skip(1), (from, to) => new LstmPiece(
                from,
                to - from,
                starts?[from].Contains(true) == true ? layout!.DocumentStarts!.narrow(1, from, 1) : null,
                padding?[from].Contains(true) == true ? layout!.Padding!.narrow(1, from, 1) : null)),
        ];
    }

    /// <summary>Reads a sequence stretch by stretch with a layer that knows neither documents nor padding.</summary>
    /// <param name="x">[B, S, d].</param>
    /// <param name="pass">Where the memory comes from and goes to.</param>
    /// <param name="names">The names of the memory, each [B, d].</param>
    /// <param name="layer">Reads a stretch [B, s, d] from a memory: its outputs, and the memory behind it.</param>
    /// <returns>[B, S, d] in the type of x.</returns>
    public static Tensor Read(Tensor x, MixerPass pass, string[] names, Func<Tensor, Tensor[], (Tensor Y, Tensor[] Next)> layer)
    {
        var wide = x.Widened();
        var state = Array.ConvertAll(
            names, name => pass.Before(name)?.to(wide.dtype) ?? zeros(x.shape[0], x.shape[2], dtype: wide.dtype, device: x.device));
        var outputs = new List<Tensor>();
        foreach (var piece in pass.Work.Pieces(x.shape[1]))
        {
            if (piece.Starts is { } starts)
            {
                state = Array.ConvertAll(state, s => s.masked_fill(starts, 0.0));
            }

            var (y, next) = layer(wide.narrow(1, piece.Start, piece.Length).contiguous(), state);
            state = piece.Absent is { } absent ? [.. next.Zip(state, (to, from) => where(absent, from, to))] : next;
            outputs.Add(y);
        }

        for (var n = 0; n < names.Length; n++)
        {
            pass.Keep(names[n], state[n].alias());
        }

        var h = (outputs.Count == 1 ? outputs[0] : cat(outputs, 1)).to(x.dtype);
        pass.Observe?.Invoke("h", h);
        return h;
    }

    /// <summary>Weights uniform between -1/sqrt(d) and 1/sqrt(d), and biases of 0.</summary>
    public static void Draw(nn.Module layer, int dim, Generator generator)
    {
        var bound = 1 / Math.Sqrt(dim);
        foreach (var (name, parameter) in layer.named_parameters())
        {
            _ = name.StartsWith("weight", StringComparison.Ordinal) ? parameter.uniform_(-bound, bound, generator) : parameter.zero_();
        }
    }

    /// <summary>The mask of all rows at each position.</summary>
    private static bool[][]? Columns(Tensor? mask)
    {
        if (mask is null)
        {
            return null;
        }

        using var scope = NewDisposeScope();
        var rows = (int)mask.shape[0];
        var values = mask.t().contiguous().cpu().data<bool>().ToArray();
        return [.. Enumerable.Range(0, (int)mask.shape[1]).Select(t => values.AsSpan(t * rows, rows).ToArray())];
    }
}
