using System.Globalization;
using System.Net;
using TorchSharp;
using static TorchSharp.torch;

namespace XlstmLab.Notebooks;

/// <summary>Describes a tensor in a line: what it is, and what its values look like.</summary>
internal static class TensorText
{
    private const int ValuesShown = 6;

    public static string Render(Tensor tensor)
    {
        var (kind, values) = Parts(tensor);
        string detail = values.Length == 0 ? "" : $"<div style=\"opacity:.75\">{WebUtility.HtmlEncode(values)}</div>";
        return $"<div style=\"font:13px/1.5 'SFMono-Regular',Consolas,'DejaVu Sans Mono',monospace\"><b>{WebUtility.HtmlEncode(kind)}</b>{detail}</div>";
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
        return (kind, $"mean {Number(summary[0])}, std {Number(summary[1])}, min {Number(summary[2])}, max {Number(summary[3])}; {values}, ...");
    }

    private static string Number(double value) => value.ToString("G5", CultureInfo.InvariantCulture);
}
