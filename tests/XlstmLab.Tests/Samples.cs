using System.Globalization;
using System.Reflection;
using System.Security.Cryptography;
using System.Text;
using CsCheck;
using TorchSharp;
using Xunit;
using Xunit.v3;

[assembly: XlstmLab.Tests.SeededDraws]

namespace XlstmLab.Tests;

/// <summary>
/// Checks of many drawn cases, the same cases in every run: a test that fails is one that has failed for everybody. Other cases come of
/// another number in <c>XLSTM_TESTS_SEED</c>. These stand before CsCheck's methods of the same name, which draw anew each time.
/// </summary>
internal static class Samples
{
    private static readonly string Seed = Environment.GetEnvironmentVariable("XLSTM_TESTS_SEED") ?? "0";

    /// <summary>Checks <paramref name="iter"/> drawn cases; one that fails is made smaller, and its seed is told.</summary>
    public static void Sample<T>(this Gen<T> cases, Action<T> check, int iter = 100)
    {
        var draws = new PCG(stream: 1, OfTest());
        for (var i = 0; i < iter; i++)
        {
            var seed = draws.ToString();
            var drawn = cases.Generate(draws, null, out _);
            try
            {
                check(drawn);
            }
            catch (Exception)
            {
                cases.Sample(check, writeLine: null, seed, iter: 20, threads: 1);
                throw;
            }
        }
    }

    /// <inheritdoc cref="Sample{T}(Gen{T}, Action{T}, int)"/>
    public static void Sample<T1, T2>(this Gen<(T1, T2)> cases, Action<T1, T2> check, int iter = 100) =>
        cases.Sample(c => check(c.Item1, c.Item2), iter);

    /// <inheritdoc cref="Sample{T}(Gen{T}, Action{T}, int)"/>
    public static void Sample<T1, T2, T3>(this Gen<(T1, T2, T3)> cases, Action<T1, T2, T3> check, int iter = 100) =>
        cases.Sample(c => check(c.Item1, c.Item2, c.Item3), iter);

    /// <inheritdoc cref="Sample{T}(Gen{T}, Action{T}, int)"/>
    public static void Sample<T1, T2, T3, T4>(this Gen<(T1, T2, T3, T4)> cases, Action<T1, T2, T3, T4> check, int iter = 100) =>
        cases.Sample(c => check(c.Item1, c.Item2, c.Item3, c.Item4), iter);

    /// <inheritdoc cref="Sample{T}(Gen{T}, Action{T}, int)"/>
    public static void Sample<T1, T2, T3, T4, T5>(this Gen<(T1, T2, T3, T4, T5)> cases, Action<T1, T2, T3, T4, T5> check, int iter = 100) =>
        cases.Sample(c => check(c.Item1, c.Item2, c.Item3, c.Item4, c.Item5), iter);

    /// <inheritdoc cref="Sample{T}(Gen{T}, Action{T}, int)"/>
    public static void Sample<T1, T2, T3, T4, T5, T6>(
        this Gen<(T1, T2, T3, T4, T5, T6)> cases, Action<T1, T2, T3, T4, T5, T6> check, int iter = 100) =>
        cases.Sample(c => check(c.Item1, c.Item2, c.Item3, c.Item4, c.Item5, c.Item6), iter);

    /// <summary>The seed of the test that runs, of its name and arguments.</summary>
    internal static ulong OfTest() =>
        BitConverter.ToUInt64(SHA256.HashData(Encoding.UTF8.GetBytes(string.Create(
            CultureInfo.InvariantCulture, $"{Seed} {TestContext.Current.Test?.TestDisplayName}"))));
}

/// <summary>Seeds libtorch's own generator before every test, so that no test gets what those before it left.</summary>
[AttributeUsage(AttributeTargets.Assembly)]
internal sealed class SeededDrawsAttribute : BeforeAfterTestAttribute
{
    /// <inheritdoc/>
    public override void Before(MethodInfo methodUnderTest, IXunitTest test)
    {
        // Tests of texts and of other processes run beside those that draw tensors.
        if (methodUnderTest.DeclaringType!.GetCustomAttribute<CollectionAttribute>()?.Name is not (nameof(TextCollection)
            or nameof(ProcessCollection)))
        {
            torch.manual_seed((long)(Samples.OfTest() >> 1));
        }
    }
}
