using System.CommandLine;
using XlstmLab.Inference;
using XlstmLab.Runs;

namespace XlstmLab.Cli;

/// <summary>What commands have in common that let a model write: how tokens are chosen.</summary>
internal sealed class SamplingOptions
{
    private readonly Option<double> _temperature = NumberOption.Real(new Option<double>("--temperature")
    {
        Description = "What logits are divided by; 0 is greedy.",
        DefaultValueFactory = _ => LabDefaults.Temperature,
        HelpName = "T",
    }, NumberRange.NotNegative);
    private readonly Option<bool> _greedy = new("--greedy") { Description = "Always take the likeliest token." };
    private readonly Option<int?> _topK = NumberOption.Whole(new Option<int?>("--top-k")
    {
        Description = "Keep the K likeliest tokens.",
        HelpName = "K",
    }, 1);
    private readonly Option<double?> _topP = NumberOption.Real(new Option<double?>("--top-p")
    {
        Description = "Keep the likeliest tokens that make up this probability.",
        HelpName = "P",
    }, NumberRange.PositiveShare);
    private readonly Option<double?> _minP = NumberOption.Real(new Option<double?>("--min-p")
    {
        Description = "Keep tokens of at least this share of the likeliest one's probability.",
        HelpName = "P",
    }, NumberRange.Share);
    private readonly Option<double> _penalty = NumberOption.Real(new Option<double>("--repetition-penalty")
    {
        Description = "Above 1, makes tokens that occurred less likely.",
        DefaultValueFactory = _ => 1,
        HelpName = "R",
    }, NumberRange.Positive);
    private readonly Option<double> _frequency = NumberOption.Real(new Option<double>("--frequency-penalty")
    {
        Description = "Taken off the logit of a token for each time that it was generated.",
        DefaultValueFactory = _ => 0,
        HelpName = "X",
    }, NumberRange.Any);
    private readonly Option<double> _presence = NumberOption.Real(new Option<double>("--presence-penalty")
    {
        Description = "Taken off the logit of a token that was generated, once.",
        DefaultValueFactory = _ => 0,
        HelpName = "X",
    }, NumberRange.Any);
    private readonly Option<string[]> _stop = new("--stop")
    {
        Description = "End where the text holds this; may be given several times.",
        HelpName = "TEXT",
    };

    /// <summary>The seed of the draws.</summary>
    public Option<long> Seed { get; } = NumberOption.Whole(new Option<long>("--seed")
    {
        Description = "The seed of the draws.",
        DefaultValueFactory = _ => 0,
        HelpName = "N",
    });

    /// <summary>The options, in the order of the help.</summary>
    public IEnumerable<Option> All => [_temperature, _greedy, _topK, _topP, _minP, _penalty, _frequency, _presence, Seed, _stop];

    /// <summary>What was asked for.</summary>
    public GenerationOptions Read(ParseResult parsed) => new()
    {
        Temperature = parsed.GetValue(_greedy) ? 0 : parsed.GetValue(_temperature),
        TopK = parsed.GetValue(_topK),
        TopP = parsed.GetValue(_topP),
        MinP = parsed.GetValue(_minP),
        RepetitionPenalty = parsed.GetValue(_penalty),
        FrequencyPenalty = parsed.GetValue(_frequency),
        PresencePenalty = parsed.GetValue(_presence),
        Seed = parsed.GetValue(Seed),
        StopStrings = parsed.GetValue(_stop) ?? [],
    };

    /// <summary>Adds the options to a command, and refuses those that do not go together.</summary>
    public void AddTo(Command command)
    {
        foreach (var option in All)
        {
            command.Options.Add(option);
        }

        _stop.Validators.Add(result =>
        {
            if (result.Tokens.Any(token => token.Value.Length == 0))
            {
                result.AddError($"{_stop.Name}: expected at least one character; an empty text would end before anything is generated.");
            }
        });
        command.RefuseTogether((_greedy, _temperature));
    }
}
