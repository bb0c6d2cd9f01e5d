using System.ComponentModel;
using System.Diagnostics;
using System.Text.Json.Nodes;
using XlstmLab.Inference;
using Xunit;

namespace XlstmLab.Tests.Serving;

/// <summary>OpenAI's own client for JavaScript, the package openai of npm, against the server.</summary>
public sealed class OpenAiClientTests
{
    private const string Script = """
        import OpenAI from "openai";
        const client = new OpenAI({ baseURL: process.argv[2], apiKey: "sk-test", maxRetries: 0 });
        const request = {
          model: "xlstm", messages: [{ role: "system", content: "Be brief." }, { role: "user", content: "Who are you?" }],
          temperature: 0, max_tokens: 24, logprobs: true, top_logprobs: 2,
        };
        const whole = await client.chat.completions.create(request);
        let text = "", reason = null, usage = null, logs = 0;
        for await (const chunk of await client.chat.completions.create({ ...request, stream: true, stream_options: { include_usage: true } })) {
          text += chunk.choices[0]?.delta?.content ?? "";
          reason = chunk.choices[0]?.finish_reason ?? reason;
          logs += chunk.choices[0]?.logprobs?.content?.length ?? 0;
          usage = chunk.usage ?? usage;
        }
        const helper = client.chat.completions.stream(request);
        const final = await helper.finalChatCompletion();
        const completion = await client.completions.create({ model: "xlstm", prompt: "abc", max_tokens: 5, seed: 1 });
        const biased = await client.completions.create(
          { model: "xlstm", prompt: "abc", max_tokens: 5, echo: true, logit_bias: { "65": 100 }, presence_penalty: 0.5 });
        const model = await client.models.retrieve("xlstm");
        const models = (await client.models.list()).data.map(model => model.id);
        let error = null;
        try { await client.chat.completions.create({ ...request, model: "other" }); }
        catch (e) { error = { name: e.constructor.name, status: e.status, code: e.code, param: e.param }; }
        for await (const chunk of await client.chat.completions.create({ ...request, max_tokens: 2000, stream: true })) { break; }
        console.log(JSON.stringify({
          whole: whole.choices[0].message.content, text, reason, usage, logs, final: final.choices[0].message.content,
          completion: completion.object, biased: biased.choices[0].text, model: model.id, models, error,
        }));
        """;

    [Fact]
    public async Task OpenAiPackage_Chat_StreamsAndFails()
    {
        LongTests.Skip();
        using var temp = new TempFolder();
        File.WriteAllText(temp["package.json"], """{ "private": true, "type": "module" }""");
        File.WriteAllText(temp["client.js"], Script);
        var (installed, said) = await RunAsync("npm", temp.Path, "install", "--no-audit", "--no-fund", "--loglevel=error", "openai@7");
        Assert.SkipUnless(installed == 0, $"The package openai cannot be had by npm here: {said}");
        var (version, node) = await RunAsync("node", temp.Path, "--version");
        Assert.SkipUnless(
            version == 0 && int.Parse(node.TrimStart('v').Split('.')[0], System.Globalization.CultureInfo.InvariantCulture) >= 20,
            $"The package openai asks for Node.js 22 and runs on 20; here is: {node}");

        await using var served = await ServedModel.StartAsync(new() { ApiKey = "sk-test" });
        var (code, output) = await RunAsync("node", temp.Path, "client.js", new Uri(served.Url, "/v1").ToString());
        Assert.True(code == 0, output);
        var result = JsonNode.Parse(output)!;
        var expected = served.Alone(
            "Be brief.\n\nUser: Who are you?\n\nAssistant:",
            new() { MaxNewTokens = 24, Temperature = 0, StopStrings = ["\n\nUser:", "\n\nAssistant:"] });
        var text = expected.Text.TrimStart();
        Assert.All(new[] { "whole", "text", "final" }, name => Assert.Equal(text, (string?)result[name]));
        Assert.Equal(expected.FinishReason == FinishReason.Length ? "length" : "stop", (string?)result["reason"]);
        Assert.Equal((expected.Tokens.Length, expected.Tokens.Length), ((int)result["usage"]!["completion_tokens"]!, (int)result["logs"]!));
        Assert.Equal("text_completion", (string?)result["completion"]);
        Assert.Equal(("abcAAAAA", "xlstm"), ((string?)result["biased"], (string?)result["model"]));
        Assert.Equal("""["xlstm"]""", result["models"]!.ToJsonString());
        Assert.Equal("""{"name":"NotFoundError","status":404,"code":"model_not_found","param":"model"}""", result["error"]!.ToJsonString());
        while (served.Generator.OpenCount > 0)
        {
            await Task.Delay(5, TestContext.Current.CancellationToken);
        }
    }

    private static async Task<(int Code, string Said)> RunAsync(string program, string folder, params string[] arguments)
    {
        try
        {
            var result = await CommandLine.RunAsync(
                new ProcessStartInfo(program, arguments) { WorkingDirectory = folder }, TimeSpan.FromMinutes(2));
            return (result.Code, (result.Code == 0 ? result.Out : result.Out + result.Error).Trim());
        }
        catch (Win32Exception e)
        {
            return (-1, e.Message);
        }
    }
}
