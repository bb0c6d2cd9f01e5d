using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using XlstmLab.Inference;
using XlstmLab.Serving;
using Xunit;

namespace XlstmLab.Tests.Serving;

public sealed class ApiServerTests
{
    private const string Completions = "/v1/completions";
    private const string Chat = "/v1/chat/completions";

    [Fact]
    public async Task Completions_TextsAndIds_AreWhatTheModelWrites()
    {
        await using var served = await ServedModel.StartAsync();
        var expected = served.Alone(
            "To be", new() { MaxNewTokens = 12, Seed = 7, Temperature = 0.9, TopP = 0.9, TopK = 50, StopAtEndOfDocument = false });
        const string Options = "\"max_tokens\":12,\"seed\":7,\"temperature\":0.9,\"top_p\":0.9,\"top_k\":50,\"ignore_eos\":true,"
            + "\"user\":\"me\"";
        var (status, body, _) = await served.PostAsync(Completions, $$"""{"model":"xlstm","prompt":"To be",{{Options}}}""");
        Assert.Equal(HttpStatusCode.OK, status);
        Assert.Equal("text_completion", (string?)body["object"]);
        Assert.Equal((expected.Text, "length"), ((string?)body["choices"]![0]!["text"], (string?)body["choices"]![0]!["finish_reason"]));
        Assert.Equal(
            (6, 12, 18),
            ((int)body["usage"]!["prompt_tokens"]!, (int)body["usage"]!["completion_tokens"]!,
                (int)body["usage"]!["total_tokens"]!));

        // The same as ids; and several prompts, of which each has a seed after the other's.
        var ids = await served.PostAsync(Completions, $$"""{"prompt":[256,84,111,32,98,101],{{Options}}}""");
        Assert.Equal(expected.Text, (string?)ids.Body["choices"]![0]!["text"]);
        Assert.Equal(5, (int)ids.Body["usage"]!["prompt_tokens_details"]!["cached_tokens"]!);
        var several = await served.PostAsync(Completions, $$"""{"prompt":["To be","or not"],"n":2,{{Options}}}""");
        var choices = several.Body["choices"]!.AsArray();
        Assert.Equal([0, 1, 2, 3], choices.Select(c => (int)c!["index"]!));
        Assert.Equal(expected.Text, (string?)choices[0]!["text"]);
        Assert.Equal(
            served.Alone("or not", new()
            {
                MaxNewTokens = 12,
                Seed = 10,
                Temperature = 0.9,
                TopP = 0.9,
                TopK = 50,
                StopAtEndOfDocument = false,
            }).Text, (string?)choices[3]!["text"]);
        Assert.Equal(6 + 7, (int)several.Body["usage"]!["prompt_tokens"]!);
    }

    [Fact]
    public async Task Completions_Stream_IsTheWholeAnswerInPieces()
    {
        await using var served = await ServedModel.StartAsync();
        const string Request = """{"prompt":"abc","max_tokens":20,"seed":3,"ignore_eos":true,"logprobs":2,"n":2""";
        var whole = (await served.PostAsync(Completions, Request + "}")).Body;
        var events = await served.EventsAsync(Completions, Request + ""","stream":true,"stream_options":{"include_usage":true}}""");
        Assert.Equal("[DONE]", events[^1]);
        var pieces = events[..^1].Select(e => JsonNode.Parse(e)!).ToArray();
        Assert.Empty(pieces[^1]["choices"]!.AsArray());
        Assert.Equal(whole["usage"]!["completion_tokens"]!.ToJsonString(), pieces[^1]["usage"]!["completion_tokens"]!.ToJsonString());
        for (var index = 0; index < 2; index++)
        {
            var own = pieces[..^1].Select(p => p["choices"]![0]!).Where(c => (int)c["index"]! == index).ToArray();
            var expected = whole["choices"]![index]!;
            Assert.Equal((string?)expected["text"], string.Concat(own.Select(c => (string?)c["text"])));
            Assert.Equal("length", (string?)own[^1]["finish_reason"]);
            Assert.All(own[..^1], c => Assert.Null(c["finish_reason"]));
            var logs = expected["logprobs"]!;
            Assert.Equal(
                logs["token_logprobs"]!.ToJsonString(),
                new JsonArray([.. own.Select(c => c["logprobs"]!["token_logprobs"]![0]!.DeepClone())]).ToJsonString());
            Assert.Equal(
                logs["text_offset"]!.ToJsonString(),
                new JsonArray([.. own.Select(c => c["logprobs"]!["text_offset"]![0]!.DeepClone())]).ToJsonString());
            Assert.All(logs["top_logprobs"]!.AsArray(), top => Assert.InRange(top!.AsObject().Count, 1, 2));
        }
    }

    [Fact]
    public async Task Chat_Messages_GoThroughTheTemplate()
    {
        await using var served = await ServedModel.StartAsync();
        var options = new GenerationOptions
        {
            MaxNewTokens = 15,
            Temperature = 0,
            StopAtEndOfDocument = false,
            TopLogProbabilities = 3,
            StopStrings = ["\n\nUser:", "\n\nAssistant:"],
        };
        var expected = served.Alone("Be brief.\n\nUser: Hi\n\nAssistant: Yes?\n\nUser: Who\nare you?\n\nAssistant:", options);
        const string Request = """
            {"messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"Hi","name":"me"},{"role":"assistant","content":"Yes?"},
             {"role":"user","content":[{"type":"text","text":"Who\nare"},{"type":"text","text":" you?"}]}],
             "max_completion_tokens":15,"temperature":0,"ignore_eos":true,"logprobs":true,"top_logprobs":3,"tools":[],"response_format":{"type":"text"}
            """;
        var body = (await served.PostAsync(Chat, Request + "}")).Body;
        var choice = body["choices"]![0]!;
        Assert.Equal(("chat.completion", "assistant"), ((string?)body["object"], (string?)choice["message"]!["role"]));
        Assert.Equal(expected.Text.TrimStart(), (string?)choice["message"]!["content"]);
        Assert.Equal(15, choice["logprobs"]!["content"]!.AsArray().Count);
        Assert.Equal(
            expected.Steps[4].Likeliest![2].LogProbability,
            (double)choice["logprobs"]!["content"]![4]!["top_logprobs"]![2]!["logprob"]!, 1e-9);
        var bytes = choice["logprobs"]!["content"]!.AsArray().SelectMany(c => c!["bytes"]!.AsArray().Select(b => (byte)(int)b!)).ToArray();
        Assert.Equal(expected.Text.TrimStart(), Encoding.UTF8.GetString(bytes).TrimStart());

        var events =
            (await served.EventsAsync(Chat, Request + ",\"stream\":true}"))[..^1].Select(e => JsonNode.Parse(e)!["choices"]![0]!).ToArray();
        Assert.Equal("assistant", (string?)events[0]["delta"]!["role"]);
        Assert.Equal(expected.Text.TrimStart(), string.Concat(events.Select(e => (string?)e["delta"]!["content"])));
    }

    [Fact]
    public async Task Server_OtherPaths_TellModelsHealthAndMetrics()
    {
        await using var served = await ServedModel.StartAsync(new() { ModelName = "tiny/run 1" });
        var models = JsonNode.Parse(await served.Client.GetStringAsync(new Uri("/v1/models", UriKind.Relative)))!;
        Assert.Equal(("list", "tiny/run 1"), ((string?)models["object"], (string?)models["data"]![0]!["id"]));
        Assert.Contains(
            "tiny/run 1", await served.Client.GetStringAsync(new Uri("/v1/models/tiny/run%201", UriKind.Relative)),
            StringComparison.Ordinal);
        Assert.Contains("ok", await served.Client.GetStringAsync(new Uri("/health", UriKind.Relative)), StringComparison.Ordinal);
        _ = await served.PostAsync(Completions, """{"prompt":"abc","max_tokens":5,"ignore_eos":true}""");
        _ = await served.PostAsync(Completions, "{");
        var metrics = await served.Client.GetStringAsync(new Uri("/metrics", UriKind.Relative));
        foreach (var line in new[]
        {
            "xlstm_requests_total{endpoint=\"/v1/completions\",status=\"200\"} 1",
            "xlstm_requests_total{endpoint=\"/v1/completions\",status=\"400\"} 1",
            "xlstm_prompt_tokens_total 4", "xlstm_generated_tokens_total 5", "xlstm_texts_open 0",
            "xlstm_time_to_first_token_seconds_count 1",
            "xlstm_time_to_first_token_seconds_bucket{le=\"+Inf\"} 1", "# TYPE xlstm_request_seconds histogram",
        })
        {
            Assert.Contains(line + "\n", metrics, StringComparison.Ordinal);
        }
    }

    [Theory]
    [InlineData("""{"prompt":"a","max_tokens":"5"}""", "max_tokens", "expected a whole number from 1 to 2048, got \"5\"")]
    [InlineData("""{"prompt":"a","max_tokens":0}""", "max_tokens", "got 0")]
    [InlineData("""{"prompt":"a","max_tokens":1.5}""", "max_tokens", "got 1.5")]
    [InlineData("""{"prompt":"a","temperature":3}""", "temperature", "a number from 0 to 2")]
    [InlineData("""{"prompt":"a","temperature":1e999}""", "temperature", "a number from 0 to 2")]
    [InlineData("""{"prompt":"a","stream":"yes"}""", "stream", "true or false")]
    [InlineData("""{"prompt":"a","wibble":1}""", "wibble", "Unrecognized request argument supplied: wibble")]
    [InlineData("""{"prompt":"a","n":9}""", "n", "from 1 to 8")]
    [InlineData("""{"prompt":["a","b","c"],"n":3}""", "n", "more than the 8")]
    [InlineData("""{"prompt":5}""", "prompt", "expected a text, got 5")]
    [InlineData("""{"prompt":[]}""", "prompt", "empty list")]
    [InlineData("""{"prompt":[1,257]}""", "prompt[1]", "a token id from 0 to 256, got 257")]
    [InlineData("""{"prompt":["a",1]}""", "prompt[1]", "expected a text, got 1")]
    [InlineData("""{"prompt":"a","stop":[1]}""", "stop[0]", "expected a text")]
    [InlineData("""{"prompt":"a","stop":["a","b","c","d","e"]}""", "stop", "at most 4")]
    [InlineData("""{"prompt":"a","echo":true,"logprobs":0}""", "echo", "does not go with 'logprobs'")]
    [InlineData("""{"prompt":"a","echo":1}""", "echo", "true or false")]
    [InlineData("""{"prompt":"a","suffix":"b"}""", "suffix", "cannot fill a gap")]
    [InlineData("""{"prompt":"a","response_format":{"type":"json_object"}}""", "response_format", "Unrecognized")]
    [InlineData("""{"prompt":"a","best_of":3}""", "best_of", "expected the value of 'n'")]
    [InlineData("""{"prompt":"a","logit_bias":[5]}""", "logit_bias", "expected an object")]
    [InlineData("""{"prompt":"a","logit_bias":{"257":1}}""", "logit_bias", "token ids from 0 to 256, got '257'")]
    [InlineData("""{"prompt":"a","logit_bias":{"5":1,"05":2}}""", "logit_bias", "got '05'")]
    [InlineData("""{"prompt":"a","logit_bias":{"a":1}}""", "logit_bias", "got 'a'")]
    [InlineData("""{"prompt":"a","logit_bias":{"5":101}}""", "logit_bias.5", "a number from -100 to 100")]
    [InlineData("""{"prompt":"a","top_k":-2}""", "top_k", "from -1")]
    [InlineData("""{"prompt":"a","logprobs":6}""", "logprobs", "from 0 to 5")]
    [InlineData("""{"prompt":"a","stream_options":{}}""", "stream_options", "goes with 'stream'")]
    [InlineData("""{"prompt":"a","stream":true,"stream_options":{"x":1}}""", "stream_options.x", "Unrecognized")]
    [InlineData("""{"prompt":"\ud800"}""", "prompt", "no Unicode")]
    [InlineData("""{"prompt":"a","\ud800":1}""", null, "name is no Unicode")]
    [InlineData("""{"prompt":"a","logit_bias":{"\udc00":1}}""", null, "name is no Unicode")]
    [InlineData("""{"max_tokens":5}""", "prompt", "'prompt' is missing")]
    [InlineData("""{"prompt":"a","prompt":"b"}""", null, "no valid JSON")]
    [InlineData("[1]", null, "expected the body to be a JSON object")]
    [InlineData("{\"prompt\":", null, "no valid JSON")]
    [InlineData("", null, "no valid JSON")]
    public async Task Completions_WrongRequest_IsRefusedByName(string json, string? parameter, string message)
    {
        await using var served = await ServedModel.StartAsync();
        AssertError(await served.PostAsync(Completions, json), HttpStatusCode.BadRequest, parameter, message);
    }

    [Theory]
    [InlineData("""{"messages":[]}""", "messages", "at least one message")]
    [InlineData("""{"messages":[{"role":"tool","content":"x"}]}""", "messages", "the role 'tool'")]
    [InlineData("""{"messages":[{"role":"user"}]}""", "messages[0].content", "is missing")]
    [InlineData("""{"messages":[{"role":"user","content":"x","age":3}]}""", "messages[0].age", "Unrecognized")]
    [InlineData(
        """{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}]}""",
        "messages[0].content[0].type", "reads text only")]
    [InlineData("""{"messages":[{"role":"user","content":"x"}],"tools":[{"type":"function"}]}""", "tools", "calls no tools")]
    [InlineData(
        """{"messages":[{"role":"user","content":"x"}],"tools":[[[[[[[[[[[[[[[[[[[[{}]]]]]]]]]]]]]]]]]]]]}""", "tools", "calls no tools")]
    [InlineData("""{"messages":[{"role":"user","content":"x"}],"tool_choice":"required"}""", "tool_choice", "calls no tools")]
    [InlineData("""{"messages":[{"role":"user","content":"x"}],"function_call":"\ud800"}""", "function_call", "calls no tools; got")]
    [InlineData(
        """{"messages":[{"role":"user","content":"x"}],"response_format":{"type":"\ud800"}}""", "response_format", "only the format")]
    [InlineData("""{"messages":[{"role":"user","content":"x"}],"echo":true}""", "echo", "Unrecognized")]
    [InlineData(
        """{"messages":[{"role":"user","content":"x"}],"response_format":{"type":"json_object"}}""", "response_format", "only the format")]
    [InlineData("""{"messages":[{"role":"user","content":"x"}],"top_logprobs":3}""", "top_logprobs", "goes with 'logprobs'")]
    [InlineData("""{"messages":[{"role":"user","content":"x"}],"model":"gpt-9"}""", "model", "does not exist", HttpStatusCode.NotFound)]
    public async Task Chat_WrongRequest_IsRefusedByName(
        string json, string parameter, string message, HttpStatusCode status = HttpStatusCode.BadRequest)
    {
        await using var served = await ServedModel.StartAsync();
        AssertError(await served.PostAsync(Chat, json), status, parameter, message);
    }

    [Theory]
    [InlineData(Completions, """{"prompt":"a","max_tokens":1,"top_k":-1,"suffix":"","echo":false,"logit_bias":{},"best_of":1}""")]
    [InlineData(Completions, """{"prompt":"a","max_tokens":1,"top_k":0,"stop":[],"top_p":0,"min_p":0,"logit_bias":{"5":null}}""")]
    [InlineData(
        Chat, """{"messages":[{"role":"developer","content":"x"}],"max_tokens":1,"tool_choice":"auto","tools":[],"modalities":["text"]}""")]
    [InlineData(
        Chat,
        """
        {"messages":[{"role":"user","content":"x"}],"max_tokens":1,"n":null,"stop":null,"seed":null,"stream":null,"stream_options":null,
         "logprobs":null,"top_logprobs":null,"logit_bias":null,"tools":null,"response_format":null,"max_completion_tokens":null}
        """)]
    public async Task Server_FieldsThatAskForNothing_AreLetThrough(string path, string json)
    {
        await using var served = await ServedModel.StartAsync();
        var (status, body, _) = await served.PostAsync(path, json);
        Assert.True(status == HttpStatusCode.OK, body.ToJsonString());
    }

    [Fact]
    public async Task Server_LogitBias_BarsTokensOrLeavesOneAlone()
    {
        await using var served = await ServedModel.StartAsync();
        var first = served.Alone(
            "ab", new() { MaxNewTokens = 1, Temperature = 0, TopLogProbabilities = 2, StopAtEndOfDocument = false }).Steps[0].Likeliest!;
        var barred = await served.PostAsync(
            Completions,
            $$$"""{"prompt":"ab","max_tokens":1,"temperature":0,"logprobs":0,"logit_bias":{"{{{first[0].Id}}}":-100}}""");
        Assert.Equal(first[1].LogProbability, (double)barred.Body["choices"]![0]!["logprobs"]!["token_logprobs"]![0]!, 1e-9);
        var chat = await served.PostAsync(
            Chat, """{"messages":[{"role":"user","content":"x"}],"max_tokens":4,"logit_bias":{"65":100},"temperature":2}""");
        Assert.Equal("AAAA", (string?)chat.Body["choices"]![0]!["message"]!["content"]);
    }

    [Fact]
    public async Task Completions_Echo_RepeatsEachPromptBeforeItsText()
    {
        await using var served = await ServedModel.StartAsync();
        const string Request = """{"prompt":["ab","größe"],"n":2,"max_tokens":6,"seed":3,"ignore_eos":true""";
        var plain = (await served.PostAsync(Completions, Request + "}")).Body["choices"]!.AsArray().Select(c => (string?)c!["text"]);
        string[] expected = [.. plain.Zip(["ab", "ab", "größe", "größe"], (text, prompt) => prompt + text)];
        var whole = (await served.PostAsync(Completions, Request + ",\"echo\":true}")).Body;
        Assert.Equal(expected, whole["choices"]!.AsArray().Select(c => (string?)c!["text"]));
        Assert.Equal(24, (int)whole["usage"]!["completion_tokens"]!);
        var events = await served.EventsAsync(Completions, Request + ",\"echo\":true,\"stream\":true}");
        var pieces = events[..^1].Select(e => JsonNode.Parse(e)!["choices"]![0]!).ToLookup(c => (int)c["index"]!, c => (string?)c["text"]);
        Assert.Equal(expected, Enumerable.Range(0, 4).Select(index => string.Concat(pieces[index])));
    }

    [Fact]
    public async Task Server_BodyThatIsNoUtf8_IsTheClientsFaultAndToldReadably()
    {
        await using var served = await ServedModel.StartAsync();
        foreach (var body in new byte[][] { [.. "{\"prompt\":\""u8, 0xff, .. "\"}"u8], [.. "{\""u8, 0xff, .. "\":1}"u8] })
        {
            using var content = new ByteArrayContent(body) { Headers = { { "Content-Type", "application/json" } } };
            using var response = await served.Client.PostAsync(
                new Uri(Completions, UriKind.Relative), content, TestContext.Current.CancellationToken);
            Assert.Equal(HttpStatusCode.BadRequest, response.StatusCode);
            var refusal = await response.Content.ReadAsStringAsync(TestContext.Current.CancellationToken);
            Assert.Contains("no valid UTF-8", refusal, StringComparison.Ordinal);
        }

        using var wrong = new StringContent("""{"prompt":"größe","n":"é"}""", Encoding.UTF8, "application/json");
        using var told = await served.Client.PostAsync(
            new Uri(Completions, UriKind.Relative), wrong, TestContext.Current.CancellationToken);
        Assert.Contains(
            "for 'n': expected a whole number from 1 to 8, got \\\"é\\\"",
            await told.Content.ReadAsStringAsync(TestContext.Current.CancellationToken), StringComparison.Ordinal);
    }

    [Fact]
    public async Task Server_MethodsHostsAndNames_AreTakenAsHttpHasThem()
    {
        await using var served = await ServedModel.StartAsync(new() { ModelName = "NX-AI/xLSTM-7b" });
        var cancel = TestContext.Current.CancellationToken;
        foreach (var name in new[] { "NX-AI/xLSTM-7b", "NX-AI%2FxLSTM-7b", "NX-AI%2fxLSTM-7b" })
        {
            using var model = await served.Client.GetAsync(new Uri("/v1/models/" + name, UriKind.Relative), cancel);
            Assert.Equal(HttpStatusCode.OK, model.StatusCode);
        }

        using var head = await served.Client.SendAsync(new(HttpMethod.Head, "/health"), cancel);
        Assert.Equal((HttpStatusCode.OK, 0), (head.StatusCode, (await head.Content.ReadAsByteArrayAsync(cancel)).Length));
        using var put = await served.Client.SendAsync(new(HttpMethod.Put, "/health"), cancel);
        Assert.Equal((HttpStatusCode.MethodNotAllowed, "GET, HEAD"), (put.StatusCode, string.Join(", ", put.Content.Headers.Allow)));
        using var get = await served.Client.GetAsync(new Uri(Completions, UriKind.Relative), cancel);
        Assert.Equal((HttpStatusCode.MethodNotAllowed, "POST"), (get.StatusCode, get.Content.Headers.Allow.Single()));
        foreach (var (host, status) in new[]
        {
            ("LocalHost", HttpStatusCode.OK), ("[::1]:80", HttpStatusCode.OK), ("127.0.0.2", HttpStatusCode.OK),
            ("localhost.evil.example", HttpStatusCode.Forbidden), ("10.0.0.1", HttpStatusCode.Forbidden),
        })
        {
            using var request = new HttpRequestMessage(HttpMethod.Get, "/v1/models") { Headers = { Host = host } };
            using var answer = await served.Client.SendAsync(request, cancel);
            Assert.Equal((host, status), (host, answer.StatusCode));
        }
    }

    [Fact]
    public async Task Server_LimitsAndWrongPaths_AreTold()
    {
        await using var served = await ServedModel.StartAsync(
            new() { MaxBodyBytes = 2000, MaxPromptTokens = 20, Chat = null, ChatFault = "its template is unknown." });
        AssertError(
            await served.PostAsync(Completions, $$"""{"prompt":"{{new string('a', 2000)}}"}"""),
            HttpStatusCode.RequestEntityTooLarge, null, "2000 bytes");
        AssertError(
            await served.PostAsync(Completions, $$"""{"prompt":"{{new string('a', 20)}}"}"""), HttpStatusCode.BadRequest,
            "prompt", "21 tokens; this server takes at most 20");
        AssertError(
            await served.PostAsync(Chat, """{"messages":[{"role":"user","content":"x"}]}"""), HttpStatusCode.BadRequest,
            "messages", "its template is unknown.");
        AssertError(
            await served.PostAsync(Completions, """{"prompt":"a"}""", "text/plain"),
            HttpStatusCode.UnsupportedMediaType, null, "application/json");
        AssertError(await served.PostAsync("/v1/embeddings", "{}"), HttpStatusCode.NotFound, null, "Unknown request URL");
        AssertError(await served.PostAsync("/v1/models", "{}"), HttpStatusCode.MethodNotAllowed, null, "expected GET");
        using var foreign = new HttpRequestMessage(HttpMethod.Get, "/v1/models");
        foreign.Headers.Host = "evil.example";
        using var refused = await served.Client.SendAsync(foreign, TestContext.Current.CancellationToken);
        Assert.Equal(HttpStatusCode.Forbidden, refused.StatusCode);

        // A body of no declared length that does not end.
        using var endless = new HttpRequestMessage(HttpMethod.Post, Completions)
        {
            Content = new ByteArrayContent(new byte[3000]) { Headers = { { "Content-Type", "application/json" } } },
        };
        endless.Headers.TransferEncodingChunked = true;
        using var tooLarge = await served.Client.SendAsync(endless, TestContext.Current.CancellationToken);
        Assert.Equal(HttpStatusCode.RequestEntityTooLarge, tooLarge.StatusCode);
    }

    [Fact]
    public async Task Server_ApiKey_IsAskedForEverywhereButHealth()
    {
        await using var served = await ServedModel.StartAsync(new() { ApiKey = "sk-Secret" });
        AssertError(
            await served.PostAsync(Completions, """{"prompt":"a"}"""), HttpStatusCode.Unauthorized, null, "No API key was provided");
        served.Client.DefaultRequestHeaders.Authorization = new("Bearer", "sk-secret");
        AssertError(await served.PostAsync(Completions, """{"prompt":"a"}"""), HttpStatusCode.Unauthorized, null, "Incorrect API key");
        using var metrics = await served.Client.GetAsync(new Uri("/metrics", UriKind.Relative), TestContext.Current.CancellationToken);
        Assert.Equal(HttpStatusCode.Unauthorized, metrics.StatusCode);
        _ = await served.Client.GetStringAsync(new Uri("/health", UriKind.Relative), TestContext.Current.CancellationToken);
        served.Client.DefaultRequestHeaders.Authorization = new("Bearer", "sk-Secret");
        Assert.Equal(HttpStatusCode.OK, (await served.PostAsync(Completions, """{"prompt":"a"}""")).Status);

        var open = Assert.Throws<ArgumentException>(new ServerOptions { Address = IPAddress.Any }.Validate);
        Assert.Contains("takes an API key", open.Message, StringComparison.Ordinal);
        new ServerOptions { Address = IPAddress.Any, ApiKey = "k" }.Validate();
        var nameless = Assert.Throws<ArgumentException>(new ServerOptions { ModelName = " " }.Validate);
        Assert.Contains("ModelName to be a name that requests can give, got ' '", nameless.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Server_FullQueue_Is429WithRetryAfterUntilThereIsRoom()
    {
        await using var served = await ServedModel.StartAsync(new() { MaxTokens = int.MaxValue }, new() { Slots = 1 }, queueLength: 0);
        const string Endless = """{"prompt":"a","max_tokens":2000000000,"ignore_eos":true,"stream":true}""";
        using (var first = await served.SendRawAsync(ServedModel.Raw(Completions, Endless)))
        {
            _ = await first.GetStream().ReadAsync(new byte[100], TestContext.Current.CancellationToken);
            var refused = await served.PostAsync(Completions, """{"prompt":"a"}""");
            AssertError(refused, HttpStatusCode.TooManyRequests, null, "ask again later");
            Assert.Equal("1", refused.Headers.GetValues("Retry-After").Single());
        }

        // The client is gone: its slot is free.
        while ((await served.PostAsync(Completions, """{"prompt":"a"}""")).Status == HttpStatusCode.TooManyRequests)
        {
            await Task.Delay(5, TestContext.Current.CancellationToken);
        }

        Assert.Contains(
            "xlstm_clients_vanished_total 1\n",
            await served.Client.GetStringAsync(new Uri("/metrics", UriKind.Relative), TestContext.Current.CancellationToken),
            StringComparison.Ordinal);
    }

    [Fact]
    public async Task Server_TimeLimit_EndsARequestAndSaysSo()
    {
        await using var served = await ServedModel.StartAsync(
            new() { MaxTokens = int.MaxValue, RequestTime = TimeSpan.FromMilliseconds(200) });
        const string Endless = """{"prompt":"a","max_tokens":2000000000,"ignore_eos":true""";
        AssertError(await served.PostAsync(Completions, Endless + "}"), HttpStatusCode.GatewayTimeout, null, "longer than the 0.2 s");
        var events = await served.EventsAsync(Completions, Endless + ",\"stream\":true}");
        Assert.Equal("timeout", (string?)JsonNode.Parse(events[^1])!["error"]!["code"]);
    }

    /// <summary>It frees its slot when the time is over, and is told once it reads on.</summary>
    [Fact]
    public async Task Server_TimeLimitOfAClientThatDoesNotRead_FreesItsSlotAndIsTold()
    {
        await using var served = await ServedModel.StartAsync(
            new() { MaxTokens = int.MaxValue, RequestTime = TimeSpan.FromSeconds(1) });
        var cancel = TestContext.Current.CancellationToken;
        using var slow = await ConnectSlowlyAsync(served, cancel);
        await AskForMuchAsync(slow, 2_000_000_000, cancel);
        while (served.Generator.Counts.GeneratedTokens == 0 || served.Generator.OpenCount > 0)
        {
            await Task.Delay(5, cancel);
        }

        Assert.Contains("\"code\":\"timeout\"", await ReadUntilAsync(slow, "\r\n0\r\n\r\n", cancel), StringComparison.Ordinal);
    }

    [Fact]
    public async Task Server_ClientThatVanishesWithinItsBody_IsCountedAsThatAndAsNoFault()
    {
        await using var served = await ServedModel.StartAsync();
        var cancel = TestContext.Current.CancellationToken;
        for (var k = 0; k < 20; k++)
        {
            using var client = await BeginAsync(served, cancel);
            client.LingerState = new(true, 0);
            client.Client.Close(); // resets the connection, which the client's own end would not
        }

        var metrics = "";
        for (var k = 0; k < 500 && !metrics.Contains("xlstm_clients_vanished_total 20\n", StringComparison.Ordinal); k++)
        {
            await Task.Delay(20, cancel);
            metrics = await served.Client.GetStringAsync(new Uri("/metrics", UriKind.Relative), cancel);
        }

        Assert.Contains("xlstm_clients_vanished_total 20\n", metrics, StringComparison.Ordinal);
        Assert.DoesNotContain("status=\"500\"", metrics, StringComparison.Ordinal);
    }

    /// <summary>No model has failed then, and nobody waits for the rest.</summary>
    [Theory]
    [InlineData(0.5, false, "504", "timeout")]
    [InlineData(60, true, "503", "stopping")]
    public async Task Server_BodyThatDoesNotCome_IsCutAndTold(double seconds, bool stops, string status, string code)
    {
        await using var served = await ServedModel.StartAsync(new() { RequestTime = TimeSpan.FromSeconds(seconds) });
        var cancel = TestContext.Current.CancellationToken;
        using var client = await BeginAsync(served, cancel);
        if (stops)
        {
            await served.StopAsync();
        }

        var answer = await ReadUntilAsync(client, "}}", cancel);
        Assert.StartsWith($"HTTP/1.1 {status} ", answer, StringComparison.Ordinal);
        Assert.Contains($"\"code\":\"{code}\"", answer, StringComparison.Ordinal);
    }

    [Fact]
    public async Task StopAsync_RunningRequests_EndOrAreCutAtTheDeadline()
    {
        await using var served = await ServedModel.StartAsync(new() { MaxTokens = int.MaxValue, ShutdownTime = TimeSpan.FromSeconds(2) });
        var endless = served.EventsAsync(Completions, """{"prompt":"a","max_tokens":2000000000,"ignore_eos":true,"stream":true}""");
        var finite = served.EventsAsync(Completions, """{"prompt":"a","max_tokens":1000,"ignore_eos":true,"stream":true}""");
        while (served.Generator.OpenCount < 2 && !finite.IsCompleted)
        {
            await Task.Delay(1, TestContext.Current.CancellationToken);
        }

        var stop = served.StopAsync();
        AssertError(await served.PostAsync(Completions, """{"prompt":"a"}"""), HttpStatusCode.ServiceUnavailable, null, "stopping");
        Assert.Equal("[DONE]", (await finite)[^1]);
        Assert.Equal("stopping", (string?)JsonNode.Parse((await endless)[^1])!["error"]!["code"]);
        await stop;
        await Assert.ThrowsAsync<HttpRequestException>(
            () => served.Client.GetStringAsync(new Uri("/health", UriKind.Relative), TestContext.Current.CancellationToken));
    }

    /// <summary>What was generated has to be sent, too.</summary>
    [Fact]
    public async Task StopAsync_ClientThatReadsSlowly_GetsAllOfItsAnswer()
    {
        await using var served = await ServedModel.StartAsync();
        var cancel = TestContext.Current.CancellationToken;
        using var slow = await ConnectSlowlyAsync(served, cancel);
        await AskForMuchAsync(slow, 2000, cancel);
        while (served.Generator.Counts.GeneratedTokens == 0 || served.Generator.OpenCount > 0)
        {
            await Task.Delay(5, cancel);
        }

        var stop = served.StopAsync();
        Assert.Contains("data: [DONE]", await ReadUntilAsync(slow, "\r\n0\r\n\r\n", cancel), StringComparison.Ordinal);
        await stop;
    }

    /// <summary>By the rules of Prometheus' text format: families of their own, each with its type before its samples.</summary>
    [Fact]
    public async Task Metrics_AnyState_AreFamiliesThatPrometheusReads()
    {
        await using var served = await ServedModel.StartAsync();
        _ = await served.PostAsync(Completions, """{"prompt":["abc","d"],"max_tokens":3,"ignore_eos":true}""");
        _ = await served.PostAsync(Completions, "{");
        _ = await served.PostAsync("/wib\"ble", "{}");
        var text = await served.Client.GetStringAsync(new Uri("/metrics", UriKind.Relative), TestContext.Current.CancellationToken);
        Assert.EndsWith("\n", text, StringComparison.Ordinal);
        var (types, samples, family) = (new Dictionary<string, string>(), new Dictionary<string, double>(), "");
        foreach (var line in text.TrimEnd('\n').Split('\n'))
        {
            if (line.StartsWith("# HELP ", StringComparison.Ordinal))
            {
                family = line.Split(' ')[2];
                continue;
            }

            if (line.StartsWith("# TYPE ", StringComparison.Ordinal))
            {
                Assert.Equal(family, line.Split(' ')[2]);
                types.Add(family, line.Split(' ')[3]);
                continue;
            }

            var sample = Regex.Match(line, """^([a-z_]+)((?:\{[a-z]+="[^"\\]*"(?:,[a-z]+="[^"\\]*")*\})?) (\S+)$""");
            Assert.True(sample.Success, line);
            var value = double.Parse(sample.Groups[3].Value, CultureInfo.InvariantCulture);
            samples.Add(sample.Groups[1].Value + sample.Groups[2].Value, value);
            var suffix = sample.Groups[1].Value[family.Length..];
            Assert.Contains(suffix, types[family] == "histogram" ? new[] { "_bucket", "_sum", "_count" } : [""]);
            Assert.Equal(types[family] == "counter", family.EndsWith("_total", StringComparison.Ordinal));
        }

        foreach (var (name, _) in types.Where(type => type.Value == "histogram"))
        {
            var buckets = samples.Where(s => s.Key.StartsWith(name + "_bucket", StringComparison.Ordinal)).ToArray();
            Assert.Equal(buckets.Select(b => b.Value).Order(), buckets.Select(b => b.Value));
            Assert.Equal(samples[name + "_count"], samples[name + "_bucket{le=\"+Inf\"}"]);
        }

        Assert.Equal(2, samples["xlstm_time_to_first_token_seconds_count"]);
        Assert.Equal((1, 0), (samples["xlstm_request_seconds_count"], samples["xlstm_texts_waiting"]));
        Assert.Equal(1, samples["xlstm_requests_total{endpoint=\"other\",status=\"404\"}"]);
    }

    /// <summary>
    /// 64 streams at once, with clients beside them that vanish, read nothing, or send what is no request: each stream is what the model
    /// writes.
    /// </summary>
    [Fact]
    public async Task Server_SixtyFourStreamsAmongBadClients_AreUntouched()
    {
        const int Streams = 64;
        await using var served = await ServedModel.StartAsync(
            new() { MaxTokens = 100_000 }, new() { Slots = 16, PrefillLength = 16 }, queueLength: 200);
        var cancel = TestContext.Current.CancellationToken;
        var bad = new List<TcpClient>();
        var good = new List<Task<(string Text, string Reason)>>();
        for (var k = 0; k < Streams; k++)
        {
            good.Add(StreamAsync(served, k));
            var raw = (k % 8) switch
            {
                0 => ServedModel.Raw(Completions, """{"prompt":"gone","max_tokens":100000,"ignore_eos":true,"stream":true}"""),
                1 => ServedModel.Raw(
                    Completions, """{"prompt":"never reads","max_tokens":3000,"ignore_eos":true,"stream":true,"logprobs":5}"""),
                2 => "NONSENSE\r\n\r\n",
                3 => ServedModel.Raw(Completions, "{\"prompt\":[[[[[[[[[[[[[[[[[[[["),
                4 =>
                    $"POST {Completions} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 2000000\r\n\r\n"
                    + "{",
                5 => ServedModel.Raw(Completions, """{"prompt":"half""")[..^3],
                6 => $"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX: {new string('x', 40_000)}\r\n\r\n",
                _ => ServedModel.Raw(Chat, """{"messages":[{"role":"user","content":7}]}"""),
            };
            bad.Add(await served.SendRawAsync(raw));
            if (k % 8 == 0)
            {
                // It goes once its text has begun, or before.
                if (k % 16 == 0)
                {
                    _ = await bad[^1].GetStream().ReadAsync(new byte[50], cancel);
                }

                bad[^1].LingerState = new(true, 0);
                bad[^1].Dispose();
            }
        }

        var texts = await Task.WhenAll(good);
        bad.ForEach(client => client.Dispose());
        for (var k = 0; k < Streams; k++)
        {
            var alone = served.Alone(Prompt(k), Options(k));
            Assert.Equal((alone.Text, alone.FinishReason == FinishReason.Length ? "length" : "stop"), texts[k]);
        }

        // Whoever vanished holds no slot.
        while (served.Generator.OpenCount > 0)
        {
            await Task.Delay(5, cancel);
        }

        static string Prompt(int k) => string.Concat(Enumerable.Range(0, k % 9 * 5).Select(i => (char)('a' + (i * k) % 26)));

        static GenerationOptions Options(int k) =>
            new() { MaxNewTokens = 10 + k % 7 * 5, Seed = k, Temperature = k % 3 * 0.5, StopAtEndOfDocument = k % 2 == 0 };

        static async Task<(string, string)> StreamAsync(ServedModel served, int k)
        {
            var o = Options(k);
            var json = JsonSerializer.Serialize(new
            {
                prompt = Prompt(k),
                max_tokens = o.MaxNewTokens,
                seed = o.Seed,
                temperature = o.Temperature,
                ignore_eos = !o.StopAtEndOfDocument,
                stream = true,
            });
            var events = await served.EventsAsync(Completions, json);
            Assert.Equal("[DONE]", events[^1]);
            var choices = events[..^1].Select(e => JsonNode.Parse(e)!["choices"]![0]!).ToArray();
            return (string.Concat(choices.Select(c => (string?)c["text"])), (string)choices[^1]["finish_reason"]!);
        }
    }

    /// <summary>By what the kernel lists of this process' sockets.</summary>
    [Fact]
    public async Task Server_ByDefault_ListensOnLoopbackOnly()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "Only Linux lists a process' sockets in /proc.");
        await using var served = await ServedModel.StartAsync();
        var port = served.Url.Port.ToString("X4", CultureInfo.InvariantCulture);
        var own = Directory.EnumerateFileSystemEntries("/proc/self/fd").Select(fd => new FileInfo(fd).LinkTarget)
            .OfType<string>().Where(target => target.StartsWith("socket:[", StringComparison.Ordinal))
            .Select(target => target["socket:[".Length..^1]).ToHashSet();
        var listening = new[] { "/proc/self/net/tcp", "/proc/self/net/tcp6" }.Where(File.Exists).SelectMany(
            file => File.ReadAllLines(file).Skip(1))
            .Select(line => line.Split(' ', StringSplitOptions.RemoveEmptyEntries))
            .Where(parts => parts[3] == "0A" && own.Contains(parts[9]))
            .Select(parts => parts[1]).ToArray();
        Assert.Contains($"0100007F:{port}", listening);
        Assert.All(listening, address => Assert.True(
            address.StartsWith("0100007F:", StringComparison.Ordinal)
                || address.StartsWith("00000000000000000000000001000000:", StringComparison.Ordinal), address));
    }

    [Fact]
    public async Task StartAsync_TakenPort_SaysSo()
    {
        await using var served = await ServedModel.StartAsync();
        var failure = await Assert.ThrowsAsync<IOException>(() => ApiServer.StartAsync(served.Generator, new() { Port = served.Url.Port }));
        Assert.Contains("address already in use", failure.Message, StringComparison.OrdinalIgnoreCase);
    }

    /// <summary>A client whose system keeps little of what it has not read.</summary>
    private static async Task<TcpClient> ConnectSlowlyAsync(ServedModel served, CancellationToken cancellationToken)
    {
        var client = new TcpClient { ReceiveBufferSize = 4096 };
        await client.ConnectAsync(IPAddress.Loopback, served.Url.Port, cancellationToken);
        return client;
    }

    /// <summary>Asks for a stream that does not fit into what lies between a server and such a client.</summary>
    private static ValueTask AskForMuchAsync(TcpClient client, int tokens, CancellationToken cancellationToken)
    {
        var request = $$"""
            {"messages":[{"role":"user","content":"a"}],"max_tokens":{{tokens}},"ignore_eos":true,"logit_bias":{"10":-100},
             "logprobs":true,"top_logprobs":20,"stream":true}
            """;
        return client.GetStream().WriteAsync(Encoding.UTF8.GetBytes(ServedModel.Raw(Chat, request)), cancellationToken);
    }

    /// <summary>Sends a request whose body the server waits for.</summary>
    private static async Task<TcpClient> BeginAsync(ServedModel served, CancellationToken cancellationToken)
    {
        var client = await served.SendRawAsync(
            $"POST {Completions} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n"
            + "Content-Length: 100\r\n\r\n");
        Assert.StartsWith("HTTP/1.1 100 ", await ReadUntilAsync(client, "\r\n\r\n", cancellationToken), StringComparison.Ordinal);
        return client;
    }

    private static async Task<string> ReadUntilAsync(TcpClient client, string end, CancellationToken cancellationToken)
    {
        var (text, buffer) = (new StringBuilder(), new byte[1 << 16]);
        while (await client.GetStream().ReadAsync(buffer, cancellationToken) is var count and > 0)
        {
            text.Append(Encoding.UTF8.GetString(buffer, 0, count));
            if (text.ToString(Math.Max(0, text.Length - end.Length), Math.Min(end.Length, text.Length)) == end)
            {
                break;
            }
        }

        return text.ToString();
    }

    private static void AssertError(
        (HttpStatusCode Status, JsonNode Body, System.Net.Http.Headers.HttpResponseHeaders Headers) answer, HttpStatusCode status,
        string? parameter, string message)
    {
        Assert.Equal(status, answer.Status);
        var error = answer.Body["error"]!;
        Assert.Equal(parameter, (string?)error["param"]);
        Assert.Contains(message, (string)error["message"]!, StringComparison.OrdinalIgnoreCase);
        Assert.NotNull(error["type"]);
        Assert.True(error.AsObject().ContainsKey("code"));
    }
}
