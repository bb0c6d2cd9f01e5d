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
        ModelConfigJson.RequireActivation(given, "silu");
        foreach (var name in new[] { "rope_scaling", "rope_parameters" })
        {
            if (given[name] is null)
            {
                continue;
            }

            var rope = given[name] as JsonObject ?? throw new ConfigException($"{name} is {given[name]!.ToJsonString()}; expected an object or null.");
            var type = rope["rope_type"] ?? rope["type"];
            if (type is not null && type.ToJsonString() is not "\"default\"")
            {
                throw new ConfigException($"{name} has the type {type.ToJsonString()}, which is not supported; expected \"default\".");
            }

            if (rope["partial_rotary_factor"] is { } share && share.ToJsonString() is not ("1" or "1.0"))
            {
                throw new ConfigException($"{name} has a partial_rotary_factor of {share.ToJsonString()}, which is not supported; expected 1.");
            }

            if (rope["rope_theta"] is { } theta)
            {
                given["rope_theta"] = theta.DeepClone();
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
