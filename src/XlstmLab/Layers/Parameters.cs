using TorchSharp.Modules;
using static TorchSharp.torch;

namespace XlstmLab.Layers;

/// <summary>Makes parameters that live as long as their module, whatever dispose scope is open.</summary>
internal static class Parameters
{
    private static readonly Lock Draws = new();

    public static Parameter Zeros(params long[] shape) => Own(zeros(shape));

    public static Parameter Ones(params long[] shape) => Own(ones(shape));

    /// <summary>A table [rows, dim], whatever it holds until it is initialised or loaded.</summary>
    public static Embedding Embedding(long rows, long dim) => Undrawn(() => nn.Embedding(rows, dim));

    /// <summary>A module of torch's own that cannot be had without drawing from the generator of the process, which is put back.</summary>
    /// <remarks>Numbers that another thread draws from that generator in between, it draws again.</remarks>
    public static T Undrawn<T>(Func<T> make)
        where T : nn.Module
    {
        lock (Draws)
        {
            using var before = get_rng_state();
            try
            {
                return make();
            }
            finally
            {
                set_rng_state(before);
            }
        }
    }

    private static Parameter Own(Tensor value)
    {
        var parameter = new Parameter(value);
        parameter.DetachFromDisposeScope();
        return parameter;
    }
}
