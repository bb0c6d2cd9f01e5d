using System.Text.Json;
using System.Text.Json.Nodes;
using XlstmLab.Models;

namespace XlstmLab.Checkpoints;

/// <summary>What a Llama's <c>config.json</c> has of its own.</summary>
internal static class LlamaConfigJson
{
    /// <summary>Reads the fields of a Llama, as transformers 4 and 5 spell them.</summary>
    public static LlamaConfig Read(JsonObject given)
    {
        ModelConfigJson.Require(given, "hidden_act", "\"silu\"");
        foreach (var name in new[] { "rope_scaling", "rope_parameters" })
        {
            var node = given[name];
            given.Remove(name);
            if (node is null)
            {
                continue;
            }

            var rope = node as JsonObject ?? throw new ConfigException($"{name} is {node.ToJsonString()}; expected an object or null.");
            var type = rope["rope_type"] ?? rope["type"];
            if (type is not null && type.ToJsonString() is not "\"default\"")
            {
                throw new ConfigException($"{name} has the type {type.ToJsonString()}, which is not supported; expected \"default\".");
            }

            if (rope["partial_rotary_factor"] is { } share && share.ToJsonString() is not ("1" or "1.0"))
            {
                throw new ConfigException(
                    $"{name} has a partial_rotary_factor of {share.ToJsonString()}, which is not supported; expected 1.");
            }

            string[] known = ["rope_type", "type", "rope_theta", "partial_rotary_factor"];
            if (rope.Select(field => field.Key).FirstOrDefault(key => !known.Contains(key)) is { } unknown)
            {
                throw new ConfigException($"{name} has a '{unknown}', which is not supported.{NearestName.Hint(unknown, known)}");
            }

            if (rope["rope_theta"] is { } theta)
            {
                given["rope_theta"] = theta.DeepClone();
            }
        }

        // Published files have these beside the model's own: a way to split products, a mark of who converted the file.
        ModelConfigJson.Leave(given, "pretraining_tp", "is_llama_config");
        ModelConfigJson.Require(given, "attention_dropout", "0");
        ModelConfigJson.Require(given, "rope_interleaved", "false");
        ModelConfigJson.Require(given, "use_sliding_window", "false");
        ModelConfigJson.Require(given, "sliding_window");
        if (given["layer_types"] is { } layers)
        {
            given.Remove("layer_types");
            if (layers is not JsonArray list || list.Any(layer => layer?.ToJsonString() != "\"full_attention\""))
            {
                throw new ConfigException(
                    $"layer_types is {layers.ToJsonString()}, which is not supported; expected \"full_attention\" in every layer.");
            }
        }

        return ModelConfigJson.Read<LlamaConfig>(given);
    }

    /// <summary>The fields of a Llama that transformers wants.</summary>
    public static JsonObject Write(LlamaConfig config)
    {
        var json = JsonSerializer.SerializeToNode(config, ModelConfigJson.Fields)!.AsObject();
        json["architectures"] = new JsonArray("LlamaForCausalLM");
        json["hidden_act"] = "silu";
        json["rope_parameters"] = new JsonObject { ["rope_theta"] = json["rope_theta"]!.DeepClone(), ["rope_type"] = "default" };
        return json;
    }
}
