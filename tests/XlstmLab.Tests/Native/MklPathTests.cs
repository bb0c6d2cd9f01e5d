using System.Runtime.InteropServices;
using System.Runtime.Intrinsics.X86;
using XlstmLab.Native;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Native;

public sealed class MklPathTests
{
    private const string ChildVariable = "XLSTM_TEST_MKL_PATH";

    [Fact]
    public void Choose_OnThisMachine_SaysWhatAndWhy()
    {
        Assert.DoesNotContain("not loaded", MklPath.Description, StringComparison.Ordinal);
        Assert.Equal(MklPath.IsChosen, MklPath.Description.Contains(MklPath.Variable + "=off leaves", StringComparison.Ordinal));
        Assert.False(MklPath.IsChosen && !OperatingSystem.IsLinux());
        Assert.False(MklPath.IsChosen && !Avx2.IsSupported);
        Assert.False(MklPath.IsChosen && RuntimeInformation.ProcessArchitecture != Architecture.X64);
    }

    /// <summary>Whatever the path, of any shape, transposed and not: the bound is that of sums in float32.</summary>
    [Theory]
    [InlineData(1, 128, 384)]
    [InlineData(67, 33, 129)]
    [InlineData(256, 512, 96)]
    public void Products_OfFloat32_AreThoseOfFloat64(int rows, int inner, int columns)
    {
        using var scope = NewDisposeScope();
        var generator = new Generator(3);
        var (a, b) = (randn(rows, inner, generator: generator), randn(columns, inner, generator: generator));
        var expected = a.to(float64).mm(b.to(float64).t());
        var bound = 4e-7 * Math.Sqrt(inner) * inner;
        Assert.InRange((a.mm(b.t()) - expected).abs().max().item<double>(), 0, bound);
        Assert.InRange((a.t().contiguous().t().mm(b.t().contiguous()) - expected).abs().max().item<double>(), 0, bound);
        Assert.InRange((zeros(rows, columns).addmm(a, b.t(), 1, 1) - expected).abs().max().item<double>(), 0, bound);
    }

    [Fact]
    public void Choose_VariableOff_LeavesItToMkl()
    {
        Assert.SkipUnless(MklPath.IsChosen, $"Nothing is chosen here: {MklPath.Description}.");
        var (exitCode, output) = ChildTest.Run(
            typeof(MklPathTests), nameof(Child_WithTheVariable_IsLeftAlone),
            new Dictionary<string, string> { [ChildVariable] = "1", [MklPath.Variable] = "off" },
            TimeSpan.FromMinutes(2));
        Assert.True(exitCode == 0, output);
    }

    [Fact(Explicit = true)]
    public void Child_WithTheVariable_IsLeftAlone()
    {
        Assert.SkipWhen(Environment.GetEnvironmentVariable(ChildVariable) is null, "Runs as a process of its own.");
        Assert.False(MklPath.IsChosen);
        Assert.Contains(MklPath.Variable + "=off", MklPath.Description, StringComparison.Ordinal);
    }
}
