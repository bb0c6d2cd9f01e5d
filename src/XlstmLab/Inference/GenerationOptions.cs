using System.Collections.ObjectModel;
using XlstmLab.Operations;

namespace XlstmLab.Inference;

/// <summary>How the next token is chosen, and when to stop.</summary>
/// <remarks>
/// The order is that of Hugging Face transformers: biases of single tokens, repetition penalty, the penalties of frequency and presence,
/// temperature, top-k, top-p, min-p; then a token is drawn from what is left.
/// </remarks>
public sealed record GenerationOptions
{
    /// <summary>The largest number of tokens to generate; 0 only reads the prompt.</summary>
    public int MaxNewTokens { get; init; } = 256;

    /// <summary>What logits are divided by; 0 takes the likeliest token, of equals the lowest id, and skips every filter.</summary>
    public double Temperature { get; init; } = 1.0;

    /// <summary>Keeps the k likeliest tokens, and those as likely as the k-th; null keeps all.</summary>
    public int? TopK { get; init; }

    /// <summary>Keeps the smallest set of likeliest tokens whose probabilities sum to p at least; null keeps all.</summary>
    public double? TopP { get; init; }

    /// <summary>Keeps tokens whose probability is at least this share of the likeliest token's; null keeps all.</summary>
    public double? MinP { get; init; }

    /// <summary>
    /// Divides positive logits, and multiplies negative ones, of tokens that the prompt, the generated text or <see cref="EarlierTokens"/>
    /// hold; 1 changes nothing. What was read into a given state before is known from there only.
    /// </summary>
    public double RepetitionPenalty { get; init; } = 1.0;

    /// <summary>
    /// Taken off the logit of a token once for each time that it was generated; 0 changes nothing, less than 0 makes repeats likelier.
    /// </summary>
    /// <remarks>As OpenAI's API has it: tokens of the prompt do not count, nor those of <see cref="EarlierTokens"/>.</remarks>
    public double FrequencyPenalty { get; init; }

    /// <summary>Taken once off the logit of a token that was generated, however often; 0 changes nothing.</summary>
    /// <inheritdoc cref="FrequencyPenalty" path="/remarks"/>
    public double PresencePenalty { get; init; }

    /// <summary>What is added to the logits of ids before all else: -100 bars a token in practice, 100 leaves no other.</summary>
    /// <remarks>Tokens of a text with biases are chosen on the host, on a GPU too.</remarks>
    public IReadOnlyDictionary<int, double> LogitBias { get; init; } = ReadOnlyDictionary<int, double>.Empty;

    /// <summary>
    /// With each token come this many of the likeliest ones and their logarithms of probability, <see cref="GeneratedToken.Likeliest"/>.
    /// </summary>
    public int TopLogProbabilities { get; init; }

    /// <summary>The seed of the draws. Row r of a batch draws from seed + r, so that equal prompts give different texts.</summary>
    public long Seed { get; init; }

    /// <summary>How many tokens of the same text were drawn with this seed before: the draws go on after them.</summary>
    public long EarlierDraws { get; init; }

    /// <summary>Ids that occurred in the same text before, for <see cref="RepetitionPenalty"/>.</summary>
    public IReadOnlyList<int> EarlierTokens { get; init; } = [];

    /// <summary>The first bytes of a character that the same text ended in the middle of before.</summary>
    public IReadOnlyList<byte> EarlierBytes { get; init; } = [];

    /// <summary>
    /// Whether a character that the last token leaves unfinished is left out, since the text will be gone on with, instead of becoming
    /// U+FFFD.
    /// </summary>
    public bool GoesOn { get; init; }

    /// <summary>Generation stops once the generated text holds one of these.</summary>
    public IReadOnlyList<string> StopStrings { get; init; } = [];

    /// <summary>Whether generation stops with the end of document; else the end of document is a token like others, without text.</summary>
    public bool StopAtEndOfDocument { get; init; } = true;

    /// <summary>
    /// What projections are kept as while tokens are generated: a token takes as long as its weights take to be read. In fewer bits than
    /// the model's own they are copies, made when the generation begins: on the CPU for up to eight texts side by side (not
    /// <see cref="WeightFormat.Float8"/>), on a GPU for up to 64 of a model in the 7B's shape that computes in bfloat16, where float32, as
    /// they are, is bfloat16. The model's own weights stay in memory beside them: by those a prompt is read, and on a GPU the first tokens
    /// until the graph is recorded. They have the same values only where <see cref="RoundedWeights.Round"/> has rounded them.
    /// </summary>
    public WeightFormat Weights { get; init; }

    /// <summary>
    /// What an mLSTM's memories C are kept as while tokens are generated: of many texts side by side a token takes as long as they take to
    /// be read and written. In bfloat16 on a GPU only, where the kernels read the model that <see cref="Weights"/> may be narrow of, with
    /// heads whose values are a multiple of 8; states that are handed out are float32.
    /// </summary>
    public StateFormat States { get; init; }

    /// <summary>Looks at every option.</summary>
    /// <exception cref="ArgumentException">An option makes no sense; the message says which and what is expected.</exception>
    public void Validate()
    {
        Require(MaxNewTokens >= 0, nameof(MaxNewTokens), "0 or more", MaxNewTokens);
        Require(double.IsFinite(Temperature) && Temperature >= 0, nameof(Temperature), "0 (greedy) or more", Temperature);
        Require(TopK is null or >= 1, nameof(TopK), "at least 1, or null to keep all", TopK);
        Require(TopP is null or (> 0 and <= 1), nameof(TopP), "more than 0 and at most 1, or null to keep all", TopP);
        Require(MinP is null or (>= 0 and <= 1), nameof(MinP), "from 0 to 1, or null to keep all", MinP);
        Require(Enum.IsDefined(Weights), nameof(Weights), string.Join(", ", Enum.GetNames<WeightFormat>()), Weights);
        Require(Enum.IsDefined(States), nameof(States), string.Join(", ", Enum.GetNames<StateFormat>()), States);
        Require(EarlierDraws >= 0, nameof(EarlierDraws), "0 or more", EarlierDraws);
        var penalty = double.IsFinite(RepetitionPenalty) && RepetitionPenalty > 0;
        Require(penalty, nameof(RepetitionPenalty), "more than 0, 1 for none", RepetitionPenalty);
        Require(double.IsFinite(FrequencyPenalty), nameof(FrequencyPenalty), "a number, 0 for none", FrequencyPenalty);
        Require(double.IsFinite(PresencePenalty), nameof(PresencePenalty), "a number, 0 for none", PresencePenalty);
        if (LogitBias is null || LogitBias.Any(bias => bias.Key < 0 || !double.IsFinite(bias.Value)))
        {
            throw new ArgumentException($"Expected {nameof(LogitBias)} of ids from 0 with a finite number each.");
        }

        Require(TopLogProbabilities >= 0, nameof(TopLogProbabilities), "0 or more", TopLogProbabilities);
        if (StopStrings is null || StopStrings.Any(string.IsNullOrEmpty))
        {
            throw new ArgumentException(
                $"Expected {nameof(StopStrings)} of at least one character each: an empty one would stop before anything is generated.");
        }
    }

    private static void Require(bool holds, string name, string expected, object? value)
    {
        if (!holds)
        {
            throw new ArgumentException(FormattableString.Invariant($"Expected {name} to be {expected}, got {value}."));
        }
    }
}
