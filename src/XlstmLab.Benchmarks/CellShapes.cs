using System.Globalization;

namespace XlstmLab.Benchmarks;

/// <summary>Shapes of cells as the command line spells them.</summary>
public static class CellShapes
{
    /// <summary>Shapes of published models, and those that others' kernels were measured at.</summary>
    public const string Default = "8,4,2048,128,256/2,8,8192,256,512/8,4,2048,96,192/16,4,2048,96,192/8,2048,4,256/16,1024,4,192";

    /// <summary>An mLSTM with either gate for B,NH,S,DK,DV, an sLSTM for B,S,NH,D; null if it is neither.</summary>
    public static IReadOnlyList<Workload>? Parse(string list)
    {
        var works = new List<Workload>();
        foreach (var shape in list.Split('/', StringSplitOptions.TrimEntries | StringSplitOptions.RemoveEmptyEntries))
        {
            var numbers = shape.Split(',')
                .Select(n => int.TryParse(n, NumberStyles.None, CultureInfo.InvariantCulture, out var number) ? number : 0).ToArray();
            if (numbers.Contains(0) || numbers.Length is not (4 or 5))
            {
                return null;
            }

            works.AddRange(numbers is [var b, var nh, var s, var dk, var dv]
                ? [new MLstmWork("exponential", b, nh, s, dk, dv), new MLstmWork("sigmoid", b, nh, s, dk, dv)]
                : (Workload[])[new SLstmWork(numbers[0], numbers[1], numbers[2], numbers[3])]);
        }

        return works.Count == 0 ? null : works;
    }
}
