using TorchSharp.Modules;
using XlstmLab.Layers;
using XlstmLab.Mixers;
using static TorchSharp.torch;

namespace XlstmLab.Training;

/// <summary>What a parameter is in its model, which decides how it is updated.</summary>
public enum ParameterRole
{
    /// <summary>
    /// The weight [output, input] of a projection or a recurrent layer inside a block: Muon's, where that is asked for; it decays.
    /// </summary>
    HiddenMatrix,

    /// <summary>The weight of a projection outside of blocks, as a language model's head; it decays.</summary>
    Head,

    /// <summary>
    /// Another weight of two dimensions or more, as of a convolution, head-wise matrices, an mLSTM's gates of one number a head, or an
    /// sLSTM's recurrent kernel; it decays.
    /// </summary>
    Weight,

    /// <summary>A table of embeddings, and a head that is tied to it: it does not decay.</summary>
    Embedding,

    /// <summary>All else, as norms, biases of any shape, learnable skips and the rates of Mamba's states: it does not decay.</summary>
    Vector,
}

/// <summary>The roles of parameters, told by the modules that hold them.</summary>
public static class ParameterRoles
{
    /// <summary>Whether weight decay acts on parameters of a role.</summary>
    public static bool Decays(this ParameterRole role) => role switch
    {
        ParameterRole.HiddenMatrix or ParameterRole.Head or ParameterRole.Weight => true,
        ParameterRole.Embedding or ParameterRole.Vector => false,
        _ => throw UnknownValue.Of(role),
    };

    /// <summary>The role of each parameter of a model, by its name in the state dict.</summary>
    /// <remarks>
    /// A block is an element of a <see cref="ModuleList{T}"/>. Of what modules hold themselves, beside this library's layers and torch's,
    /// as a mixer its rates, the name decides whether it is a weight, by <see cref="AdamW.Decays"/>.
    /// </remarks>
    /// <param name="model">A model, or a part of one.</param>
    public static IReadOnlyDictionary<string, ParameterRole> Of(nn.Module model)
    {
        ArgumentNullException.ThrowIfNull(model);
        var modules = model.named_modules().ToDictionary(m => m.name, m => m.module);
        var lists = modules.Where(m => IsList(m.Value)).Select(m => m.Key + ".").ToArray();
        return model.named_parameters().ToDictionary(
            p => p.name,
            p => RoleOf(
                p.name,
                p.parameter.shape,
                modules.GetValueOrDefault(p.name[..Math.Max(0, p.name.LastIndexOf('.'))], model),
                isInBlock: lists.Any(list => p.name.StartsWith(list, StringComparison.Ordinal))));
    }

    private static ParameterRole RoleOf(string name, long[] shape, nn.Module holder, bool isInBlock) =>
        shape.Length < 2 ? ParameterRole.Vector : holder switch
        {
            Embedding => ParameterRole.Embedding,
            Dense or Linear or LSTM or GRU => isInBlock ? ParameterRole.HiddenMatrix : ParameterRole.Head,
            HeadwiseDense or CausalConvolution or GateProjection => ParameterRole.Weight,
            _ => AdamW.Decays(name, shape) ? ParameterRole.Weight : ParameterRole.Vector,
        };

    private static bool IsList(nn.Module module) =>
        module.GetType() is { IsGenericType: true } type && type.GetGenericTypeDefinition() == typeof(ModuleList<>);
}
