using System.Diagnostics;
using XlstmLab.Notebooks;
using Xunit;

namespace XlstmLab.Tests.Notebooks;

[Collection(NotebookTestSetup.Name)]
public sealed class CellEngineTests
{
    [Fact]
    public async Task RunAsync_SeveralCells_KeepsStateUsingsAndTypes()
    {
        CellEngine engine = new();
        await Succeed(engine, "using System.Globalization;\nint x = 40;\nrecord Point(int X, int Y);\nint Twice(int n) => 2 * n;");
        await Succeed(engine, "x += 2;");
        var result = await Succeed(engine, "var p = new Point(x, Twice(x)); $\"{p} {CultureInfo.InvariantCulture.Name.Length}\"");

        Assert.Equal(3, result.ExecutionCount);
        Assert.Equal("execute_result", result.Outputs[0].Type());
        Assert.Equal("Point { X = 42, Y = 84 } 0", result.Outputs[0].Text("text/plain"));
    }

    [Fact]
    public async Task RunAsync_AwaitAtTopLevel_ShowsTheResult()
    {
        var result = await Succeed(new CellEngine(), "await Task.Delay(5);\nint y = await Task.FromResult(7);\ny * 6");

        Assert.Equal("42", result.Outputs[0].Text("text/plain"));
    }

    [Fact]
    public async Task RunAsync_ConsoleAndDisplay_KeepTheirOrder()
    {
        List<string> live = [];
        var result = await new CellEngine().RunAsync(
            "Console.Write(1); Console.WriteLine(\"a\");\ndisplay(2);\nConsole.Error.WriteLine(\"e\");\nConsole.WriteLine(\"b\");\n"
            + "await Task.Run(() => Console.WriteLine(\"c\"));\n\"x\".Display();\nHTML(\"<b>h</b>\")",
            (stream, text) => live.Add($"{stream}:{text}"),
            cancellationToken: TestContext.Current.CancellationToken);

        Assert.Equal(CellStatus.Succeeded, result.Status);
        Assert.Equal(
            ["stream", "display_data", "stream", "stream", "display_data", "execute_result"],
            result.Outputs.Select(output => output.Type()));
        Assert.Equal("1a\n", result.Outputs[0].Text());
        Assert.Equal("stderr", (string)result.Outputs[2]!["name"]!);
        Assert.Equal("b\nc\n", result.Outputs[3].Text());
        Assert.Equal("<b>h</b>", result.Outputs[5].Text("text/html"));
        Assert.Equal("stdout:1stdout:a\nstderr:e\nstdout:b\nstdout:c\n", string.Concat(live));
    }

    [Fact]
    public async Task RunAsync_LiveCallbackThatWrites_ReachesTheHostsConsole()
    {
        var host = Console.Out;
        using StringWriter console = new();
        Console.SetOut(console);
        try
        {
            var result = await new CellEngine().RunAsync(
                "Console.Write(\"cell\");", (_, text) => Console.Write($"<{text}>"),
                cancellationToken: TestContext.Current.CancellationToken);

            Assert.Equal("cell", result.Outputs[0].Text());
            Assert.Equal("<cell>", console.ToString());
            Assert.NotNull(Console.Out);
        }
        finally
        {
            Console.SetOut(host);
        }
    }

    [Fact]
    public async Task RunAsync_DisplayUpdated_ShowsTheLastValueOnly()
    {
        var result = await Succeed(new CellEngine(), "var shown = display(\"before\");\nshown.Update(\"after\");\ndisplay(\"last\")");

        Assert.Equal(["after", "last"], result.Outputs.Select(output => output.Text("text/plain")));
    }

    [Theory]
    [InlineData("Math.Abs(-1);", 0)]
    [InlineData("// nothing", 0)]
    [InlineData("Console.Write(\"\")", 0)]
    [InlineData("int z = 1;", 0)]
    [InlineData("1", 1)]
    [InlineData("(string)null", 1)]
    public async Task RunAsync_LastStatement_IsShownIfItHasAValue(string source, int outputs) =>
        Assert.Equal(outputs, (await Succeed(new CellEngine(), source)).Outputs.Count);

    [Fact]
    public async Task RunAsync_CompileError_NamesCellLineAndPlace()
    {
        CellEngine engine = new();
        await Succeed(engine, "int a = 1;");
        var result = await engine.RunAsync("a = 2;\n  a = missing;", cancellationToken: TestContext.Current.CancellationToken);

        Assert.Equal(CellStatus.Failed, result.Status);
        Assert.Equal((2, 2, "CompilationError"), (result.Error!.Cell, result.Error.Line, result.Error.Kind));
        Assert.Equal("cell 2, line 2: CS0103: The name 'missing' does not exist in the current context", result.Error.ToString());
        Assert.Equal(["      a = missing;", "          ^^^^^^^"], result.Error.Traceback.Skip(1));
        Assert.Equal("error", result.Outputs[0].Type());
        Assert.Equal("1", (await Succeed(engine, "a")).Outputs[0].Text("text/plain"));
    }

    [Fact]
    public async Task RunAsync_Exception_ShowsLinesOfCellsOnlyAndKeepsWhatWasDeclared()
    {
        CellEngine engine = new();
        await Succeed(engine, "\nvoid Fail() => throw new InvalidOperationException(\"broken\");");
        var result = await engine.RunAsync(
            "int kept = 5;\nawait Task.Yield();\nFail();", cancellationToken: TestContext.Current.CancellationToken);

        Assert.Equal(CellStatus.Failed, result.Status);
        Assert.Equal("cell 2, line 3: broken", result.Error!.ToString());
        Assert.Equal(
            ["System.InvalidOperationException: broken", "   at Fail() in cell 1, line 2", "   at cell 2, line 3"], result.Error.Traceback);
        Assert.Equal("5", (await Succeed(engine, "kept")).Outputs[0].Text("text/plain"));
    }

    [Fact]
    public async Task RunAsync_ReferenceToCarriedLibrary_IsNoOpWhateverThePath()
    {
        CellEngine engine = new();
        await Succeed(
            engine,
            "#r \"../no/such/folder/XlstmLab.dll\"\n#r \"nuget: TorchSharp-cpu, 0.107.0\"\n#r \"nuget: Plotly.NET, 6.0.0\"\n"
            + "#r \"System.Text.Json\"\nusing XlstmLab.Models;");
        var result = await Succeed(
            engine, "typeof(XlstmConfig).Assembly == Type.GetType(\"XlstmLab.Models.XlstmConfig, XlstmLab\").Assembly");

        Assert.Equal("True", result.Outputs[0].Text("text/plain"));
    }

    [Theory]
    [InlineData("#r \"No.Such.Assembly\"", "no assembly of that name")]
    [InlineData("#r \"missing/My.dll\"", "there is no file")]
    [InlineData("#r \"text.dll\"", "no .NET assembly")]
    [InlineData("1\n#!pwsh\nls", "'#!pwsh' is not supported: cells can be C#, F#")]
    [InlineData("#!python\n1", "'#!python' is not supported")]
    [InlineData("#!nothing\n1", "Unknown magic command '#!nothing'")]
    [InlineData("#!import missing.dib", "there is no file")]
    [InlineData("#!import text.dll", "ends in none of .dib")]
    public async Task RunAsync_ReferenceOrMagicItCannotServe_SaysWhatToDo(string source, string message)
    {
        using TempFolder folder = new();
        File.WriteAllText(folder["text.dll"], "no assembly");
        var result = await new CellEngine(folder.Path).RunAsync(source, cancellationToken: TestContext.Current.CancellationToken);

        Assert.Equal(CellStatus.Failed, result.Status);
        Assert.Contains(message, result.Error!.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task RunAsync_ReferenceByPath_LoadsTheFileOnce()
    {
        using TempFolder folder = new();
        var library = Microsoft.CodeAnalysis.CSharp.CSharpCompilation.Create(
            "Lib",
            [Microsoft.CodeAnalysis.CSharp.CSharpSyntaxTree.ParseText(
                "public static class Lib { public static int Count; public static int Next() => ++Count; }",
                cancellationToken: TestContext.Current.CancellationToken)],
            [Microsoft.CodeAnalysis.MetadataReference.CreateFromFile(typeof(object).Assembly.Location)],
            new(Microsoft.CodeAnalysis.OutputKind.DynamicallyLinkedLibrary));
        using (var image = File.Create(folder["Lib.dll"]))
        {
            Assert.True(library.Emit(image, cancellationToken: TestContext.Current.CancellationToken).Success);
        }

        File.WriteAllText(folder["setup.csx"], "#r \"Lib.dll\"\nint fromSetup = Lib.Next();");

        CellEngine engine = new(folder.Path);
        await Succeed(engine, "#load \"setup.csx\"");
        await Succeed(engine, "#r \"Lib.dll\"\nLib.Next();");
        Assert.Equal("1 3", (await Succeed(engine, "$\"{fromSetup} {Lib.Next()}\"")).Outputs[0].Text("text/plain"));
    }

    [Fact]
    public async Task RunAsync_Magics_DivideTheCellAndKeepItsLines()
    {
        CellEngine engine = new();
        var result = await Succeed(
            engine,
            "#!csharp\n#!time\nvar s = \"a\";\ns + \"b\"\n#!html\n<b>h</b>\n#!markdown\n# m\n#!mermaid\ngraph TD; A-->B;\n#!js\nf()");

        Assert.Equal("ab", result.Outputs[0].Text("text/plain"));
        Assert.Equal("graph TD; A-->B;", result.Outputs[3].Text("text/vnd.mermaid"));
        Assert.Equal("<b>h</b>", result.Outputs[1].Text("text/html"));
        Assert.Equal("# m", result.Outputs[2].Text("text/markdown"));
        Assert.Equal("<script>f()</script>", result.Outputs[4].Text("text/html"));
        Assert.StartsWith("Wall time: ", result.Outputs[5].Text("text/plain"), StringComparison.Ordinal);
        var failed = await engine.RunAsync(
            "#!time\n\n#!csharp\nint ok = 1;\nthrow new Exception(\"late\");", cancellationToken: TestContext.Current.CancellationToken);
        Assert.Equal("cell 2, line 5: late", failed.Error!.ToString());
        failed = await engine.RunAsync("#!time\nmissing", cancellationToken: TestContext.Current.CancellationToken);
        Assert.Equal("cell 3, line 2: CS0103: The name 'missing' does not exist in the current context", failed.Error!.ToString());
    }

    [Theory]
    [InlineData("while (true) { }")]
    [InlineData("await Task.Delay(-1);")]
    [InlineData("await Task.Delay(60000, CellCancellation);")]
    [InlineData("CellCancellation.Register(() => throw new Exception(\"thrown\")); await Task.Delay(60000, CellCancellation);")]
    public async Task RunAsync_EndlessCell_IsInterruptedAndStateSurvives(string source)
    {
        CellEngine engine = new();
        await Succeed(engine, "int before = 1;");
        using CancellationTokenSource cancellation = new();
        long start = 0;

        // Not before the cell runs: on a busy machine it may take seconds to compile.
        var result = await engine.RunAsync(
            "Console.Write(\"x\");\n" + source,
            (_, _) =>
            {
                start = Stopwatch.GetTimestamp();
                cancellation.CancelAfter(100);
            },
            cancellationToken: cancellation.Token);

        Assert.Equal(CellStatus.Interrupted, result.Status);
        Assert.InRange(Stopwatch.GetElapsedTime(start).TotalSeconds, 0, 20);
        Assert.Equal("x", result.Outputs[0].Text());
        Assert.Equal("1", (await Succeed(engine, "before")).Outputs[0].Text("text/plain"));
    }

    [Fact]
    public async Task RunAsync_TensorInCell_FindsLibtorch() =>
        Assert.Equal(
            "float32 [] on cpu: 6",
            (await Succeed(new CellEngine(), "using static TorchSharp.torch;\nones(2, 3).sum()")).Outputs[0].Text("text/plain"));

    [Fact]
    public async Task RunAsync_RunawayOutput_IsCut()
    {
        var result = await Succeed(
            new CellEngine(), "var line = new string('x', 1_000_000);\nfor (int i = 0; i < 50; i++) Console.Write(line);");

        Assert.InRange(result.Outputs[0].Text().Length, 1_000_000, 4_000_000);
        Assert.Contains("left out", result.Outputs[0].Text(), StringComparison.Ordinal);
    }

    [Fact]
    public async Task RunAsync_CellThatCannotBeStopped_IsLeftAndNamed()
    {
        CellEngine engine = new() { Patience = TimeSpan.FromSeconds(1) };
        using CancellationTokenSource cancellation = new();
        using ManualResetEventSlim release = new();
        AppContext.SetData(nameof(release), release);
        long start = 0;
        var result = await engine.RunAsync(
            "Console.Write(\"x\");\n((System.Threading.ManualResetEventSlim)AppContext.GetData(\"release\")).Wait();",
            (_, _) =>
            {
                start = Stopwatch.GetTimestamp();
                cancellation.CancelAfter(100);
            },
            cancellationToken: cancellation.Token);

        Assert.Equal(CellStatus.Interrupted, result.Status);
        Assert.InRange(Stopwatch.GetElapsedTime(start).TotalSeconds, 0, 20);
        Assert.Contains("does not stop", result.Error!.Message, StringComparison.Ordinal);
        Assert.Equal("x", result.Outputs[0].Text());
        await Assert.ThrowsAsync<InvalidOperationException>(
            () => engine.RunAsync("1", cancellationToken: TestContext.Current.CancellationToken));
        release.Set();
        await WaitAsync(engine);

        var next = await engine.RunAsync("1", cancellationToken: TestContext.Current.CancellationToken);
        Assert.Equal("1", next.Outputs[0].Text("text/plain"));
    }

    [Theory]
    [InlineData(
        "Console.Write(new string('x', 50_000_000)); Console.WriteLine(\"end\");", "48,000,010 characters of this cell's console output")]
    [InlineData(
        "Console.WriteLine(new string('x', 50_000_000).ToCharArray()); Console.Error.Write(\"e\");",
        "characters of this cell's console output")]
    [InlineData(
        "for (int i = 0; i < 30; i++) { Console.Write('x'); Console.WriteLine(new string('y', 1_000_000)); }",
        "console output are left out")]
    public async Task RunAsync_WriteBeyondTheLimit_IsCutWithWhatIsLeftOut(string source, string note)
    {
        List<string> live = [];
        var result = await new CellEngine().RunAsync(
            "Console.WriteLine(\"start\");\n" + source, (_, text) => live.Add(text),
            cancellationToken: TestContext.Current.CancellationToken);

        Assert.Equal(CellStatus.Succeeded, result.Status);
        Assert.StartsWith("start\nx", result.Outputs[0].Text(), StringComparison.Ordinal);
        Assert.InRange(result.Outputs[0].Text().Length, CellOutputs.StreamLimit, CellOutputs.StreamLimit + 200);
        Assert.Contains(note, result.Outputs[^1].Text(), StringComparison.Ordinal);
        Assert.InRange(live.Sum(text => (long)text.Length), 2_000_000, 2_001_000);
    }

    [Fact]
    public async Task RunAsync_ManySmallWritesOfBothStreams_StayWithinTheLimit()
    {
        var result = await Succeed(new CellEngine(), "for (int i = 0; i < 100_000; i++) { Console.Write('o'); Console.Error.Write('e'); }");

        Assert.InRange(result.Outputs.Count, 1000, 30_000);
        Assert.Contains("left out", result.Outputs[^1].Text(), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("display(new string('x', 30_000_000));", "28,000,000 more characters are left out")]
    [InlineData("new string('x', 30_000_000)", "28,000,000 more characters are left out")]
    [InlineData("HTML(new string('x', 30_000_000))", "a value of 30,000,000 characters is left out")]
    [InlineData("for (int i = 0; i < 30; i++) display(new string('x', 1_000_000));", "displayed values are left out")]
    [InlineData(
        "var shown = display(1); for (int i = 0; i < 30; i++) shown.Update(new string('x', 1_900_000)); "
        + "display(new string('x', 30_000_000));", "more characters are left out")]
    public async Task RunAsync_ValuesBeyondTheLimit_AreCutWithWhatIsLeftOut(string source, string note)
    {
        var result = await Succeed(new CellEngine(), source);
        string json = result.Outputs.ToJsonString();

        Assert.Contains(note, json, StringComparison.Ordinal);
        Assert.InRange(json.Length, 50, 25_000_000);
    }

    [Fact]
    public async Task RunAsync_ExceptionWithAnEndlessMessage_IsCut()
    {
        var result = await new CellEngine().RunAsync(
            "throw new Exception(new string('e', 10_000_000));", cancellationToken: TestContext.Current.CancellationToken);

        Assert.Equal(1, result.Error!.Line);
        Assert.InRange(result.Outputs.ToJsonString().Length, 20_000, 100_000);
        Assert.Contains("more characters are left out", result.Error.Message, StringComparison.Ordinal);
    }

    /// <summary>Waits for a cell that was left behind: as long as it runs, it has the console.</summary>
    private static async Task WaitAsync(CellEngine engine)
    {
        for (var tries = 0; tries < 600; tries++)
        {
            try
            {
                await engine.RunAsync("", cancellationToken: TestContext.Current.CancellationToken);
                return;
            }
            catch (InvalidOperationException)
            {
                await Task.Delay(100, TestContext.Current.CancellationToken);
            }
        }
    }

    private static async Task<CellResult> Succeed(CellEngine engine, string source)
    {
        var result = await engine.RunAsync(source, cancellationToken: TestContext.Current.CancellationToken);
        Assert.True(result.Status == CellStatus.Succeeded, string.Join("\n", result.Error?.Traceback ?? []));
        return result;
    }
}
