using TorchSharp.Modules;
using static TorchSharp.torch;

namespace XlstmLab.Layers;

/// <summary>Makes parameters that live as long as their module, whatever dispose scope is open.</summary>
internal static class Parameters
{
    private static readonly Lock Draws = new();

    [ThreadStatic]
    private static Place? _place;

    /// <summary>
    /// Where parameters are made that will be loaded, and the type of their projections; null for those that are to be drawn.
    /// </summary>
    public static Place? ToBeLoaded => _place;

    public static Parameter Zeros(params long[] shape) => Own(zeros(shape, device: _place?.Device));

    public static Parameter Ones(params long[] shape) => Own(ones(shape, device: _place?.Device));

    /// <summary>The weights of a projection, zero until they are initialised; where they will be loaded, whatever memory holds.</summary>
    public static Parameter Projection(params long[] shape) =>
        Own(_place is { } place ? empty(shape, place.Projections, place.Device) : zeros(shape));

    /// <summary>A table [rows, dim], whatever it holds until it is initialised or loaded.</summary>
    public static Embedding Embedding(long rows, long dim) =>
        Undrawn(() => nn.Embedding(rows, dim, device: _place?.Device, dtype: _place?.Projections));

    /// <summary>
    /// Makes a model that will be loaded: where it shall be, in the type it shall have, and without drawing numbers. A large one would be
    /// drawn for minutes, and be in memory twice.
    /// </summary>
    public static T Unloaded<T>(Place place, Func<T> make)
    {
        var before = _place;
        _place = place;
        try
        {
            return make();
        }
        finally
        {
            _place = before;
        }
    }

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

    /// <summary>Where parameters are.</summary>
    /// <param name="Device">Their device.</param>
    /// <param name="Projections">The type of projections and tables; norms, gates and biases are float32.</param>
    public sealed record Place(Device Device, ScalarType Projections);

    private static Parameter Own(Tensor value)
    {
        var parameter = new Parameter(value);
        parameter.DetachFromDisposeScope();
        return parameter;
    }
}
