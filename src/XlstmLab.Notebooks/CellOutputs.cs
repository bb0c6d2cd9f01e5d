using System.Globalization;
using System.Text;
using System.Text.Json.Nodes;

namespace XlstmLab.Notebooks;

/// <summary>Collects a cell's outputs in order, up to a limit; threads that the cell started may write too.</summary>
/// <param name="live">Told of console text as it comes: stream name, text.</param>
/// <param name="shown">
/// Told of other outputs as they come, in the form of the file, with the identifier of a value that can be replaced.
/// </param>
/// <param name="status">Told in a line how far the cell is, where that is known; it is no output.</param>
internal sealed class CellOutputs(Action<string, string>? live, Action<JsonObject, string?>? shown = null, Action<string>? status = null)
{
    /// <summary>Console text after so many characters is counted, not kept: a runaway loop must not fill the memory or the disk.</summary>
    internal const int StreamLimit = 2_000_000;

    /// <summary>What the displayed values of a cell may take, in characters; those that no longer fit are counted, not kept.</summary>
    internal const int DisplayLimit = 20_000_000;

    /// <summary>What an output takes beside its text.</summary>
    private const int Overhead = 100;

    private readonly Lock _gate = new();
    private readonly List<(JsonObject Output, StringBuilder? Text)> _outputs = [];
    private readonly Dictionary<JsonObject, string> _ids = [];
    private long _streamed;
    private long _unstreamed;
    private long _displayed;
    private long _undisplayed;

    /// <summary>Whether a value was replaced after <see cref="ToJson"/>.</summary>
    public bool HasChanged { get; private set; }

    /// <summary>Says how far the cell is.</summary>
    public void Status(string line) => status?.Invoke(line);

    /// <summary>Adds console text, as much as the limit leaves room for.</summary>
    /// <param name="name"><c>stdout</c> or <c>stderr</c>.</param>
    /// <param name="text">The text.</param>
    /// <param name="endsLine">Whether a line end follows it.</param>
    public void WriteStream(string name, ReadOnlySpan<char> text, bool endsLine = false)
    {
        string kept;
        lock (_gate)
        {
            bool isNew = _outputs.Count == 0 || _outputs[^1].Text is null || (string?)_outputs[^1].Output["name"] != name;
            long room = Math.Max(0, StreamLimit - _streamed - (isNew && _streamed > 0 ? Overhead : 0));
            long whole = text.Length + (endsLine ? 1 : 0);
            if (whole == 0)
            {
                return;
            }

            bool fits = whole <= room && _unstreamed == 0;
            kept = _unstreamed > 0 || room == 0 ? ""
                : string.Concat(text[..(int)Math.Min(room, text.Length)], fits && endsLine ? "\n" : "");
            _unstreamed += whole - kept.Length;
            kept = kept.Replace("\r\n", "\n", StringComparison.Ordinal);
            if (kept.Length == 0)
            {
                return;
            }

            if (isNew)
            {
                _streamed += _streamed > 0 ? Overhead : 0;
                _outputs.Add((new JsonObject { ["output_type"] = "stream", ["name"] = name }, new StringBuilder()));
            }

            _streamed += kept.Length;
            _outputs[^1].Text!.Append(kept);
            kept += fits ? "" : "\n... more console output of this cell is not shown.\n";
        }

        live?.Invoke(name, kept);
    }

    /// <summary>Adds a displayed value and returns its output, so that it can be updated.</summary>
    /// <param name="data">The value's forms.</param>
    /// <param name="id">What names the value; a random one if absent.</param>
    public JsonObject Display(JsonObject data, string? id = null) =>
        Add(
            new JsonObject
            {
                ["output_type"] = "display_data",
                ["data"] = Fitting(data, 0),
                ["metadata"] = new JsonObject(),
            }, id ?? $"{Guid.NewGuid():N}");

    /// <summary>Replaces a displayed value.</summary>
    public void Update(JsonObject output, JsonObject data)
    {
        string? id;
        lock (_gate)
        {
            output["data"] = Fitting(data, Size(output["data"]));
            HasChanged = true;
            id = _ids.GetValueOrDefault(output);
        }

        shown?.Invoke(output, id);
    }

    /// <summary>Replaces a displayed value, if it is one of these outputs.</summary>
    public void Update(string id, JsonObject data)
    {
        JsonObject? output;
        lock (_gate)
        {
            output = _ids.FirstOrDefault(entry => entry.Value == id).Key;
        }

        if (output is not null)
        {
            Update(output, data);
        }
    }

    public void Result(JsonObject data, int executionCount) => Add(new JsonObject
    {
        ["output_type"] = "execute_result",
        ["data"] = Fitting(data, 0),
        ["metadata"] = new JsonObject(),
        ["execution_count"] = executionCount,
    });

    public void Error(CellError error) => Add(Json(error));

    /// <summary>An error in the form of the file.</summary>
    public static JsonObject Json(CellError error) => new()
    {
        ["output_type"] = "error",
        ["ename"] = error.Kind,
        ["evalue"] = error.Message,
        ["traceback"] = new JsonArray([.. error.Traceback.Select(line => (JsonNode)line)]),
    };

    /// <summary>A copy in the form of the file, with a note of what the limits left out.</summary>
    public JsonArray ToJson()
    {
        lock (_gate)
        {
            HasChanged = false;
            int cut = _unstreamed > 0 ? _outputs.FindLastIndex(entry => entry.Text is not null) : -1;
            JsonArray json = [];
            foreach (var (index, (output, text)) in _outputs.Index())
            {
                var copy = output.DeepClone().AsObject();
                if (text is not null)
                {
                    string note = index == cut ? "\n" + Note(_unstreamed, "console output", StreamLimit) : "";
                    copy["text"] = MultilineText.Split(text + note);
                }

                json.Add((JsonNode)copy);
            }

            if (_undisplayed > 0)
            {
                json.Add((JsonNode)new JsonObject
                {
                    ["output_type"] = "stream",
                    ["name"] = "stderr",
                    ["text"] = MultilineText.Split(Note(_undisplayed, "displayed values", DisplayLimit)),
                });
            }

            return json;
        }
    }

    private static string Note(long leftOut, string what, int limit) => string.Create(
        CultureInfo.InvariantCulture, $"... {leftOut:N0} characters of this cell's {what} are left out: the limit is {limit:N0}.\n");

    private JsonObject Add(JsonObject output, string? id = null)
    {
        lock (_gate)
        {
            _outputs.Add((output, null));
            if (id is not null)
            {
                _ids[output] = id;
            }
        }

        shown?.Invoke(output, id);
        return output;
    }

    /// <summary>A value's data, or where they do not fit any more a line that says so.</summary>
    /// <param name="data">The data.</param>
    /// <param name="replaced">The size of the data in whose place they come.</param>
    private JsonObject Fitting(JsonObject data, long replaced)
    {
        lock (_gate)
        {
            long size = Size(data);
            if (_displayed - replaced + size <= DisplayLimit)
            {
                _displayed += size - replaced;
                return data;
            }

            _undisplayed += size;
            _displayed += Overhead - replaced;
            string note = string.Create(CultureInfo.InvariantCulture, $"... a value of {size:N0} characters is left out");
            return new JsonObject { ["text/plain"] = MultilineText.Split(note) };
        }
    }

    private static long Size(JsonNode? node) => node switch
    {
        JsonObject json => Overhead + json.Sum(entry => Size(entry.Value)),
        JsonArray array => array.Sum(Size),
        _ when MultilineText.IsString(node) => node!.GetValue<string>().Length + 1,
        _ => 8,
    };
}
