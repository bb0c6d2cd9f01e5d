using System.Globalization;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics.Arm;
using System.Runtime.Intrinsics.X86;
using System.Text;

namespace XlstmLab.Native;

/// <summary>The processor, as far as it decides how fast a model runs.</summary>
/// <param name="Name">What its maker calls it.</param>
/// <param name="LogicalCores">The processors this process may use.</param>
/// <param name="PhysicalCores">Those of them that do not share a core.</param>
/// <param name="Simd">The vector and matrix instructions that libtorch makes use of.</param>
internal sealed record Processor(string Name, int LogicalCores, int PhysicalCores, IReadOnlyList<string> Simd)
{
    /// <summary>The one this process runs on.</summary>
    public static Processor Current { get; } = new(FindName(), Environment.ProcessorCount, CountPhysicalCores(), [.. FindSimd()]);

    private static string FindName()
    {
        if (X86Base.IsSupported && (uint)X86Base.CpuId(unchecked((int)0x80000000), 0).Eax >= 0x80000004)
        {
            var name = new StringBuilder();
            for (var leaf = 0x80000002; leaf <= 0x80000004; leaf++)
            {
                var (a, b, c, d) = X86Base.CpuId(unchecked((int)leaf), 0);
                name.Append(Encoding.ASCII.GetString(MemoryMarshal.AsBytes([a, b, c, d])));
            }

            return name.ToString().Replace("\0", "", StringComparison.Ordinal).Trim();
        }

        return RuntimeInformation.ProcessArchitecture.ToString();
    }

    /// <summary>Processors of one core share its arithmetic units: more threads than cores only get into each other's way.</summary>
    private static int CountPhysicalCores()
    {
        const string topology = "/proc/cpuinfo";
        if (!File.Exists(topology))
        {
            return Environment.ProcessorCount;
        }

        var cores = new HashSet<(string, string)>();
        var package = "";
        foreach (var line in File.ReadLines(topology))
        {
            var value = line[(line.IndexOf(':', StringComparison.Ordinal) + 1)..].Trim();
            if (line.StartsWith("physical id", StringComparison.Ordinal))
            {
                package = value;
            }
            else if (line.StartsWith("core id", StringComparison.Ordinal))
            {
                cores.Add((package, value));
            }
        }

        return cores.Count == 0 ? Environment.ProcessorCount : Math.Min(cores.Count, Environment.ProcessorCount);
    }

    private static IEnumerable<string> FindSimd()
    {
        if (AdvSimd.IsSupported)
        {
            yield return "NEON";
        }

        if (Avx2.IsSupported)
        {
            yield return "AVX2";
        }

        if (!Avx512F.IsSupported)
        {
            yield break;
        }

        yield return "AVX-512";
        var (most, _, _, features) = X86Base.CpuId(7, 0);
        if (most >= 1 && (X86Base.CpuId(7, 1).Eax & (1 << 5)) != 0)
        {
            yield return "AVX-512 bf16";
        }

        if ((features & (1 << 22)) != 0)
        {
            yield return "AMX bf16";
        }
    }

    /// <summary>In one line.</summary>
    public override string ToString() => string.Create(
        CultureInfo.InvariantCulture,
        $"{Name}, {PhysicalCores} cores{(LogicalCores == PhysicalCores ? "" : $" ({LogicalCores} threads)")}, "
        + $"{(Simd.Count == 0 ? "no SIMD known" : string.Join(", ", Simd))}");
}
