using System.Collections.Concurrent;
using System.Globalization;
using System.Text;
using XlstmLab.Inference;

namespace XlstmLab.Serving;

/// <summary>What a server did, in Prometheus' text format.</summary>
internal sealed class ServerMetrics
{
    private static readonly double[] Bounds = [0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300];

    private readonly ConcurrentDictionary<(string Endpoint, int Status), long> _requests = new();
    private readonly Histogram _firstToken = new();
    private readonly Histogram _whole = new();
    private long _vanished;

    /// <summary>A request was answered, with an HTTP status.</summary>
    public void Answered(string endpoint, int status) => _requests.AddOrUpdate((endpoint, status), 1, (_, count) => count + 1);

    /// <summary>A client was gone before its answer was complete.</summary>
    public void Vanished() => Interlocked.Increment(ref _vanished);

    /// <summary>A choice got its first token this long after its request.</summary>
    public void FirstToken(TimeSpan time) => _firstToken.Add(time.TotalSeconds);

    /// <summary>A request for texts was answered in this time.</summary>
    public void Whole(TimeSpan time) => _whole.Add(time.TotalSeconds);

    /// <summary>The document.</summary>
    public string Text(BatchedGenerator generator)
    {
        var text = new StringBuilder();
        var counts = generator.Counts;
        Head("requests_total", "counter", "Requests by endpoint and HTTP status.");
        foreach (var ((endpoint, status), count) in _requests.OrderBy(pair => pair.Key.Endpoint, StringComparer.Ordinal)
            .ThenBy(pair => pair.Key.Status))
        {
            Line($"xlstm_requests_total{{endpoint=\"{endpoint}\",status=\"{status}\"}} {count}");
        }

        Value(
            "clients_vanished_total", "counter", "Clients that were gone before their answer was complete.",
            Interlocked.Read(ref _vanished));
        Value("prompt_tokens_total", "counter", "Tokens of prompts.", counts.PromptTokens);
        Value("cached_tokens_total", "counter", "Tokens of prompts that the state cache made superfluous.", counts.CachedTokens);
        Value("generated_tokens_total", "counter", "Tokens generated.", counts.GeneratedTokens);
        Value("steps_total", "counter", "Steps, each a token for every running text.", counts.Steps);
        Value("texts_running", "gauge", "Texts that are generated.", counts.Running);
        Value("texts_reading", "gauge", "Texts whose prompts are read.", counts.Reading);
        Value("texts_waiting", "gauge", "Texts that wait for a slot.", counts.Waiting);
        Value("texts_open", "gauge", "Texts that are read, generated, or wait.", generator.OpenCount);
        Value("slots", "gauge", "Texts that can be generated at a time.", generator.Options.Slots);
        Value("state_bytes", "gauge", "Bytes of a text's state.", generator.StateBytes);
        Value("cache_states", "gauge", "States in the cache.", generator.Options.Cache?.Count ?? 0);
        Value("cache_bytes", "gauge", "Bytes of the cache.", generator.Options.Cache?.SizeInBytes ?? 0);
        Bars("time_to_first_token_seconds", "From a request to the first token of a choice.", _firstToken);
        Bars("request_seconds", "From a request for texts to the end of its answer.", _whole);
        return text.ToString();

        void Head(string name, string type, string help) => text.Append($"# HELP xlstm_{name} {help}\n# TYPE xlstm_{name} {type}\n");

        void Line(FormattableString line) => text.Append(line.ToString(CultureInfo.InvariantCulture)).Append('\n');

        void Value(string name, string type, string help, long value)
        {
            Head(name, type, help);
            Line($"xlstm_{name} {value}");
        }

        void Bars(string name, string help, Histogram histogram)
        {
            Head(name, "histogram", help);
            var (buckets, sum) = histogram.Read();
            var below = 0L;
            for (var k = 0; k < Bounds.Length; k++)
            {
                below += buckets[k];
                Line($"xlstm_{name}_bucket{{le=\"{Bounds[k]}\"}} {below}");
            }

            Line($"xlstm_{name}_bucket{{le=\"+Inf\"}} {below + buckets[^1]}");
            Line($"xlstm_{name}_sum {sum:R}");
            Line($"xlstm_{name}_count {below + buckets[^1]}");
        }
    }

    private sealed class Histogram
    {
        private readonly Lock _lock = new();
        private readonly long[] _buckets = new long[Bounds.Length + 1];
        private double _sum;

        public void Add(double value)
        {
            var bucket = Array.FindIndex(Bounds, bound => value <= bound);
            lock (_lock)
            {
                _buckets[bucket < 0 ? Bounds.Length : bucket]++;
                _sum += value;
            }
        }

        public (long[] Buckets, double Sum) Read()
        {
            lock (_lock)
            {
                return ([.. _buckets], _sum);
            }
        }
    }
}
