using System.Diagnostics;
using System.Text.Json.Nodes;
using XlstmLab.Notebooks;
using XlstmLab.Notebooks.Jupyter;
using Xunit;

namespace XlstmLab.Tests.Notebooks;

[Collection(nameof(ProcessCollection))]
public sealed class JupyterConnectionTests
{
    [Theory]
    [InlineData("127.0.0.1", "tcp://127.0.0.1:1001")]
    [InlineData("127.0.0.2", "tcp://127.0.0.2:1001")]
    [InlineData("localhost", "tcp://127.0.0.1:1001")]
    [InlineData("::1", "tcp://[::1]:1001")]
    public void Read_AddressOfThisMachineAlone_IsTaken(string ip, string endpoint)
    {
        using TempFolder folder = new();
        var connection = JupyterConnection.Read(folder.Write("c.json", Connection("ip", ip).ToJsonString()));

        Assert.Equal(endpoint, connection.Endpoint(JupyterConnection.Shell));
        Assert.Equal("secret"u8, connection.Key);
    }

    [Theory]
    [InlineData("ip", "0.0.0.0", "'0.0.0.0', which other machines may reach")]
    [InlineData("ip", "*", "'*', which other machines may reach")]
    [InlineData("ip", "192.168.1.5", "'192.168.1.5', which other machines may reach")]
    [InlineData("ip", "localhost.example.org", "'localhost.example.org', which other machines may reach")]
    [InlineData("ip", null, "'', which other machines may reach")]
    [InlineData("key", "", "there is no key")]
    [InlineData("key", null, "there is no key")]
    [InlineData("transport", "ipc", "the transport is 'ipc'")]
    [InlineData("signature_scheme", "hmac-md5", "the signature scheme is 'hmac-md5'")]
    [InlineData("stdin_port", null, "'stdin_port' is missing")]
    [InlineData("hb_port", "7", "'hb_port' is \"7\"; expected a port")]
    public async Task Kernel_UnsafeOrIncompleteConnection_IsRefusedByName(string name, string? value, string message)
    {
        using TempFolder folder = new();
        var result = await CommandLine.RunAsync("notebook", "kernel", folder.Write("c.json", Connection(name, value).ToJsonString()));

        Assert.Equal(1, result.Code);
        Assert.Contains(message, result.Error, StringComparison.Ordinal);
        Assert.Contains(folder["c.json"], result.Error, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("")]
    [InlineData("[]")]
    [InlineData(null)]
    public void Read_NoConnectionFile_SaysSo(string? text)
    {
        using TempFolder folder = new();
        string path = text is null ? folder["none.json"] : folder.Write("c.json", text);

        Assert.Contains(
            "no connection file of Jupyter",
            Assert.Throws<NotebookException>(() => JupyterConnection.Read(path)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Kernel_WhoseParentIsGone_Ends()
    {
        using TempFolder folder = new();
        using var parent = Process.Start("dotnet", "--version");
        parent.WaitForExit();
        var connection = Connection("ip", "127.0.0.1");
        foreach (var (channel, port) in JupyterConnection.Channels.Zip(JupyterClient.FreePorts()))
        {
            connection[$"{channel}_port"] = port;
        }

        using var kernel = JupyterClient.Start(folder.Write("c.json", connection.ToJsonString()), "csharp", $"{parent.Id}");
        Assert.True(kernel.WaitForExit(60_000));
        Assert.Equal(0, kernel.ExitCode);
    }

    private static JsonObject Connection(string name, string? value)
    {
        JsonObject connection = new()
        {
            ["transport"] = "tcp",
            ["ip"] = "127.0.0.1",
            ["key"] = "secret",
            ["signature_scheme"] = "hmac-sha256",
        };
        foreach (var (index, channel) in JupyterConnection.Channels.Index())
        {
            connection[$"{channel}_port"] = 1001 + index;
        }

        connection[name] = value;
        return connection;
    }
}
