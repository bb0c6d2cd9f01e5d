using static TorchSharp.torch;

namespace XlstmLab.Mixers;

/// <summary>Parts of modules under names that are not their fields'.</summary>
internal static class ModuleParts
{
    /// <summary>Makes modules parts of another, in this order; null is none.</summary>
    public static void Register(this nn.Module module, params ReadOnlySpan<(string Name, nn.Module? Part)> parts)
    {
        foreach (var (name, part) in parts)
        {
            if (part is not null)
            {
                module.register_module(name, part);
            }
        }
    }

    /// <summary>Makes a mixer's parts those of a module, as if the module had them itself: the names of published checkpoints.</summary>
    public static void RegisterPartsOf(this nn.Module module, Mixer mixer)
    {
        foreach (var (name, part) in mixer.named_children())
        {
            module.register_module(name, part);
        }
    }
}
