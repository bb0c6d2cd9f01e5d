using Microsoft.Extensions.AI;
using XlstmLab.Inference;
using XlstmLab.Models;
using XlstmLab.Text;
using Xunit;

namespace XlstmLab.Tests.Inference;

public sealed class ChatTests : IDisposable
{
    private const string ChatMl =
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
        + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

    private static readonly ByteTokenizer Bytes = new();
    private static readonly ChatTurn[] Turns =
        [new("system", "Be brief."), new("user", "Hi"), new("assistant", "Yes?"), new("user", "Who?")];

    private readonly LanguageModel _model = WritingModel.Create();

    public void Dispose() => _model.Dispose();

    [Fact]
    public void Render_Templates_ArePlainAndChatMl()
    {
        Assert.Equal("Be brief.\n\nUser: Hi\n\nAssistant: Yes?\n\nUser: Who?\n\nAssistant:", ChatTemplate.Plain.Render(Turns));
        Assert.Equal(
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes?<|im_end|>\n"
            + "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n",
            ChatTemplate.ByName("chatml").Render(Turns));
        Assert.Equal(ChatTemplate.Plain.Render(Turns), ChatTemplate.Plain.Render([Turns[0] with { Role = "developer" }, .. Turns[1..]]));
        Assert.Contains(
            "'tool'", Assert.Throws<ArgumentException>(() => ChatTemplate.Plain.Render([new("tool", "x")])).Message,
            StringComparison.Ordinal);
        Assert.Contains(
            "at least one", Assert.Throws<ArgumentException>(() => ChatTemplate.Plain.Render([])).Message, StringComparison.Ordinal);
        Assert.Contains(
            "<|im_end|>", Assert.Throws<ArgumentException>(() => ChatTemplate.ChatMl.Render([new("user", "x<|im_end|>")])).Message,
            StringComparison.Ordinal);
        Assert.Contains(
            "plain and chatml", Assert.Throws<ArgumentException>(() => ChatTemplate.ByName("jinja")).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void OfFolder_ModelsTemplate_IsKnownOrRefusedByName()
    {
        using var temp = new TempFolder();
        Assert.Same(ChatTemplate.Plain, ChatTemplate.OfFolder(temp.Path));
        var config = temp["tokenizer_config.json"];
        File.WriteAllText(config, """{"chat_template":null}""");
        Assert.Same(ChatTemplate.Plain, ChatTemplate.OfFolder(temp.Path));
        File.WriteAllText(config, System.Text.Json.JsonSerializer.Serialize(new { chat_template = ChatMl.Replace('\'', '"') }));
        Assert.Same(ChatTemplate.ChatMl, ChatTemplate.OfFolder(temp.Path));
        File.WriteAllText(config, """{"chat_template":"{{ messages | tojson }}"}""");
        Assert.Contains(
            "tokenizer_config.json is a Jinja program",
            Assert.Throws<NotSupportedException>(() => ChatTemplate.OfFolder(temp.Path)).Message, StringComparison.Ordinal);
        File.WriteAllText(config, "{");
        Assert.Contains(
            "is not the JSON", Assert.Throws<InvalidDataException>(() => ChatTemplate.OfFolder(temp.Path)).Message,
            StringComparison.Ordinal);
        File.WriteAllText(
            temp["chat_template.jinja"], "{%- for message in messages -%}" + ChatMl["{% for message in messages %}".Length..]);
        Assert.Same(ChatTemplate.ChatMl, ChatTemplate.OfFolder(temp.Path));
    }

    [Fact]
    public async Task GetResponseAsync_Conversation_IsWhatTheModelWritesOn()
    {
        using var states = new StateCache(1 << 20);
        await using var generator = new BatchedGenerator(_model, Bytes, new() { Cache = states });
        using var client = new TextChatClient(generator, ChatTemplate.Plain, "tiny", new() { StopAtEndOfDocument = false });
        List<ChatMessage> messages = [new(ChatRole.User, "Hi")];
        var options = new ChatOptions
        {
            Instructions = "Be brief.",
            MaxOutputTokens = 12,
            Temperature = 0.7f,
            TopP = 0.9f,
            TopK = 40,
            Seed = 5,
            FrequencyPenalty = 0.25f,
        };
        var expected = new TextGenerator(_model, Bytes).Generate("Be brief.\n\nUser: Hi\n\nAssistant:", new()
        {
            MaxNewTokens = 12,
            Temperature = 0.7,
            TopP = 0.9,
            TopK = 40,
            Seed = 5,
            FrequencyPenalty = 0.25,
            StopAtEndOfDocument = false,
            StopStrings = ChatTemplate.Plain.StopStrings,
        });
        var response = await client.GetResponseAsync(messages, options, TestContext.Current.CancellationToken);
        Assert.Equal(expected.Text.TrimStart(), response.Text);
        Assert.Equal(
            (ChatFinishReason.Length, "tiny", 12L), (response.FinishReason!.Value, response.ModelId, response.Usage!.OutputTokenCount));
        Assert.Equal(ChatRole.Assistant, response.Messages.Single().Role);

        // The next turn reads only what is new.
        messages.AddRange([response.Messages[0], new(ChatRole.User, "And?")]);
        _ = await client.GetResponseAsync(messages, options, TestContext.Current.CancellationToken);
        Assert.True(generator.Counts.CachedTokens > 30, $"{generator.Counts.CachedTokens}");

        Assert.Same(client, client.GetService(typeof(IChatClient)));
        Assert.Equal("tiny", ((ChatClientMetadata)client.GetService(typeof(ChatClientMetadata))!).DefaultModelId);
        Assert.Null(client.GetService(typeof(string)));
    }

    [Fact]
    public async Task GetResponseAsync_WhatTheModelCannotDo_IsRefusedByName()
    {
        await using var generator = new BatchedGenerator(_model, Bytes);
        using var client = new TextChatClient(generator, ChatTemplate.Plain, "tiny");
        var cancel = TestContext.Current.CancellationToken;
        var image = new ChatMessage(ChatRole.User, [new UriContent("http://localhost/a.png", "image/png")]);
        Assert.Contains(
            "UriContent", (await Assert.ThrowsAsync<NotSupportedException>(() => client.GetResponseAsync([image], null, cancel))).Message,
            StringComparison.Ordinal);
        Assert.Contains("tools", (await Assert.ThrowsAsync<NotSupportedException>(
            () => client.GetResponseAsync("Hi", new() { Tools = [AIFunctionFactory.Create(() => 1, "one")] }, cancel))).Message,
            StringComparison.Ordinal);
        Assert.Contains("format", (await Assert.ThrowsAsync<NotSupportedException>(
            () => client.GetResponseAsync("Hi", new() { ResponseFormat = ChatResponseFormat.Json }, cancel))).Message,
            StringComparison.Ordinal);
        Assert.Contains(
            "'tool'",
            (await Assert.ThrowsAsync<ArgumentException>(() => client.GetResponseAsync([new(ChatRole.Tool, "x")], null, cancel))).Message,
            StringComparison.Ordinal);
    }
}
