using System.Diagnostics;
using System.Globalization;
using System.Net.WebSockets;
using System.Text.Json.Nodes;
using XlstmLab.Notebooks;
using Xunit;

namespace XlstmLab.Tests.Notebooks;

/// <summary>A browser without a window and without any network but this machine's own, driven by Chrome's DevTools protocol.</summary>
internal sealed class Browser : IDisposable
{
    private readonly Process _process;
    private readonly ClientWebSocket _socket = new();
    private int _calls;

    private Browser(Process process) => _process = process;

    /// <summary>Opens a page.</summary>
    /// <param name="page">Its address.</param>
    /// <param name="profile">The folder for all that the browser keeps.</param>
    public static async Task<Browser> OpenAsync(string page, string profile)
    {
        Browser browser = new(Process.Start(new ProcessStartInfo(
            FigureFiles.FindBrowser(),
            [
                "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-extensions",
                "--disable-background-networking", "--no-first-run",
                "--window-size=1100,1300", "--remote-debugging-port=0", $"--user-data-dir={profile}",
                "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1", page,
            ])
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        })!);
        browser._process.BeginErrorReadLine();
        browser._process.BeginOutputReadLine();
        try
        {
            string port = Path.Combine(profile, "DevToolsActivePort");
            await UntilAsync(() => Task.FromResult(File.Exists(port) && File.ReadAllLines(port).Length > 1), 60, "the browser's port");
            using HttpClient http = new();
            JsonNode? tab = null;
            await UntilAsync(
                async () =>
                {
                    var tabs =
                        JsonNode.Parse(await http.GetStringAsync($"http://127.0.0.1:{File.ReadAllLines(port)[0]}/json/list"))!.AsArray();
                    return (tab = tabs.FirstOrDefault(t => (string?)t!["type"] == "page")) is not null;
                },
                60,
                "the browser's page");
            await browser._socket.ConnectAsync(new((string)tab!["webSocketDebuggerUrl"]!), TestContext.Current.CancellationToken);
            return browser;
        }
        catch
        {
            browser.Dispose();
            throw;
        }
    }

    /// <summary>What an expression of JavaScript comes to in the page.</summary>
    public async Task<JsonNode?> EvaluateAsync(string expression)
    {
        var result = await CallAsync(
            "Runtime.evaluate", new() { ["expression"] = expression, ["awaitPromise"] = true, ["returnByValue"] = true });
        Assert.True(result["exceptionDetails"] is null, $"{expression}: {result["exceptionDetails"]?.ToJsonString()}");
        return result["result"]!["value"];
    }

    /// <summary>Waits until an expression is true.</summary>
    public async Task WaitAsync(string expression, int seconds = 90)
    {
        try
        {
            await UntilAsync(async () => (bool?)await EvaluateAsync($"!!({expression})") == true, seconds, expression);
        }
        catch
        {
            await SaveAsync("failed");
            throw;
        }
    }

    /// <summary>Keeps a picture of the page beside the build, for people to look at.</summary>
    public async Task SaveAsync(string name)
    {
        var picture = await CallAsync("Page.captureScreenshot", new() { ["format"] = "png" });
        string folder = Path.Combine(TestSetup.RepositoryRoot, "artifacts", "browser");
        Directory.CreateDirectory(folder);
        File.WriteAllBytes(Path.Combine(folder, name + ".png"), Convert.FromBase64String((string)picture["data"]!));
    }

    public void Dispose()
    {
        _socket.Dispose();
        if (!_process.HasExited)
        {
            _process.Kill(entireProcessTree: true);
            _process.WaitForExit(10_000);
        }

        _process.Dispose();
    }

    /// <summary>Waits until something is so.</summary>
    public static async Task UntilAsync(Func<Task<bool>> isSo, int seconds, string what)
    {
        long start = Stopwatch.GetTimestamp();
        while (!await isSo())
        {
            Assert.True(Stopwatch.GetElapsedTime(start).TotalSeconds < seconds, string.Create(
                CultureInfo.InvariantCulture, $"{what}: not within {seconds} s."));
            await Task.Delay(100, TestContext.Current.CancellationToken);
        }
    }

    private async Task<JsonNode> CallAsync(string method, JsonObject parameters)
    {
        var cancellation = TestContext.Current.CancellationToken;
        int call = ++_calls;
        JsonObject request = new() { ["id"] = call, ["method"] = method, ["params"] = parameters };
        await _socket.SendAsync(System.Text.Encoding.UTF8.GetBytes(request.ToJsonString()), WebSocketMessageType.Text, true, cancellation);
        byte[] block = new byte[1 << 16];
        while (true)
        {
            using MemoryStream message = new();
            ValueWebSocketReceiveResult part;
            do
            {
                part = await _socket.ReceiveAsync(block.AsMemory(), cancellation);
                message.Write(block, 0, part.Count);
            }
            while (!part.EndOfMessage);

            var answer = JsonNode.Parse(message.ToArray())!;
            if ((int?)answer["id"] == call)
            {
                return answer["result"] ?? throw new InvalidOperationException($"{method}: {answer["error"]?.ToJsonString()}");
            }
        }
    }
}
