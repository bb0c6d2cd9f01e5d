using System.Text.Json.Serialization;
using XlstmLab.Text;

namespace XlstmLab.Tasks;

/// <summary>A formal-language task of the first xLSTM paper (Beck et al. 2024, figure 4; appendix D).</summary>
/// <remarks>
/// A row is a question and its answer, together as long as the length that was drawn or, where that cannot be, a little shorter. The model
/// reads the question and [PAD] in place of the answer, as in the paper's code; the first token of the answer is due at the last of the
/// question, as everywhere in language modelling, and each further one at the next [PAD]. Trained at lengths 3 to 40, tested at 40 to 256.
/// Token 0 is [PAD] in all tasks; the vocabulary sizes are the paper's.
/// </remarks>
public abstract record FormalTask : SyntheticTask
{
    /// <inheritdoc/>
    [JsonIgnore]
    public override LengthRange TrainingLengths => new(Math.Max(3, MinimumLength), 40);

    /// <inheritdoc/>
    [JsonIgnore]
    public override LengthRange TestLengths => new(40, 256);

    /// <summary>The tokens of the shortest question with its answer.</summary>
    [JsonIgnore]
    public abstract int MinimumLength { get; }

    /// <inheritdoc/>
    public override void Validate(LengthRange lengths) => RequireAtLeast(MinimumLength, lengths);

    /// <inheritdoc/>
    internal sealed override void Fill(ref SplitMix64 random, LengthRange lengths, Span<int> inputs, Span<int> targets)
    {
        var length = lengths.Minimum + random.Next(lengths.Maximum - lengths.Minimum + 1);
        var (question, answer) = Write(ref random, inputs[..length]);
        inputs.Slice(question, answer).CopyTo(targets[(question - 1)..]);
        inputs[question..].Clear();
    }

    /// <summary>Draws a question and writes it, and its answer behind it.</summary>
    /// <param name="random">Where random numbers come from.</param>
    /// <param name="row">As long as the row may be, at least <see cref="MinimumLength"/>.</param>
    /// <returns>How many tokens each of them has, at least 1.</returns>
    private protected abstract (int Question, int Answer) Write(ref SplitMix64 random, Span<int> row);

    /// <summary>Fills a span with numbers from a first one on.</summary>
    private protected static void Draw(ref SplitMix64 random, Span<int> target, int first, int count)
    {
        for (var k = 0; k < target.Length; k++)
        {
            target[k] = first + random.Next(count);
        }
    }
}
