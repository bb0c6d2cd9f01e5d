using System.Text.Json.Nodes;
using XlstmLab.Checkpoints;
using static TorchSharp.torch;

namespace XlstmLab.Cli.Verification;

/// <summary>A golden file: random inputs, and what a published implementation makes of them.</summary>
public sealed class GoldenCase
{
    private readonly Dictionary<string, Tensor> _tensors;

    private GoldenCase(string name, Dictionary<string, Tensor> tensors, JsonObject about, Device device)
    {
        Name = name;
        Device = device;
        _tensors = tensors;
        About = about;
    }

    /// <summary>The file's name without its ending.</summary>
    public string Name { get; }

    /// <summary>Where its tensors are, and what is computed of them.</summary>
    public Device Device { get; }

    /// <summary>What the case says of itself.</summary>
    public JsonObject About { get; }

    /// <summary>The names of its tensors.</summary>
    public IEnumerable<string> Names => _tensors.Keys;

    /// <summary>The tensor of that name.</summary>
    /// <exception cref="InvalidDataException">There is none.</exception>
    public Tensor this[string tensor] =>
        _tensors.TryGetValue(tensor, out var value) ? value : throw new InvalidDataException($"The case has no tensor '{tensor}'.");

    /// <summary>Whether there is a tensor of that name.</summary>
    public bool Has(string tensor) => _tensors.ContainsKey(tensor);

    /// <summary>Reads all tensors into the caller's dispose scope.</summary>
    /// <exception cref="CheckpointException">The file is damaged.</exception>
    public static GoldenCase Read(string path, Device device)
    {
        using var file = SafetensorsFile.Open(path);
        var about = file.Metadata.TryGetValue("about", out var text) ? JsonNode.Parse(text) as JsonObject : null;
        return new(
            Path.GetFileNameWithoutExtension(path), file.Names.ToDictionary(n => n, n => file.Read(n).to(device)), about ?? [], device);
    }

    /// <summary>The root mean square of the difference over that of what is expected.</summary>
    public static double RelativeRms(Tensor expected, Tensor actual)
    {
        if (!expected.shape.AsSpan().SequenceEqual(actual.shape))
        {
            throw new InvalidDataException(
                $"Expected shape [{string.Join(", ", expected.shape)}], computed [{string.Join(", ", actual.shape)}].");
        }

        using var scope = NewDisposeScope();
        var reference = expected.detach().to(ScalarType.Float64);
        var difference = Length(actual.detach().to(ScalarType.Float64) - reference);
        var size = Length(reference);
        return difference == 0 ? 0 : difference / Math.Max(size, double.Epsilon);
    }

    /// <summary>The largest difference.</summary>
    public static double LargestDifference(Tensor expected, Tensor actual)
    {
        using var scope = NewDisposeScope();
        return (actual.detach().to(ScalarType.Float64) - expected.detach().to(ScalarType.Float64)).abs().max().item<double>();
    }

    /// <summary>The largest error; not a number if one is not, and if there is none.</summary>
    public static double Largest(IEnumerable<double> errors)
    {
        var worst = double.NegativeInfinity;
        foreach (var error in errors)
        {
            worst = double.IsNaN(error) || double.IsNaN(worst) ? double.NaN : Math.Max(worst, error);
        }

        return double.IsNegativeInfinity(worst) ? double.NaN : worst;
    }

    /// <summary>The square root of the sum of squares, without a power: TorchSharp lets its exponent go while it is in use.</summary>
    private static double Length(Tensor x)
    {
        var flat = x.flatten();
        return Math.Sqrt(flat.dot(flat).item<double>());
    }
}
