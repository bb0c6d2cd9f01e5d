using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using XlstmLab.Models;

namespace XlstmLab.Checkpoints;

/// <summary>What a <c>config.json</c> of Mamba or Mamba2 has of its own.</summary>
internal static class MambaConfigJson
{
    /// <summary>Reads the fields of a Mamba.</summary>
    public static MambaConfig ReadMamba(JsonObject given)
    {
        var inner = Prepare(given);
        ModelConfigJson.Leave(given, "use_mambapy", "use_associative_scan", "fused_add_norm", "pad_vocab_size_multiple");
        ModelConfigJson.TakeAlias(given, "hidden_size", "d_model", mustAgree: true);
        ModelConfigJson.TakeAlias(given, "num_hidden_layers", "n_layer", mustAgree: true);
        ModelConfigJson.Require(given, "rms_norm", "true");
        ModelConfigJson.Require(given, "ssm_cfg", "{}");
        var config = ModelConfigJson.Read<MambaConfig>(given);
        RequireInnerDim(inner, config.InnerDim);
        return config;
    }

    /// <summary>Reads the fields of a Mamba2.</summary>
    public static Mamba2Config ReadMamba2(JsonObject given)
    {
        var inner = Prepare(given);

        // Files say that the norm stands before the gate, and transformers, which they are for, has it behind all the same. Nor does it
        // have a rank and a scale of step sizes.
        ModelConfigJson.Leave(given, "norm_before_gate", "time_step_rank", "time_step_scale");
        ModelConfigJson.Require(given, "rms_norm", "true");
        var limit = given["time_step_limit"]?.DeepClone();
        given.Remove("time_step_limit");
        var config = ModelConfigJson.Read<Mamba2Config>(given);
        RequireInnerDim(inner, config.InnerDim);
        if (limit is null)
        {
            return config;
        }

        return limit is JsonArray { Count: 2 } pair && Number(pair[0]) is { } lowest && Number(pair[1]) is { } highest
            ? config with { TimeStepLowest = lowest, TimeStepHighest = highest }
            : throw new ConfigException(
                $"time_step_limit is {limit.ToJsonString()}; expected two numbers, the second of which may be "
                + "{\"__float__\": \"Infinity\"}.");
    }

    /// <summary>The fields of a Mamba that transformers wants.</summary>
    public static JsonObject Write(MambaConfig config)
    {
        var json = JsonSerializer.SerializeToNode(config, ModelConfigJson.Fields)!.AsObject();
        json["architectures"] = new JsonArray("MambaForCausalLM");
        json["intermediate_size"] = config.InnerDim;
        json["time_step_rank"] ??= "auto";
        json["time_step_init_scheme"] = "random";
        return Common(json);
    }

    /// <summary>The fields of a Mamba2 that transformers wants.</summary>
    public static JsonObject Write(Mamba2Config config)
    {
        static JsonNode Number(double value) =>
            double.IsPositiveInfinity(value)
                ? new JsonObject { ["__float__"] = "Infinity" }
                : JsonNode.Parse(value.ToString("0.0###############", CultureInfo.InvariantCulture))!;

        var json = JsonSerializer.SerializeToNode(config, ModelConfigJson.Fields)!.AsObject();
        json["architectures"] = new JsonArray("Mamba2ForCausalLM");
        json["time_step_limit"] = new JsonArray(Number(config.TimeStepLowest), Number(config.TimeStepHighest));
        json["time_step_rank"] = "auto";
        return Common(json);
    }

    private static JsonObject Common(JsonObject json)
    {
        json["hidden_act"] = "silu";
        json["residual_in_fp32"] = true;

        // Absent ids would get transformers' defaults, which belong to another tokenizer.
        json["bos_token_id"] = null;
        json["eos_token_id"] = null;
        json["pad_token_id"] = null;
        return json;
    }

    /// <summary>Takes out what both kinds have beside their records' fields, and hands back what it says of the inner width.</summary>
    private static JsonObject Prepare(JsonObject given)
    {
        ModelConfigJson.Require(given, "hidden_act", "\"silu\"");
        ModelConfigJson.Require(given, "time_step_init_scheme", "\"random\"");

        // The sum of all blocks is in float32 here, whatever a file asks for.
        ModelConfigJson.Leave(given, "residual_in_fp32");
        if (given["time_step_rank"]?.ToJsonString() == "\"auto\"")
        {
            given.Remove("time_step_rank");
        }

        var inner = new JsonObject
        {
            ["intermediate_size"] = given["intermediate_size"]?.DeepClone(),
            ["d_inner"] = given["d_inner"]?.DeepClone(),
        };
        ModelConfigJson.Leave(given, "intermediate_size", "d_inner");
        return inner;
    }

    private static void RequireInnerDim(JsonObject given, int inner)
    {
        ModelConfigJson.RequireImplied(given, "intermediate_size", inner, "expand times hidden_size");
        ModelConfigJson.RequireImplied(given, "d_inner", inner, "expand times hidden_size");
    }

    private static double? Number(JsonNode? node) => node switch
    {
        JsonValue value when value.TryGetValue<double>(out var number) => number,
        JsonObject { Count: 1 } wrapped when wrapped["__float__"]?.ToJsonString() == "\"Infinity\"" => double.PositiveInfinity,
        _ => null,
    };
}
