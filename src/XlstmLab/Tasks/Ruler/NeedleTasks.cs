namespace XlstmLab.Tasks.Ruler;

/// <summary>The eight needle tasks and variable tracking (Hsieh et al. 2024, sections 3.1 and 3.2).</summary>
/// <remarks>
/// Structure, counts and kinds of keys and values are RULER's; the sentences are our own, so that scores compare models run here and are
/// near to published ones, not the same to the digit.
/// </remarks>
internal static class NeedleTasks
{
    /// <summary>The number of depths that needles are hidden at, from 0 to 1 in even steps.</summary>
    private const int DepthCount = 40;

    private const int ChainLength = 5;

    private static readonly string[] NoiseSentences =
        ["The field is wide.", "The air is still.", "A cart rolls by.", "Far off a dog barks.", "Then all is quiet again."];

    private enum Kind
    {
        Noise,
        Essay,
        Needles,
    }

    /// <summary>A needle task's problem.</summary>
    public static RulerProblem Needles(RulerTask task, int length, int index, RulerOptions options)
    {
        var (kind, uuidKeys, uuidValues, keyCount, valuesPerKey, askedKeys) = task switch
        {
            RulerTask.NiahSingle1 => (Kind.Noise, false, false, 1, 1, 1),
            RulerTask.NiahSingle2 => (Kind.Essay, false, false, 1, 1, 1),
            RulerTask.NiahSingle3 => (Kind.Essay, false, true, 1, 1, 1),
            RulerTask.NiahMultikey1 => (Kind.Essay, false, false, 4, 1, 1),
            RulerTask.NiahMultikey2 => (Kind.Needles, false, false, 1, 1, 1),
            RulerTask.NiahMultikey3 => (Kind.Needles, true, true, 1, 1, 1),
            RulerTask.NiahMultivalue => (Kind.Essay, false, false, 1, 4, 1),
            RulerTask.NiahMultiquery => (Kind.Essay, false, false, 4, 1, 4),
            _ => throw new ArgumentOutOfRangeException(nameof(task), task, "This is no needle task."),
        };
        var random = new RulerRandom(options.Seed, task, length, index, RulerDraws.Problem);
        var (keyOrder, used) = (random.Permutation(RulerWords.PairCount), new HashSet<string>());
        var noun = uuidValues ? "identifier" : "number";
        var keys = Enumerable.Range(0, keyCount).Select(k => DrawKey(random, k)).ToArray();
        var answers = new List<string>();
        var needles = new List<string>();
        foreach (var key in keys.SelectMany(key => Enumerable.Repeat(key, valuesPerKey)))
        {
            answers.Add(DrawValue(random));
            needles.Add(Needle(key, answers[^1]));
        }

        // Those that are asked for come first.
        var asked = askedKeys * valuesPerKey;
        var depths = Depths(task, length, index, options, random);
        var hidden = needles.Select((needle, k) => (depths[k], needle)).ToArray();
        answers.RemoveRange(asked, answers.Count - asked);
        var query = askedKeys == 1 ? keys[0] : string.Join(", ", keys[..(askedKeys - 1)]) + " and " + keys[askedKeys - 1];
        var (head, tail) = asked == 1
            ? ($"A secret {noun} is hidden in the text below. Keep it in mind, since a question about it follows the text.\n",
                $"\nQuestion: What is the secret {noun} for {query} in the text?\nAnswer: The secret {noun} for {query} in the text is")
            : ($"Some secret {noun}s are hidden in the text below. Keep them in mind, since a question about them follows the text.\n",
                $"\nQuestion: What are all the secret {noun}s for {query} in the text?\n"
                + $"Answer: The secret {noun}s for {query} in the text are");
        var noise = new RulerRandom(options.Seed, task, length, index, RulerDraws.Noise);
        var start = kind == Kind.Essay ? SentenceStart(options.Haystack!, noise) : 0;
        var distractors = new List<string>();
        return new(1, length, " " + string.Join(", ", answers), Build);

        RulerDraft Build(int units)
        {
            while (kind == Kind.Needles && distractors.Count < units)
            {
                distractors.Add(Needle(DrawKey(noise, keyCount + distractors.Count), DrawValue(noise)));
            }

            var (text, places) = kind switch
            {
                Kind.Essay => Essay(options.Haystack!, start, units, hidden),
                Kind.Needles => Hay.Join(distractors[..units], '\n', hidden),
                Kind.Noise => Hay.Join(Noise(units), ' ', hidden),
                _ => throw UnknownValue.Of(kind),
            };
            return new(head, text, tail, answers, places[..asked]);
        }

        string DrawKey(RulerRandom source, int number) =>
            uuidKeys ? RulerRandom.Distinct(used, source.Uuid)
            : RulerWords.Key(number < keyOrder.Length ? keyOrder[number] : number);

        string DrawValue(RulerRandom source) => RulerRandom.Distinct(used, () => uuidValues ? source.Uuid() : source.Digits(7));

        string Needle(string key, string value) => $"One of the secret {noun}s for {key} is {value}.";
    }

    /// <summary>A problem of variable tracking: one chain, four hops.</summary>
    public static RulerProblem Variables(RulerTask task, int length, int index, RulerOptions options)
    {
        var random = new RulerRandom(options.Seed, task, length, index, RulerDraws.Problem);
        var (chain, build) = Chain(random, letters: 5);
        var example = "";
        if (options.Example)
        {
            var (solved, buildExample) = Chain(new(options.Seed, task, length, index, RulerDraws.Example), letters: 3);
            example = $"{buildExample(2 * NoiseSentences.Length, "").Text} {string.Join(", ", solved)}.\n\n";
        }

        return new(1, length, " " + string.Join(", ", chain), units => build(units, example));
    }

    private static (string[] Chain, Func<int, string, RulerDraft> Build) Chain(RulerRandom random, int letters)
    {
        var used = new HashSet<string>();
        var chain = Enumerable.Range(0, ChainLength).Select(_ => RulerRandom.Distinct(used, () => random.Letters('A', letters))).ToArray();
        var value = random.Digits(5);
        var depths = Enumerable.Range(0, ChainLength).Select(_ => random.NextDouble()).Order().ToArray();
        var hidden = chain.Select((name, k) => (depths[k], $"VAR {name} = {(k == 0 ? value : "VAR " + chain[k - 1])}.")).ToArray();
        return (chain, Build);

        RulerDraft Build(int units, string example)
        {
            var (text, places) = Hay.Join(Noise(units), ' ', hidden);
            return new(
                example + "A chain of variable assignments is hidden in the text below. Follow it.\n",
                text,
                $"\nQuestion: Which variables have the value {value}, whether given directly or by another variable?\n"
                + $"Answer: {ChainLength} variables have the value {value}, namely",
                chain,
                places);
        }
    }

    private static string[] Noise(int count) => [.. Enumerable.Range(0, count).Select(k => NoiseSentences[k % NoiseSentences.Length])];

    /// <summary>Words of a text from a sentence's start; at the text's end it goes on with its beginning.</summary>
    private static (string Text, (int Start, int Length)[] Hidden) Essay(
        Haystack haystack, int start, int count, IReadOnlyList<(double Depth, string Piece)> hidden)
    {
        var words = new string[count];
        for (var k = 0; k < count; k++)
        {
            words[k] = haystack.Words[(start + k) % haystack.Words.Count];
        }

        return Hay.Join(words, ' ', hidden, k => Haystack.EndsSentence(words[k - 1]));
    }

    private static int SentenceStart(Haystack haystack, RulerRandom random)
    {
        var start = random.Next(haystack.Words.Count);
        for (var k = start; k > 0; k--)
        {
            if (Haystack.EndsSentence(haystack.Words[k - 1]))
            {
                return k;
            }
        }

        return 0;
    }

    /// <summary>
    /// Each depth once, in random order. The first differs from sample to sample, so that as many samples as there are depths have it once
    /// at each.
    /// </summary>
    private static double[] Depths(RulerTask task, int length, int index, RulerOptions options, RulerRandom random)
    {
        var first = FirstDepth(task, length, index, options);
        var others = random.Permutation(DepthCount).Where(d => d != first);
        return [.. others.Prepend(first).Select(d => d / (DepthCount - 1.0))];
    }

    /// <summary>The depth of what is asked for first, from 0 to <see cref="DepthCount"/> - 1.</summary>
    private static int FirstDepth(RulerTask task, int length, int index, RulerOptions options) =>
        new RulerRandom(options.Seed, task, length, 0, RulerDraws.Depths).Permutation(DepthCount)[index % DepthCount];
}
