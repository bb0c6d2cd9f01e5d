using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace XlstmLab.Notebooks;

/// <summary>A Jupyter notebook in nbformat 4.5 (<c>.ipynb</c>). Keys and metadata that this library does not know are kept.</summary>
public sealed class Notebook
{
    private static readonly JsonWriterOptions Layout = new()
    {
        Indented = true,
        IndentSize = 1,
        NewLine = "\n",
        Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
    };

    private static readonly JsonSerializerOptions Compact = new() { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    private readonly JsonObject _root;
    private readonly List<NotebookCell> _cells;

    private Notebook(JsonObject root)
    {
        _root = root;
        var cells = root["cells"]!.AsArray();
        _cells = [.. cells.Select(cell => new NotebookCell(cell!.AsObject()))];
        cells.Clear();
    }

    /// <summary>Creates an empty notebook for the .NET Interactive C# kernel.</summary>
    public Notebook()
        : this(new JsonObject
        {
            ["cells"] = new JsonArray(),
            ["metadata"] = new JsonObject
            {
                ["kernelspec"] = new JsonObject { ["display_name"] = ".NET (C#)", ["language"] = "C#", ["name"] = ".net-csharp" },
                ["language_info"] = new JsonObject { ["name"] = "polyglot-notebook" },
            },
            ["nbformat"] = 4,
            ["nbformat_minor"] = 5,
        })
    {
    }

    /// <summary>The cells in their order; the list may be changed.</summary>
    public IList<NotebookCell> Cells => _cells;

    /// <summary>The notebook's metadata; changes are saved.</summary>
    public JsonObject Metadata => _root["metadata"]!.AsObject();

    /// <summary>The code cells in their order.</summary>
    public IEnumerable<NotebookCell> CodeCells => _cells.Where(cell => cell.Kind == CellKind.Code);

    /// <summary>Reads a notebook file of format 4.0 or later; identifiers that files before 4.5 lack are added.</summary>
    /// <param name="path">The <c>.ipynb</c> file.</param>
    /// <exception cref="NotebookException">The file is missing or unreadable, or is not a valid notebook.</exception>
    public static Notebook Load(string path)
    {
        try
        {
            return new Notebook(NotebookReader.Read(File.ReadAllBytes(path), path));
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new NotebookException($"The notebook {path} cannot be read: {e.Message}", e);
        }
    }

    /// <summary>Reads a notebook from text.</summary>
    /// <param name="json">The content of an <c>.ipynb</c> file.</param>
    /// <exception cref="NotebookException">The text is not a valid notebook.</exception>
    public static Notebook Parse(string json) => new(NotebookReader.Read(Encoding.UTF8.GetBytes(json), "The text"));

    /// <summary>The notebook as Jupyter writes it: sorted keys, an indent of one space, LF line ends.</summary>
    public string ToJson() => Encoding.UTF8.GetString(ToUtf8());

    /// <summary>Saves the notebook: whole, or not at all.</summary>
    /// <param name="path">The file to write; a file of that name is replaced.</param>
    /// <exception cref="NotebookException">The file cannot be written.</exception>
    public void Save(string path) => NotebookFile.Write(path, ToUtf8());

    private byte[] ToUtf8()
    {
        using MemoryStream stream = new();
        using (Utf8JsonWriter writer = new(stream, Layout))
        {
            Write(writer, _root);
        }

        stream.WriteByte((byte)'\n');
        return stream.ToArray();
    }

    private void Write(Utf8JsonWriter writer, JsonNode? node)
    {
        switch (node)
        {
            case JsonObject json:
                writer.WriteStartObject();
                foreach (var (key, value) in json.OrderBy(entry => entry.Key, StringComparer.Ordinal))
                {
                    writer.WritePropertyName(key);
                    if (ReferenceEquals(json, _root) && key == "cells")
                    {
                        writer.WriteStartArray();
                        _cells.ForEach(cell => Write(writer, cell.Json));
                        writer.WriteEndArray();
                    }
                    else if (key == ChartHtml.FigureType && value is not null)
                    {
                        // A line of its own for each of thousands of numbers would be most of the file.
                        writer.WriteRawValue(value.ToJsonString(Compact));
                    }
                    else
                    {
                        Write(writer, value);
                    }
                }

                writer.WriteEndObject();
                break;
            case JsonArray array:
                writer.WriteStartArray();
                foreach (var value in array)
                {
                    Write(writer, value);
                }

                writer.WriteEndArray();
                break;
            case null:
                writer.WriteNullValue();
                break;
            default:
                node.WriteTo(writer);
                break;
        }
    }
}
