using System.Text;
using System.Text.Json.Nodes;

namespace XlstmLab.Notebooks;

/// <summary>Collects a cell's outputs in order; threads that the cell started may write too.</summary>
/// <param name="live">Told of console text as it comes: stream name, text.</param>
internal sealed class CellOutputs(Action<string, string>? live)
{
    /// <summary>More console text than this is dropped: a runaway loop must not fill the disk.</summary>
    private const int StreamLimit = 2_000_000;

    private readonly Lock _gate = new();
    private readonly List<(JsonObject Output, StringBuilder? Text)> _outputs = [];
    private int _streamed;

    public void WriteStream(string name, string text)
    {
        lock (_gate)
        {
            if (_streamed > StreamLimit || text.Length == 0)
            {
                return;
            }

            _streamed += text.Length;
            if (_streamed > StreamLimit)
            {
                text = FormattableString.Invariant($"{text}\n... the rest of this cell's console output is left out (over {StreamLimit:N0} characters)\n");
            }

            if (_outputs.Count == 0 || _outputs[^1].Text is null || _outputs[^1].Output["name"]!.GetValue<string>() != name)
            {
                _outputs.Add((new JsonObject { ["output_type"] = "stream", ["name"] = name }, new StringBuilder()));
            }

            _outputs[^1].Text!.Append(text);
        }

        live?.Invoke(name, text);
    }

    /// <summary>Adds a displayed value and returns its output, so that it can be updated.</summary>
    public JsonObject Display(JsonObject data) =>
        Add(new JsonObject { ["output_type"] = "display_data", ["data"] = data, ["metadata"] = new JsonObject() });

    public void Update(JsonObject output, JsonObject data)
    {
        lock (_gate)
        {
            output["data"] = data;
        }
    }

    public void Result(JsonObject data, int executionCount) => Add(new JsonObject
    {
        ["output_type"] = "execute_result",
        ["data"] = data,
        ["metadata"] = new JsonObject(),
        ["execution_count"] = executionCount,
    });

    public void Error(CellError error) => Add(new JsonObject
    {
        ["output_type"] = "error",
        ["ename"] = error.Kind,
        ["evalue"] = error.Message,
        ["traceback"] = new JsonArray([.. error.Traceback.Select(line => (JsonNode)line)]),
    });

    /// <summary>A copy in the form of the file.</summary>
    public JsonArray ToJson()
    {
        lock (_gate)
        {
            JsonArray json = [];
            foreach (var (output, text) in _outputs)
            {
                var copy = output.DeepClone().AsObject();
                if (text is not null)
                {
                    copy["text"] = MultilineText.Split(text.ToString());
                }

                json.Add((JsonNode)copy);
            }

            return json;
        }
    }

    private JsonObject Add(JsonObject output)
    {
        lock (_gate)
        {
            _outputs.Add((output, null));
            return output;
        }
    }
}
