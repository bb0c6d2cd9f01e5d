using TorchSharp.Modules;
using XlstmLab.Layers;
using XlstmLab.Mixers;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Mixers;

/// <summary>A mixer as a user writes it: an exponential moving average of each channel, with a learned decay.</summary>
public sealed record MovingAverageMixerConfig : MixerConfig
{
    public double Decay { get; init; } = 0.9;

    public override IReadOnlyList<string> Observables => ["h"];

    public override Mixer Create(MixerSite site) => new MovingAverageMixer(this, site.Width);
}

internal sealed class MovingAverageMixer : Mixer
{
    private readonly double _decay;
    private readonly Parameter _preact; // of the decay
    private readonly Dense _out;

    public MovingAverageMixer(MovingAverageMixerConfig config, int width)
    {
        (_decay, _preact, _out) = (config.Decay, new Parameter(zeros(width)), new Dense(width, width));
        RegisterComponents();
    }

    public override Tensor Forward(Tensor x, Tensor convolved, MixerPass pass)
    {
        var a = sigmoid(_preact);                                                              // (d)
        var fed = (1 - a) * convolved;                                                         // (B, S, d)
        var h = pass.Recur("h", zeros_like(fed.select(1, 0)), x.shape[1], (before, t) => a * before + fed.select(1, t));
        pass.Observe?.Invoke("h", h);
        return _out.Forward(h.to(x.dtype));
    }

    public override void Initialize(double inputStd, double outputStd, Generator generator)
    {
        _preact.fill_(Math.Log(_decay / (1 - _decay)));
        _out.Weight.normal_(0, outputStd, generator);
    }
}
