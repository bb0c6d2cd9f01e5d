using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>The logarithms of the mLSTM's gates, which is all that its forms know of them.</summary>
public static class GateFunctions
{
    /// <summary>log i of the pre-activation i~, of any shape: i~, log sigmoid(i~) or 0.</summary>
    public static Tensor Log(this InputGate gate, Tensor preactivation) => gate switch
    {
        InputGate.Exponential => preactivation,
        InputGate.Sigmoid => nn.functional.logsigmoid(preactivation),
        InputGate.None => zeros_like(preactivation),
        _ => throw UnknownValue.Of(gate),
    };

    /// <summary>log f of the pre-activation f~, of any shape: log sigmoid(f~), f~ or 0.</summary>
    public static Tensor Log(this ForgetGate gate, Tensor preactivation) => gate switch
    {
        ForgetGate.Sigmoid => nn.functional.logsigmoid(preactivation),
        ForgetGate.Exponential => preactivation,
        ForgetGate.None => zeros_like(preactivation),
        _ => throw UnknownValue.Of(gate),
    };

    /// <summary>log i of the pre-activation i~.</summary>
    public static double Log(this InputGate gate, double preactivation) => gate switch
    {
        InputGate.Exponential => preactivation,
        InputGate.Sigmoid => LogSigmoid(preactivation),
        InputGate.None => 0,
        _ => throw UnknownValue.Of(gate),
    };

    /// <summary>log f of the pre-activation f~.</summary>
    public static double Log(this ForgetGate gate, double preactivation) => gate switch
    {
        ForgetGate.Sigmoid => LogSigmoid(preactivation),
        ForgetGate.Exponential => preactivation,
        ForgetGate.None => 0,
        _ => throw UnknownValue.Of(gate),
    };

    /// <summary>Whether the gate can be greater than 1, so that only a running maximum keeps the memory finite.</summary>
    internal static bool MayExceedOne(this InputGate gate) => gate switch
    {
        InputGate.Exponential => true,
        InputGate.Sigmoid or InputGate.None => false,
        _ => throw UnknownValue.Of(gate),
    };

    /// <inheritdoc cref="MayExceedOne(InputGate)"/>
    internal static bool MayExceedOne(this ForgetGate gate) => gate switch
    {
        ForgetGate.Exponential => true,
        ForgetGate.Sigmoid or ForgetGate.None => false,
        _ => throw UnknownValue.Of(gate),
    };

    /// <summary>log(sigmoid(x)), without overflow and with all digits where the gate is all but 1.</summary>
    private static double LogSigmoid(double x)
    {
        var e = Math.Exp(-Math.Abs(x));
        return Math.Min(x, 0) - (e < 1e-5 ? e - e * e / 2 : Math.Log(1 + e));
    }
}
