using System.Collections.Concurrent;
using System.Collections.Immutable;
using System.Reflection;
using System.Runtime.CompilerServices;
using System.Text;
using Microsoft.AspNetCore.Html;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp.Scripting;
using Microsoft.CodeAnalysis.Scripting;
using Microsoft.DotNet.Interactive;
using Microsoft.DotNet.Interactive.Commands;
using Microsoft.DotNet.Interactive.CSharp;
using Microsoft.DotNet.Interactive.Events;
using Microsoft.DotNet.Interactive.Formatting;

namespace XlstmLab.Notebooks;

/// <summary>
/// The engine's C# kernel, with lines in its traces, with values that are shared by reference, and with an interrupt that ends what a cell
/// does and nothing that the engine does.
/// </summary>
/// <remarks>The engine's packages are of their last release, whose private names do not change any more.</remarks>
internal sealed class CSharpCells
    : CSharpKernel, IKernelCommandHandler<SubmitCode>, IKernelCommandHandler<RequestValue>, IKernelCommandHandler<SendValue>
{
    /// <summary>What the host brings along, with its documentation; engines share what the compiler has read of it.</summary>
    private static readonly Lazy<MetadataReference[]> Host = new(() =>
    [
        .. HostPackages.References().Select(path => MappedReferences.Of(
            path, MetadataReferenceProperties.Assembly, XmlDocumentationProvider.CreateFromFile(Path.ChangeExtension(path, ".xml")))),
    ]);

    private static readonly FieldInfo Workspace =
        typeof(CSharpKernel).GetField("_workspace", BindingFlags.Instance | BindingFlags.NonPublic)!;
    private static readonly MethodInfo UpdateWorkspace = Workspace.FieldType.GetMethod("UpdateWorkspaceAsync")!;

    private readonly SemaphoreSlim _catchingUp = new(1);
    private readonly ConcurrentQueue<ScriptState> _unseen = [];

    public CSharpCells()
    {
        ref var options = ref Options(this);
        options = Cells(options);
        Folder(this) = Directory.GetCurrentDirectory();
    }

    /// <summary>Compiles a line: the compiler is then there for the first cell.</summary>
    public static async Task WarmUpAsync()
    {
        var options = Cells(ScriptOptions.Default.AddImports("System", "System.Linq"));
        await CSharpScript.RunAsync("int warm = Enumerable.Range(0, 3).Sum(); warm", options).ConfigureAwait(false);
    }

    /// <summary>
    /// Tells those that complete and describe code of the cells that have run. In a run without a person nobody asks them, and what they
    /// need is never loaded.
    /// </summary>
    public async Task CatchUpAsync()
    {
        await _catchingUp.WaitAsync().ConfigureAwait(false);
        try
        {
            while (_unseen.TryDequeue(out var state))
            {
                await ((Task)UpdateWorkspace.Invoke(Workspace.GetValue(this), [state])!).ConfigureAwait(false);
            }
        }
        finally
        {
            _catchingUp.Release();
        }
    }

    /// <summary>Says where code comes from; traces and compile errors then name it.</summary>
    /// <param name="command">Code that has not been compiled yet.</param>
    /// <param name="path">A name, such as that of the cell.</param>
    /// <param name="linesBefore">How many lines stand before it.</param>
    public void Place(SubmitCode command, string path, int linesBefore)
    {
        ref var options = ref Options(this);
        options = options.WithFilePath(path);

        // In another folder the engine takes another resolver, which reads the framework once more. Paths are whole here.
        Folder(this) = Directory.GetCurrentDirectory();
        SetCode(command, new string('\n', linesBefore) + TopLevelUsings.Blank(command.Code));
    }

    /// <summary>
    /// Compiles and runs code on the calling thread. The engine's own handler does both in one call: an abort for the code, once it has
    /// been asked for, may then strike while the engine notes what the code declared, and no later cell compiles.
    /// </summary>
    Task IKernelCommandHandler<SubmitCode>.HandleAsync(SubmitCode command, KernelInvocationContext context)
    {
        context.Publish(new CodeSubmissionReceived(command));
        try
        {
            Run(command, context);
        }
        catch (OperationCanceledException) when (context.CancellationToken.IsCancellationRequested)
        {
            context.Fail(command, message: CellEngine.Cancelled);
        }
        catch (CompilationException e)
        {
            context.Fail(command, e, e.Message);
        }

        return Task.CompletedTask;
    }

    private void Run(SubmitCode command, KernelInvocationContext context)
    {
        var before = ScriptState;
        var script = before is null ? CSharpScript.Create(command.Code, Options(this))
            : before.Script.ContinueWith(command.Code, Options(this));
        var errors = script.Compile(context.CancellationToken).Where(d => d.Severity == DiagnosticSeverity.Error).ToArray();
        if (errors.Length > 0)
        {
            throw CompilationException.Of(errors);
        }

        // It has been loading while the cell was compiled.
        CellEngine.LoadTorch();
        var abort = CellContext.Current?.Abort ?? CancellationToken.None;
        Exception? failure = null;
        var state = CellThreads.Await(
            () => before is null
                ? script.RunAsync(null, Catch, CancellationToken.None) : script.RunFromAsync(before, Catch, CancellationToken.None), abort);

        // It has ended by itself, be it because it was interrupted: what it declared is there, such as the run of a training.
        SetState(this, state);
        if (failure is not null)
        {
            context.Fail(command, failure);
            return;
        }

        _unseen.Enqueue(state);
        context.CancellationToken.ThrowIfCancellationRequested();
        if (HasReturnValue(script))
        {
            // A value's text may be the cell's code, which may take for ever.
            var formats = CellThreads.Abortable(() => Formats(state.ReturnValue), abort);
            context.Publish(new ReturnValueProduced(state.ReturnValue, command, formats));
        }

        bool Catch(Exception e)
        {
            failure = e;
            return true;
        }
    }

    private static IReadOnlyList<FormattedValue> Formats(object? value) => value switch
    {
        FormattedValue one => [one],
        IEnumerable<FormattedValue> some => [.. some],
        IHtmlContent => MimeBundle.Format(value, HtmlFormatter.MimeType),
        _ => MimeBundle.Format(value),
    };

    async Task IKernelCommandHandler<SendValue>.HandleAsync(SendValue command, KernelInvocationContext context)
    {
        await SetValueAsync(
            command, context, (name, value, declared) => SetValueAsync(name, value, declared ?? ValueSharing.Nameable(value.GetType())))
                .ConfigureAwait(false);
    }

    Task IKernelCommandHandler<RequestValue>.HandleAsync(RequestValue command, KernelInvocationContext context)
    {
        if (TryGetValue(command.Name, out object value))
        {
            context.Publish(ValueSharing.Produce(command, value));
        }
        else
        {
            context.Fail(command, message: $"There is no variable '{command.Name}' in the C# cells.");
        }

        return Task.CompletedTask;
    }

    private static ScriptOptions Cells(ScriptOptions options) => options
        .AddImports(typeof(NotebookApi).FullName!).AddReferences(Host.Value).WithMetadataResolver(SharedReferences.Instance)
        .WithEmitDebugInformation(true).WithFileEncoding(Encoding.UTF8).WithOptimizationLevel(OptimizationLevel.Release);

    [UnsafeAccessor(UnsafeAccessorKind.Field, Name = "_workingDirectory")]
    private static extern ref string Folder(CSharpKernel kernel);

    [UnsafeAccessor(UnsafeAccessorKind.Field, Name = "_scriptOptions")]
    private static extern ref ScriptOptions Options(CSharpKernel kernel);

    [UnsafeAccessor(UnsafeAccessorKind.Method, Name = "set_ScriptState")]
    private static extern void SetState(CSharpKernel kernel, ScriptState state);

    [UnsafeAccessor(UnsafeAccessorKind.Method, Name = "HasReturnValue")]
    private static extern bool HasReturnValue(Script script);

    [UnsafeAccessor(UnsafeAccessorKind.Method, Name = "set_Code")]
    private static extern void SetCode(SubmitCode command, string code);
}

/// <summary>Finds what scripts refer to, once for all engines of the process.</summary>
internal sealed class SharedReferences : MetadataReferenceResolver
{
    private readonly ConcurrentDictionary<(string, string?), ImmutableArray<PortableExecutableReference>> _named = new();
    private readonly ConcurrentDictionary<AssemblyIdentity, PortableExecutableReference?> _missing = new();
    private readonly ScriptMetadataResolver _resolver = ScriptMetadataResolver.Default;

    private SharedReferences()
    {
    }

    public static SharedReferences Instance { get; } = new();

    public override bool ResolveMissingAssemblies => true;

    public override ImmutableArray<PortableExecutableReference> ResolveReference(
        string reference, string? baseFilePath, MetadataReferenceProperties properties)
    {
        // A file that is not there yet may be there for the next cell.
        var found = _named.GetValueOrDefault((reference, baseFilePath));
        return !found.IsDefaultOrEmpty ? found
            : _named[(reference, baseFilePath)] = MappedReferences.Named(reference, properties) is { } mapped ? [mapped]
            : _resolver.ResolveReference(reference, baseFilePath, properties);
    }

    public override PortableExecutableReference? ResolveMissingAssembly(MetadataReference definition, AssemblyIdentity referenceIdentity) =>
        _missing.GetOrAdd(referenceIdentity, identity =>
            MappedReferences.Named(identity.Name, MetadataReferenceProperties.Assembly)
                ?? _resolver.ResolveMissingAssembly(definition, identity));

    public override bool Equals(object? other) => ReferenceEquals(this, other);

    public override int GetHashCode() => RuntimeHelpers.GetHashCode(this);
}
