using XlstmLab.Tasks.Ruler;
using Xunit;

namespace XlstmLab.Tests.Tasks.Ruler;

[Collection(nameof(TextCollection))]
public sealed class RulerQuestionsTests : IDisposable
{
    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void Read_Squad_HasArticlesAndLeavesOutUnanswerable()
    {
        var path = _folder.Write("squad.json", """
            {"version": "v2.0", "data": [
              {"title": "A", "paragraphs": [
                {"context": "One.", "qas": [{"question": " Q1? ", "answers": [{"text": "x", "answer_start": 0}, {"text": "x"}, {"text": "y"}], "is_impossible": false}]},
                {"context": "Two.", "qas": [{"question": "Q2?", "answers": [], "is_impossible": true}]}]},
              {"title": "B", "paragraphs": [{"context": "Three.", "qas": []}]}]}
            """);
        var questions = RulerQuestions.Read(path);
        var question = Assert.Single(questions.Questions);
        Assert.Equal(("Q1?", "A"), (question.Text, question.Article));
        Assert.Equal(["x", "y"], question.Answers);
        Assert.Equal([0], question.Paragraphs);
        Assert.Equal(["One.", "Two.", "Three."], questions.Paragraphs);
        Assert.Equal([RulerTask.Qa1], questions.Tasks);

        // The other paragraph of the article comes before that of another.
        var texts = new RulerOptions { Questions = questions };
        for (var index = 0; index < 8; index++)
        {
            var text = QuestionTasks.Create(RulerTask.Qa1, question, 999, index, texts).Build(1).Text;
            Assert.Contains("Two.", text, StringComparison.Ordinal);
            Assert.DoesNotContain("Three.", text, StringComparison.Ordinal);
        }
    }

    [Fact]
    public void Read_HotpotInBothForms_HasSeveralParagraphs()
    {
        var questions = RulerQuestions.Read(
            _folder.Write("hotpot.json", """[{"question": "Q?", "answer": "yes", "context": [["T1", ["A. ", "B."]], ["T2", ["C."]]]}]"""),
            _folder.Write("hotpot.jsonl", """
                {"question": "R?", "answer": "no", "context": {"title": ["T2", "T3"], "sentences": [["C."], ["D.", " E."]]}}

                {"question": "S?", "answers": {"text": ["d"], "answer_start": [0]}, "context": "Alone.", "title": "T"}
                """));
        Assert.Equal(["T1\nA. B.", "T2\nC.", "T3\nD. E.", "Alone."], questions.Paragraphs);
        Assert.Equal([[0, 1], [1, 2], [3]], questions.Questions.Select(q => q.Paragraphs));
        Assert.Equal(["yes", "no", "d"], questions.Questions.Select(q => q.Answers.Single()));
        Assert.Equal([RulerTask.Qa1, RulerTask.Qa2], questions.Tasks);
    }

    [Theory]
    [InlineData("a.jsonl", "{\"question\": \"Q?\", \"answers\": [\"a\"], \"context\": \"c\"}\n{\"question\": 1}", "line 2")]
    [InlineData("a.jsonl", "nonsense", "line 1")]
    [InlineData("a.json", "[{\"question\": \"Q?\", \"answers\": [\"a\"]}]", "question 0")]
    [InlineData("a.json", "{\"data\": [{\"paragraphs\": [{}]}]}", "article 0")]
    [InlineData("a.json", "[]", "no question")]
    public void Read_DamagedFile_SaysWhere(string name, string text, string expected) =>
        Assert.Contains(
            expected, Assert.Throws<InvalidDataException>(() => RulerQuestions.Read(_folder.Write(name, text))).Message,
            StringComparison.Ordinal);

    [Fact]
    public void Read_NoSuchFile_NamesIt() =>
        Assert.Contains(
            "nowhere", Assert.Throws<FileNotFoundException>(() => RulerQuestions.Read("nowhere.json")).Message, StringComparison.Ordinal);
}
