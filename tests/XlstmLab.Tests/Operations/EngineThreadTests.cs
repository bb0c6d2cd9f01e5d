using TorchSharp;
using XlstmLab.Operations;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Operations;

public sealed class EngineThreadTests
{
    [Fact]
    public void Keep_ThreadWithoutScope_FreesWhatThePassBeforeLeft()
    {
        Exception? failure = null;
        var thread = new Thread(() => failure = Record.Exception(() =>
        {
            var (first, second) = (ones(3), ones(4));
            EngineThread.Keep([first, null]);
            Assert.False(first.IsInvalid);
            EngineThread.Keep([second]);
            Assert.True(first.IsInvalid);
            Assert.False(second.IsInvalid);
            EngineThread.Keep([]);
            Assert.Equal(0, DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount);
        }));
        thread.Start();
        thread.Join();
        Assert.Null(failure);
    }
}
