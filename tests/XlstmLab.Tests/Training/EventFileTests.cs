using Tensorboard;
using TorchSharp.Utils;
using XlstmLab.Training;
using Xunit;

namespace XlstmLab.Tests.Training;

[Collection(nameof(AloneCollection))]
public sealed class EventFileTests
{
    [Fact]
    public void Run_WithTensorBoard_WritesAnEventFileThatReadsBackAndNothingToTheConsole()
    {
        using var folder = new TempFolder();
        using var model = new TinyModel();
        var config = TrainerTests.KillConfig with { TensorBoard = true };
        var (console, error) = (Console.Out, Console.Error);
        using var heard = new StringWriter();
        try
        {
            Console.SetOut(heard);
            Console.SetError(heard);
            TrainerTests.Train(model, config, folder.Path);
        }
        finally
        {
            Console.SetOut(console);
            Console.SetError(error);
        }

        Assert.Empty(heard.ToString());
        var events = Read(Assert.Single(Directory.GetFiles(folder.Path, "events.out.tfevents.*"))).ToArray();
        Assert.Equal("brain.Event:2", events[0].FileVersion);
        var scalars = events.Skip(1).Select(e => (e.Step, e.Summary.Value[0].Tag, e.Summary.Value[0].SimpleValue)).ToArray();
        var metrics = RunFolder.ReadMetrics(folder.Path);
        Assert.Equal(
            metrics.Select(m => ((long)m.Step, (float)m.Loss)),
            scalars.Where(s => s.Tag == "train/loss").Select(s => (s.Step, s.SimpleValue)));
        Assert.Equal(
            metrics.Where(m => m.IsValidated).Select(m => (float)m.ValidationLoss!),
            scalars.Where(s => s.Tag == "validation/loss").Select(s => s.SimpleValue));
        Assert.Contains(scalars, s => s.Tag == "igate_preact/block00_mean");
    }

    private static IEnumerable<Event> Read(string path)
    {
        using var reader = new BinaryReader(File.OpenRead(path));
        while (reader.BaseStream.Position < reader.BaseStream.Length)
        {
            var length = reader.ReadInt64();
            Assert.Equal(Masked(CRC32C.process(length)), reader.ReadUInt32());
            var bytes = reader.ReadBytes((int)length);
            Assert.Equal(Masked(CRC32C.process(bytes)), reader.ReadUInt32());
            yield return Event.Parser.ParseFrom(bytes);
        }
    }

    private static uint Masked(uint crc) => ((crc >> 15) | (crc << 17)) + 0xa282ead8;
}
