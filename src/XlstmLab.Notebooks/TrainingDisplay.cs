using System.Diagnostics;
using XlstmLab.Analysis;
using XlstmLab.Training;

namespace XlstmLab.Notebooks;

/// <summary>Shows in a cell's output how a training goes: a table of its validations and the latest update, replaced as it goes on.</summary>
/// <example>
/// <code>
/// var run = Lab.Train(config, corpus, recipe, progress: new TrainingDisplay());
/// </code>
/// </example>
/// <remarks>It shows nothing outside of a cell of this library's notebooks.</remarks>
public sealed class TrainingDisplay : IProgress<TrainingMetrics>
{
    private static readonly TimeSpan Pause = TimeSpan.FromSeconds(1);

    private readonly List<TrainingMetrics> _validated = [];
    private readonly Stopwatch _watch = Stopwatch.StartNew();
    private ShownValue? _shown;
    private TimeSpan _last;

    /// <inheritdoc/>
    public void Report(TrainingMetrics value)
    {
        ArgumentNullException.ThrowIfNull(value);
        if (value.IsValidated)
        {
            _validated.Add(value);
        }
        else if (_shown is not null && _watch.Elapsed - _last < Pause)
        {
            return;
        }

        if (CellContext.Current is null)
        {
            return;
        }

        _last = _watch.Elapsed;
        var rows = value.IsValidated ? _validated : [.. _validated, value];
        var table = ResultTables.Of(rows.Select(m => new { m.Step, m.Tokens, m.Loss, m.ValidationLoss, m.ValidationBitsPerByte, m.TokensPerSecond, m.Seconds }));
        if (_shown is null)
        {
            _shown = NotebookApi.display(table);
        }
        else
        {
            _shown.Update(table);
        }
    }
}
