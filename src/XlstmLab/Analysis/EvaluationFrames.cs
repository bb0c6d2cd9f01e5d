using Deedle;
using Microsoft.Data.Analysis;
using XlstmLab.Evaluation;

namespace XlstmLab.Analysis;

/// <summary>Results of evaluations as DataFrames and Deedle frames, in long format.</summary>
public static class EvaluationFrames
{
    /// <summary>A DataFrame with a row a task and length.</summary>
    public static DataFrame ToDataFrame(this RulerResult result) => result.Scores.ToDataFrame(nameof(RulerScore.Task));

    /// <summary>A Deedle frame with a row a task and length.</summary>
    public static Frame<int, string> ToFrame(this RulerResult result) => result.Scores.ToFrame(nameof(RulerScore.Task));

    /// <summary>A DataFrame with a row a range of positions.</summary>
    public static DataFrame ToDataFrame(this ExtrapolationResult result) => result.Ranges.ToDataFrame();

    /// <summary>A Deedle frame with a row a range of positions.</summary>
    public static Frame<int, string> ToFrame(this ExtrapolationResult result) => result.Ranges.ToFrame();
}
