using TorchSharp.Utils;
using XlstmLab.Models;
using static TorchSharp.torch;

namespace XlstmLab.Layers;

/// <summary>Causal softmax attention with rotary positions, in which groups of heads share keys and values (Ainslie et al. 2023).</summary>
public sealed class GroupedQueryAttention : nn.Module
{
    [ComponentName(Name = "q_proj")]
    private readonly Dense _q;

    [ComponentName(Name = "k_proj")]
    private readonly Dense _k;

    [ComponentName(Name = "v_proj")]
    private readonly Dense _v;

    [ComponentName(Name = "o_proj")]
    private readonly Dense _out;

    private readonly LlamaConfig _config;

    /// <summary>A layer of the configuration's widths and heads.</summary>
    public GroupedQueryAttention(LlamaConfig config)
        : base(nameof(GroupedQueryAttention))
    {
        _config = config;
        var (d, q, kv) = (config.EmbeddingDim, config.HeadCount * config.HeadDim, config.KeyValueHeadCount * config.HeadDim);
        _q = new(d, q, config.AttentionBias);
        _k = new(d, kv, config.AttentionBias);
        _v = new(d, kv, config.AttentionBias);
        _out = new(q, d, config.AttentionBias);
        RegisterComponents();
    }

    /// <summary>Mixes a sequence.</summary>
    /// <param name="x">[B, S, d].</param>
    /// <param name="cache">The keys and values of T tokens before, [B, NKV, T, D], left as they are; or null.</param>
    /// <param name="span">Who sees what.</param>
    /// <param name="angles">The rotation of each position, broadcasting to [B, NH, S, D/2].</param>
    /// <param name="observe">Shown q, k, v and the attention's weights [B, NH, S, T + S], which are computed only for it; or null.</param>
    /// <returns>[B, S, d] in the type of x, and the keys and values of all T + S tokens.</returns>
    public (Tensor Y, (Tensor Keys, Tensor Values) Cache) Forward(
        Tensor x, (Tensor Keys, Tensor Values)? cache, AttentionSpan span, (Tensor Cos, Tensor Sin) angles, Action<string, Tensor>? observe)
    {
        var q = RotaryEmbedding.Rotate(SplitHeads(_q.Forward(x)), angles.Cos, angles.Sin); // (B, NH, S, D)
        var k = RotaryEmbedding.Rotate(SplitHeads(_k.Forward(x)), angles.Cos, angles.Sin); // (B, NKV, S, D)
        var v = SplitHeads(_v.Forward(x)); // (B, NKV, S, D)
        var (keys, values) = cache is { } c ? (cat([c.Keys.to(k.dtype), k], 2), cat([c.Values.to(v.dtype), v], 2)) : (k, v); // (B, NKV, T + S, D)
        var (allKeys, allValues) = (ForEachHead(keys), ForEachHead(values)); // (B, NH, T + S, D)
        var h = nn.functional.scaled_dot_product_attention(q, allKeys, allValues, span.Mask, is_casual: span.IsCausal); // (B, NH, S, D)
        if (observe is not null)
        {
            observe("q", q);
            observe("k", k);
            observe("v", v);
            observe("attention", Weights(q, allKeys, span));
        }

        return (_out.Forward(h.transpose(1, 2).flatten(2)), (keys, values));
    }

    /// <summary>Draws fresh weights.</summary>
    internal void Initialize(double inputStd, double outputStd, Generator generator)
    {
        using var grad = no_grad();
        foreach (var projection in new[] { _q, _k, _v })
        {
            projection.Weight.normal_(0, inputStd, generator);
        }

        _out.Weight.normal_(0, outputStd, generator);
    }

    private Tensor SplitHeads(Tensor x) => x.unflatten(2, [-1, _config.HeadDim]).transpose(1, 2);

    private Tensor ForEachHead(Tensor x) =>
        _config.KeyValueHeadCount == _config.HeadCount
            ? x
            : x.unsqueeze(2).expand(-1, -1, _config.HeadCount / _config.KeyValueHeadCount, -1, -1).flatten(1, 2);

    private Tensor Weights(Tensor q, Tensor keys, AttentionSpan span)
    {
        var scores = q.matmul(keys.transpose(2, 3)) / Math.Sqrt(_config.HeadDim); // (B, NH, S, T + S)
        var mask = span.IsCausal ? ones(q.shape[2], q.shape[2], dtype: ScalarType.Bool, device: q.device).tril() : span.Mask;
        return (mask is null ? scores : scores.masked_fill(mask.logical_not(), double.NegativeInfinity)).softmax(-1);
    }
}
