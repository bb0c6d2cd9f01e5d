using TorchSharp.Utils;
using XlstmLab.Models;
using static TorchSharp.torch;

namespace XlstmLab.Layers;

/// <summary>The feed-forward layer, W_down(SiLU(W_gate x) * W_up x).</summary>
public sealed class SwiGlu : nn.Module
{
    [ComponentName(Name = "proj_up_gate")]
    private readonly Dense? _gate;

    [ComponentName(Name = "proj_up")]
    private readonly Dense? _up;

    [ComponentName(Name = "proj_up_gate_z")]
    private readonly Dense? _gateAndUp;

    [ComponentName(Name = "proj_down")]
    private readonly Dense _down;

    /// <summary>A layer of the configuration's width and weight mode.</summary>
    public SwiGlu(XlstmConfig config)
        : base(nameof(SwiGlu))
    {
        var (dim, inner) = (config.EmbeddingDim, config.FeedForwardDim);
        if (config.WeightMode == WeightMode.Single)
        {
            _gate = new(dim, inner, config.UseBias);
            _up = new(dim, inner, config.UseBias);
        }
        else
        {
            _gateAndUp = new(dim, 2 * inner, config.UseBias);
        }

        _down = new(inner, dim, config.UseBias);
        RegisterComponents();
    }

    /// <summary>[B, S, d] to [B, S, d].</summary>
    public Tensor Forward(Tensor x)
    {
        Tensor gate, up;
        if (_gateAndUp is not null)
        {
            var both = _gateAndUp.Forward(x).chunk(2, -1);
            (gate, up) = (both[0], both[1]);
        }
        else
        {
            (gate, up) = (_gate!.Forward(x), _up!.Forward(x));
        }

        return _down.Forward(nn.functional.silu(gate) * up);
    }

    /// <summary>Draws fresh weights.</summary>
    internal void Initialize(double inputStd, double outputStd, Generator generator)
    {
        using var grad = no_grad();
        foreach (var projection in new[] { _gate, _up, _gateAndUp })
        {
            projection?.Weight.normal_(0, inputStd, generator);
        }

        _down.Weight.normal_(0, outputStd, generator);
    }
}
