using System.Text.Json;
using Microsoft.DotNet.Interactive.Commands;
using Microsoft.DotNet.Interactive.Events;
using Microsoft.DotNet.Interactive.Formatting;
using Microsoft.FSharp.Reflection;

namespace XlstmLab.Notebooks;

/// <summary>
/// Gives values from kernel to kernel by reference. The engine's own kernels write a value as JSON first, which frames, charts and models
/// do not stand.
/// </summary>
internal static class ValueSharing
{
    /// <summary>
    /// The type to declare a C# variable with: C# cannot name a class that is not public, a case of an F# union, or a type that F# cells
    /// declare.
    /// </summary>
    public static Type Nameable(Type type) => CanBeNamed(type) ? type : type.BaseType is null ? typeof(object) : Nameable(type.BaseType);

    private static bool CanBeNamed(Type type) =>
        type.HasElementType ? CanBeNamed(type.GetElementType()!)
        : type.IsVisible && !type.Assembly.IsDynamic && (!type.IsNested || !FSharpType.IsUnion(type, null))
        && type.GenericTypeArguments.All(CanBeNamed);

    /// <summary>The answer to a request for a value.</summary>
    /// <param name="command">The request.</param>
    /// <param name="value">The value.</param>
    public static ValueProduced Produce(RequestValue command, object? value)
    {
        // Only #!set asks for the form; #!share does if it names one, and #!who and #!whos make their own.
        var asker = command.Parent?.GetType();
        bool wantsReference = asker?.Name == "ShareDirectiveCommand"
            ? asker.GetProperty("MimeType")?.GetValue(command.Parent) is null
            : asker?.Name == "DirectiveCommand";
        return new ValueProduced(
            value, command.Name, Format(value, wantsReference ? PlainTextSummaryFormatter.MimeType : command.MimeType), command);
    }

    private static FormattedValue Format(object? value, string mimeType)
    {
        try
        {
            return new FormattedValue(mimeType, value.ToDisplayString(mimeType));
        }
        catch (Exception e) when (e is NotSupportedException or InvalidOperationException or JsonException)
        {
            return new FormattedValue(PlainTextSummaryFormatter.MimeType, value.ToDisplayString(PlainTextSummaryFormatter.MimeType));
        }
    }
}
