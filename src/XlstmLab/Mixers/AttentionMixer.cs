using System.Numerics;
using System.Text.Json.Serialization;
using TorchSharp.Utils;
using XlstmLab.Layers;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Mixers;

/// <summary>Causal softmax attention with rotary positions, in which groups of heads share keys and values (Ainslie et al. 2023).</summary>
public record AttentionMixerConfig : MixerConfig
{
    /// <inheritdoc/>
    public override string Kind => "attention";

    /// <summary>The number of heads that ask, NH; null for that of the model.</summary>
    [JsonPropertyName("num_heads")]
    public int? HeadCount { get; init; }

    /// <summary>The number of heads with keys and values, NKV, each for NH / NKV heads that ask; null for NH.</summary>
    [JsonPropertyName("num_key_value_heads")]
    public int? KeyValueHeads { get; init; }

    /// <summary>The width of a head, D; null for d / NH.</summary>
    [JsonPropertyName("head_dim")]
    public int? HeadWidth { get; init; }

    /// <summary>The base of the rotary embedding's wave lengths (Su et al. 2021, eq. 15: 10000).</summary>
    [JsonPropertyName("rope_theta")]
    public double RopeTheta { get; init; } = 10000;

    /// <summary>Whether the projections have biases.</summary>
    [JsonPropertyName("attention_bias")]
    public bool UseBias { get; init; }

    /// <inheritdoc/>
    public override IReadOnlyList<string> Observables => ["q", "k", "v", "attention"];

    /// <inheritdoc/>
    public override Mixer Create(MixerSite site) => new AttentionMixer(this, site);

    /// <inheritdoc/>
    public override void Validate(MixerSite site)
    {
        var faults = new ConfigFaults();
        Check(site, faults);
        faults.Throw();
    }

    /// <inheritdoc/>
    public override BigInteger CountParameters(MixerSite site)
    {
        var (d, q, kv) = Widths(site);
        return 2 * d * (q + kv) + (UseBias ? q + 2 * kv + d : 0);
    }

    /// <inheritdoc/>
    /// <remarks>
    /// The attention counts 4 S D + 3 S a head, causal or not (Hoffmann et al. 2022, appendix F; the convention of the scaling-law paper's
    /// fits), and the rest 2 for each weight.
    /// </remarks>
    public override double ForwardFlopsPerToken(MixerSite site, long length)
    {
        var (d, q, kv) = Widths(site);
        return 4 * (double)d * ((double)q + (double)kv) + Seen(length) * (4 * (double)q + 3.0 * Heads(site));
    }

    /// <inheritdoc/>
    public override BigInteger StateBytes(MixerSite site, long length) => 8 * Widths(site).Kv * length;

    /// <summary>NH.</summary>
    internal int Heads(MixerSite site) => HeadCount ?? site.HeadCount;

    /// <summary>NKV.</summary>
    internal int KvHeads(MixerSite site) => KeyValueHeads ?? Heads(site);

    /// <summary>D.</summary>
    internal int HeadDim(MixerSite site) => HeadWidth ?? site.Width / Heads(site);

    /// <summary>How many keys a token of a sequence sees, counted as all.</summary>
    internal virtual double Seen(long length) => length;

    /// <summary>Notes what is wrong.</summary>
    private protected virtual void Check(MixerSite site, ConfigFaults faults)
    {
        ArgumentNullException.ThrowIfNull(site);
        var (heads, kv) = (Heads(site), KvHeads(site));
        faults.RequireAtLeastOne(("num_heads", heads), ("num_key_value_heads", kv));
        faults.Require(RopeTheta > 0 && double.IsFinite(RopeTheta), $"rope_theta is {RopeTheta}; expected a finite number above 0");
        if (heads >= 1 && kv >= 1)
        {
            faults.Require(heads % kv == 0, $"num_key_value_heads is {kv}; expected a divisor of num_heads {heads}");
            faults.Require(
                HeadWidth is not null || site.Width % heads == 0,
                $"num_heads is {heads}; expected a divisor of the width {site.Width}, or a head_dim");
            faults.Require(
                HeadDim(site) >= 2 && HeadDim(site) % 2 == 0,
                $"head_dim is {HeadDim(site)}; expected an even number of at least 2: channels are rotated in pairs");
        }
    }

    /// <summary>The widths of the stream, of all queries and of all keys.</summary>
    private protected (BigInteger D, BigInteger Q, BigInteger Kv) Widths(MixerSite site) =>
        (site.Width, (BigInteger)Heads(site) * HeadDim(site), (BigInteger)KvHeads(site) * HeadDim(site));
}

/// <summary>
/// Attention to the last tokens of a document alone, its own among them, and to its first ones, the sinks (Beltagy et al. 2020, section
/// 3.1; Xiao et al. 2023). Its memory does not grow beyond them.
/// </summary>
/// <remarks>Positions are those of the document, also between a token and the sinks; Xiao et al. count them within the cache.</remarks>
public record SlidingWindowMixerConfig : AttentionMixerConfig
{
    /// <inheritdoc/>
    public override string Kind => "sliding_window";

    /// <summary>The tokens that a token sees, itself among them, W.</summary>
    [JsonPropertyName("window")]
    public int Window { get; init; } = 512;

    /// <summary>The first tokens of a document, which all others see.</summary>
    [JsonPropertyName("sink_tokens")]
    public int SinkTokens { get; init; } = 4;

    /// <inheritdoc/>
    public override BigInteger StateBytes(MixerSite site, long length) =>
        (8 * Widths(site).Kv + 8) * Math.Min(length, Window - 1L + SinkTokens) + 8;

    /// <inheritdoc/>
    internal override double Seen(long length) => Math.Min(length, (double)Window + SinkTokens);

    /// <inheritdoc/>
    private protected override void Check(MixerSite site, ConfigFaults faults)
    {
        base.Check(site, faults);
        faults.Require(Window >= 1, $"window is {Window}; expected at least 1, the token itself");
        faults.Require(SinkTokens >= 0, $"sink_tokens is {SinkTokens}; expected at least 0");
    }
}

/// <summary>
/// Attention in which groups of heads share keys and values; what is remembered are the keys and values that are still seen.
/// </summary>
internal sealed class AttentionMixer : Mixer
{
    /// <summary>The name of what <see cref="AttentionSpan.Visible"/> says, which all full attentions of a model share.</summary>
    public const string Visible = "visible";

    /// <summary>The name of what <see cref="AttentionSpan.Next"/> says, likewise.</summary>
    public const string Position = "position";

    /// <summary>
    /// The name of what <see cref="AttentionSpan.End"/> says, likewise: only where keys and values have room behind them, in which a pass
    /// writes them.
    /// </summary>
    public const string End = "end";

    /// <summary>The names of what a full attention keeps of every token, [B, NKV, T, D].</summary>
    public static readonly string[] Grows = ["k", "v"];

    [ComponentName(Name = "q_proj")]
    private readonly Dense _q;

    [ComponentName(Name = "k_proj")]
    private readonly Dense _k;

    [ComponentName(Name = "v_proj")]
    private readonly Dense _v;

    [ComponentName(Name = "o_proj")]
    private readonly Dense _out;

    private readonly AttentionHeads _heads;

    public AttentionMixer(AttentionMixerConfig config, MixerSite site)
        : base(nameof(AttentionMixer))
    {
        _heads = new(config, site);
        var (d, q, kv) = (site.Width, config.Heads(site) * config.HeadDim(site), config.KvHeads(site) * config.HeadDim(site));
        _q = new(d, q, config.UseBias);
        _k = new(d, kv, config.UseBias);
        _v = new(d, kv, config.UseBias);
        _out = new(q, d, config.UseBias);
        RegisterComponents();
    }

    public override Tensor Forward(Tensor x, Tensor convolved, MixerPass pass)
    {
        var all = Dense.ForwardTogether(convolved, [_q, _k], x, [_v]);
        var h = _heads.Forward(all[0], all[1], all[2], pass).H; // (B, NH, S, D)
        return _out.Forward(h.transpose(1, 2).flatten(2));
    }

    public override void Initialize(double inputStd, double outputStd, Generator generator)
    {
        using var grad = no_grad();
        foreach (var projection in new[] { _q, _k, _v })
        {
            projection.Weight.normal_(0, inputStd, generator);
        }

        _out.Weight.normal_(0, outputStd, generator);
    }

    /// <inheritdoc/>
    internal override bool SharesState => !_heads.IsWindow;

    /// <summary>Shorter caches are filled up with keys that no token sees.</summary>
    public override IReadOnlyDictionary<string, Tensor> JoinStates(IReadOnlyList<IReadOnlyDictionary<string, Tensor>> states) =>
        _heads.JoinCaches(states) ?? base.JoinStates(states);
}

/// <summary>What every attention is between its projections: rotations, the cache of keys and values, and what is seen of it.</summary>
internal sealed class AttentionHeads(AttentionMixerConfig config, MixerSite site)
{
    private const string Visible = AttentionMixer.Visible;
    private const string Position = AttentionMixer.Position;
    private const string End = AttentionMixer.End;
    private const string WindowAt = "at";
    private const string WindowNext = "next";

    private readonly SlidingWindowMixerConfig? _window = config as SlidingWindowMixerConfig;
    private readonly int _headDim = config.HeadDim(site);
    private readonly int _sharing = config.Heads(site) / config.KvHeads(site);
    private readonly double _theta = config.RopeTheta;

    /// <summary>Whether a token sees the last ones of its document and its first ones alone.</summary>
    public bool IsWindow => _window is not null;

    /// <summary>Mixes a sequence.</summary>
    /// <param name="q">[B, S, NH D].</param>
    /// <param name="k">[B, S, NKV D].</param>
    /// <param name="v">[B, S, NKV D].</param>
    /// <param name="pass">The memory, and where documents start.</param>
    /// <returns>h and the rotated q, [B, NH, S, D], and the rotated k and v of the sequence, [B, NKV, S, D].</returns>
    public (Tensor H, Tensor Q, Tensor K, Tensor V) Forward(Tensor q, Tensor k, Tensor v, MixerPass pass)
    {
        var (keysBefore, valuesBefore) = (pass.Before("k"), pass.Before("v")); // (B, NKV, T, D)
        var end = _window is null ? pass.BeforeShared(End) : null;
        var span = _window is { } window
            ? pass.Work.Window(q, window.Window, window.SinkTokens, pass.Before(WindowAt), pass.Before(WindowNext))
            : end is not null
            ? pass.Work.Room(q, pass.BeforeShared(Visible)!, pass.BeforeShared(Position)!, end)
            : pass.Work.Span(q, keysBefore?.shape[2] ?? 0, pass.BeforeShared(Visible), pass.BeforeShared(Position));
        var (cos, sin) = pass.Work.Angles(span, _headDim, _theta, q.dtype == ScalarType.BFloat16 ? ScalarType.Float32 : q.dtype);
        (q, k, v) = RotaryEmbedding.Rotate(q, k, v, cos, sin, _headDim); // (B, NH, S, D), (B, NKV, S, D), (B, NKV, S, D)
        var (keys, values) = (Behind(keysBefore, k), Behind(valuesBefore, v)); // (B, NKV, T + S, D)
        var h = Attend(q, keys, values, span); // (B, NH, S, D)
        if (pass.ReturnState)
        {
            Keep(pass, span, keys, values);
        }

        if (pass.Observe is { } observe)
        {
            observe("q", q);
            observe("k", k);
            observe("v", v);
            observe("attention", Weights(q, ForEachHead(keys), span));
        }

        return (h, q, k, v);

        Tensor Behind(Tensor? before, Tensor next) => before is null ? next
            : end is not null ? WriteAt(end, before.to(next.dtype), next)
            : pass.ReturnState && _window is null ? TokenRoom.Append(before, next)
            : cat([before.to(next.dtype), next], 2);
    }

    /// <summary>[B, NKV, ...] to [B, NH, ...]: those that heads share, for each of them.</summary>
    public Tensor ForEachHead(Tensor x) => _sharing == 1 ? x : x.unsqueeze(2).expand(-1, -1, _sharing, -1, -1).flatten(1, 2);

    /// <summary>[B, S, N D] to [B, N, S, D].</summary>
    public Tensor SplitHeads(Tensor x) => x.unflatten(2, [-1, _headDim]).transpose(1, 2);

    /// <summary>
    /// As <see cref="Mixer.JoinStates"/>, with shorter caches filled up by keys that no token sees; null where all are of one length.
    /// </summary>
    public IReadOnlyDictionary<string, Tensor>? JoinCaches(IReadOnlyList<IReadOnlyDictionary<string, Tensor>> states)
    {
        static long Length(IReadOnlyDictionary<string, Tensor> state) => state["k"].shape[2];
        var longest = states.Max(Length);
        if (states.All(s => Length(s) == longest && !s.ContainsKey(Visible)))
        {
            return null;
        }

        string[] own = ["k", "v", WindowAt, WindowNext, Visible, Position];
        var joined = states[0].Keys.Except(own).ToDictionary(name => name, name => cat([.. states.Select(s => s[name])], 0));
        foreach (var name in AttentionMixer.Grows)
        {
            joined[name] = cat([.. states.Select(s => nn.functional.pad(s[name], [0, 0, 0, longest - Length(s)]))], 0);
        }

        if (_window is not null)
        {
            joined[WindowAt] = cat([.. states.Select(s => nn.functional.pad(s[WindowAt], [0, longest - Length(s)], value: -1))], 0);
            joined[WindowNext] = cat([.. states.Select(s => s[WindowNext])], 0);
            return joined;
        }

        joined[Visible] = cat([.. states.Select(s => nn.functional.pad(SeenOf(s), [0, longest - Length(s)]))], 0);
        joined[Position] = cat([.. states.Select(NextOf)], 0);
        return joined;

        static Tensor SeenOf(IReadOnlyDictionary<string, Tensor> s) =>
            s.GetValueOrDefault(Visible) ?? ones(s["k"].shape[0], Length(s), dtype: ScalarType.Bool, device: s["k"].device);

        static Tensor NextOf(IReadOnlyDictionary<string, Tensor> s) =>
            s.GetValueOrDefault(Position) ?? full([s["k"].shape[0]], Length(s), dtype: ScalarType.Int64, device: s["k"].device);
    }

    /// <summary>The softmax over what is seen, [B, NH, S, D].</summary>
    private Tensor Attend(Tensor q, Tensor keys, Tensor values, AttentionSpan span)
    {
        if (_sharing > 1 && q.shape[2] == 1)
        {
            // Heads that share keys stand like tokens that see the same, so that a token does not copy all keys for each of them.
            var asked = q.view(q.shape[0], -1, _sharing, _headDim); // (B, NKV, NH / NKV, D)
            return nn.functional.scaled_dot_product_attention(asked, keys, values, span.Bias ?? span.Mask).reshape(q.shape);
        }

        return nn.functional.scaled_dot_product_attention(
            q, ForEachHead(keys), ForEachHead(values), span.Bias ?? span.Mask, is_casual: span.IsCausal);
    }

    /// <summary>Writes a token's keys or values, [B, NKV, 1, D], into their room at the place of each row, and gives the room.</summary>
    private static Tensor WriteAt(Tensor end, Tensor room, Tensor next) =>
        room.scatter_(2, end.view(-1, 1, 1, 1).expand(next.shape), next);

    private void Keep(MixerPass pass, AttentionSpan span, Tensor keys, Tensor values)
    {
        if (_window is not null)
        {
            // Blocks of one window have one span: each owns a view of its own.
            pass.Keep("k", span.Kept(keys));
            pass.Keep("v", span.Kept(values));
            pass.Keep(WindowAt, span.At!.alias());
            pass.Keep(WindowNext, span.Next!.alias());
            return;
        }

        pass.Keep("k", Kept("k", keys));
        pass.Keep("v", Kept("v", values));
        if (span.End is { } end)
        {
            pass.KeepShared(End, end);
        }

        if (span is { Visible: { } visible, Next: { } next })
        {
            pass.KeepShared(Visible, visible);
            pass.KeepShared(Position, next);
        }

        // What has room behind it stays where it is.
        Tensor Kept(string name, Tensor x) => span.End is not null ? x.alias() : pass.Before(name) is null ? x.contiguous() : x;
    }

    private Tensor Weights(Tensor q, Tensor keys, AttentionSpan span)
    {
        var scores = q.matmul(keys.transpose(2, 3)) / Math.Sqrt(_headDim); // (B, NH, S, T + S)
        var mask = span.IsCausal ? ones(q.shape[2], q.shape[2], dtype: ScalarType.Bool, device: q.device).tril() : span.Mask;
        return (mask is null ? scores : scores.masked_fill(mask.logical_not(), double.NegativeInfinity)).softmax(-1);
    }
}
