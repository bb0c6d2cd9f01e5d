using System.Diagnostics;
using System.Text;
using System.Text.Json.Nodes;
using Xunit;

namespace XlstmLab.Tests.Notebooks;

/// <summary>The kernel as its clients see it, over its sockets. The engine takes seconds to start: the tests share one kernel.</summary>
[Collection(nameof(ProcessCollection))]
public sealed class JupyterKernelTests(JupyterKernelTests.Shared shared) : IClassFixture<JupyterKernelTests.Shared>
{
    public sealed class Shared : IDisposable
    {
        internal JupyterClient Client { get; } = new();

        public void Dispose() => Client.Dispose();
    }

    private JupyterClient Client => shared.Client;

    [Fact]
    public void KernelInfo_OnBothSockets_NamesLanguageAndProtocol()
    {
        foreach (string channel in new[] { "shell", "control" })
        {
            var info = Client.Ask("kernel_info_request", [], channel).Reply;

            Assert.Equal(("ok", "5.3", "C#"), (Text(info["status"]), Text(info["protocol_version"]), Text(info["language_info"]!["name"])));
        }

        Assert.True(Client.Beats());
    }

    [Fact]
    public void Execute_TextAndValues_ComeInTheirOrder()
    {
        var answer = Client.Run(
            "Console.Write(\"a\"); Console.WriteLine(\"b\");\nConsole.Error.WriteLine(\"e\");\nHTML(\"<b>\\n</b>\").Display();\n"
            + "Console.WriteLine(\"c\");\n\"x\\ny\"");

        Assert.Equal(["execute_input", "stream", "stream", "display_data", "stream", "execute_result"], answer.Types);
        Assert.Equal("ok", Text(answer.Reply["status"]));
        var streams = answer.Published.Where(message => message.Type == "stream").Select(
            message => $"{message.Content["name"]}:{message.Content["text"]}");
        Assert.Equal(["stdout:ab\n", "stderr:e\n", "stdout:c\n"], streams);
        Assert.Equal("<b>\n</b>", Text(answer.Content("display_data")["data"]!["text/html"]));
        Assert.Equal("x\ny", Text(answer.Content("execute_result")["data"]!["text/plain"]));
        int count = (int)answer.Reply["execution_count"]!;
        Assert.Equal(count, (int)answer.Content("execute_result")["execution_count"]!);
        Assert.Equal(count, (int)answer.Content("execute_input")["execution_count"]!);
        Assert.Equal(count + 1, (int)Client.Run("1").Reply["execution_count"]!);
    }

    [Fact]
    public void Execute_TextOfARunningCell_ComesBeforeItsEnd()
    {
        using TempFolder folder = new();
        string id = Client.Execute(
            $"Console.WriteLine(\"first\");\nwhile (!System.IO.File.Exists(\"{folder["go"]}\")) await Task.Delay(10);\n"
            + "Console.WriteLine(\"second\");");
        Assert.Equal("first\n", Text(Client.WaitFor(id, message => message.Type == "stream").Content["text"]));
        folder.Write("go", "");

        Assert.Equal(["execute_input", "stream", "stream"], Client.End(id).Types);
    }

    [Fact]
    public void Execute_DisplayUpdated_NamesTheSameValueFromALaterCellToo()
    {
        var first = Client.Run("var shown = display(\"before\");\nshown.Update(\"between\");");
        var later = Client.Run("shown.Update(\"after\");");

        Assert.Equal(["execute_input", "display_data", "update_display_data"], first.Types);
        Assert.Equal(["execute_input", "update_display_data"], later.Types);
        string id = Text(first.Content("display_data")["transient"]!["display_id"])!;
        Assert.Equal(id, Text(first.Content("update_display_data")["transient"]!["display_id"]));
        Assert.Equal(id, Text(later.Content("update_display_data")["transient"]!["display_id"]));
        Assert.Equal("after", Text(later.Content("update_display_data")["data"]!["text/plain"]));
    }

    [Fact]
    public void Execute_Error_IsToldAndCellsThatWaitAreNotRun()
    {
        string[] ids =
        [
            Client.Execute("int kept = 5;\nawait Task.Delay(500);\nthrow new InvalidOperationException(\"boom\");"),
            Client.Execute("kept = 6;"), Client.Execute("kept = 7;"),
        ];
        JupyterAnswer[] answers = [.. ids.Select(Client.End)];

        Assert.Equal(["error", "aborted", "aborted"], answers.Select(answer => Text(answer.Reply["status"])));
        var error = answers[0].Content("error");
        Assert.Equal(("System.InvalidOperationException", "boom"), (Text(error["ename"]), Text(error["evalue"])));
        Assert.Equal(("System.InvalidOperationException", "boom"), (Text(answers[0].Reply["ename"]), Text(answers[0].Reply["evalue"])));
        Assert.Matches(
            @"^System\.InvalidOperationException: boom\n   at cell \d+, line 3$", string.Join('\n', error["traceback"]!.AsArray()));
        Assert.Equal("5", Text(Client.Run("kept").Content("execute_result")["data"]!["text/plain"]));

        ids = [Client.Execute("await Task.Delay(300); missing", ("stop_on_error", false)), Client.Execute("kept = 6;")];
        Assert.Equal(["error", "ok"], ids.Select(id => Text(Client.End(id).Reply["status"])));
    }

    [Fact]
    public void Execute_SilentOrWithoutHistory_DoesNotCount()
    {
        int count = (int)Client.Run("var silently = 1;").Reply["execution_count"]!;
        var silent = Client.End(Client.Execute("Console.WriteLine(2); display(3); silently = 2; silently", ("silent", true)));
        var unstored = Client.End(Client.Execute("silently", ("store_history", false)));

        Assert.Empty(silent.Types);
        Assert.Equal(count, (int)silent.Reply["execution_count"]!);
        Assert.Equal(["execute_input", "execute_result"], unstored.Types);
        Assert.Equal(count, (int)unstored.Reply["execution_count"]!);
        var next = Client.Run("silently");
        Assert.Equal(count + 1, (int)next.Reply["execution_count"]!);
        Assert.Equal("2", Text(next.Content("execute_result")["data"]!["text/plain"]));
    }

    [Theory]
    [InlineData("message")]
    [InlineData("signal")]
    public void Interrupt_EndlessLoop_EndsItAndStateSurvives(string how)
    {
        Assert.SkipUnless(how == "message" || !OperatingSystem.IsWindows(), "There is no SIGINT.");
        Client.Run("int before = 11;");
        string id = Client.Execute("Console.WriteLine(\"x\"); before++; while (true) { }");
        Client.WaitFor(id, message => message.Type == "stream");
        if (how == "message")
        {
            Assert.Equal("ok", Text(Client.Ask("interrupt_request", [], "control").Reply["status"]));
        }
        else
        {
            using var kill = Process.Start("kill", ["-INT", $"{Client.Process.Id}"]);
            kill.WaitForExit();
        }

        var answer = Client.End(id);
        Assert.Equal(("error", "Interrupted"), (Text(answer.Reply["status"]), Text(answer.Reply["ename"])));
        Assert.Equal(["execute_input", "stream", "error"], answer.Types);
        Assert.Equal("12", Text(Client.Run("before").Content("execute_result")["data"]!["text/plain"]));
    }

    [Fact]
    public void Input_OfEveryKind_IsAskedAtTheClient()
    {
        string id = Client.Execute(
            "#!set --name given --value @input:what\n"
            + "$\"{given} {await GetInputAsync(\"name?\")} {(await GetPasswordAsync(\"word?\")).GetClearTextPassword()} "
            + "{Console.ReadLine()}\"");
        JsonObject[] asked = [.. new[] { "a", "b", "c", "d é" }.Select(Client.Input)];

        Assert.Equal("a b c d é", Text(Client.End(id).Content("execute_result")["data"]!["text/plain"]));
        Assert.Equal(["what", "name?", "word?", ""], asked.Select(question => Text(question["prompt"])));
        Assert.Equal([false, false, true, false], asked.Select(question => (bool)question["password"]!));

        var refused = Client.End(Client.Execute("await GetInputAsync(\"name?\")", ("allow_stdin", false)));
        Assert.Contains("nobody is there to answer", Text(refused.Reply["evalue"]), StringComparison.Ordinal);
    }

    [Fact]
    public void Input_Interrupted_EndsTheCell()
    {
        string id = Client.Execute("Console.WriteLine(1); await GetInputAsync(\"name?\")");
        Client.WaitFor(id, message => message.Type == "stream");
        Client.Ask("interrupt_request", [], "control");

        Assert.Equal("Interrupted", Text(Client.End(id).Reply["ename"]));
        Client.Input("late");
        Assert.Equal("ok", Text(Client.Run("1").Reply["status"]));
    }

    [Fact]
    public void Complete_AfterAWordBeyondTheBasicPlane_CountsCodePoints()
    {
        // The note is one code point and two UTF-16 units.
        var reply = Client.Ask(
            "complete_request", new() { ["code"] = "var n = \"𝄞\"; Console.Wri; // more", ["cursor_pos"] = 24 }).Reply;

        Assert.Equal(["Write", "WriteLine"], reply["matches"]!.AsArray().Select(Text));
        Assert.Equal((21, 24), ((int)reply["cursor_start"]!, (int)reply["cursor_end"]!));
        Client.Run("int someCounter = 3;");
        reply = Client.Ask("complete_request", new() { ["code"] = "1 + someC", ["cursor_pos"] = 9 }).Reply;
        Assert.Equal(["someCounter"], reply["matches"]!.AsArray().Select(Text));
    }

    [Fact]
    public void Inspect_NameOrCall_GivesDocumentationAndSignatures()
    {
        string Inspect(string code, int cursor)
        {
            var reply = Client.Ask("inspect_request", new() { ["code"] = code, ["cursor_pos"] = cursor, ["detail_level"] = 0 }).Reply;
            return (bool)reply["found"]! ? Text(reply["data"]!["text/plain"])! : "nothing";
        }

        Assert.Contains("million parameters", Inspect("XlstmLab.Models.XlstmPresets.Bytes1M", 32), StringComparison.Ordinal);
        Assert.Contains("million parameters", Inspect("XlstmLab.Models.XlstmPresets.Bytes1M", 36), StringComparison.Ordinal);
        Assert.Contains("double Math.Max(double val1, double val2)", Inspect("Math.Max(", 9), StringComparison.Ordinal);
        Assert.Equal("nothing", Inspect("nowhere", 3));
    }

    [Theory]
    [InlineData("int x = 1;", true)]
    [InlineData("int F() {", false)]
    [InlineData("var text = \"\"\"", false)]
    [InlineData("#!time\nint x = 1;", true)]
    [InlineData("#!html\n<b>", true)]
    [InlineData("#!fsharp\nlet x = 1", true)]
    [InlineData("#!fsharp\nlet f x =", false)]
    [InlineData("#!fsharp\nlet list = [ 1", false)]
    [InlineData("#!fsharp\nlet f x =\n    x + 1", false)]
    [InlineData("#!fsharp\nlet f x =\n    x + 1\n", true)]
    [InlineData("#!fsharp\nlet f x =\n    x + 1;;", true)]
    public void IsComplete_Lines_SaysWhetherMoreIsToCome(string code, bool isComplete) => Assert.Equal(
        isComplete ? "complete" : "incomplete", Text(Client.Ask("is_complete_request", new() { ["code"] = code }).Reply["status"]));

    [Fact]
    public void History_CellsOfThisKernel_AreFound()
    {
        int number = (int)Client.Run("\"history one\"").Reply["execution_count"]!;
        Client.Run("\"history two\"");
        Client.Run("\"history one\"");

        JsonArray Ask(JsonObject content) => Client.Ask("history_request", content).Reply["history"]!.AsArray();
        var tail = Ask(new() { ["hist_access_type"] = "tail", ["n"] = 2, ["output"] = true, ["raw"] = true });
        Assert.Equal(
            $$"""[[1,{{number + 1}},["\u0022history two\u0022","history two"]],[1,{{number + 2}},["\u0022history one\u0022","history one"]]]""",
            tail.ToJsonString());
        var range = Ask(
            new() { ["hist_access_type"] = "range", ["session"] = 0, ["start"] = number, ["stop"] = number + 1, ["output"] = false });
        Assert.Equal($$"""[[1,{{number}},"\u0022history one\u0022"]]""", range.ToJsonString());
        var search = Ask(new() { ["hist_access_type"] = "search", ["pattern"] = "*history o?e*", ["unique"] = true, ["n"] = 10 });
        Assert.Equal([number + 2], search.Select(cell => (int)cell![1]!));
    }

    [Fact]
    public void Comms_ThereAreNone()
    {
        Assert.Equal("{}", Client.Ask("comm_info_request", []).Reply["comms"]!.ToJsonString());
        string id = Client.Begin("comm_open", new() { ["comm_id"] = "c", ["target_name"] = "widget", ["data"] = new JsonObject() });

        Assert.Equal("c", Text(Client.WaitFor(id, message => message.Type == "comm_close").Content["comm_id"]));
    }

    [Fact]
    public void WrongSignature_IsRefusedAndSaid()
    {
        using TempFolder folder = new();
        JsonObject cell = new() { ["code"] = $"System.IO.File.WriteAllText(\"{folder["written"]}\", \"\");" };
        foreach (string channel in new[] { "shell", "control" })
        {
            string id = Client.Begin("execute_request", cell.DeepClone().AsObject(), channel, Encoding.UTF8.GetBytes("wrong"));
            Client.Ask("kernel_info_request", [], channel);

            Assert.Null(Client.ReplyTo(id, TimeSpan.FromMilliseconds(300)));
        }

        Client.Run("1");
        Assert.False(File.Exists(folder["written"]));
        Client.Run((string)cell["code"]!);
        Assert.True(File.Exists(folder["written"]));
        Assert.Contains("A message on shell was refused: it is not signed with the key", Client.Errors, StringComparison.Ordinal);
    }

    [Fact]
    public void Shutdown_OfAKernelForFSharp_EndsWhatCellsStarted()
    {
        LongTests.Skip();
        using JupyterClient client = new("fsharp");
        Assert.Equal("F#", Text(client.Ask("kernel_info_request", []).Reply["language_info"]!["name"]));
        var answer = client.Run("printfn \"%d\" 3\nlet child = System.Diagnostics.Process.Start(\"sleep\", \"600\")\nchild.Id");
        Assert.Equal(["execute_input", "stream", "execute_result"], answer.Types);
        string id = client.Execute("#!csharp\nConsole.WriteLine(1);\nwhile (true) { }");
        client.WaitFor(id, message => message.Type == "stream");
        string shutdown = client.Begin("shutdown_request", new() { ["restart"] = true }, "control");

        Assert.True((bool)client.ReplyTo(shutdown, TimeSpan.FromSeconds(60))!["restart"]!);
        Assert.True(client.Process.WaitForExit(60_000));
        Assert.Equal(0, client.Process.ExitCode);
        Assert.False(NotebookFolders.IsRunning(Text(answer.Content("execute_result")["data"]!["text/plain"])!));
    }

    private static string? Text(JsonNode? node) => (string?)node;
}
