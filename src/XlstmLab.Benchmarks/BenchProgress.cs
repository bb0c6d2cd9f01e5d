namespace XlstmLab.Benchmarks;

/// <summary>How far a benchmark is.</summary>
/// <param name="Share">The share that is done, from 0 to 1.</param>
/// <param name="Status">What is being measured.</param>
public readonly record struct BenchProgress(double Share, string Status);
