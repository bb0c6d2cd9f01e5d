using System.Globalization;
using XlstmLab.Training;

namespace XlstmLab.Runs;

/// <summary>Tells how a training goes in a line a validation, to whatever takes lines.</summary>
/// <example>
/// <code>
/// var run = Lab.Train(config, corpus, recipe, progress: new ValidationLines(Console.WriteLine));
/// </code>
/// </example>
/// <param name="write">Takes a line.</param>
public sealed class ValidationLines(Action<string> write) : IProgress<TrainingMetrics>
{
    /// <inheritdoc/>
    public void Report(TrainingMetrics value)
    {
        ArgumentNullException.ThrowIfNull(value);
        if (value.IsValidated)
        {
            var bits = value.ValidationBitsPerByte is { } perByte
                ? string.Create(CultureInfo.InvariantCulture, $", {perByte:F3} bits per byte") : "";
            var done = string.Create(
                CultureInfo.InvariantCulture, $"step {value.Step,5}   {value.Tokens / 1e6,6:F2} M tokens   loss {value.Loss:F3}");
            write(string.Create(
                CultureInfo.InvariantCulture,
                $"{done}   validation {value.ValidationLoss:F3} nats a token{bits}   {value.Seconds,4:F0} s"));
        }
    }
}
