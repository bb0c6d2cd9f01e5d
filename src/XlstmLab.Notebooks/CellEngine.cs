using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Text;
using System.Text.RegularExpressions;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;
using Microsoft.DotNet.Interactive;
using Microsoft.DotNet.Interactive.Commands;
using Microsoft.DotNet.Interactive.Directives;
using Microsoft.DotNet.Interactive.Events;
using Microsoft.DotNet.Interactive.Formatting;
using Microsoft.DotNet.Interactive.PackageManagement;
using Microsoft.DotNet.Interactive.ValueSharing;
using XlstmLab.Native;

namespace XlstmLab.Notebooks;

/// <summary>
/// Runs cells one after the other in .NET Interactive's engine: variables, types, functions and usings of a cell are there in the cells
/// after it.
/// </summary>
/// <remarks>
/// <para>Cells are C#, F#, HTML, JavaScript, Markdown, Mermaid or stored values, and share what they declare by <c>#!share</c> and
/// <c>#!set --byref</c>: objects go from C# to F# and back as they are. C# and F# cells have <see cref="NotebookApi"/>, and without
/// <c>#r</c> everything that the host program brings along; other packages come by <c>#r "nuget: ..."</c>. The value of a last expression
/// is shown. <c>#!lsmagic</c> lists the magics.</para>
/// <para>Cells of one engine run one at a time; several engines may run at once.</para>
/// </remarks>
public sealed partial class CellEngine : IDisposable
{
    private const string Interrupted = "Interrupted";
    internal const string Cancelled = "Command cancelled.";

    internal static readonly CSharpParseOptions Script = new(LanguageVersion.Latest, DocumentationMode.None, SourceCodeKind.Script);

    private readonly CellThreads _threads = new();
    private readonly CSharpCells _csharp;
    private readonly FSharpCells _fsharp;
    private readonly string _folder;
    private CellContext? _cell;
    private CellSource _source = new("cell", "");
    private int _running;

    /// <summary>Creates an engine without state and registers <see cref="LabFormatters"/>.</summary>
    /// <param name="folder">
    /// What relative paths of <c>#r</c>, <c>#load</c> and <c>#!import</c> start from; by default the working directory.
    /// </param>
    /// <param name="language">The language of cells that name none: <c>csharp</c>, <c>fsharp</c> or another of the kernels.</param>
    /// <exception cref="ArgumentException">There is no such language.</exception>
    public CellEngine(string? folder = null, string language = CellLanguage.CSharp)
    {
        _folder = Path.GetFullPath(folder ?? Environment.CurrentDirectory);
        LabFormatters.RegisterForCells();

        _csharp = new CSharpCells();
        _csharp.UseNugetDirective((kernel, packages) =>
        {
            kernel.AddAssemblyReferences(packages.SelectMany(package => package.AssemblyPaths));
            return Task.CompletedTask;
        });
        _fsharp = new FSharpCells();
        _fsharp.UseNugetDirective((kernel, packages) =>
        {
            kernel.Reference(packages.SelectMany(package => package.AssemblyPaths));
            return Task.CompletedTask;
        });
        _csharp.UseWho().UseValueSharing().AddMiddleware(RunCSharpAsync, nameof(CellEngine));
        _fsharp.UseWho().UseValueSharing().AddMiddleware(RunFSharpAsync, nameof(CellEngine));

        Root = new CompositeKernel { FrontendEnvironment = new ScriptElements() };
        Add(_csharp);
        Add(_fsharp);
        Add(new HtmlKernel());
        Add(new JavaScriptKernel());
        Add(new TextCells(CellLanguage.Markdown, "Markdown", text => [new FormattedValue("text/markdown", text)]));
        Add(new TextCells(
            CellLanguage.Mermaid, "Mermaid", text => [new FormattedValue(MermaidHtml.Type, text), new FormattedValue("text/plain", text)]));
        Add(new KeyValueStoreKernel().UseWho());
        Root.DefaultKernelName = CellLanguage.Kernel(language) ?? throw new ArgumentException(
            CellLanguage.Refusal(language), nameof(language));
        Root.AddDirective(new KernelActionDirective("#!time") { Description = "Shows how long the cell takes." }, Time);
        Root.AddDirective(new KernelActionDirective("#!lsmagic") { Description = "Lists the magics." }, ListMagicsAsync);
        KernelActionDirective import = new("#!import") { Description = "Runs a .dib, .ipynb, .csx, .cs, .fsx or .fs file here." };
        import.Parameters.Add(new("--file") { AllowImplicitName = true, Required = true, Description = "The file.", TypeHint = "file" });
        Root.AddDirective<ImportDocument>(import, ImportAsync);
        Root.RegisterCommandHandler<RequestInput>(AskAsync);
        Root.SetDefaultTargetKernelNameForCommand(typeof(RequestInput), Root.Name);
    }

    /// <summary>How many cells have been run.</summary>
    public int ExecutionCount { get; private set; }

    /// <summary>How long an interrupted cell may take to end.</summary>
    internal TimeSpan Patience { get; init; } = TimeSpan.FromSeconds(5);

    /// <summary>
    /// Asks a person: a prompt and a kind of input (<c>text</c>, <c>password</c>) in, a line out. Null where nobody is there.
    /// </summary>
    internal Func<string, string, CancellationToken, Task<string>>? Asker { get; init; }

    /// <summary>The engine itself, for what is no cell, such as completion.</summary>
    internal CompositeKernel Root { get; }

    /// <summary>
    /// Loads the compiler and libtorch on other threads while the program has something else to do, or its user reads: the first cell comes
    /// sooner.
    /// </summary>
    public static void WarmUp()
    {
        Task.Run(CSharpCells.WarmUpAsync);
        Task.Run(LoadTorch);
    }

    /// <summary>
    /// Has libtorch there before code runs: TorchSharp, when a cell touches it first, would look for it in its own way. Without it, code
    /// that needs no tensor runs.
    /// </summary>
    internal static void LoadTorch()
    {
        try
        {
            NativeTorch.EnsureLoaded();
        }
        catch (NativeTorchException)
        {
            // The library says so to the first that needs it.
        }
    }

    /// <summary>Runs a cell. Errors of the cell are part of the result; nothing but misuse throws.</summary>
    /// <param name="source">The cell's text, which magics such as <c>#!fsharp</c> may divide.</param>
    /// <param name="live">Told of console text as it comes: stream name (<c>stdout</c> or <c>stderr</c>), text.</param>
    /// <param name="language">The language it starts in; by default the engine's.</param>
    /// <param name="cancellationToken">
    /// Interrupts the cell; what was declared before stays. C# ends wherever it is, an endless loop too; what it awaits goes on by itself
    /// unless the cell passes <see cref="NotebookApi.CellCancellation"/> on. A training ends after the running update, with a checkpoint,
    /// and the cell's variables are set. A C# cell that has not ended five seconds later, since it sleeps or is in
    /// native code, is left behind; the engine runs no other cell until it has ended. F# cannot be stopped from outside: unless it heeds
    /// the token, it goes on beside later cells.
    /// </param>
    /// <returns>The outputs, and how the cell ended.</returns>
    /// <exception cref="InvalidOperationException">Another cell of this engine is still running.</exception>
    public Task<CellResult> RunAsync(
        string source, Action<string, string>? live = null, string? language = null, CancellationToken cancellationToken = default) =>
        RunAsync(
            source, new CellOutputs(live is null ? null : (stream, text) => CellContext.Outside(() => live(stream, text))),
            language, isCounted: true, cancellationToken);

    /// <summary>The same, with outputs that tell of themselves as they come.</summary>
    internal async Task<CellResult> RunAsync(
        string source, CellOutputs outputs, string? language, bool isCounted, CancellationToken cancellationToken)
    {
        ArgumentNullException.ThrowIfNull(source);
        if (Interlocked.Exchange(ref _running, 1) != 0)
        {
            throw new InvalidOperationException("A cell of this engine is still running: await it before the next one.");
        }

        bool isLeft = false;
        try
        {
            int number = isCounted ? ++ExecutionCount : ExecutionCount;
            long start = Stopwatch.GetTimestamp();

            // What a cell does when it is cancelled may take for ever: that holds up no caller.
            CancellationTokenSource cell = new();
            await using var interruption = cancellationToken.Register(() => new Thread(() =>
            {
                Root.SendAsync(new Cancel(), CancellationToken.None);
                Cancel(cell);
            })
            {
                IsBackground = true,
            }.Start()).ConfigureAwait(false);
            _cell = new CellContext(outputs, this, cell.Token);

            // A cell may run notebooks, which are no part of it.
            Task<CellError?> run;
            using (ExecutionContext.SuppressFlow())
            {
                run = Task.Run(() => SubmitAsync(source, language, number, cancellationToken), CancellationToken.None);
            }

            if (!await EndsAsync(run, cancellationToken).ConfigureAwait(false))
            {
                isLeft = true;
                _ = run.ContinueWith(_ => Volatile.Write(ref _running, 0), TaskScheduler.Default);
                const string message = "The cell was interrupted, but does not stop: it sleeps, or is in native code.";
                CellError left = new(number, null, Interrupted, message, [message]);
                outputs.Error(left);
                return Result(CellStatus.Interrupted, left);
            }

            var error = await run.ConfigureAwait(false);
            if (error is not null)
            {
                outputs.Error(error);
            }

            return Result(
                error is null ? CellStatus.Succeeded : error.Kind == Interrupted ? CellStatus.Interrupted : CellStatus.Failed, error);

            CellResult Result(CellStatus status, CellError? failure) =>
                new(status, number, outputs.ToJson(), failure, Stopwatch.GetElapsedTime(start)) { Live = outputs };
        }
        finally
        {
            if (!isLeft)
            {
                Volatile.Write(ref _running, 0);
            }
        }
    }

    /// <summary>Ends the kernels. A cell that still runs goes on.</summary>
    public void Dispose() => Root.Dispose();

    /// <summary>Asks whoever runs the notebook.</summary>
    internal Task<string> AskAsync(string prompt, string kind, CancellationToken cancellationToken) =>
        Asker?.Invoke(prompt, kind, cancellationToken) ?? throw new InvalidOperationException(
            $"The cell asks '{prompt}', and nobody is there to answer: it runs without a person. Make it a parameter.");

    /// <summary>Cancels what the cell has passed on; what the cell wants to do then may fail.</summary>
    private static void Cancel(CancellationTokenSource cell)
    {
        try
        {
            cell.Cancel();
        }
        catch (AggregateException)
        {
            // It is the cell's, which has ended.
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
            await Task.WhenAny(cell, _cell!.Trainings.EndAsync()).ConfigureAwait(false);
            return await Task.WhenAny(cell, Task.Delay(Patience, CancellationToken.None)).ConfigureAwait(false) == cell;
        }
    }

    /// <summary>Has the engine run a cell, and says why it failed.</summary>
    private async Task<CellError?> SubmitAsync(string source, string? language, int number, CancellationToken cancellation)
    {
        CellConsole.Enter();
        try
        {
            KernelEvent? failed = null;
            string path = CellTrace.PathOf(number);
            string start = language is null ? Root.DefaultKernelName : CellLanguage.Kernel(language) ?? language;
            string code = HostPackages.Prepare(source, start, _folder);
            _source = new CellSource(path, code);
            using (Root.KernelEvents.Subscribe(e =>
            {
                // A command that a magic gives fails by an error, and those around it fail after it: the first says why.
                failed ??= e is CommandFailed or ErrorProduced ? e : null;
                Show(e, number);
            }))
            {
                await Root.SendAsync(new SubmitCode(code, start), CancellationToken.None).ConfigureAwait(false);
                await _threads.EndAsync().ConfigureAwait(false);
            }

            // The interruption ends a cell's processes too: what went on because they had ended did not end by itself. The cell's own token
            // is cancelled a moment later than its code.
            if (cancellation.IsCancellationRequested)
            {
                string message = _threads.HasAbandoned
                    ? "The cell was interrupted. F# cannot be stopped from outside: it goes on beside later cells until it ends by itself "
                        + "or the notebook is restarted."
                    : "The cell was interrupted.";
                return new CellError(number, null, Interrupted, message, [message]);
            }

            return failed is null ? null : Describe(failed, number);
        }
        catch (CompilationException e)
        {
            return new CellError(number, e.Line, "CompilationError", e.Message, e.Details);
        }
        finally
        {
            CellConsole.Leave();
        }
    }

    /// <summary>Takes what the engine shows. What cells write to the console and display themselves does not come this way.</summary>
    private void Show(KernelEvent e, int number)
    {
        var outputs = _cell!.Outputs;
        switch (e)
        {
            case StandardOutputValueProduced or StandardErrorValueProduced:
                outputs.WriteStream(e is StandardErrorValueProduced ? "stderr" : "stdout", ((DisplayEvent)e).FormattedValues.First().Value);
                break;
            case ReturnValueProduced { Value: not (ShownValue or DisplayedValue) } result:
                outputs.Result(MimeBundle.Of(result), number);
                break;
            case DisplayedValueProduced { Value: IEnumerable<KernelValue> values } who:
                outputs.Display(MimeBundle.Of(new DisplayedValueProduced(
                    null, who.Command, [new FormattedValue("text/html", Table(values)), new FormattedValue("text/plain", List(values))])));
                break;
            case DisplayedValueProduced shown:
                outputs.Display(MimeBundle.Of(shown), shown.ValueId);
                break;
            case DisplayedValueUpdated update:
                outputs.Update(update.ValueId, MimeBundle.Of(update));
                break;
        }
    }

    /// <summary>What <c>#!who</c> and <c>#!whos</c> list, where HTML is not shown.</summary>
    private static string List(IEnumerable<KernelValue> values) => IsDetailed(values)
        ? string.Join('\n', values.Select(value => $"{value.Name}: {value.Type} = {Summary(value)}"))
        : string.Join(", ", values.Select(value => value.Name));

    /// <summary>The same as HTML, with a line for each value: the engine would show all that a value consists of.</summary>
    private static string Table(IEnumerable<KernelValue> values) => IsDetailed(values)
        ? "<table><thead><tr><th>name</th><th>type</th><th>value</th></tr></thead>"
            + $"<tbody>{string.Concat(values.Select(Row))}</tbody></table>"
        : $"<p>{WebUtility.HtmlEncode(List(values))}</p>";

    private static string Row(KernelValue value)
    {
        string[] cells = [value.Name, $"{value.Type}", Summary(value)];
        return $"<tr>{string.Concat(cells.Select(text => $"<td>{WebUtility.HtmlEncode(text)}</td>"))}</tr>";
    }

    private static bool IsDetailed(IEnumerable<KernelValue> values) => values.GetType().GetProperty("Detailed")?.GetValue(values) is true;

    private static string Summary(KernelValue value) => value.Value.ToDisplayString(PlainTextSummaryFormatter.MimeType);

    private static CellError Describe(KernelEvent failed, int number)
    {
        var exception = (failed as CommandFailed)?.Exception;
        string message = failed is CommandFailed command ? command.Message : ((ErrorProduced)failed).Message;
        switch (exception)
        {
            case CompilationException compilation:
                return Describe(compilation, number);
            case null when DirectiveError().Match(message) is { Success: true } directive:
                int line = int.Parse(directive.Groups["line"].Value, CultureInfo.InvariantCulture);
                return new CellError(number, line, "CompilationError", directive.Groups["message"].Value, message.Split('\n'));
            case null:
                return new CellError(number, null, "Error", message, message.Split('\n'));
            default:
                return CellTrace.Describe(exception, number);
        }
    }

    private static CellError Describe(CompilationException failure, int number) =>
        new(number, failure.Line, "CompilationError", failure.Message, failure.Details);

    private void Add(Kernel kernel) => Root.Add(kernel, CellLanguage.Aliases[kernel.Name]);

    private async Task RunCSharpAsync(KernelCommand command, KernelInvocationContext context, KernelPipelineContinuation next)
    {
        if (command is not SubmitCode code)
        {
            if (command is LanguageServiceCommand or RequestDiagnostics)
            {
                await _csharp.CatchUpAsync().ConfigureAwait(false);
            }

            await next(command, context).ConfigureAwait(false);
            return;
        }

        if (!string.IsNullOrWhiteSpace(code.Code))
        {
            _csharp.Place(code, _source.Path, _source.LinesBefore(code.Code));
        }

        await _threads.RunAsync(() => next(command, context), _cell, canLeave: false).ConfigureAwait(false);
    }

    private Task RunFSharpAsync(KernelCommand command, KernelInvocationContext context, KernelPipelineContinuation next)
    {
        if (command is not SubmitCode code)
        {
            return next(command, context);
        }

        _fsharp.Place(_source.Path, _source.LinesBefore(code.Code));
        LoadTorch();
        return _threads.RunAsync(() => next(command, context), _cell, canLeave: true);
    }

    private async Task ImportAsync(ImportDocument command, KernelInvocationContext context)
    {
        string path = Path.GetFullPath(command.FilePath.Trim('"').Replace('\\', '/'), _folder);
        var before = _source;
        try
        {
            foreach (var (text, language) in CellImports.Read(path))
            {
                string code = HostPackages.Prepare(text, language, Path.GetDirectoryName(path)!);
                _source = new CellSource(Path.GetFileName(path), code);
                var result = await Root.SendAsync(new SubmitCode(code, language), context.CancellationToken).ConfigureAwait(false);
                if (result.Events.OfType<CommandFailed>().FirstOrDefault() is { } failed)
                {
                    context.Fail(context.Command, failed.Exception, failed.Message);
                    return;
                }
            }
        }
        catch (Exception e) when (e is NotebookException or CompilationException)
        {
            context.Fail(context.Command, e, e.Message);
        }
        finally
        {
            _source = before;
        }
    }

    private async Task AskAsync(RequestInput request, KernelInvocationContext context) => context.Publish(new InputProduced(
        await AskAsync(request.Prompt, request.InputTypeHint, context.CancellationToken).ConfigureAwait(false), request));

    private static Task Time(KernelCommand command, KernelInvocationContext context)
    {
        long start = Stopwatch.GetTimestamp();
        context.OnComplete(completed =>
        {
            string text = string.Create(
                CultureInfo.InvariantCulture, $"Wall time: {Stopwatch.GetElapsedTime(start).TotalMilliseconds:0.#} ms");
            completed.Publish(new DisplayedValueProduced(text, completed.Command, [new FormattedValue("text/plain", text)]));
        });
        return Task.CompletedTask;
    }

    private Task ListMagicsAsync(KernelCommand command, KernelInvocationContext context)
    {
        StringBuilder list = new();
        foreach (var kernel in Root.ChildKernels.Prepend<Kernel>(Root))
        {
            var names = kernel.KernelInfo.SupportedDirectives.Where(d => !d.Hidden).Select(d => d.Name).Distinct()
                .Order(StringComparer.Ordinal);
            list.Append(ReferenceEquals(kernel, Root) ? "everywhere" : kernel.Name).Append(": ").AppendJoin(' ', names).Append('\n');
        }

        context.Publish(new DisplayedValueProduced(null, command, [new FormattedValue("text/plain", list.ToString().TrimEnd())]));
        return Task.CompletedTask;
    }

    [GeneratedRegex(@"^\((?<line>\d+),\d+\): error (?<message>DNI\d+: .*)")]
    private static partial Regex DirectiveError();

    /// <summary>Runs JavaScript cells as script elements, which pages execute.</summary>
    private sealed class ScriptElements : FrontendEnvironment
    {
        public override Task ExecuteClientScript(string code, KernelInvocationContext context)
        {
            context.Publish(
                new DisplayedValueProduced(code, context.Command, [new FormattedValue("text/html", $"<script>{code}</script>")]));
            return Task.CompletedTask;
        }
    }
}

/// <summary>Where code that is being run comes from.</summary>
/// <param name="Path">The name that traces give it.</param>
/// <param name="Text">All of it, of which the engine runs parts.</param>
internal sealed record CellSource(string Path, string Text)
{
    /// <summary>How many lines stand before a part, which the engine gave without its magics.</summary>
    public int LinesBefore(string part)
    {
        int at = Text.IndexOf(part, StringComparison.Ordinal);
        if (at < 0 && part.Split('\n').FirstOrDefault(line => line.Trim().Length > 0)?.Trim() is { } first)
        {
            // Parts around a magic were joined.
            at = Text.IndexOf(first, StringComparison.Ordinal);
        }

        return at <= 0 ? 0 : Text.AsSpan(0, at).Count('\n');
    }
}

/// <summary>A cell that does not compile.</summary>
internal sealed class CompilationException(int? line, string message, IReadOnlyList<string> details) : Exception(message)
{
    private const int MostErrors = 10;

    public int? Line => line;

    /// <summary>What the output shows: the errors with their source lines.</summary>
    public IReadOnlyList<string> Details => details.Count > 0 ? details : Message.Split('\n');

    public static CompilationException Of(IReadOnlyList<Microsoft.CodeAnalysis.Diagnostic> errors)
    {
        List<string> details = [.. errors.Take(MostErrors).SelectMany(CellTrace.Describe)];
        if (errors.Count > MostErrors)
        {
            details.Add($"... and {errors.Count - MostErrors} more errors");
        }

        int? line = errors[0].Location.IsInSource ? errors[0].Location.GetMappedLineSpan().StartLinePosition.Line + 1 : null;
        return new(line, $"{errors[0].Id}: {errors[0].GetMessage(CultureInfo.InvariantCulture)}", details);
    }
}
