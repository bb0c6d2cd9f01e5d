using System.Collections.Concurrent;
using XlstmLab.Tests.Operations;
using Xunit;

[assembly: AssemblyFixture(typeof(EmulatorVariants))]

namespace XlstmLab.Tests.Operations;

/// <summary>
/// After all tests: the lists of variants are those that tests used. One that is missing is compiled while a test waits for it, and one too
/// many while nobody does.
/// </summary>
public sealed class EmulatorVariants : IDisposable
{
    private static readonly ConcurrentDictionary<string, bool> Used = new(StringComparer.Ordinal);

    /// <summary>Notes that a test uses a variant.</summary>
    internal static void Use(string variant) => Used[variant] = true;

    /// <exception cref="InvalidOperationException">The lists are not what tests used.</exception>
    public void Dispose()
    {
        if (Used.IsEmpty)
        {
            return;
        }

        var listed = EmulatorBuild.Listed.ToHashSet(StringComparer.Ordinal);
        var missing = Used.Keys.Where(v => !listed.Contains(v)).Order(StringComparer.Ordinal);

        // A run of some tests uses some of what is listed.
        var tooMany = listed.Where(v => EmulatorBuild.IsOfAllTests && !Used.ContainsKey(v)).Order(StringComparer.Ordinal);
        var differences = missing.Select(v => "+" + v).Concat(tooMany.Select(v => "-" + v)).ToArray();
        if (differences.Length > 0)
        {
            throw new InvalidOperationException(
                "Emulator/variants.txt, or of long tests Emulator/variants-long.txt, is to have the variants of kernels that tests use. "
                + "Change it by these:\n"
                + string.Join('\n', differences));
        }
    }
}
