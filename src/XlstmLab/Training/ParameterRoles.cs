using System.Reflection;
using TorchSharp.Modules;
using TorchSharp.Utils;
using XlstmLab.Layers;
using static TorchSharp.torch;

namespace XlstmLab.Training;

/// <summary>The roles of parameters, as the modules that hold them declare.</summary>
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
    /// A block is an element of a <see cref="ModuleList{T}"/>. A field's <see cref="RoleAttribute"/> comes first. Without one a parameter
    /// of fewer than two dimensions is a <see cref="ParameterRole.Vector"/>, those of torch's modules are what their module is, and for
    /// others, as in a mixer of a user's own, the name decides whether it is a weight, by <see cref="AdamW.Decays"/>.
    /// </remarks>
    /// <param name="model">A model, or a part of one.</param>
    public static IReadOnlyDictionary<string, ParameterRole> Of(nn.Module model)
    {
        ArgumentNullException.ThrowIfNull(model);
        var modules = model.named_modules().ToDictionary(m => m.name, m => m.module);
        var lists = modules.Where(m => IsList(m.Value)).Select(m => m.Key + ".").ToArray();
        return model.named_parameters().ToDictionary(
            p => p.name,
            p =>
            {
                var dot = p.name.LastIndexOf('.');
                var holder = modules.GetValueOrDefault(p.name[..Math.Max(0, dot)], model);
                var role = Declared(holder, p.name[(dot + 1)..]) ?? Undeclared(p.name, p.parameter.shape, holder);
                var inBlock = lists.Any(list => p.name.StartsWith(list, StringComparison.Ordinal));
                return role == ParameterRole.HiddenMatrix && !inBlock ? ParameterRole.Head : role;
            });
    }

    /// <summary>What the field of that name in the state dict says; null where it says nothing, or is none.</summary>
    internal static ParameterRole? Declared(nn.Module holder, string name)
    {
        const BindingFlags own = BindingFlags.Instance | BindingFlags.Public | BindingFlags.NonPublic | BindingFlags.DeclaredOnly;
        for (var type = holder.GetType(); type is not null; type = type.BaseType)
        {
            var field = type.GetFields(own).FirstOrDefault(f => (f.GetCustomAttribute<ComponentNameAttribute>()?.Name ?? f.Name) == name);
            if (field?.GetCustomAttribute<RoleAttribute>() is { } declared)
            {
                return declared.Role;
            }
        }

        return null;
    }

    private static ParameterRole Undeclared(string name, long[] shape, nn.Module holder) =>
        shape.Length < 2 ? ParameterRole.Vector : holder switch
        {
            Embedding => ParameterRole.Embedding,
            Linear or LSTM or GRU => ParameterRole.HiddenMatrix,
            _ => AdamW.Decays(name, shape) ? ParameterRole.Weight : ParameterRole.Vector,
        };

    private static bool IsList(nn.Module module) =>
        module.GetType() is { IsGenericType: true } type && type.GetGenericTypeDefinition() == typeof(ModuleList<>);
}
