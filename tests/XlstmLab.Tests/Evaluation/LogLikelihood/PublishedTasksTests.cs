using System.Text.Json.Nodes;
using Parquet.Serialization;
using XlstmLab.Evaluation.LogLikelihood;
using Xunit;

namespace XlstmLab.Tests.Evaluation.LogLikelihood;

[Collection(nameof(TextCollection))]
public sealed class PublishedTasksTests : IDisposable
{
    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData(
        """{"id":"A1","question":"What falls?","choices":{"text":["rain","hope","a stone wall"],"label":["A","B","C"]},"answerKey":"A"}""",
        0)]
    [InlineData(
        """{"id":"A2","question":"What falls?","choices":{"text":["rain","hope","a stone wall"],"label":["1","2","3"]},"answerKey":"3"}""",
        2)]
    [InlineData(
        """{"id":"A3","question":{"stem":"What falls?","choices":[{"text":"rain","label":"A"},{"text":"hope","label":"B"},{"text":"a stone wall","label":"C"}]},"answerKey":"B"}""",
        1)]
    public void Arc_BothPublishedSchemas_GivePromptAndAnswers(string line, int gold)
    {
        var item = Item(new ArcTask("arc_easy"), line);
        Assert.Equal(gold, item.Gold);
        Assert.Equal(["rain", "hope", "a stone wall"], item.Choices.Select(c => c.Answer));
        Assert.All(item.Choices, c => Assert.Equal("Question: What falls?\nAnswer:", c.Query));
    }

    [Theory]
    [InlineData("\"2\"")]
    [InlineData("2")]
    public void HellaSwag_WikiHowMarks_AreCleaned(string label)
    {
        var item = Item(new HellaSwagTask(), $$"""
            {"ind":4,"activity_label":"Baking bread","ctx_a":"[header] How to bake [title] Knead it.","ctx_b":"then THE baker","ctx":"unused","endings":[" sleeps. [step] He dreams.","eats [substeps] it","flies","  waits"],"source_id":"x","split":"val","label":{{label}}}
            """);
        Assert.Equal(2, item.Gold);
        Assert.All(item.Choices, c => Assert.Equal("Baking bread: How to bake. Knead it. Then the baker", c.Query));
        Assert.Equal(["sleeps. He dreams.", "eats it", "flies", "waits"], item.Choices.Select(c => c.Answer));
    }

    [Fact]
    public void Piqa_Row_GivesPromptAndAnswers()
    {
        var item = Item(new PiqaTask(), """{"goal":"Open a jar","sol1":"Turn the lid.","sol2":"Sing to it.","label":0}""");
        Assert.Equal((0, "Question: Open a jar\nAnswer:"), (item.Gold, item.Choices[1].Query));
        Assert.Equal(["Turn the lid.", "Sing to it."], item.Choices.Select(c => c.Answer));
        Assert.Equal("Question: Open a jar\nAnswer: Turn the lid.", item.Example);
    }

    [Fact]
    public void WinoGrande_Blank_IsFilledAndTheRestScored()
    {
        var item = Item(
            new WinoGrandeTask(),
            """{"sentence":"The cup missed the box because the _ was too far.","option1":"cup","option2":"box","answer":"2"}""");
        Assert.Equal(1, item.Gold);
        Assert.Equal(
            ["The cup missed the box because the cup", "The cup missed the box because the box"], item.Choices.Select(c => c.Query));
        Assert.All(item.Choices, c => Assert.Equal("was too far.", c.Answer));
        Assert.Equal("The cup missed the box because the box was too far.", item.Example);
    }

    [Fact]
    public void OpenBookQa_Row_GivesStemAndAnswers()
    {
        var item = Item(
            new OpenBookQaTask(),
            """{"id":"7","question_stem":"Ice is","choices":{"text":["cold","warm"],"label":["A","B"]},"answerKey":" B"}""");
        Assert.Equal((1, "Ice is", "warm"), (item.Gold, item.Choices[1].Query, item.Choices[1].Answer));
    }

    [Fact]
    public void Lambada_Text_IsCutBeforeItsLastWord()
    {
        var item = Item(new LambadaTask("lambada_openai"), """{"text":"\"Look,\" he said.\n She looked at the moon"}""");
        Assert.Equal(("\"Look,\" he said.\n She looked at the", "moon"), (item.Choices[0].Query, item.Choices[0].Answer));
        Assert.Single(item.Choices);
    }

    [Fact]
    public void Mmlu_Row_GivesLettersAndSubject()
    {
        var item = Item(
            new MmluTask(), """{"question":" What is 2+2?\n","subject":"school_maths","choices":["1","2","3","4"],"answer":3}""");
        Assert.Equal("What is 2+2?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:", item.Choices[0].Query);
        Assert.Equal(["A", "B", "C", "D"], item.Choices.Select(c => c.Answer));
        Assert.Equal(("school_maths", 3), (item.Group, item.Gold));
        Assert.Equal("The following are multiple choice questions (with answers) about school maths.\n\n", item.Description);
    }

    [Fact]
    public void Blimp_Row_GivesPair()
    {
        var item = Item(
            new BlimpTask(),
            """{"sentence_good":"Cats sleep.","sentence_bad":"Cats sleeps.","field":"morphology","UID":"agreement_1","pairID":"0"}""");
        Assert.Equal((0, "agreement_1", ""), (item.Gold, item.Group, item.Choices[0].Query));
        Assert.Equal(["Cats sleep.", "Cats sleeps."], item.Choices.Select(c => c.Answer));
    }

    [Fact]
    public async Task ReadAsync_Parquet_EqualsJsonLines()
    {
        await ParquetSerializer.SerializeAsync(
            [
                new ArcParquet
                {
                    id = "1",
                    question = "What falls?",
                    choices = new() { text = ["rain", "naïve hope"], label = ["A", "B"] },
                    answerKey = "B",
                },
                new ArcParquet
                {
                    id = "2",
                    question = "And rises?",
                    choices = new() { text = ["a", "b", "c", "d"], label = ["1", "2", "3", "4"] },
                    answerKey = "4",
                },
            ],
            _folder["arc.parquet"], cancellationToken: TestContext.Current.CancellationToken);
        File.WriteAllText(_folder["arc.jsonl"], """
            {"id":"1","question":"What falls?","choices":{"text":["rain","naïve hope"],"label":["A","B"]},"answerKey":"B"}

            {"id":"2","question":"And rises?","choices":{"text":["a","b","c","d"],"label":["1","2","3","4"]},"answerKey":"4"}
            """);
        await AssertEqualAsync(new ArcTask("arc_easy"), "arc");

        await ParquetSerializer.SerializeAsync(
            [new MmluParquet { question = "Why?", subject = "logic", choices = ["p", "q", "r", "s"], answer = 2 }],
            _folder["mmlu.parquet"], cancellationToken: TestContext.Current.CancellationToken);
        File.WriteAllText(_folder["mmlu.jsonl"], """{"question":"Why?","subject":"logic","choices":["p","q","r","s"],"answer":2}""");
        await AssertEqualAsync(new MmluTask(), "mmlu");
    }

    [Fact]
    public async Task ReadAsync_ParquetOfSeveralRowGroups_HasAllRowsInOrder()
    {
        await ParquetSerializer.SerializeAsync(
            Enumerable.Range(0, 7).Select(
                k => new MmluParquet { question = $"{k}", subject = "s", choices = ["p", "q", "r", "s"], answer = k % 4 }),
            _folder["mmlu.parquet"], new() { RowGroupSize = 3 }, cancellationToken: TestContext.Current.CancellationToken);
        var rows = await TaskFiles.ReadAsync(_folder["mmlu.parquet"], TestContext.Current.CancellationToken);
        Assert.Equal(["0", "1", "2", "3", "4", "5", "6"], rows.Select(r => r.Text("question")));
        Assert.Equal([1, 2, 3, 4, 5, 6, 7], rows.Select(r => r.Number));
    }

    [Fact]
    public async Task ReadAsync_FolderOrPattern_ReadsFilesInOrder()
    {
        Directory.CreateDirectory(_folder["mmlu/b"]);
        foreach (var (file, question) in new[] { ("a-test.jsonl", "first"), ("b/test.jsonl", "second"), ("dev.jsonl", "third") })
        {
            File.WriteAllText(
                _folder[$"mmlu/{file}"], $$"""{"question":"{{question}}","subject":"s","choices":["p","q","r","s"],"answer":2}""");
        }

        File.WriteAllText(_folder["mmlu/notes.txt"], "no rows");
        Assert.Equal(["first", "second", "third"], await QuestionsAsync("mmlu"));
        Assert.Equal(["first", "second"], await QuestionsAsync("mmlu/*test*"));
        await Assert.ThrowsAsync<FileNotFoundException>(() => QuestionsAsync("mmlu/*validation*"));

        async Task<IEnumerable<string>> QuestionsAsync(string path) =>
            (await new MmluTask().ReadAsync(_folder[path], TestContext.Current.CancellationToken)).Select(
                i => i.Choices[0].Query.Split('\n')[0]);
    }

    [Theory]
    [InlineData(
        "arc_easy", """{"question":"What?","answerKey":"A"}""",
        "'choices' to be as many texts 'text' as labels 'label', got no such field; the row has question, answerKey")]
    [InlineData("arc_easy", """{"question":"What?","choices":{"text":["a","b"],"label":["A"]},"answerKey":"A"}""", "as many texts")]
    [InlineData(
        "arc_easy", """{"question":"What?","choices":{"text":["a","b"],"label":["A","B"]},"answerKey":""}""", "one of the labels A, B")]
    [InlineData("openbookqa", """{"question":"What?"}""", "'question_stem' to be a text, got no such field")]
    [InlineData(
        "hellaswag", """{"activity_label":"x","ctx_a":"x","ctx_b":"","endings":["a","b"],"label":""}""",
        "'label' to be a whole number from 0 to 1 (test parts")]
    [InlineData(
        "hellaswag", """{"activity_label":"x","ctx_a":"x","ctx_b":"","endings":["a",2],"label":"0"}""",
        "'endings' to be a list of texts, got [\"a\",2]")]
    [InlineData(
        "piqa", """{"goal":"x","sol1":"x","sol2":"y","label":-1}""",
        "'label' to be a whole number from 0 to 1 (test parts without answers cannot be scored), got -1")]
    [InlineData(
        "winogrande", """{"sentence":"No gap.","option1":"a","option2":"b","answer":"1"}""", "'sentence' to be a text with a blank '_'")]
    [InlineData("winogrande", """{"sentence":"A _.","option1":"a","option2":"b","answer":"3"}""", "from 1 to 2")]
    [InlineData("lambada_standard", """{"text":"word"}""", "last word stands after a space")]
    [InlineData("mmlu", """{"question":"x","subject":"y","choices":["1","2","3"],"answer":0}""", "'choices' to be a list of 4 texts")]
    [InlineData("blimp", """{"sentence_good":1}""", "'sentence_good' to be a text, got 1")]
    public async Task ReadAsync_OtherSchema_NamesFileRowAndExpectation(string task, string line, string expected)
    {
        File.WriteAllText(_folder["rows.jsonl"], $"\n{line}\n");
        var named = LikelihoodTask.All.Single(t => t.Name == task);
        var error = await Assert.ThrowsAsync<InvalidDataException>(
            () => named.ReadAsync(_folder["rows.jsonl"], TestContext.Current.CancellationToken));
        Assert.Contains(expected, error.Message, StringComparison.Ordinal);
        Assert.StartsWith($"'{_folder["rows.jsonl"]}', row 2: expected '", error.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("x.jsonl", "{\"text\":\"a b\"}\nnonsense", "row 2")]
    [InlineData("x.jsonl", "[1]", "expected a JSON object, got [1]")]
    [InlineData("x.jsonl", "\n", "holds no rows")]
    [InlineData("x.parquet", "no Parquet", "cannot be read as Parquet")]
    [InlineData("x.csv", "a,b", "neither a .jsonl nor a .parquet")]
    public async Task ReadAsync_DamagedFile_SaysWhere(string file, string text, string expected)
    {
        File.WriteAllText(_folder[file], text);
        var error = await Assert.ThrowsAsync<InvalidDataException>(
            () => TaskFiles.ReadAsync(_folder[file], TestContext.Current.CancellationToken));
        Assert.Contains(expected, error.Message, StringComparison.Ordinal);
        Assert.Contains(_folder[file], error.Message, StringComparison.Ordinal);
    }

    private static TaskItem Item(LikelihoodTask task, string line) => task.Item(new("rows.jsonl", 1, JsonNode.Parse(line)!.AsObject()));

    private async Task AssertEqualAsync(LikelihoodTask task, string name)
    {
        var parquet = await task.ReadAsync(_folder[$"{name}.parquet"], TestContext.Current.CancellationToken);
        var lines = await task.ReadAsync(_folder[$"{name}.jsonl"], TestContext.Current.CancellationToken);
        Assert.Equal(lines.Count, parquet.Count);
        Assert.All(lines.Zip(parquet), p => Assert.Equal((p.First.Gold, p.First.Group), (p.Second.Gold, p.Second.Group)));
        Assert.All(lines.Zip(parquet), p => Assert.Equal(p.First.Choices, p.Second.Choices));
    }

#pragma warning disable IDE1006 // Columns are named as published.
    private sealed class ArcParquet
    {
        public string? id { get; set; }

        public string? question { get; set; }

        public ChoicesParquet? choices { get; set; }

        public string? answerKey { get; set; }
    }

    private sealed class ChoicesParquet
    {
        public List<string>? text { get; set; }

        public List<string>? label { get; set; }
    }

    private sealed class MmluParquet
    {
        public string? question { get; set; }

        public string? subject { get; set; }

        public List<string>? choices { get; set; }

        public long answer { get; set; }
    }
#pragma warning restore IDE1006
}
