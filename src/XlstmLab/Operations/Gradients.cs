using System.Collections.Concurrent;
using System.Globalization;
using System.Runtime.ExceptionServices;
using System.Runtime.InteropServices;
using System.Text.RegularExpressions;
using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>Gradients, with the words of the operation that could not compute them.</summary>
/// <remarks>
/// After <c>loss.backward()</c> of TorchSharp the same failure is an <see cref="ExternalException"/> of libtorch's, which says that a
/// gradient's shape is wrong, and not why.
/// </remarks>
public static partial class Gradients
{
    private const int Remembered = 64;

    private static readonly ConcurrentDictionary<long, Exception> Failures = [];

    private static long _failures;

    /// <summary>Adds the gradients of a loss to those of the tensors that it was computed from.</summary>
    /// <param name="loss">A tensor of one number.</param>
    /// <exception cref="ExternalException">
    /// libtorch could not, for want of memory perhaps; or what else an operation of the library failed with.
    /// </exception>
    public static void Backward(Tensor loss)
    {
        ArgumentNullException.ThrowIfNull(loss);
        Backward(loss, null);
    }

    /// <summary>Adds the gradients of tensors, given their own.</summary>
    /// <param name="result">Of any shape.</param>
    /// <param name="gradient">The same shape; null for a result of one number.</param>
    internal static void Backward(Tensor result, Tensor? gradient)
    {
        try
        {
            result.backward(gradient is null ? null : [gradient]);
        }
        catch (ExternalException e) when (FailureOf(e.Message) is { } failure)
        {
            ExceptionDispatchInfo.Throw(failure);
        }
    }

    /// <summary>A gradient that no tensor can have, whose shape tells which failure it stands for.</summary>
    /// <param name="failure">Why an operation has no gradient.</param>
    internal static Tensor Refused(Exception failure)
    {
        var number = Interlocked.Increment(ref _failures);
        Failures[number] = failure;

        // Of passes that were not asked for through this class, whose failures nobody collects.
        Failures.TryRemove(number - Remembered, out _);
        return empty(0, number, device: META);
    }

    private static Exception? FailureOf(string message)
    {
        // A gradient of any shape becomes one of one number first, of which libtorch tells the device alone: then it is the last failure.
        var number = Refusal().Match(message) is { Success: true } refusal ? long.Parse(
            refusal.Groups[1].ValueSpan, CultureInfo.InvariantCulture)
            : message.Contains("meta", StringComparison.Ordinal) ? Interlocked.Read(ref _failures)
            : 0;
        Failures.TryRemove(number, out var failure);
        return failure;
    }

    [GeneratedRegex(@"got \[0, (\d+)\]")]
    private static partial Regex Refusal();
}
