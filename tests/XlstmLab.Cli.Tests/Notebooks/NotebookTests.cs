using System.Text;
using System.Text.Json.Nodes;
using XlstmLab.Notebooks;
using Xunit;

namespace XlstmLab.Tests.Notebooks;

public sealed class NotebookTests
{
    private const string Valid = """
        {"cells": [
          {"cell_type": "markdown", "id": "a-1", "metadata": {"x": {"y": [1, null, 2.50]}}, "source": ["# Title\n", "text"], "unknown": true},
          {"cell_type": "code", "id": "b_2", "metadata": {"tags": ["parameters"]}, "source": "int n = 3;", "execution_count": 2, "outputs": [
            {"output_type": "stream", "name": "stdout", "text": ["é 😀 \"q\"\n"]},
            {"output_type": "display_data", "metadata": {}, "data": {"text/plain": "p", "application/json": {"k": [1]}}},
            {"output_type": "error", "ename": "E", "evalue": "v", "traceback": ["t"]}]},
          {"cell_type": "raw", "id": "c", "metadata": {}, "source": []}],
         "metadata": {"kernelspec": {"name": ".net-csharp"}, "mine": 1}, "nbformat": 4, "nbformat_minor": 5, "extra": "kept"}
        """;

    [Fact]
    public void Parse_ValidText_ReadsCells()
    {
        var notebook = Notebook.Parse(Valid);

        Assert.Equal([CellKind.Markdown, CellKind.Code, CellKind.Raw], notebook.Cells.Select(cell => cell.Kind));
        Assert.Equal("# Title\ntext", notebook.Cells[0].Source);
        Assert.Equal("int n = 3;", notebook.Cells[1].Source);
        Assert.Equal(["parameters"], notebook.Cells[1].Tags);
        Assert.Equal(2, notebook.Cells[1].ExecutionCount);
        Assert.Equal(3, notebook.Cells[1].Outputs.Count());
        Assert.Equal("", notebook.Cells[2].Source);
    }

    [Fact]
    public void ToJson_AfterParse_KeepsEverythingAndIsStable()
    {
        string once = Notebook.Parse(Valid).ToJson();

        Assert.Equal(once, Notebook.Parse(once).ToJson());
        Assert.True(JsonNode.DeepEquals(JsonNode.Parse(Valid), JsonNode.Parse(once)));
    }

    [Fact]
    public void ToJson_AnyNotebook_IsWrittenAsJupyterDoes()
    {
        Notebook notebook = new();
        notebook.Cells.Add(new NotebookCell(CellKind.Markdown, "a\nß <b>", "one"));

        const string expected = """
            {
             "cells": [
              {
               "cell_type": "markdown",
               "id": "one",
               "metadata": {},
               "source": [
                "a\n",
                "ß <b>"
               ]
              }
             ],
             "metadata": {
              "kernelspec": {
               "display_name": ".NET (C#)",
               "language": "C#",
               "name": ".net-csharp"
              },
              "language_info": {
               "name": "polyglot-notebook"
              }
             },
             "nbformat": 4,
             "nbformat_minor": 5
            }

            """;
        Assert.Equal(expected.ReplaceLineEndings("\n"), notebook.ToJson());
    }

    [Fact]
    public void Parse_Before45_AddsIds()
    {
        var notebook = Notebook.Parse(
            """{"cells":[{"cell_type":"raw","metadata":{},"source":""}],"metadata":{},"nbformat":4,"nbformat_minor":2}""");

        Assert.Equal("cell-1", notebook.Cells[0].Id);
        Assert.Contains("\"nbformat_minor\": 5", notebook.ToJson());
    }

    [Theory]
    [InlineData("", "not valid JSON")]
    [InlineData("[]", "no JSON object")]
    [InlineData("""{"nbformat":4,"nbformat_minor":5,"metadata":{}}""", "no list 'cells'")]
    [InlineData("""{"nbformat":3,"nbformat_minor":0,"metadata":{},"worksheets":[]}""", "format 3")]
    [InlineData("""{"nbformat":"4","nbformat_minor":5,"cells":[]}""", "nbformat")]
    [InlineData("""{"nbformat":4,"nbformat_minor":5,"cells":[1]}""", "cell 1 is not an object")]
    [InlineData("""{"nbformat":4,"nbformat_minor":5,"cells":[{"cell_type":"cod","source":""}]}""", "cell_type \"cod\"")]
    [InlineData("""{"nbformat":4,"nbformat_minor":5,"cells":[{"cell_type":"code","source":[1]}]}""", "source of cell 1")]
    [InlineData("""{"nbformat":4,"nbformat_minor":5,"cells":[{"cell_type":"code","source":"","metadata":[]}]}""", "metadata of cell 1")]
    [InlineData(
        """{"nbformat":4,"nbformat_minor":5,"cells":[{"cell_type":"code","source":"","outputs":[{"output_type":"stream"}]}]}""",
        "output 1 of cell 1")]
    [InlineData("""{"nbformat":4,"nbformat_minor":5,"cells":[{"cell_type":"raw","source":"","id":"a b"}]}""", "id of cell 1")]
    [InlineData("""{"nbformat":4,"nbformat_minor":5,"cells":[],"cells":[]}""", "not valid JSON")]
    [InlineData("""{"nbformat":4,"nbformat_minor":5,"cells":[{"cell_type":"raw","source":"\ud800"}]}""", "Unicode")]
    public void Parse_DamagedText_SaysWhatIsWrong(string text, string expected) =>
        Assert.Contains(expected, Assert.Throws<NotebookException>(() => Notebook.Parse(text)).Message, StringComparison.Ordinal);

    [Theory]
    [InlineData("""{"output_type":"error","ename":"","evalue":"shown","traceback":[null]}""")]
    [InlineData("""{"output_type":"error","ename":"shown"}""")]
    [InlineData("""{"output_type":"error","traceback":"shown"}""")]
    [InlineData("""{"output_type":"unknown","data":{"text/plain":"shown"}}""")]
    [InlineData("""{"output_type":"pyout","text":["shown"]}""")]
    [InlineData("""{"output_type":7,"data":{"text/plain":["shown",null,3]}}""")]
    [InlineData("""{"output_type":"stream","text":"shown \ud83d"}""")]
    [InlineData("""{"output_type":"stream","name":"stdout","text":"\ude00 shown \ud83d\ude00 \ud83d\ud83d \\ud83d"}""")]
    [InlineData("""{"output_type":"display_data","data":{"text/html":null,"image/png":null,"text/plain":"shown"}}""")]
    [InlineData("""{"output_type":"display_data","data":{"text/html":{"a":"shown"}}}""")]
    [InlineData("""{"output_type":"execute_result","data":{},"metadata":{"x":"\ud83d"},"execution_count":"shown"}""", false)]
    public void Parse_OutputThatJupyterOpens_IsShownAndReplaced(string output, bool isShown = true)
    {
        var notebook = Notebook.Parse($$"""
            {"nbformat":4,"nbformat_minor":5,"metadata":{},"cells":[{"cell_type":"code","source":"1","id":"a","metadata":{},"execution_count":"*","outputs":[{{output}}]}]}
            """);
        string page = NotebookHtml.Render(notebook, "x");

        Assert.True(!isShown || page.Contains("shown", StringComparison.Ordinal), page);
        Assert.Equal(notebook.ToJson(), Notebook.Parse(notebook.ToJson()).ToJson());
        notebook.Cells[0].ClearOutputs();
        Assert.Empty(Notebook.Parse(notebook.ToJson()).Cells[0].Outputs);
    }

    [Fact]
    public void Parse_SameIdTwice_GivesTheLaterCellItsOwn()
    {
        var notebook = Notebook.Parse("""
            {"nbformat":4,"nbformat_minor":5,"cells":[{"cell_type":"raw","source":"","id":"a"},{"cell_type":"raw","source":"","id":"a"},
            {"cell_type":"raw","source":"","id":"a-2"},{"cell_type":"raw","source":"","id":"a"}]}
            """);

        Assert.Equal("a", notebook.Cells[0].Id);
        Assert.Equal(4, notebook.Cells.Select(cell => cell.Id).Distinct().Count());
    }

    [Fact]
    public void Load_DamagedFiles_ThrowsNotebookExceptionOnly()
    {
        using TempFolder folder = new();
        string path = folder["damaged.ipynb"];
        byte[] valid = Encoding.UTF8.GetBytes(Valid);
        Random random = new(7);
        int refused = 0;
        for (int i = 0; i < 1200; i++)
        {
            byte[] bytes = i % 3 == 0 ? valid[..random.Next(valid.Length)] : [.. valid];
            for (int flips = i % 3; flips > 0 && bytes.Length > 0; flips--)
            {
                bytes[random.Next(bytes.Length)] = i % 2 == 0 ? (byte)random.Next(256) : "{}[]\",:01\\un"u8.ToArray()[random.Next(12)];
            }

            File.WriteAllBytes(path, bytes);
            try
            {
                // What is still a notebook must also be usable.
                var notebook = Notebook.Load(path);
                Notebook.Parse(notebook.ToJson());
                NotebookHtml.Render(notebook, "damaged");
            }
            catch (NotebookException)
            {
                refused++;
            }
        }

        Assert.InRange(refused, 600, 1199);
    }

    [Fact]
    public void Load_MissingFile_SaysSo() =>
        Assert.Contains(
            "cannot be read", Assert.Throws<NotebookException>(() => Notebook.Load("/nowhere/x.ipynb")).Message, StringComparison.Ordinal);

    [Fact]
    public void Save_ToUnusableFolder_ThrowsAndLeavesNothing()
    {
        using TempFolder folder = new();
        File.WriteAllText(folder["file"], "");

        Assert.Throws<NotebookException>(() => new Notebook().Save(folder["file/x.ipynb"]));
        Assert.Equal(["file"], Directory.EnumerateFileSystemEntries(folder.Path).Select(Path.GetFileName));
    }
}
