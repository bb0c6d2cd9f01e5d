using Microsoft.DotNet.Interactive;
using Microsoft.DotNet.Interactive.Commands;
using Microsoft.DotNet.Interactive.Events;
using XlstmLab.Notebooks;
using Xunit;

namespace XlstmLab.Tests.Notebooks;

/// <summary>
/// F# beside C#, and what editors ask. F# Interactive takes seconds to start: the tests share one engine, whose names they do not share.
/// </summary>
[Collection(NotebookTestSetup.Name)]
public sealed class PolyglotTests(PolyglotTests.Shared shared) : IClassFixture<PolyglotTests.Shared>
{
    public sealed class Shared : IDisposable
    {
        public CellEngine Engine { get; } = new();

        public void Dispose() => Engine.Dispose();
    }

    [Fact]
    public async Task Share_ObjectsOfBothLanguages_AreTheSameObjects()
    {
        await Succeed(
            "var array = new[] { 1.0, 4.0 };\nvar tensor = TorchSharp.torch.ones(2, 3);\n"
            + "var config = XlstmLab.Models.XlstmPresets.Bytes1M;");
        var fsharp = await Succeed(
            "#!fsharp\n#!share --from csharp array\n#!share --from csharp tensor\n#!share --from csharp config --as cfg\n"
            + "array[0] <- 9.0\nlet list = [ 1; 2; 3 ]\nopen Deedle\nlet frame = frame [ \"x\" => series [ 1 => 1.0; 2 => 2.0 ] ]\n"
            + "open Plotly.NET\nlet chart = Chart.Line(x = [ 1; 2 ], y = [ 1; 4 ])\ntype Own = { A: int }\nlet own = { A = 3 }\n"
            + "$\"{tensor.sum().item<float32>()} {cfg.BlockCount}\"");
        Assert.StartsWith("6 ", fsharp.Outputs[0].Text("text/plain"), StringComparison.Ordinal);

        var back = await Succeed(
            "#!share --from fsharp list\n#!share --from fsharp frame\n#!share --from fsharp chart\n#!share --from fsharp own\n"
            + "#!set --name byReference --value @fsharp:list --byref\n"
            + "display(chart);\n$\"{array[0]} {list.Sum()} {frame.RowCount} {((dynamic)own).A} "
            + "{object.ReferenceEquals(list, byReference)}\"");
        Assert.StartsWith("chart, 1 trace", back.Outputs[0].Text("text/plain"), StringComparison.Ordinal);
        Assert.Equal("9 6 2 3 True", back.Outputs[1].Text("text/plain"));
    }

    [Fact]
    public async Task Share_ValueThatIsNotThere_FailsByName()
    {
        var result = await shared.Engine.RunAsync(
            "#!share --from fsharp nowhere\n1", cancellationToken: TestContext.Current.CancellationToken);

        Assert.Equal(CellStatus.Failed, result.Status);
        Assert.Equal("There is no value 'nowhere' in the F# cells.", result.Error!.Message);
    }

    [Fact]
    public async Task FSharp_OutputsAndErrors_AreAsThoseOfCSharp()
    {
        var shown = await Succeed(
            "#!fsharp\nprintfn \"hello %d\" 3\neprintf \"err\"\nlet handle = display(1)\nhandle.Update(\"two\")\n[ \"a\"; \"b\" ]");
        Assert.Equal(["stream", "stream", "display_data", "execute_result"], shown.Outputs.Select(output => output.Type()));
        Assert.Equal("hello 3\n", shown.Outputs[0].Text());
        Assert.Equal("two", shown.Outputs[2].Text("text/plain"));
        Assert.Contains("[ a, b ]", shown.Outputs[3].Text("text/html"), StringComparison.Ordinal);

        var compile = await shared.Engine.RunAsync(
            "#!fsharp\n\nlet x : int = \"a\"", cancellationToken: TestContext.Current.CancellationToken);
        Assert.Equal((3, "CompilationError"), (compile.Error!.Line, compile.Error.Kind));
        Assert.StartsWith("FS0001: ", compile.Error.Message, StringComparison.Ordinal);
        Assert.Equal(["    let x : int = \"a\"", "                  ^^^"], compile.Error.Traceback.TakeLast(2));

        var thrown = await shared.Engine.RunAsync(
            "#!fsharp\nlet before = 1\nfailwith \"broken\"\n()", cancellationToken: TestContext.Current.CancellationToken);
        Assert.Equal(["System.Exception: broken"], thrown.Error!.Traceback);
    }

    [Fact]
    public async Task FSharp_EndlessLoop_IsLeftToItselfAndSaid()
    {
        LongTests.Skip();
        using CellEngine engine = new(language: "fsharp");
        using CancellationTokenSource cancellation = new();
        await engine.RunAsync("let kept = 5\nlet mutable goes = true", cancellationToken: TestContext.Current.CancellationToken);
        var result = await engine.RunAsync(
            "printf \"x\"\nwhile goes do System.Threading.Thread.Sleep 1", (_, _) => cancellation.CancelAfter(50),
            cancellationToken: cancellation.Token);

        Assert.Equal(CellStatus.Interrupted, result.Status);
        Assert.Contains("F# cannot be stopped from outside", result.Error!.Message, StringComparison.Ordinal);
        var next = await engine.RunAsync("goes <- false\nkept + 1", cancellationToken: TestContext.Current.CancellationToken);
        Assert.Equal("6", next.Outputs[0].Text("text/plain"));
    }

    [Fact]
    public async Task Interrupted_AwaitThatEndsLater_DoesNotTakeLaterVariablesAway()
    {
        using CellEngine engine = new();
        using CancellationTokenSource cancellation = new();
        await engine.RunAsync("var gate = new TaskCompletionSource();", cancellationToken: TestContext.Current.CancellationToken);
        await engine.RunAsync("Console.Write(1); await gate.Task;", (_, _) => cancellation.Cancel(), cancellationToken: cancellation.Token);
        await engine.RunAsync("int later = 7; gate.SetResult();", cancellationToken: TestContext.Current.CancellationToken);
        await Task.Delay(200, TestContext.Current.CancellationToken);

        var result = await engine.RunAsync("later", cancellationToken: TestContext.Current.CancellationToken);
        Assert.Equal("7", result.Outputs[0].Text("text/plain"));
    }

    [Fact]
    public async Task Import_NotebooksAndScripts_DeclareHere()
    {
        using TempFolder folder = new();
        using CellEngine engine = new(folder.Path);
        File.WriteAllText(folder["setup.dib"], "#!csharp\n\nusing System.Globalization;\nint fromDib = 1;\n\n#!html\n\n<b>dib</b>\n");
        File.WriteAllText(folder["more.csx"], "#r \"nuget: TorchSharp, 0.107.0\"\nint fromScript = fromDib + 1;");
        File.WriteAllText(folder["bad.csx"], "int fine = 1;\nthrow new Exception(\"in the script\");");
        folder.Notebook("int fromNotebook = fromScript + 1;", "Console.Write(\"notebook\");");
        var result = await engine.RunAsync(
            "#!import setup.dib\n#!import more.csx\n#!import in.ipynb\n$\"{fromNotebook} {CultureInfo.InvariantCulture.LCID}\"",
            cancellationToken: TestContext.Current.CancellationToken);

        Assert.True(result.Status == CellStatus.Succeeded, string.Join('\n', result.Error?.Traceback ?? []));
        Assert.Equal("<b>dib</b>", result.Outputs[0].Text("text/html"));
        Assert.Equal("notebook", result.Outputs[1].Text());
        Assert.Equal("3 127", result.Outputs[2].Text("text/plain"));

        var failed = await engine.RunAsync("#!import bad.csx", cancellationToken: TestContext.Current.CancellationToken);
        Assert.Equal("in the script", failed.Error!.Message);
        Assert.Contains("bad.csx:line 2", failed.Error.Traceback[1], StringComparison.Ordinal);
    }

    [Fact]
    public async Task Magics_WhoAndList_TellWhatIsThere()
    {
        using CellEngine engine = new();
        await engine.RunAsync("int mine = 3;\nvar model = new object();", cancellationToken: TestContext.Current.CancellationToken);
        var who = await engine.RunAsync("#!who", cancellationToken: TestContext.Current.CancellationToken);
        var whos = await engine.RunAsync("#!whos", cancellationToken: TestContext.Current.CancellationToken);
        var list = await engine.RunAsync("#!lsmagic", cancellationToken: TestContext.Current.CancellationToken);

        Assert.Equal("mine, model", who.Outputs[0].Text("text/plain"));
        Assert.Equal("mine: System.Int32 = 3\nmodel: System.Object = System.Object", whos.Outputs[0].Text("text/plain"));
        Assert.Contains(
            "<tr><td>mine</td><td>System.Int32</td><td>3</td></tr>", whos.Outputs[0].Text("text/html"), StringComparison.Ordinal);
        string text = list.Outputs[0].Text("text/plain");
        Assert.All(
            ["#!csharp", "#!fsharp", "#!share", "#!set", "#!who", "#!whos", "#!time", "#!import", "#r", "#!lsmagic"],
            magic => Assert.Contains(magic, text, StringComparison.Ordinal));
    }

    [Fact]
    public async Task Stored_ValueOfTheValueKernel_ComesBack()
    {
        using CellEngine engine = new();
        await engine.RunAsync("#!value --name stored\nsome text", cancellationToken: TestContext.Current.CancellationToken);
        var result = await engine.RunAsync(
            "#!set --name back --value @value:stored\nback.Trim()", cancellationToken: TestContext.Current.CancellationToken);

        Assert.Equal("some text", result.Outputs[0].Text("text/plain"));
    }

    [Fact]
    public async Task Input_WithoutAPerson_SaysSoAndWithOneIsAnswered()
    {
        using CellEngine alone = new();
        var refused = await alone.RunAsync("await GetInputAsync(\"name?\")", cancellationToken: TestContext.Current.CancellationToken);
        Assert.Contains("nobody is there to answer", refused.Error!.Message, StringComparison.Ordinal);

        using CellEngine engine = new() { Asker = (prompt, kind, _) => Task.FromResult($"{prompt}{kind}") };
        var answered = await engine.RunAsync(
            "#!set --name given --value @input:what\n"
            + "$\"{await GetInputAsync(\"a\")} {(await GetPasswordAsync(\"b\")).GetClearTextPassword()} {given}\"",
            cancellationToken: TestContext.Current.CancellationToken);
        Assert.Equal("atext bpassword whattext", answered.Outputs[0].Text("text/plain"));
    }

    [Fact]
    public async Task Editors_CompletionHoverSignaturesDiagnostics_AreAnswered()
    {
        await Succeed("/// <summary>Doubles.</summary>\nint Twice(int x) => 2 * x;\nvar numbers = new[] { 1 };");
        var root = shared.Engine.Root;
        var completed = await root.SendAsync(
            new RequestCompletions("numbers.Su", new LinePosition(0, 10)), TestContext.Current.CancellationToken);
        Assert.Contains(
            completed.Events.OfType<CompletionsProduced>().Single().Completions,
            item => item.DisplayText.StartsWith("Sum", StringComparison.Ordinal));
        var hover = await root.SendAsync(
            new RequestHoverText("XlstmLab.Models.XlstmPresets.Bytes1M", new LinePosition(0, 32)), TestContext.Current.CancellationToken);
        Assert.Contains(
            "million parameters", hover.Events.OfType<HoverTextProduced>().Single().Content.Single().Value, StringComparison.Ordinal);
        var help = await root.SendAsync(
            new RequestSignatureHelp("Math.Max(", new LinePosition(0, 9)), TestContext.Current.CancellationToken);
        Assert.NotEmpty(help.Events.OfType<SignatureHelpProduced>().Single().Signatures);
        var wrong = await root.SendAsync(new RequestDiagnostics("int x = \"a\";"), TestContext.Current.CancellationToken);
        Assert.Contains(wrong.Events.OfType<DiagnosticsProduced>().Single().Diagnostics, d => d.Code == "CS0029");

        await Succeed("#!fsharp\nlet square (x: int) = x * x");
        completed = await root.SendAsync(
            new RequestCompletions("[ 1 ] |> List.ma", new LinePosition(0, 16), targetKernelName: "fsharp"),
            TestContext.Current.CancellationToken);
        Assert.Contains(completed.Events.OfType<CompletionsProduced>().Single().Completions, item => item.DisplayText == "map");
        hover = await root.SendAsync(
            new RequestHoverText("square 3", new LinePosition(0, 2), targetKernelName: "fsharp"), TestContext.Current.CancellationToken);
        Assert.Contains("square", hover.Events.OfType<HoverTextProduced>().Single().Content.Single().Value, StringComparison.Ordinal);
    }

    private async Task<CellResult> Succeed(string source)
    {
        var result = await shared.Engine.RunAsync(source, cancellationToken: TestContext.Current.CancellationToken);
        Assert.True(result.Status == CellStatus.Succeeded, string.Join("\n", result.Error?.Traceback ?? []));
        return result;
    }

    [Theory]
    [InlineData("public class Own { }\nvar x = new Own();")]
    [InlineData("var x = new { A = 1 };")]
    public async Task Share_OfATypeThatFSharpCannotName_SaysSo(string source)
    {
        using CellEngine engine = new();
        await engine.RunAsync(source, cancellationToken: TestContext.Current.CancellationToken);
        var result = await engine.RunAsync(
            "#!fsharp\n#!share --from csharp x\n1", cancellationToken: TestContext.Current.CancellationToken);

        Assert.Equal(CellStatus.Failed, result.Status);
        Assert.Contains("F# cells cannot take 'x'", result.Error!.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Formulas_AreLatex()
    {
        using CellEngine engine = new();
        var result = await engine.RunAsync(
            "display((LaTeXString)\"\\\\begin{align}x\\\\end{align}\");\n(MathString)\"x^2\"",
            cancellationToken: TestContext.Current.CancellationToken);

        Assert.Equal(["\\begin{align}x\\end{align}", "$$x^2$$"], result.Outputs.Select(output => output.Text("text/latex")));
    }
}
