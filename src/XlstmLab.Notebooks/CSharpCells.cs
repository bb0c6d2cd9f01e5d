using System.Collections.Concurrent;
using System.Collections.Immutable;
using System.Runtime.CompilerServices;
using System.Text;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp.Scripting;
using Microsoft.CodeAnalysis.Scripting;
using Microsoft.DotNet.Interactive;
using Microsoft.DotNet.Interactive.Commands;
using Microsoft.DotNet.Interactive.CSharp;

namespace XlstmLab.Notebooks;

/// <summary>
/// The engine's C# kernel, with lines in its traces and with values that are shared by reference.
/// </summary>
/// <remarks>The engine's packages are of their last release, whose private names do not change any more.</remarks>
internal sealed class CSharpCells : CSharpKernel, IKernelCommandHandler<RequestValue>, IKernelCommandHandler<SendValue>
{
    /// <summary>What the host brings along, with its documentation; engines share what the compiler has read of it.</summary>
    private static readonly Lazy<MetadataReference[]> Host = new(() =>
    [
        .. HostPackages.References().Select(path => MetadataReference.CreateFromFile(
            path, documentation: XmlDocumentationProvider.CreateFromFile(Path.ChangeExtension(path, ".xml")))),
    ]);

    private ScriptState? _last;
    private volatile bool _hasLeft;

    public CSharpCells()
    {
        ref var options = ref Options(this);
        options = Cells(options);
        Folder(this) = Directory.GetCurrentDirectory();

        // The first script of all keeps nothing if it throws: that must not be a cell.
        DeferCommand(new SubmitCode(""));
    }

    /// <summary>Compiles a line: the compiler is then there for the first cell.</summary>
    public static async Task WarmUpAsync()
    {
        var options = Cells(ScriptOptions.Default.AddImports("System", "System.Linq"));
        await CSharpScript.RunAsync("int warm = Enumerable.Range(0, 3).Sum(); warm", options).ConfigureAwait(false);
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
        if (linesBefore > 0)
        {
            SetCode(command, new string('\n', linesBefore) + command.Code);
        }
    }

    /// <summary>Says that a cell was left behind. When it ends it sets a state that lacks what cells declare meanwhile.</summary>
    public void Leave() => _hasLeft = true;

    /// <summary>Takes back what a cell that was left behind did to the state, before other code runs.</summary>
    public void TakeBack()
    {
        if (_hasLeft && _last is not null)
        {
            SetState(this, _last);
        }
    }

    /// <summary>Remembers the state after code that ended in time.</summary>
    public void Keep() => _last = ScriptState;

    async Task IKernelCommandHandler<SendValue>.HandleAsync(SendValue command, KernelInvocationContext context)
    {
        TakeBack();
        await SetValueAsync(
            command, context, (name, value, declared) => SetValueAsync(name, value, declared ?? ValueSharing.Nameable(value.GetType()))).ConfigureAwait(false);
        Keep();
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

    [UnsafeAccessor(UnsafeAccessorKind.Method, Name = "set_Code")]
    private static extern void SetCode(SubmitCode command, string code);
}

/// <summary>Finds what scripts refer to, once for all engines of the process: what the compiler has read of the framework is a hundred megabytes.</summary>
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

    public override ImmutableArray<PortableExecutableReference> ResolveReference(string reference, string? baseFilePath, MetadataReferenceProperties properties)
    {
        // A file that is not there yet may be there for the next cell.
        var found = _named.GetValueOrDefault((reference, baseFilePath));
        return !found.IsDefaultOrEmpty ? found : _named[(reference, baseFilePath)] = _resolver.ResolveReference(reference, baseFilePath, properties);
    }

    public override PortableExecutableReference? ResolveMissingAssembly(MetadataReference definition, AssemblyIdentity referenceIdentity) =>
        _missing.GetOrAdd(referenceIdentity, identity => _resolver.ResolveMissingAssembly(definition, identity));

    public override bool Equals(object? other) => ReferenceEquals(this, other);

    public override int GetHashCode() => RuntimeHelpers.GetHashCode(this);
}
