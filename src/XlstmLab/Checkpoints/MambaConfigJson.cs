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
        Prepare(given);
        var config = ModelConfigJson.Read<MambaConfig>(given);
        RequireInnerDim(given, config.InnerDim);
        return config;
    }

    /// <summary>Reads the fields of a Mamba2.</summary>
    public static Mamba2Config ReadMamba2(JsonObject given)
    {
        Prepare(given);
        // Of norm_before_gate transformers takes no notice: its norm is behind the gate whatever Codestral's config says.
        if (given["rms_norm"]?.ToJsonString() == "false")
        {
            throw new ConfigException("rms_norm is false, which is not supported; expected an RMSNorm behind the gate.");
        }

        var config = ModelConfigJson.Read<Mamba2Config>(given);
        RequireInnerDim(given, config.InnerDim);
        if (given["time_step_limit"] is not { } limit)
        {
            return config;
        }

        return limit is JsonArray { Count: 2 } pair && Number(pair[0]) is { } lowest && Number(pair[1]) is { } highest
            ? config with { TimeStepLowest = lowest, TimeStepHighest = highest }
            : throw new ConfigException($"time_step_limit is {limit.ToJsonString()}; expected two numbers, the second of which may be {{\"__float__\": \"Infinity\"}}.");
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

    private static void Prepare(JsonObject given)
    {
        ModelConfigJson.RequireActivation(given, "silu");
        if (given["time_step_rank"]?.ToJsonString() == "\"auto\"")
        {
            given.Remove("time_step_rank");
        }
    }

    private static void RequireInnerDim(JsonObject given, int inner)
    {
        if (given["intermediate_size"] is { } stated && stated.ToJsonString() != inner.ToString(CultureInfo.InvariantCulture))
        {
            throw new ConfigException($"intermediate_size is {stated.ToJsonString()}; expected expand times hidden_size, {inner}.");
        }
    }

    private static double? Number(JsonNode? node) => node switch
    {
        JsonValue value when value.TryGetValue<double>(out var number) => number,
        JsonObject wrapped when wrapped["__float__"]?.ToJsonString() == "\"Infinity\"" => double.PositiveInfinity,
        _ => null,
    };
}
