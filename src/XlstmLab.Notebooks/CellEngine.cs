using System.Collections.Immutable;
using System.Diagnostics;
using System.Globalization;
using System.Reflection;
using System.Runtime;
using System.Text;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;
using Microsoft.CodeAnalysis.CSharp.Syntax;
using Microsoft.CodeAnalysis.Emit;
using Microsoft.CodeAnalysis.Text;
using XlstmLab.Native;

namespace XlstmLab.Notebooks;

/// <summary>
/// Runs C# cells one after the other: variables, types, methods and usings of a cell are there in the cells after it.
/// </summary>
/// <remarks>
/// <para>Cells may use top-level <c>await</c>, <c>#r</c>, <c>#load</c>, the magics <c>#!csharp</c> and <c>#!time</c>, and the members of
/// <see cref="NotebookApi"/>; the value of a last expression without semicolon is shown. Everything the host program
/// references can be used without <c>#r</c>. The imports are those of .NET Interactive.</para>
/// <para>Cells of one engine run one at a time; several engines may run at once.</para>
/// </remarks>
public sealed class CellEngine
{
    private static readonly string[] Imports =
    [
        "System", "System.Text", "System.Collections", "System.Collections.Generic", "System.Threading.Tasks", "System.Linq",
        typeof(NotebookApi).FullName!,
    ];

    internal static readonly CSharpParseOptions Script = new(LanguageVersion.Latest, DocumentationMode.None, SourceCodeKind.Script);

    /// <summary>The kernels beside C# that .NET Interactive's notebooks may have, by the magics that choose them.</summary>
    private static readonly HashSet<string> OtherLanguages = new(StringComparer.OrdinalIgnoreCase)
    {
        "fsharp", "f#", "pwsh", "powershell", "javascript", "js", "html", "mermaid", "markdown", "sql", "kql", "python", "r", "http",
    };

    private readonly string _folder;
    private readonly HostReferences _references;
    private CSharpCompilation? _previous;
    private int _running;
    private object?[] _submissions = new object?[2];

    /// <summary>Creates an engine without state and registers <see cref="LabFormatters"/>.</summary>
    /// <param name="folder">What relative paths of <c>#r</c> and <c>#load</c> start from; by default the working directory.</param>
    public CellEngine(string? folder = null)
    {
        _folder = Path.GetFullPath(folder ?? Environment.CurrentDirectory);
        _references = new HostReferences(_folder);
        LabFormatters.Register();
    }

    /// <summary>How many cells have been run.</summary>
    public int ExecutionCount { get; private set; }

    /// <summary>How long an interrupted cell may take to end.</summary>
    internal TimeSpan Patience { get; init; } = TimeSpan.FromSeconds(5);

    /// <summary>Whether a chart of this notebook has already brought the drawing library along.</summary>
    internal bool HasChartLibrary { get; set; }

    /// <summary>Runs a cell. Errors of the cell are part of the result; nothing but misuse throws.</summary>
    /// <param name="source">The cell's text.</param>
    /// <param name="live">Told of console text as it comes: stream name (<c>stdout</c> or <c>stderr</c>), text.</param>
    /// <param name="cancellationToken">
    /// Interrupts the cell, an endless loop too; what was declared before stays. Work that an awaited task does on other threads is left to
    /// itself unless the cell passes <see cref="NotebookApi.CellCancellation"/> on. A cell that has not ended five seconds later, since it
    /// sleeps or is in native code, is left behind; the engine runs no other cell until it has ended.
    /// </param>
    /// <returns>The outputs, and how the cell ended.</returns>
    /// <exception cref="InvalidOperationException">Another cell of this engine is still running.</exception>
    public async Task<CellResult> RunAsync(string source, Action<string, string>? live = null, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(source);
        if (Interlocked.Exchange(ref _running, 1) != 0)
        {
            throw new InvalidOperationException("A cell of this engine is still running: await it before the next one.");
        }

        bool isLeft = false;
        try
        {
            int number = ++ExecutionCount;
            CellOutputs outputs = new(live is null ? null : (stream, text) => CellContext.Outside(() => live(stream, text)));

            // To abort a thread may take for ever, and so may what a cell does when it is cancelled: neither holds up the caller.
            CancellationTokenSource cell = new();
            await using var interruption = cancellationToken
                .Register(() => new Thread(cell.Cancel) { IsBackground = true }.Start()).ConfigureAwait(false);
            CellContext context = new(outputs, this, cell.Token);
            TaskCompletionSource<(CellStatus, CellError?)> done = new(TaskCreationOptions.RunContinuationsAsynchronously);
            long start = Stopwatch.GetTimestamp();

            // A thread of its own can be aborted without harm to a pool, and has room for deep recursion.
            Thread thread = new(() => done.SetResult(RunOnThread(source, number, context)), 16 << 20)
            {
                IsBackground = true,
                Name = $"cell {number}",
            };
            thread.Start();
            if (!await EndsAsync(done.Task, cancellationToken).ConfigureAwait(false))
            {
                isLeft = true;
                _ = done.Task.ContinueWith(_ => Volatile.Write(ref _running, 0), TaskScheduler.Default);
                const string message = "The cell was interrupted, but does not stop: it sleeps, or is in native code.";
                CellError left = new(number, null, "Interrupted", message, [message]);
                outputs.Error(left);
                return new CellResult(CellStatus.Interrupted, number, outputs.ToJson(), left, Stopwatch.GetElapsedTime(start));
            }

            var (status, error) = await done.Task.ConfigureAwait(false);
            return new CellResult(status, number, outputs.ToJson(), error, Stopwatch.GetElapsedTime(start));
        }
        finally
        {
            if (!isLeft)
            {
                Volatile.Write(ref _running, 0);
            }
        }
    }

    /// <summary>Waits for the end of a cell; once it is interrupted, for a while only.</summary>
    private async Task<bool> EndsAsync(Task cell, CancellationToken cancellationToken)
    {
        try
        {
            await cell.WaitAsync(cancellationToken).ConfigureAwait(false);
            return true;
        }
        catch (OperationCanceledException)
        {
            return await Task.WhenAny(cell, Task.Delay(Patience, CancellationToken.None)).ConfigureAwait(false) == cell;
        }
    }

    private (CellStatus Status, CellError? Error) RunOnThread(string source, int number, CellContext context)
    {
        CellContext.Current = context;
        CellConsole.Attach();
        CellStatus status = CellStatus.Succeeded;
        CellError? error = null;
        try
        {
            Run(source, number, context);

            // The interruption ends a cell's processes too: what went on because they had ended did not end by itself.
            context.Cancellation.ThrowIfCancellationRequested();
        }
        catch (Exception) when (context.Cancellation.IsCancellationRequested)
        {
            const string message = "The cell was interrupted.";
            status = CellStatus.Interrupted;
            error = new CellError(number, null, "Interrupted", message, [message]);
        }
        catch (CompilationException e)
        {
            status = CellStatus.Failed;
            error = new CellError(number, e.Line, "CompilationError", e.Message, e.Details);
        }
        catch (Exception e)
        {
            status = CellStatus.Failed;
            error = CellTrace.Describe(e, number);
        }
        finally
        {
            CellConsole.Detach();
        }

        if (error is not null)
        {
            context.Outputs.Error(error);
        }

        return (status, error);
    }

    private void Run(string source, int number, CellContext context)
    {
        string path = CellTrace.PathOf(number);
        var (code, timed) = TakeMagics(source, path);
        long start = Stopwatch.GetTimestamp();
        var (entry, hasValue) = Compile(code, path, context.Cancellation);
        object? value = Execute(entry, context.Cancellation);
        var elapsed = Stopwatch.GetElapsedTime(start);
        if (hasValue && value is not DisplayedValue)
        {
            context.Outputs.Result(MimeBundle.Of(value), number);
        }

        if (timed)
        {
            context.Outputs.Display(MimeBundle.Of(string.Create(CultureInfo.InvariantCulture, $"Wall time: {elapsed.TotalMilliseconds:0.#} ms")));
        }
    }

    /// <summary>The magic that begins a cell and says that it is written in another language than C#; null if none does.</summary>
    internal static string? ForeignMagic(string source) =>
        source.TrimStart().StartsWith("#!", StringComparison.Ordinal) && FirstMagic(source, "cell")?.ToString().Trim() is { } magic
        && OtherLanguages.Contains(magic.Split(' ')[0][2..]) ? magic : null;

    /// <summary>Blanks the magics this engine knows, line for line, and refuses others. Text in strings and comments is no magic.</summary>
    private static (string Code, bool Timed) TakeMagics(string source, string path)
    {
        if (!source.Contains("#!", StringComparison.Ordinal))
        {
            return (source, false);
        }

        StringBuilder code = new(source);
        bool timed = false;
        while (true)
        {
            if (FirstMagic(code.ToString(), path) is not { } line)
            {
                return (code.ToString(), timed);
            }

            string text = line.ToString().Trim();
            switch (text.Split(' ')[0])
            {
                case "#!csharp" or "#!c#" or "#!C#":
                    break;
                case "#!time":
                    timed = true;
                    break;
                default:
                    throw new CompilationException(
                        line.LineNumber + 1,
                        $"'{text}' is not supported: cells are C# here, with the magics #!csharp and #!time.",
                        []);
            }

            for (int i = line.Start; i < line.End; i++)
            {
                code[i] = ' ';
            }
        }
    }

    /// <summary>The line with the first magic; null if there is none.</summary>
    private static TextLine? FirstMagic(string code, string path)
    {
        var tree = CSharpSyntaxTree.ParseText(code, Script, path);
        var magic = tree.GetRoot().DescendantTrivia().FirstOrDefault(trivia =>
            trivia.IsDirective && tree.GetText().ToString(trivia.Span).StartsWith("#!", StringComparison.Ordinal));
        return magic == default ? null : tree.GetText().Lines.GetLineFromPosition(magic.SpanStart);
    }

    private (Func<object?[], Task<object?>> Entry, bool HasValue) Compile(string code, string path, CancellationToken cancellationToken)
    {
        var tree = CSharpSyntaxTree.ParseText(SourceText.From(code, Encoding.UTF8), Script, path, cancellationToken);
        _references.Failures.Clear();
        var compilation = Submission(tree, ExecutionCount, _folder, _references, _previous);

        var errors = compilation.GetDiagnostics(cancellationToken).Where(d => d.Severity == DiagnosticSeverity.Error).ToArray();
        Refuse(errors);
        using MemoryStream image = new(), symbols = new();
        var emitted = compilation.Emit(
            image, symbols, options: new EmitOptions(debugInformationFormat: DebugInformationFormat.PortablePdb), cancellationToken: cancellationToken);
        Refuse(emitted.Diagnostics.Where(d => d.Severity == DiagnosticSeverity.Error).ToArray());

        _previous = compilation;
        if (image.Length == 0)
        {
            // A cell of usings, references or comments only.
            return (_ => Task.FromResult<object?>(null), false);
        }

        image.Position = symbols.Position = 0;
        var entry = compilation.GetEntryPoint(cancellationToken)!;
        var assembly = _references.Load(image, symbols);
        if (assembly.GetReferencedAssemblies().Any(reference => reference.Name == "TorchSharp"))
        {
            // TorchSharp's own search would come first otherwise, and copies half a gigabyte before it fails.
            NativeTorch.EnsureLoaded();
        }

        var method = assembly.GetType(entry.ContainingType.MetadataName, throwOnError: true)!
            .GetMethod(entry.MetadataName, BindingFlags.Static | BindingFlags.Public | BindingFlags.NonPublic)!;
        return (method.CreateDelegate<Func<object?[], Task<object?>>>(), HasValue(compilation, tree));
    }

    /// <summary>A cell as the compiler takes it, after the cells before it.</summary>
    internal static CSharpCompilation Submission(
        SyntaxTree tree, int number, string folder, HostReferences references, CSharpCompilation? previous)
    {
        CSharpCompilationOptions options = new(
            OutputKind.DynamicallyLinkedLibrary,
            scriptClassName: CellTrace.ScriptClass + number.ToString(CultureInfo.InvariantCulture),
            usings: Imports,
            optimizationLevel: OptimizationLevel.Release,
            allowUnsafe: true,
            sourceReferenceResolver: new SourceFileResolver(ImmutableArray<string>.Empty, folder),
            metadataReferenceResolver: references,
            assemblyIdentityComparer: DesktopAssemblyIdentityComparer.Default);
        return CSharpCompilation.CreateScriptCompilation($"Cell{number}", tree, HostReferences.Host, options, previous, typeof(object));
    }

    private void Refuse(Diagnostic[] errors)
    {
        if (errors.Length == 0)
        {
            return;
        }

        if (_references.Failures.Count > 0)
        {
            var directive = errors.FirstOrDefault(error => error.Id == "CS0006") ?? errors[0];
            throw new CompilationException(LineOf(directive), string.Join("\n", _references.Failures.Distinct()), []);
        }

        const int shown = 10;
        List<string> details = [.. errors.Take(shown).SelectMany(CellTrace.Describe)];
        if (errors.Length > shown)
        {
            details.Add($"... and {errors.Length - shown} more errors");
        }

        throw new CompilationException(LineOf(errors[0]), $"{errors[0].Id}: {errors[0].GetMessage(CultureInfo.InvariantCulture)}", details);
    }

    private static int? LineOf(Diagnostic error) => error.Location.IsInSource ? error.Location.GetMappedLineSpan().StartLinePosition.Line + 1 : null;

    /// <summary>A submission has a value if it ends in an expression without semicolon that is not void.</summary>
    private static bool HasValue(CSharpCompilation compilation, SyntaxTree tree) =>
        tree.GetRoot() is CompilationUnitSyntax { Members: [.., GlobalStatementSyntax { Statement: ExpressionStatementSyntax { SemicolonToken.IsMissing: true } last }] }
        && compilation.GetSemanticModel(tree).GetTypeInfo(last.Expression) is var type
        && (type.ConvertedType ?? type.Type) is { SpecialType: not SpecialType.System_Void };

    private object? Execute(Func<object?[], Task<object?>> entry, CancellationToken cancellationToken)
    {
        // Each submission finds those before it in this array and puts itself at its end.
        Array.Resize(ref _submissions, _submissions.Length + 1);
        Task<object?>? task = null;
#pragma warning disable SYSLIB0046 // The only way to stop a loop that asks nobody; the thread ends with the cell.
        ControlledExecution.Run(() => task = entry(_submissions), cancellationToken);
#pragma warning restore SYSLIB0046
        Task.WaitAny([task!], cancellationToken);
        return task!.GetAwaiter().GetResult();
    }
}

/// <summary>A cell that does not compile.</summary>
internal sealed class CompilationException(int? line, string message, IReadOnlyList<string> details) : Exception(message)
{
    public int? Line => line;

    /// <summary>What the output shows: the errors with their source lines.</summary>
    public IReadOnlyList<string> Details => details.Count > 0 ? details : Message.Split('\n');
}
