using System.Runtime.CompilerServices;
using TorchSharp;
using XlstmLab.Native;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Native;

public sealed class LateFreeTests
{
    [Fact]
    public void Absence_OnThisPlatform_IsNull()
    {
        Assert.SkipWhen(OperatingSystem.IsMacOS(), "Libraries of macOS have to be signed: the cure is not there.");

        Assert.Null(LateFree.Absence);
    }

    [Fact]
    public void Finalizer_OfATensorAndANumber_FreesLater()
    {
        Assert.SkipWhen(LateFree.Absence is not null, "The cure is not active here.");
        GC.Collect();
        GC.WaitForPendingFinalizers();
        var before = LateFree.Counts;

        LeaveBehind(numbers: 7);
        GC.Collect();
        GC.WaitForPendingFinalizers();

        var after = LateFree.Counts;
        Assert.True(after.Things + after.Freed >= before.Things + before.Freed + 8, $"{before} became {after}.");
        Assert.True(after.Bytes >= 4000, $"{after.Bytes} bytes wait.");
    }

    [Fact]
    public void Dispose_OfATensorAndANumber_FreesAtOnce()
    {
        Assert.SkipWhen(LateFree.Absence is not null, "The cure is not active here.");
        GC.Collect();
        GC.WaitForPendingFinalizers();
        var before = LateFree.Counts;
        for (var i = 0; i < 100; i++)
        {
            Scalar number = i;
            using var tensor = zeros(10);
            number.Dispose();
        }

        var after = LateFree.Counts;
        Assert.InRange(after.Things + after.Freed, before.Things + before.Freed, before.Things + before.Freed + 50);
    }

    /// <summary>Finalisers that let go of more than may wait are not waited for: 16 tensors of 512 MiB are 8 GiB.</summary>
    [Fact]
    public void Finalizer_OfManyLargeTensors_HoldsFewGigabytes()
    {
        Assert.SkipWhen(LateFree.Absence is not null, "The cure is not active here.");
        var most = 0L;
        for (var i = 0; i < 16; i++)
        {
            LeaveBehindLarge();
            GC.Collect();
            GC.WaitForPendingFinalizers();
            most = Math.Max(most, LateFree.Counts.Bytes);

            // A program does something with half a gigabyte before it takes the next.
            Thread.Sleep(25);
        }

        Assert.InRange(most, 512L << 20, 6L << 30);
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static void LeaveBehind(int numbers)
    {
        _ = zeros(1000);
        for (var i = 0; i < numbers; i++)
        {
            Scalar number = i;
            Assert.Equal(ScalarType.Int64, number.Type);
        }
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    internal static void LeaveBehindLarge() => _ = empty(128 << 20, ScalarType.Float32);
}
