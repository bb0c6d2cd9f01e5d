using System.Text.Json.Serialization;
using XlstmLab.Text;

namespace XlstmLab.Tasks;

/// <summary>
/// The word problem of S3: permutations of three things are applied one after another, and the answer is the permutation that they come to.
/// Regular, and the smallest group whose order of multiplication matters; Merrill et al. 2024; Grazzi et al. 2024.
/// </summary>
/// <remarks>
/// Tokens: [PAD], and the permutations, each written as the things in their places after it. <c>bac acb -> bca</c>: of abc the first
/// two change places, then those in the last two.
/// </remarks>
public sealed record SymmetricGroup : FormalTask
{
    private static readonly string[] Permutations = ["abc", "acb", "bac", "bca", "cab", "cba"];

    /// <summary>The product of two permutations: at [first, second] the permutation that applying first and then second comes to.</summary>
    private static readonly int[,] Products = Multiply();

    /// <inheritdoc/>
    [JsonIgnore]
    public override string Name => "s3";

    /// <inheritdoc/>
    [JsonIgnore]
    public override int VocabularySize => 1 + Permutations.Length;

    /// <inheritdoc/>
    [JsonIgnore]
    public override double Chance => 1.0 / Permutations.Length;

    /// <inheritdoc/>
    [JsonIgnore]
    public override int MinimumLength => 2;

    /// <inheritdoc/>
    public override string Text(int token) => token == 0 ? "[PAD]" : Permutations[token - 1];

    private protected override (int Question, int Answer) Write(ref SplitMix64 random, Span<int> row)
    {
        var question = row[..^1];
        var product = 0;
        for (var k = 0; k < question.Length; k++)
        {
            var permutation = random.Next(Permutations.Length);
            question[k] = 1 + permutation;
            product = Products[product, permutation];
        }

        row[^1] = 1 + product;
        return (question.Length, 1);
    }

    private static int[,] Multiply()
    {
        var products = new int[Permutations.Length, Permutations.Length];
        foreach (var (a, first) in Permutations.Index())
        {
            foreach (var (b, second) in Permutations.Index())
            {
                // Place k gets what was in the place that the second permutation names.
                products[a, b] = Array.IndexOf(Permutations, string.Concat(second.Select(place => first[place - 'a'])));
            }
        }

        return products;
    }
}
