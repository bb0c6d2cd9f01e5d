using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;
using XlstmLab.Checkpoints;
using XlstmLab.Text;
using static TorchSharp.torch;

namespace XlstmLab.Runs;

/// <summary>Writes runs as Hugging Face folders.</summary>
public static class HuggingFaceExport
{
    private const string TokenizerName = "tokenizer.json";
    private const string TokenizerConfigName = "tokenizer_config.json";
    private const string GenerationConfigName = "generation_config.json";
    private static readonly string[] Beside = [TokenizerName, TokenizerConfigName, GenerationConfigName];
    private static readonly JsonSerializerOptions Json =
        new() { WriteIndented = true, Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    /// <summary>Writes model and tokenizer, with the ids that open and end documents. The folder is whole or as it was.</summary>
    /// <remarks>
    /// Documents are opened by the end of the one before, in training and everywhere here: both <c>bos_token_id</c> and
    /// <c>eos_token_id</c> are that token, and a prompt has to begin with it. Bytes become a <c>tokenizer.json</c> of 256 tokens.
    /// </remarks>
    /// <param name="run">The run, whose tokenizer is bytes or a byte-level BPE.</param>
    /// <param name="folder">The folder. One that holds an earlier model is replaced; one with other files is refused.</param>
    /// <param name="dtype">The type that weights are cast to; null leaves them as they are.</param>
    /// <param name="maxShardBytes">The most bytes of tensors in a file.</param>
    /// <param name="progress">Told after each piece.</param>
    /// <param name="cancellationToken">Stops the writing.</param>
    /// <exception cref="InvalidOperationException">The run has no tokenizer, or one that no <c>tokenizer.json</c> describes.</exception>
    /// <exception cref="IOException">The folder holds other files, or cannot be written.</exception>
    public static void Export(
        this TrainedRun run, string folder, ScalarType? dtype = null, long maxShardBytes = Safetensors.DefaultShardBytes,
        IProgress<ByteProgress>? progress = null, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(run);
        var (tokenizer, opening) = run.Tokenizer switch
        {
            ByteTokenizer => (Encoding.UTF8.GetBytes(ByteTokenizerJson()), BpeTokenizer.DefaultEndOfDocument),
            BpeTokenizer bpe => (bpe.Source.ToArray(), bpe.EndOfDocumentText),
            var other => throw new InvalidOperationException(
                $"A {other.GetType().Name} has no form as a {TokenizerName}: save the model alone by {nameof(HuggingFaceFolder)}."),
        };
        var id = run.Tokenizer.EndOfDocument;
        HuggingFaceFolder.Replace(folder, Beside, aside =>
        {
            HuggingFaceFolder.WriteInto(aside, run.Config, run.Model.state_dict(), dtype, maxShardBytes, progress, cancellationToken);
            var path = Path.Combine(aside, HuggingFaceFolder.ConfigFileName);
            var config = JsonNode.Parse(File.ReadAllText(path))!.AsObject();
            config["bos_token_id"] = id;
            config["eos_token_id"] = id;
            AtomicFile.WriteText(path, config.ToJsonString(Json) + "\n");
            AtomicFile.Write(Path.Combine(aside, TokenizerName), stream => stream.Write(tokenizer));
            AtomicFile.WriteText(Path.Combine(aside, TokenizerConfigName), new JsonObject
            {
                ["tokenizer_class"] = "PreTrainedTokenizerFast",
                ["bos_token"] = opening,
                ["eos_token"] = opening,
                ["clean_up_tokenization_spaces"] = false,
            }.ToJsonString(Json) + "\n");
            var ids = new JsonObject { ["bos_token_id"] = id, ["eos_token_id"] = id };
            AtomicFile.WriteText(Path.Combine(aside, GenerationConfigName), ids.ToJsonString(Json) + "\n");
        });
    }

    /// <summary>The token that a folder's tokenizer both begins and ends documents with; null where it does not say, or has two.</summary>
    internal static string? Opening(string folder)
    {
        var path = Path.Combine(folder, TokenizerConfigName);
        try
        {
            return File.Exists(path)
                && JsonNode.Parse(File.ReadAllText(path)) is JsonObject config
                && (Word(config["bos_token"]), Word(config["eos_token"])) is ({ } first, { } last)
                && first == last
                    ? first
                    : null;
        }
        catch (JsonException)
        {
            // The usual token counts, as without the file.
            return null;
        }

        static string? Word(JsonNode? token) =>
            (token is JsonObject added ? added["content"] : token) is JsonValue value && value.TryGetValue<string>(out var word) ? word
                : null;
    }

    /// <summary>A byte-level BPE without merges whose ids are the bytes.</summary>
    private static string ByteTokenizerJson() => TrainedBpe.FileJson(
        [(new ByteTokenizer().EndOfDocument, BpeTokenizer.DefaultEndOfDocument)],
        new JsonObject { ["type"] = "ByteLevel", ["add_prefix_space"] = false, ["trim_offsets"] = true, ["use_regex"] = false },
        BpeTokenizer.CharOfByte.Select((c, b) => (c.ToString(), b)),
        []);
}
