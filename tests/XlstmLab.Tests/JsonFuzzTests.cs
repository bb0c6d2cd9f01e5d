using System.Text.Json;
using System.Text.Json.Nodes;
using XlstmLab.Checkpoints;
using XlstmLab.Models;
using XlstmLab.Text;
using XlstmLab.Training;
using Xunit;

namespace XlstmLab.Tests;

/// <summary>
/// Files of JSON with every kind of mistake: each is read, or refused by an error of the library's own that names the file.
/// </summary>
[Collection(nameof(TextCollection))]
public sealed class JsonFuzzTests : IDisposable
{
    private static readonly string[] Values =
    [
        "null", "true", "[]", "{}", "\"\"", "\"x\"", "-1", "0", "1.5", "1e400", "-1e400", "99999999999999999999", "[null]",
        "[[[[[[[[1]]]]]]]]", "\"@@\"", "\"NaN\"",
    ];

    private readonly TempFolder _temp = new();

    public static TheoryData<string> Kinds() =>
        ["hf_xlstm", "hf_llama", "hf_mamba", "hf_mamba2", "gla", "lstm", "run", "settings", "meta", "card", "tokens", "text"];

    public void Dispose() => _temp.Dispose();

    [Theory]
    [MemberData(nameof(Kinds))]
    public void Read_AsWritten_IsRead(string kind) => Read(kind, Document(kind));

    [Theory]
    [MemberData(nameof(Kinds))]
    public void Read_UnknownName_IsRefusedWithIt(string kind)
    {
        var document = Document(kind);
        for (var at = 0; Objects(JsonNode.Parse(document)!).Count() > at; at++)
        {
            var root = JsonNode.Parse(document)!;
            Objects(root).ElementAt(at)["zz_unknown"] = 1;
            Assert.Contains("zz_unknown", Refusal(kind, root.ToJsonString())!.Message, StringComparison.Ordinal);
        }
    }

    [Theory]
    [MemberData(nameof(Kinds))]
    public void Read_NameTwice_IsRefusedWithIt(string kind)
    {
        var root = JsonNode.Parse(Document(kind))!.AsObject();
        foreach (var name in root.Select(p => p.Key).ToArray())
        {
            var twice = $"{root.ToJsonString()[..^1]},\"{name}\":{root[name]?.ToJsonString() ?? "null"}}}";
            Assert.Contains(name, Refusal(kind, twice)!.Message, StringComparison.Ordinal);
        }
    }

    [Theory]
    [MemberData(nameof(Kinds))]
    public void Read_OtherValues_AreReadOrRefused(string kind)
    {
        var document = Document(kind);
        var leaves = Places(JsonNode.Parse(document)!).Count();
        for (var at = 0; at < leaves; at++)
        {
            // Every value somewhere, and every place with some of them; all with all takes seconds more.
            foreach (var value in Values.Where((_, i) => LongTests.Run || (at + i) % 4 == 0))
            {
                var root = JsonNode.Parse(document)!;
                Places(root).ElementAt(at)(JsonNode.Parse(value));
                Refusal(kind, root.ToJsonString().Replace("@@", "\\ud800", StringComparison.Ordinal));
            }
        }
    }

    [Theory]
    [MemberData(nameof(Kinds))]
    public void Read_DamagedText_IsReadOrRefused(string kind)
    {
        var random = new Random(5);
        string[] tokens = ["{", "}", "[", "]", ",", ":", "\"", "0,003", "null", "\\", "\\ud800", new('[', 100), "//", "NaN", "\0"];
        var document = Document(kind);
        for (var i = 0; i < 150; i++)
        {
            var at = random.Next(document.Length);
            Refusal(kind, document[..at] + tokens[random.Next(tokens.Length)] + document[Math.Min(document.Length, at + random.Next(3))..]);
        }
    }

    /// <summary>What reading throws, after a look at how it says so; null if it reads.</summary>
    private Exception? Refusal(string kind, string json)
    {
        var e = Record.Exception(() => Read(kind, json));
        if (e is not null)
        {
            Assert.True(e is InvalidDataException or ConfigException or CheckpointException, $"{e.GetType().Name} for {json}: {e}");
            Assert.Contains(FileOf(kind), e.Message, StringComparison.Ordinal);
            Assert.DoesNotContain("System.", e.Message, StringComparison.Ordinal);
            Assert.DoesNotContain("BytePositionInLine", e.Message, StringComparison.Ordinal);
        }

        return e;
    }

    private static string FileOf(string kind) => kind switch
    {
        "meta" => "meta.json",
        "card" => "card.json",
        "tokens" => "tokens.json",
        "text" => "text.json",
        _ => "config.json",
    };

    private void Read(string kind, string json)
    {
        var path = _temp.Write(FileOf(kind), json);
        switch (kind)
        {
            case "run":
                RunFolder.ReadTrainingConfig(_temp.Path);
                RunFolder.ReadModelConfig(_temp.Path);
                break;
            case "settings":
                TrainingConfig.Read(path);
                break;
            case "meta":
                RunFolder.ReadMetadata(_temp.Path);
                break;
            case "card":
                DatasetCard.Read(_temp.Path);
                break;
            case "tokens":
                TokenFolder.Read<TokenFolderCard>(path);
                break;
            case "text":
                RunText.Read(_temp.Path);
                break;
            default:
                ModelConfigJson.Read(path);
                break;
        }
    }

    private static string Document(string kind) => kind switch
    {
        "gla" => ModelConfigJson.Text(new GlaConfig()),
        "lstm" => ModelConfigJson.Text(new LstmConfig()),
        "run" => new JsonObject
        {
            ["model"] = JsonNode.Parse(ModelConfigJson.Text(new XlstmConfig { EmbeddingDim = 16, HeadCount = 2, BlockCount = 1 })),
            ["training"] = JsonSerializer.SerializeToNode(TrainingConfig.Xlstm7B, RunJson.Indented),
            ["data"] = "any",
        }.ToJsonString(),
        "settings" => JsonSerializer.Serialize(TrainingConfig.Xlstm7B, RunJson.Indented),
        "meta" => JsonSerializer.Serialize(new RunMetadata { GitCommit = "abc", Device = "cpu", Step = 3 }, RunJson.Indented),
        "card" => File.ReadAllText(Path.Combine(TestSetup.RepositoryRoot, "datasets", "state-of-the-union", "card.json")),
        "tokens" => TokenFolder.ToJson(new TokenFolderCard
        {
            Plan = new()
            {
                Files = [new("a.txt", 3)],
                TextField = "text",
                Split = new(),
                Tokenizer = "ab",
                VocabularySize = 257,
                EndOfDocument = 256,
                ShardBytes = 10,
            },
            Shards = 1,
            Parts = Enum.GetValues<Split>().ToDictionary(s => s, _ => new TokenCounts(1, 2, 3)),
        }),
        "text" => JsonSerializer.Serialize(new RunText { Data = "state-of-the-union", Bytes = true }, ResultJson.Options),
        _ => File.ReadAllText(TestSetup.Golden(kind, "config.json")),
    };

    /// <summary>Every object of a document.</summary>
    private static IEnumerable<JsonObject> Objects(JsonNode? node) => node switch
    {
        JsonObject fields => fields.SelectMany(p => Objects(p.Value)).Prepend(fields),
        JsonArray items => items.SelectMany(Objects),
        _ => [],
    };

    /// <summary>Every value of a document, as what replaces it.</summary>
    private static IEnumerable<Action<JsonNode?>> Places(JsonNode? node) => node switch
    {
        JsonObject fields => fields.SelectMany(p => Places(p.Value).Prepend(value => fields[p.Key] = value)),
        JsonArray items => items.SelectMany((item, i) => Places(item).Prepend(value => items[i] = value)),
        _ => [],
    };
}
