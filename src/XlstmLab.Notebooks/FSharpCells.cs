using System.Xml;
using System.Xml.Linq;
using FSharp.Compiler.Diagnostics;
using FSharp.Compiler.EditorServices;
using FSharp.Compiler.Symbols;
using FSharp.Compiler.Tokenization;
using Microsoft.DotNet.Interactive;
using Microsoft.DotNet.Interactive.Commands;
using Microsoft.DotNet.Interactive.Events;
using Microsoft.DotNet.Interactive.Formatting;
using Microsoft.DotNet.Interactive.ValueSharing;
using Microsoft.FSharp.Collections;
using Microsoft.FSharp.Core;
using static FSharp.Compiler.Interactive.Shell;

namespace XlstmLab.Notebooks;

/// <summary>F# cells over F# Interactive; the engine's own F# kernel is in no package.</summary>
internal sealed class FSharpCells : Kernel,
    IKernelCommandHandler<SubmitCode>,
    IKernelCommandHandler<RequestValue>,
    IKernelCommandHandler<RequestValueInfos>,
    IKernelCommandHandler<SendValue>,
    IKernelCommandHandler<RequestCompletions>,
    IKernelCommandHandler<RequestHoverText>,
    IKernelCommandHandler<RequestDiagnostics>
{
    private const int MostTips = 3;

    // One emitted assembly, or the types of earlier cells cannot be named.
    private static readonly string[] Options =
        ["fsi", "--noninteractive", "--nologo", "--quiet", "--targetprofile:netcore", "--multiemit-", "--usesdkrefs-", "--optimize+"];

    // The session takes seconds to make: notebooks without F# cells do not wait for it.
    private readonly Lazy<FsiEvaluationSession> _session = new(Start);
    private string _path = "cell";
    private int _linesBefore;

    public FSharpCells()
        : base(CellLanguage.FSharp)
    {
        KernelInfo.LanguageName = "F#";
        KernelInfo.LanguageVersion = "10.0";
        KernelInfo.DisplayName = "fsharp - F# Script";
        RegisterForDisposal(() =>
        {
            if (_session.IsValueCreated)
            {
                ((IDisposable)_session.Value).Dispose();
            }
        });
    }

    /// <summary>Says where the next code comes from; traces and compile errors then name it.</summary>
    /// <param name="path">A name, such as that of the cell.</param>
    /// <param name="linesBefore">How many lines stand before it.</param>
    public void Place(string path, int linesBefore) => (_path, _linesBefore) = (path, linesBefore);

    /// <summary>Makes assemblies known, such as those of a package.</summary>
    public void Reference(IEnumerable<string> assemblies) =>
        _session.Value.EvalInteraction(string.Concat(assemblies.Select(path => $"#r @\"{path}\"\n")), null);

    private static FsiEvaluationSession Start()
    {
        var session = FsiEvaluationSession.Create(
            FsiEvaluationSession.GetDefaultConfiguration(),
            [.. Options, .. HostPackages.References().Select(path => $"-r:{path}")],
            TextReader.Null,
            TextWriter.Null,
            TextWriter.Null,
            null,
            null);
        session.EvalInteraction(
            "open System\nopen System.IO\nopen System.Text\nopen Microsoft.DotNet.Interactive.Formatting\n"
            + $"open type {typeof(NotebookApi).FullName}", null);
        return session;
    }

    Task IKernelCommandHandler<SubmitCode>.HandleAsync(SubmitCode command, KernelInvocationContext context)
    {
        context.Publish(new CodeSubmissionReceived(command));
        string code = new string('\n', _linesBefore) + command.Code;

        // What it declares is there if it ends by itself when it is interrupted, as a training does.
        var (choice, diagnostics) = _session.Value.EvalInteractionNonThrowing(
            code, _path, CellContext.Current?.Abort ?? context.CancellationToken);
        if (context.CancellationToken.IsCancellationRequested)
        {
            return Task.CompletedTask;
        }

        Publish(command, context, diagnostics);
        if (diagnostics.Where(d => d.Severity.IsError).ToArray() is { Length: > 0 } errors)
        {
            string[] lines = code.Split('\n');
            CompilationException failure = new(
                errors[0].StartLine, $"{errors[0].ErrorNumberText}: {errors[0].Message}", [.. errors.SelectMany(
                    e => CellTrace.Describe(e, _path, lines))]);
            context.Fail(command, failure, failure.Message);
        }
        else if (choice is FSharpChoice<FSharpOption<FsiValue>, Exception>.Choice2Of2 { Item: var exception })
        {
            context.Fail(command, exception, exception.Message);
        }
        else if (choice is FSharpChoice<FSharpOption<FsiValue>, Exception>.Choice1Of2 { Item.Value: var value }
            && value.ReflectionType != typeof(Unit))
        {
            object? result = value.ReflectionValue;
            context.Publish(new ReturnValueProduced(result, command, MimeBundle.Format(Listed(result))));
        }

        return Task.CompletedTask;
    }

    Task IKernelCommandHandler<RequestValue>.HandleAsync(RequestValue command, KernelInvocationContext context)
    {
        if (_session.Value.TryFindBoundValue(command.Name) is { Value: var bound })
        {
            context.Publish(ValueSharing.Produce(command, bound.Value.ReflectionValue));
        }
        else
        {
            context.Fail(command, message: $"There is no value '{command.Name}' in the F# cells.");
        }

        return Task.CompletedTask;
    }

    Task IKernelCommandHandler<RequestValueInfos>.HandleAsync(RequestValueInfos command, KernelInvocationContext context)
    {
        context.Publish(new ValueInfosProduced(
            [
                .. _session.Value.GetBoundValues().Where(v => v.Name != "it").Select(v => new KernelValueInfo(
                    v.Name, FormattedValue.CreateSingleFromObject(v.Value.ReflectionValue, command.MimeType), v.Value.ReflectionType)),
            ],
            command));
        return Task.CompletedTask;
    }

    Task IKernelCommandHandler<SendValue>.HandleAsync(SendValue command, KernelInvocationContext context) =>
        SetValueAsync(command, context, (name, value, _) =>
        {
            Exception? refusal = null;
            try
            {
                _session.Value.AddBoundValue(name, value);
            }
            catch (Exception e) when (e is not OperationCanceledException)
            {
                refusal = e;
            }

            if (refusal is not null || _session.Value.TryFindBoundValue(name) is null)
            {
                // The types that C# cells declare are in assemblies that are in no file, which F# Interactive cannot refer to. The engine's
                // magics say nothing of what fails below them.
                string message = $"F# cells cannot take '{name}': its type, {value.GetType()}, is declared in a cell, "
                    + "or is none that F# can name. Share its parts, or declare the type in F#.";
                context.Publish(new ErrorProduced(message, command));
                throw new InvalidOperationException(message, refusal);
            }

            return Task.CompletedTask;
        });

    Task IKernelCommandHandler<RequestCompletions>.HandleAsync(RequestCompletions command, KernelInvocationContext context)
    {
        var (parsed, check, _) = _session.Value.ParseAndCheckInteraction(command.Code);
        string line = command.Code.Split('\n')[command.LinePosition.Line];
        var name = QuickParse.GetPartialLongNameEx(line, command.LinePosition.Character - 1);
        var items = check.GetDeclarationListInfo(parsed, command.LinePosition.Line + 1, line, name, null, null, null).Items;
        context.Publish(new CompletionsProduced(
            [
                .. items.Select(item => new Microsoft.DotNet.Interactive.Events.CompletionItem(
                    item.NameInList, item.Glyph.ToString(), insertText: item.NameInCode)),
            ],
            command));
        return Task.CompletedTask;
    }

    Task IKernelCommandHandler<RequestHoverText>.HandleAsync(RequestHoverText command, KernelInvocationContext context)
    {
        string line = command.Code.Split('\n')[command.LinePosition.Line];
        if (QuickParse.GetCompleteIdentifierIsland(true, line, command.LinePosition.Character) is not { Value: var (identifier, end, _) })
        {
            return Task.CompletedTask;
        }

        var (_, check, _) = _session.Value.ParseAndCheckInteraction(command.Code);
        var tip = check.GetToolTip(
            command.LinePosition.Line + 1, end, line, ListModule.OfSeq(identifier.Split('.')), FSharpTokenTag.Identifier, null);
        var elements = tip.Item.OfType<ToolTipElement.Group>().SelectMany(group => group.elements).Take(MostTips).ToArray();
        if (elements.Length > 0)
        {
            string text = string.Join("\n\n", elements.Select(e =>
                $"```fsharp\n{string.Concat(e.MainDescription.Select(t => t.Text))}\n```\n{Summary(e.XmlDoc)}".TrimEnd()));
            context.Publish(new HoverTextProduced(command, [new FormattedValue("text/markdown", text)]));
        }

        return Task.CompletedTask;
    }

    Task IKernelCommandHandler<RequestDiagnostics>.HandleAsync(RequestDiagnostics command, KernelInvocationContext context)
    {
        var (_, check, _) = _session.Value.ParseAndCheckInteraction(command.Code);
        Publish(command, context, check.Diagnostics);
        return Task.CompletedTask;
    }

    /// <summary>A list as an array: as the object that it is, it is a head and a tail.</summary>
    private static object? Listed(object? value)
    {
        if (value?.GetType() is not { IsGenericType: true } type || type.GetGenericTypeDefinition() != typeof(FSharpList<>))
        {
            return value;
        }

        object[] items = [.. ((System.Collections.IEnumerable)value).Cast<object>()];
        var array = Array.CreateInstance(type.GetGenericArguments()[0], items.Length);
        Array.Copy(items, array, items.Length);
        return array;
    }

    private static void Publish(KernelCommand command, KernelInvocationContext context, FSharpDiagnostic[] diagnostics)
    {
        if (diagnostics.Length > 0)
        {
            context.Publish(new DiagnosticsProduced(
                [
                    .. diagnostics.Select(d => new Diagnostic(
                        new LinePositionSpan(
                            new(Math.Max(0, d.StartLine - 1), d.StartColumn), new(Math.Max(0, d.EndLine - 1), d.EndColumn)),
                        d.Severity.IsError ? Microsoft.CodeAnalysis.DiagnosticSeverity.Error
                            : Microsoft.CodeAnalysis.DiagnosticSeverity.Warning,
                        d.ErrorNumberText,
                        d.Message)),
                ],
                [.. diagnostics.Select(d => new FormattedValue("text/plain", $"{d.ErrorNumberText}: {d.Message}"))],
                command));
        }
    }

    /// <summary>The summary of what a name stands for: from the code, or from the file of documentation beside its assembly.</summary>
    private static string Summary(FSharpXmlDoc document)
    {
        try
        {
            var text = document switch
            {
                FSharpXmlDoc.FromXmlText inline => XElement.Parse($"<doc>{string.Join('\n', inline.Item.UnprocessedLines)}</doc>"),
                FSharpXmlDoc.FromXmlFile file => XDocument.Load(Path.ChangeExtension(file.dllName, ".xml")).Descendants("member")
                    .FirstOrDefault(member => (string?)member.Attribute("name") == file.xmlSig),
                _ => null,
            };
            return ((string?)text?.Element("summary") ?? text?.Value)?.Trim() ?? "";
        }
        catch (Exception e) when (e is IOException or XmlException)
        {
            return "";
        }
    }
}
