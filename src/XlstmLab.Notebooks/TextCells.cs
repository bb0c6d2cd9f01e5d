using Microsoft.DotNet.Interactive;
using Microsoft.DotNet.Interactive.Commands;
using Microsoft.DotNet.Interactive.Events;
using Microsoft.DotNet.Interactive.Formatting;

namespace XlstmLab.Notebooks;

/// <summary>Cells that are shown and not run.</summary>
internal sealed class TextCells : Kernel, IKernelCommandHandler<SubmitCode>
{
    private readonly Func<string, FormattedValue[]> _show;

    /// <param name="name">The kernel's name.</param>
    /// <param name="language">What it is called for people.</param>
    /// <param name="show">The forms of a cell's text.</param>
    public TextCells(string name, string language, Func<string, FormattedValue[]> show)
        : base(name)
    {
        _show = show;
        KernelInfo.LanguageName = language;
    }

    Task IKernelCommandHandler<SubmitCode>.HandleAsync(SubmitCode command, KernelInvocationContext context)
    {
        context.Publish(new DisplayedValueProduced(command.Code, command, _show(command.Code)));
        return Task.CompletedTask;
    }
}
