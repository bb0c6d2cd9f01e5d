using TorchSharp.Modules;
using static TorchSharp.torch;

namespace XlstmLab.Layers;

/// <summary>Makes parameters that live as long as their module, whatever dispose scope is open.</summary>
internal static class Parameters
{
    public static Parameter Zeros(params long[] shape) => Own(zeros(shape));

    public static Parameter Ones(params long[] shape) => Own(ones(shape));

    private static Parameter Own(Tensor value)
    {
        var parameter = new Parameter(value);
        parameter.DetachFromDisposeScope();
        return parameter;
    }
}
