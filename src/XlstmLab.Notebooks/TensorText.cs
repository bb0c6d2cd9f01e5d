using System.Globalization;
using System.Net;
using System.Text;
using TorchSharp;
using static TorchSharp.torch;

namespace XlstmLab.Notebooks;

/// <summary>Describes a tensor in a line: what it is, and what its values look like; a matrix has a small picture too.</summary>
internal static class TensorText
{
    private const int ValuesShown = 6;
    private const int MostRows = 24;
    private const int MostColumns = 48;
    private const int Levels = 16;
    private const int CellPixels = 8;

    public static string Render(Tensor tensor)
    {
        var (kind, values) = Parts(tensor);
        string detail = values.Length == 0 ? "" : $"<div style=\"opacity:.75\">{WebUtility.HtmlEncode(values)}</div>";
        return "<div style=\"font:13px/1.5 'SFMono-Regular',Consolas,'DejaVu Sans Mono',monospace\">"
            + $"<b>{WebUtility.HtmlEncode(kind)}</b>{detail}{Picture(tensor)}</div>";
    }

    /// <summary>
    /// The last two dimensions, at the first place of those before them, as cells of which each is the mean of a part; empty for what has
    /// none.
    /// </summary>
    private static string Picture(Tensor tensor)
    {
        if (tensor.IsInvalid || tensor.device_type == DeviceType.META || tensor.is_sparse || is_complex(tensor)
            || tensor.dim() < 2 || tensor.numel() == 0 || tensor.shape[^1] * tensor.shape[^2] < 4)
        {
            return "";
        }

        using var grad = no_grad();
        using var scope = NewDisposeScope();
        var matrix = tensor.reshape(-1, tensor.shape[^2], tensor.shape[^1])[0];
        long rows = Math.Min(MostRows, matrix.shape[0]), columns = Math.Min(MostColumns, matrix.shape[1]);
        var cells = nn.functional.adaptive_avg_pool2d(matrix.to(float32).cpu()[TensorIndex.None, TensorIndex.None], [rows, columns]);
        float[] values = cells.reshape(-1).data<float>().ToArray();
        float[] finite = [.. values.Where(float.IsFinite)];
        if (finite.Length == 0)
        {
            return "";
        }

        float low = finite.Min(), high = finite.Max();

        // One path a colour: an element a cell takes five times the room.
        StringBuilder[] paths = [.. Enumerable.Range(0, Levels).Select(_ => new StringBuilder())];
        foreach (var (i, value) in values.Index().Where(cell => float.IsFinite(cell.Item)))
        {
            int level = high > low ? (int)Math.Clamp((value - low) / (high - low) * Levels, 0, Levels - 1) : 0;
            paths[level].Append(CultureInfo.InvariantCulture, $"M{i % columns} {i / columns}h1v1h-1z");
        }

        string drawn = string.Concat(paths.Index().Where(path => path.Item.Length > 0).Select(path =>
            string.Create(
                CultureInfo.InvariantCulture, $"<path fill=\"{ChartSvg.Viridis(path.Index / (Levels - 1.0))}\" d=\"{path.Item}\"/>")));
        string part = tensor.dim() > 2
            ? string.Create(CultureInfo.InvariantCulture, $"the first of {tensor.numel() / matrix.numel():N0} matrices") : "the matrix";
        string note = (rows, columns) == (matrix.shape[0], matrix.shape[1]) && tensor.dim() == 2 ? ""
            : string.Create(CultureInfo.InvariantCulture, $"{part} in {rows} x {columns} means, ");
        return string.Create(
            CultureInfo.InvariantCulture,
            $"<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {columns} {rows}\" width=\"{columns * CellPixels}\" "
            + $"height=\"{rows * CellPixels}\" shape-rendering=\"crispEdges\" style=\"display:block;margin:4px 0\">{drawn}</svg>")
            + $"<div style=\"opacity:.75\">{note}from {Number(low)} (dark) to {Number(high)} (bright)</div>";
    }

    public static string Describe(Tensor tensor)
    {
        var (kind, values) = Parts(tensor);
        return values.Length == 0 ? kind : $"{kind}: {values}";
    }

    private static (string Kind, string Values) Parts(Tensor tensor)
    {
        if (tensor.IsInvalid)
        {
            return ("disposed tensor", "");
        }

        string type = tensor.dtype switch
        {
            ScalarType.ComplexFloat32 => "complex64",
            ScalarType.ComplexFloat64 => "complex128",
            var other => other.ToString().ToLowerInvariant(),
        };
        string shape = string.Join(", ", tensor.shape);
        string kind = $"{type} [{shape}] on {tensor.device}{(tensor.requires_grad ? ", requires grad" : "")}";
        if (tensor.device_type == DeviceType.META || tensor.is_sparse)
        {
            return (kind, "");
        }

        if (tensor.numel() == 0)
        {
            return (kind, "empty");
        }

        if (is_complex(tensor))
        {
            return (kind, "");
        }

        using var grad = no_grad();
        using var scope = NewDisposeScope();
        using var head = tensor.reshape(-1).narrow(0, 0, Math.Min(ValuesShown, tensor.numel())).to(float64).cpu();
        string values = string.Join(", ", head.data<double>().ToArray().Select(Number));
        if (tensor.numel() <= ValuesShown)
        {
            return (kind, values);
        }

        // Sums of narrow types overflow or lose digits; float32 is what every device has.
        using var wide = tensor.dtype == float64 ? tensor.alias() : tensor.to(float32);
        double[] summary = [wide.mean().ToDouble(), wide.std().ToDouble(), wide.min().ToDouble(), wide.max().ToDouble()];
        return (kind, $"mean {Number(summary[0])}, std {Number(summary[1])}, min {Number(summary[2])}, max "
            + $"{Number(summary[3])}; {values}, ...");
    }

    private static string Number(double value) => value.ToString("G5", CultureInfo.InvariantCulture);
}
