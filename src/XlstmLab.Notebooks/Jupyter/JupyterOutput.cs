using System.Text;
using System.Text.Json.Nodes;

namespace XlstmLab.Notebooks.Jupyter;

/// <summary>Sends what a cell writes and shows to Jupyter as it comes. Threads that the cell started may write after its end.</summary>
/// <param name="sockets">The kernel's sockets.</param>
/// <param name="request">What the outputs belong to.</param>
/// <param name="running">The request that is running now: clients take a replacement from that one alone.</param>
internal sealed class JupyterOutput(JupyterSockets sockets, JupyterMessage request, Func<JupyterMessage?> running)
{
    /// <summary>Pieces of text that come within this time are one message: a line of F#'s printfn comes in many.</summary>
    private static readonly TimeSpan Together = TimeSpan.FromMilliseconds(40);

    private readonly Lock _gate = new();
    private readonly StringBuilder _text = new();
    private readonly HashSet<string> _shown = [];
    private string _stream = "";

    /// <summary>Takes console text.</summary>
    public void Write(string stream, string text)
    {
        lock (_gate)
        {
            if (stream != _stream)
            {
                Flush();
            }

            _stream = stream;
            if (_text.Length == 0)
            {
                _ = FlushSoonAsync();
            }

            _text.Append(text);
        }
    }

    /// <summary>Takes another output, in the form of the file.</summary>
    /// <param name="output">The output.</param>
    /// <param name="id">What names a value that can be replaced.</param>
    public void Show(JsonObject output, string? id)
    {
        string type = output["output_type"]!.GetValue<string>();
        var content = output.DeepClone().AsObject();
        content.Remove("output_type");
        if (content["data"] is JsonObject data)
        {
            content["data"] = Joined(data);
        }

        lock (_gate)
        {
            Flush();
            if (id is null)
            {
                sockets.Publish(request, type, content);
                return;
            }

            content["transient"] = new JsonObject { ["display_id"] = id };
            bool isNew = _shown.Add(id);
            sockets.Publish(isNew ? request : running() ?? request, isNew ? type : "update_display_data", content);
        }
    }

    /// <summary>Sends the text that waits.</summary>
    public void Flush()
    {
        lock (_gate)
        {
            if (_text.Length > 0)
            {
                sockets.Publish(request, "stream", new() { ["name"] = _stream, ["text"] = _text.ToString() });
                _text.Clear();
            }
        }
    }

    private async Task FlushSoonAsync()
    {
        await Task.Delay(Together).ConfigureAwait(false);
        Flush();
    }

    /// <summary>Texts in one piece: only files have them in lines.</summary>
    private static JsonObject Joined(JsonObject data) => new(data.Select(entry => KeyValuePair.Create(
        entry.Key, NotebookReader.IsJson(entry.Key) ? entry.Value?.DeepClone() : MultilineText.Join(entry.Value))));
}
