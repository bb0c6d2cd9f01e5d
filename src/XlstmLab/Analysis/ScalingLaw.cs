using MathNet.Numerics;
using MathNet.Numerics.LinearAlgebra;
using MathNet.Numerics.Optimization;

namespace XlstmLab.Analysis;

/// <summary>The loss of a model of some size after some tokens.</summary>
/// <param name="Parameters">N.</param>
/// <param name="Tokens">D.</param>
/// <param name="Loss">Nats a token.</param>
public sealed record ScalingPoint(double Parameters, double Tokens, double Loss);

/// <summary>
/// A parametric law of the loss, L(N, D) = E + (A N^-alpha + B D^-beta)^gamma (Busbridge et al. 2025; Hoffmann et al. 2022 has gamma 1).
/// </summary>
/// <param name="E">What no size and no number of tokens removes.</param>
/// <param name="A">The weight of the size.</param>
/// <param name="B">The weight of the tokens.</param>
/// <param name="Alpha">The exponent of the size.</param>
/// <param name="Beta">The exponent of the tokens.</param>
/// <param name="Gamma">The exponent of both.</param>
/// <param name="Objective">What the fit minimised: the Huber loss of log residuals in units of its threshold, summed.</param>
public sealed record ScalingFit(double E, double A, double B, double Alpha, double Beta, double Gamma, double Objective)
{
    /// <summary>The exponent a of the best size, N* ~ C^a: beta / (alpha + beta).</summary>
    public double SizeExponent => Beta / (Alpha + Beta);

    /// <summary>The loss of a size after a number of tokens.</summary>
    /// <param name="parameters">N.</param>
    /// <param name="tokens">D.</param>
    public double Loss(double parameters, double tokens) => E + Math.Pow(
        A * Math.Pow(parameters, -Alpha) + B * Math.Pow(tokens, -Beta), Gamma);

    /// <summary>The size and the tokens with the least loss for an amount of compute C = k N D.</summary>
    /// <param name="flops">C.</param>
    /// <param name="flopsPerParameterAndToken">k: 6 where operations outside of matrix products are not counted.</param>
    public ScalingPoint Optimum(double flops, double flopsPerParameterAndToken = 6)
    {
        var product = flops / flopsPerParameterAndToken;
        var n = Math.Exp((Math.Log(Alpha * A / (Beta * B)) + Beta * Math.Log(product)) / (Alpha + Beta));
        return new(n, product / n, Loss(n, product / n));
    }
}

/// <summary>How a law is fitted.</summary>
public sealed record ScalingFitOptions
{
    /// <summary>A fixed gamma, such as 1; null to fit it.</summary>
    public double? Gamma { get; init; }

    /// <summary>The log residual from which on the loss grows linearly.</summary>
    public double HuberThreshold { get; init; } = 1e-3;

    /// <summary>How many starts of the grid are followed: those that fit best as they are.</summary>
    public int Starts { get; init; } = 48;

    /// <summary>How many samples of the points, drawn with replacement, the intervals come of; 0 for no intervals.</summary>
    public int Samples { get; init; } = 100;

    /// <summary>The seed of the samples.</summary>
    public int Seed { get; init; } = 1;
}

/// <summary>A number with the interval that most fits of resampled points agree on.</summary>
/// <param name="Value">That of all points.</param>
/// <param name="Low">The interval's lower end; NaN without samples.</param>
/// <param name="High">Its upper end.</param>
public sealed record BootstrapInterval(double Value, double Low, double High);

/// <summary>A law with the laws of resampled points.</summary>
/// <param name="Fit">The law of all points.</param>
/// <param name="Samples">Those of samples of them.</param>
public sealed record ScalingLaw(ScalingFit Fit, IReadOnlyList<ScalingFit> Samples)
{
    private const int Unknowns = 6;

    /// <summary>
    /// Fits the law by the Huber loss of log residuals in log-sum-exp form, from a grid of starts by BFGS (the scaling-law paper's
    /// protocol; its grid is that of Hoffmann et al. 2022 with gamma in 0 to 1.5).
    /// </summary>
    /// <remarks>Logarithms of sizes and tokens are centred, which takes a and alpha, b and beta apart and changes nothing else.</remarks>
    /// <param name="points">The losses.</param>
    /// <param name="options">How; null is the default.</param>
    /// <param name="cancellationToken">Stops the fit.</param>
    /// <exception cref="ArgumentException">There are fewer points than unknowns, or numbers that are not above 0.</exception>
    public static ScalingLaw Of(
        IReadOnlyList<ScalingPoint> points, ScalingFitOptions? options = null, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(points);
        options ??= new();
        var unknowns = Unknowns - (options.Gamma is null ? 0 : 1);
        if (points.Count < unknowns || points.Any(
            p => !(p.Parameters > 0 && p.Tokens > 0 && p.Loss > 0 && double.IsFinite(p.Parameters + p.Tokens + p.Loss))))
        {
            throw new ArgumentException(
                $"Expected at least {unknowns} points with sizes, tokens and losses above 0, got {points.Count}.", nameof(points));
        }

        var problem = new Problem(points, options);
        var starts = Grid(options).Select(problem.Centred).OrderBy(problem.Objective).Take(options.Starts).ToArray();
        var ends = new double[starts.Length][];
        Parallel.For(0, starts.Length, new() { CancellationToken = cancellationToken }, k => ends[k] = problem.Minimize(starts[k]));
        var best = ends.MinBy(problem.Objective)!;
        var samples = new ScalingFit[options.Samples];
        Parallel.For(0, samples.Length, new() { CancellationToken = cancellationToken }, k =>
        {
            var random = new Random(HashCode.Combine(options.Seed, k));
            var sample = new Problem([.. points.Select(_ => points[random.Next(points.Count)])], options);
            var around =
                Enumerable.Range(0, 4).Select(_ => best.Select(x => x * (1 + 0.1 * (random.NextDouble() - 0.5))).ToArray()).Prepend(best);
            samples[k] = sample.Fit(around.Select(start => sample.Minimize(sample.Moved(start, problem))).MinBy(sample.Objective)!);
        });
        return new(problem.Fit(best), samples);
    }

    /// <summary>A number of the law, with the interval of its samples.</summary>
    /// <param name="of">The number, such as <c>fit =&gt; fit.Alpha</c>.</param>
    /// <param name="confidence">The share of the samples in the interval.</param>
    public BootstrapInterval Interval(Func<ScalingFit, double> of, double confidence = 0.95)
    {
        ArgumentNullException.ThrowIfNull(of);
        var values = Samples.Select(of).Where(double.IsFinite).Order().ToArray();
        return values.Length == 0
            ? new(of(Fit), double.NaN, double.NaN)
            : new(of(Fit), Quantile((1 - confidence) / 2), Quantile((1 + confidence) / 2));

        double Quantile(double share)
        {
            var at = share * (values.Length - 1);
            var below = (int)at;
            return values[below] + (at - below) * (values[Math.Min(below + 1, values.Length - 1)] - values[below]);
        }
    }

    /// <summary>The loss that the law predicts, with the interval of its samples.</summary>
    /// <param name="parameters">N.</param>
    /// <param name="tokens">D.</param>
    public BootstrapInterval Predict(double parameters, double tokens) => Interval(fit => fit.Loss(parameters, tokens));

    private static IEnumerable<double[]> Grid(ScalingFitOptions options)
    {
        double[] weights = [0, 5, 10, 15, 20], exponents = [0, 0.2, 0.5, 1];
        double[] gammas = options.Gamma is { } gamma ? [gamma] : [0.25, 0.5, 1, 1.5];
        return
            from e in new[] { -1, -0.5, 0, 0.5, 1 }
            from a in weights
            from b in weights
            from alpha in exponents
            from beta in exponents
            from g in gammas
            select new[] { e, a, b, alpha, beta, g };
    }

    /// <summary>
    /// The points as logarithms, and what is minimised over (e, a, b, alpha, beta, gamma) with E = exp(e), A = exp(a), B = exp(b).
    /// </summary>
    private sealed class Problem
    {
        private readonly double[] _n;
        private readonly double[] _d;
        private readonly double[] _loss;
        private readonly double _meanN;
        private readonly double _meanD;
        private readonly ScalingFitOptions _options;

        public Problem(IReadOnlyList<ScalingPoint> points, ScalingFitOptions options)
        {
            _options = options;
            (_meanN, _meanD) = (points.Average(p => Math.Log(p.Parameters)), points.Average(p => Math.Log(p.Tokens)));
            _n = [.. points.Select(p => Math.Log(p.Parameters) - _meanN)];
            _d = [.. points.Select(p => Math.Log(p.Tokens) - _meanD)];
            _loss = [.. points.Select(p => Math.Log(p.Loss))];
        }

        /// <summary>A start of the grid in centred logarithms.</summary>
        public double[] Centred(double[] x) => [x[0], x[1] - x[3] * _meanN, x[2] - x[4] * _meanD, x[3], x[4], x[5]];

        /// <summary>The same law in the centre of these points instead of others'.</summary>
        public double[] Moved(double[] x, Problem from) =>
            [x[0], x[1] + x[3] * (from._meanN - _meanN), x[2] + x[4] * (from._meanD - _meanD), x[3], x[4], x[5]];

        public ScalingFit Fit(double[] x) => new(
            Math.Exp(x[0]), Math.Exp(x[1] + x[3] * _meanN), Math.Exp(x[2] + x[4] * _meanD), x[3], x[4], x[5], Objective(x));

        public double Objective(double[] x) => Objective(x, null);

        /// <summary>
        /// The best place that BFGS comes to; where its line search gives up, the best that it saw, from which it begins anew.
        /// </summary>
        public double[] Minimize(double[] start)
        {
            var (best, least) = (start, Objective(start));
            for (var round = 0; round < 8; round++)
            {
                var before = least;
                var objective = ObjectiveFunction.Gradient(
                    x =>
                    {
                        var at = x.ToArray();
                        var value = Objective(at);
                        if (value < least)
                        {
                            (best, least) = (at, value);
                        }

                        return value;
                    },
                    x =>
                    {
                        var gradient = new double[Unknowns];
                        Objective(x.ToArray(), gradient);
                        return Vector<double>.Build.Dense(gradient);
                    });
                try
                {
                    new BfgsMinimizer(1e-9, 1e-12, 1e-12, 400).FindMinimum(objective, Vector<double>.Build.Dense(best));
                }
                catch (Exception e) when (e is OptimizationException or NonConvergenceException or ArithmeticException)
                {
                    // The objective has kinks where residuals leave the quadratic part; what it saw is kept.
                }

                if (before - least < 1e-10 * Math.Max(1, least))
                {
                    break;
                }
            }

            return best;
        }

        private double Objective(double[] x, double[]? gradient)
        {
            var (e, a, b, alpha, beta) = (x[0], x[1], x[2], x[3], x[4]);
            var gamma = _options.Gamma ?? x[5];
            var sum = 0.0;
            for (var k = 0; k < _n.Length; k++)
            {
                // log L = log(exp(e) + exp(gamma u)), u = log(exp(a - alpha n) + exp(b - beta d))
                var (ofN, ofD) = (a - alpha * _n[k], b - beta * _d[k]);
                var u = LogSum(ofN, ofD);
                var predicted = LogSum(e, gamma * u);
                var residual = (predicted - _loss[k]) / _options.HuberThreshold;
                sum += Math.Abs(residual) <= 1 ? residual * residual / 2 : Math.Abs(residual) - 0.5;
                if (gradient is not null)
                {
                    var slope = Math.Clamp(residual, -1, 1) / _options.HuberThreshold;
                    var (shareE, shareN) = (Math.Exp(e - predicted), Math.Exp(ofN - u));
                    var rest = slope * (1 - shareE) * gamma;
                    gradient[0] += slope * shareE;
                    gradient[1] += rest * shareN;
                    gradient[2] += rest * (1 - shareN);
                    gradient[3] -= rest * shareN * _n[k];
                    gradient[4] -= rest * (1 - shareN) * _d[k];
                    gradient[5] += _options.Gamma is null ? slope * (1 - shareE) * u : 0;
                }
            }

            // Exponents below 0 are laws by which more is worse.
            foreach (var k in new[] { 3, 4, 5 })
            {
                if (x[k] < 0)
                {
                    sum += 1e4 * x[k] * x[k];
                    if (gradient is not null)
                    {
                        gradient[k] += 2e4 * x[k];
                    }
                }
            }

            return double.IsFinite(sum) ? sum : double.MaxValue;
        }

        private static double LogSum(double a, double b) => Math.Max(a, b) + Math.Log(1 + Math.Exp(-Math.Abs(a - b)));
    }
}
