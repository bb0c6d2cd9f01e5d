using System.Globalization;
using System.Text.Json;
using XlstmLab.Inference;
using XlstmLab.Text;

namespace XlstmLab.Serving;

/// <summary>A request for texts: of <c>/v1/completions</c>, or of <c>/v1/chat/completions</c>.</summary>
internal sealed record ApiRequest
{
    private const int MostStops = 4;

    /// <summary>The model that is asked for; null where the request names none.</summary>
    public string? Model { get; private init; }

    /// <summary>What is read for each choice, and how its tokens are chosen.</summary>
    public IReadOnlyList<(int[] Prompt, GenerationOptions Options)> Texts { get; private init; } = [];

    /// <summary>Whether the answer comes piece by piece.</summary>
    public bool Streams { get; private init; }

    /// <summary>Whether a last piece tells what was used.</summary>
    public bool IncludesUsage { get; private init; }

    /// <summary>Whether tokens come with their logarithms of probability.</summary>
    public bool LogProbabilities { get; private init; }

    /// <summary>Whether prompts are repeated before what follows them.</summary>
    public bool Echoes { get; private init; }

    /// <summary>Whether it is a conversation.</summary>
    public bool IsChat { get; private init; }

    /// <summary>Reads a body.</summary>
    /// <exception cref="ApiError">It asks for what cannot be; the message says what.</exception>
    public static ApiRequest Read(RequestFields fields, bool isChat, ServerOptions server, ITokenizer tokenizer)
    {
        var prompts = isChat ? [Conversation(fields, server, tokenizer)] : Prompts(fields.Need("prompt"), tokenizer);
        foreach (var prompt in prompts)
        {
            if (prompt.Length > server.MaxPromptTokens)
            {
                throw ApiError.Invalid(
                    isChat ? "messages" : "prompt",
                    FormattableString.Invariant(
                        $"The prompt has {prompt.Length} tokens; this server takes at most {server.MaxPromptTokens}."),
                    "context_length_exceeded");
            }
        }

        var choices = (int)(fields.Whole("n", 1, server.MaxChoices) ?? 1);
        if ((long)prompts.Length * choices > server.MaxChoices)
        {
            throw ApiError.Invalid(
                "n",
                FormattableString.Invariant(
                    $"{prompts.Length} prompts with {choices} choices each are more than the {server.MaxChoices} of a request."));
        }

        var (logs, top) = LogProbabilitiesOf(fields, isChat);
        var streams = fields.Flag("stream") ?? false;
        var usage = fields.Object("stream_options");
        if (usage is not null && !streams)
        {
            throw ApiError.Invalid("stream_options", "'stream_options' goes with 'stream': true only.");
        }

        var includesUsage = usage?.Flag("include_usage") ?? false;
        usage?.Ignore("include_obfuscation");
        usage?.RequireNoOthers();
        var model = fields.Text("model");
        var options = Options(fields, isChat, server, tokenizer) with { TopLogProbabilities = top };
        var echoes = !isChat && (fields.Flag("echo") ?? false);
        if (echoes && logs)
        {
            throw ApiError.Invalid("echo", "'echo' does not go with 'logprobs': those of a prompt's tokens are not given.");
        }

        RefuseWhatCannotBe(fields, isChat, choices);
        fields.RequireNoOthers();
        var seed = options.Seed;
        return new()
        {
            Model = model,
            Texts =
            [
                .. prompts.SelectMany(prompt => Enumerable.Repeat(prompt, choices)).Select(
                    (prompt, k) => (prompt, options with { Seed = seed + k })),
            ],
            Streams = streams,
            IncludesUsage = includesUsage,
            LogProbabilities = logs,
            Echoes = echoes,
            IsChat = isChat,
        };
    }

    private static GenerationOptions Options(RequestFields fields, bool isChat, ServerOptions server, ITokenizer tokenizer)
    {
        var most = fields.Whole("max_tokens", 1, server.MaxTokens);
        most = (isChat ? fields.Whole("max_completion_tokens", 1, server.MaxTokens) : null) ?? most;
        most ??= isChat ? server.MaxTokens : Math.Min(16, server.MaxTokens);
        return new()
        {
            MaxNewTokens = (int)most,
            Temperature = fields.Number("temperature", 0, 2) ?? 1,
            TopP = fields.Number("top_p", 0, 1) switch { 0 => double.Epsilon, var p => p },
            TopK = fields.Whole("top_k", -1, int.MaxValue) is { } k and > 0 ? (int)k : null, // 0 and -1 keep all, as elsewhere
            MinP = fields.Number("min_p", 0, 1),
            RepetitionPenalty = fields.Number("repetition_penalty", 1e-3, 1e3) ?? 1,
            FrequencyPenalty = fields.Number("frequency_penalty", -2, 2) ?? 0,
            PresencePenalty = fields.Number("presence_penalty", -2, 2) ?? 0,
            LogitBias = Biases(fields.Object("logit_bias"), tokenizer),
            Seed = fields.Whole("seed", long.MinValue, long.MaxValue - server.MaxChoices) ?? Random.Shared.NextInt64(1L << 53),
            StopStrings = [.. Stops(fields), .. isChat ? server.Chat!.StopStrings : []],
            StopAtEndOfDocument = !(fields.Flag("ignore_eos") ?? false),
        };
    }

    private static Dictionary<int, double> Biases(RequestFields? fields, ITokenizer tokenizer)
    {
        var biases = new Dictionary<int, double>();
        foreach (var name in fields?.Names ?? [])
        {
            if (!int.TryParse(name, NumberStyles.None, CultureInfo.InvariantCulture, out var id) || id >= tokenizer.VocabularySize
                || (name.Length > 1 && name[0] == '0'))
            {
                throw ApiError.Invalid(
                    "logit_bias",
                    FormattableString.Invariant(
                        $"'logit_bias': expected token ids from 0 to {tokenizer.VocabularySize - 1}, got '{RequestFields.Shown(name)}'."));
            }

            biases[id] = fields!.Number(name, -100, 100) ?? 0;
        }

        return biases;
    }

    private static string[] Stops(RequestFields fields)
    {
        if (fields.Find("stop") is not { } stop)
        {
            return [];
        }

        string[] stops = stop.ValueKind == JsonValueKind.Array
            ? [.. stop.EnumerateArray().Select((s, k) => RequestFields.Text(s, FormattableString.Invariant($"stop[{k}]")))]
            : [RequestFields.Text(stop, "stop")];
        return stops.Length <= MostStops && stops.All(s => s.Length > 0)
            ? stops
            : throw ApiError.Invalid(
                "stop", FormattableString.Invariant($"Expected at most {MostStops} texts of at least one character each."));
    }

    private static (bool Wanted, int Top) LogProbabilitiesOf(RequestFields fields, bool isChat)
    {
        if (!isChat)
        {
            return fields.Whole("logprobs", 0, 5) is { } count ? (true, (int)count) : (false, 0);
        }

        var wanted = fields.Flag("logprobs") ?? false;
        var top = (int)(fields.Whole("top_logprobs", 0, 20) ?? 0);
        return wanted || top == 0
            ? (wanted, top)
            : throw ApiError.Invalid("top_logprobs", "'top_logprobs' goes with 'logprobs': true only.");
    }

    /// <summary>Fields of OpenAI's API that are of no consequence here, and those that are refused unless they ask for nothing.</summary>
    private static void RefuseWhatCannotBe(RequestFields fields, bool isChat, int choices)
    {
        fields.Ignore("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention");
        if (!isChat)
        {
            fields.Refuse("suffix", value => RequestFields.Is(value, ""), "a model that reads forward cannot fill a gap");
            fields.Refuse(
                "best_of",
                value => value.ValueKind == JsonValueKind.Number && value.TryGetInt64(out var best) && best == choices,
                "all choices are given: expected the value of 'n'");
            return;
        }

        fields.Ignore("parallel_tool_calls", "reasoning_effort", "verbosity", "prediction");
        foreach (var name in new[] { "tools", "functions" })
        {
            fields.Refuse(
                name, value => value.ValueKind == JsonValueKind.Array && value.GetArrayLength() == 0, "this model calls no tools");
        }

        foreach (var name in new[] { "tool_choice", "function_call" })
        {
            fields.Refuse(name, value => RequestFields.Is(value, "none") || RequestFields.Is(value, "auto"), "this model calls no tools");
        }

        fields.Refuse(
            "response_format",
            value => value.ValueKind == JsonValueKind.Object && value.TryGetProperty("type", out var type)
                && RequestFields.Is(type, "text"),
            "only the format {\"type\": \"text\"} can be given");
        fields.Refuse(
            "modalities",
            value => value.ValueKind == JsonValueKind.Array && value.GetArrayLength() == 1 && RequestFields.Is(value[0], "text"),
            "only [\"text\"] can be given");
        fields.Refuse("audio", _ => false, "this model gives text only");
        fields.Refuse("web_search_options", _ => false, "this model searches nothing");
    }

    /// <summary>A text, several, token ids, or several lists of such; texts begin a document.</summary>
    private static int[][] Prompts(JsonElement prompt, ITokenizer tokenizer)
    {
        if (prompt.ValueKind != JsonValueKind.Array)
        {
            return [tokenizer.EncodeDocument(RequestFields.Text(prompt, "prompt"))];
        }

        if (prompt.GetArrayLength() == 0)
        {
            throw ApiError.Invalid("prompt", "'prompt' is an empty list.");
        }

        return prompt[0].ValueKind switch
        {
            JsonValueKind.Number => [Ids(prompt, "prompt", tokenizer)],
            JsonValueKind.Array =>
                [.. prompt.EnumerateArray().Select((ids, k) => Ids(ids, FormattableString.Invariant($"prompt[{k}]"), tokenizer))],
            _ => [.. prompt.EnumerateArray().Select((text, k) =>
                tokenizer.EncodeDocument(RequestFields.Text(text, FormattableString.Invariant($"prompt[{k}]"))))],
        };
    }

    private static int[] Ids(JsonElement list, string place, ITokenizer tokenizer)
    {
        if (list.ValueKind != JsonValueKind.Array || list.GetArrayLength() == 0)
        {
            throw RequestFields.Wrong(place, "a list of token ids", list);
        }

        return [.. list.EnumerateArray().Select((value, k) =>
            value.ValueKind == JsonValueKind.Number && value.TryGetInt32(out var id) && id >= 0 && id < tokenizer.VocabularySize
                ? id
                : throw RequestFields.Wrong(
                    FormattableString.Invariant($"{place}[{k}]"),
                    FormattableString.Invariant($"a token id from 0 to {tokenizer.VocabularySize - 1}"),
                    value))];
    }

    private static int[] Conversation(RequestFields fields, ServerOptions server, ITokenizer tokenizer)
    {
        var list = fields.Need("messages");
        if (list.ValueKind != JsonValueKind.Array || list.GetArrayLength() == 0)
        {
            throw RequestFields.Wrong("messages", "a list of at least one message", list);
        }

        var messages =
            list.EnumerateArray().Select((message, k) => Message(message, FormattableString.Invariant($"messages[{k}]"))).ToArray();
        if (server.Chat is not { } template)
        {
            throw ApiError.Invalid(
                "messages", $"This server holds no conversations: {server.ChatFault} /v1/completions takes plain text.",
                "no_chat_template");
        }

        try
        {
            return tokenizer.EncodeDocument(template.Render(messages));
        }
        catch (ArgumentException e)
        {
            throw ApiError.Invalid("messages", e.Message);
        }
    }

    private static ChatTurn Message(JsonElement message, string place)
    {
        var fields = RequestFields.Element(message, place);
        var role = RequestFields.Text(fields.Need("role"), place + ".role");
        fields.Ignore("name", "refusal", "annotations");
        foreach (var name in new[] { "tool_calls", "function_call", "audio", "tool_call_id" })
        {
            fields.Refuse(
                name, value => value.ValueKind == JsonValueKind.Array && value.GetArrayLength() == 0,
                "this model calls no tools and gives text only");
        }

        var content = fields.Need("content");
        fields.RequireNoOthers();
        return new(role, content.ValueKind == JsonValueKind.Array
            ? string.Concat(content.EnumerateArray().Select((part, k) => Part(part, FormattableString.Invariant($"{place}.content[{k}]"))))
            : RequestFields.Text(content, place + ".content"));
    }

    private static string Part(JsonElement part, string place)
    {
        var fields = RequestFields.Element(part, place);
        if (RequestFields.Text(fields.Need("type"), place + ".type") is var type && type != "text")
        {
            throw ApiError.Invalid(place + ".type", $"'{place}.type': this model reads text only, not '{type}'.");
        }

        var text = RequestFields.Text(fields.Need("text"), place + ".text");
        fields.RequireNoOthers();
        return text;
    }
}
