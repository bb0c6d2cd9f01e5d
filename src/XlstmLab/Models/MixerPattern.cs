using System.Collections;
using System.Globalization;
using System.Runtime.CompilerServices;
using System.Text.RegularExpressions;
using XlstmLab.Mixers;

namespace XlstmLab.Models;

/// <summary>Which mixer each block of a model has, compared by its values so that records that hold it compare as records do.</summary>
/// <remarks>
/// A pattern is made of a mixer, of a list of them, of their kinds' names, or of a text as <see cref="Parse"/> reads it:
/// <c>config with { Mixers = "attention" }</c>, <c>Mixers = "[7:1]"</c>, <c>Mixers = ["mlstm", new AttentionMixerConfig { HeadCount = 4
/// }]</c>.
/// </remarks>
[CollectionBuilder(typeof(MixerPattern), nameof(Create))]
public sealed partial class MixerPattern : IReadOnlyList<MixerConfig>, IEquatable<MixerPattern>
{
    private readonly MixerConfig[] _period;
    private readonly BlockList _slstmAt;

    private MixerPattern(MixerConfig[] period, BlockList slstmAt) => (_period, _slstmAt) = (period, slstmAt);

    /// <summary>The model's own mLSTM in every block.</summary>
    public static MixerPattern MLstm { get; } = new([OwnMixer.MLstm], BlockList.None);

    /// <summary>The number of mixers that the pattern repeats.</summary>
    public int Count => _period.Length;

    /// <summary>Whether there are mixers only that the model's own properties describe.</summary>
    public bool IsOwn => _period.All(mixer => mixer is OwnMixer);

    /// <inheritdoc/>
    public MixerConfig this[int index] => _period[index];

    /// <summary>A pattern of mixers that is repeated over the blocks.</summary>
    /// <param name="mixers">At least one; their number divides that of the blocks.</param>
    /// <exception cref="ConfigException">There is none.</exception>
    public static MixerPattern Create(ReadOnlySpan<MixerConfig> mixers)
    {
        if (mixers.IsEmpty)
        {
            throw new ConfigException("There is no mixer; expected at least one.");
        }

        foreach (var mixer in mixers)
        {
            ArgumentNullException.ThrowIfNull(mixer);
        }

        return mixers.IndexOfAnyExcept(mixers[0]) < 0 ? new([mixers[0]], BlockList.None) : new(mixers.ToArray(), BlockList.None);
    }

    /// <summary>The model's own sLSTM in some blocks, and its mLSTM in the others.</summary>
    public static MixerPattern WithSLstmAt(BlockList blocks) => new(
        [OwnMixer.MLstm], blocks ?? throw new ArgumentNullException(nameof(blocks)));

    /// <summary>A pattern from a text.</summary>
    /// <param name="text">
    /// A kind's name; names with commas between, as a list; or <c>A[a:b]B</c>: of every a + b blocks the first a have A and the last b have
    /// B, which may be left out and are then <c>mlstm</c> and <c>slstm</c>, as in xLSTM[7:1] (first paper, section 2.4).
    /// </param>
    /// <exception cref="ConfigException">It is none; the message names the kind that there is not.</exception>
    public static MixerPattern Parse(string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        if (Ratio().Match(text) is not { Success: true } ratio)
        {
            return Create([.. text.Split(',').Select(name => (MixerConfig)name.Trim())]);
        }

        var (first, last) = (Number(ratio.Groups[2]), Number(ratio.Groups[3]));
        return Create(
        [
            .. Enumerable.Repeat((MixerConfig)(ratio.Groups[1].Value is "" ? "mlstm" : ratio.Groups[1].Value), first),
            .. Enumerable.Repeat((MixerConfig)(ratio.Groups[4].Value is "" ? "slstm" : ratio.Groups[4].Value), last),
        ]);
    }

    /// <summary>As <see cref="Parse"/>.</summary>
    /// <param name="text">The text.</param>
    public static implicit operator MixerPattern(string text) => Parse(text);

    /// <summary>One mixer for all blocks.</summary>
    /// <param name="mixer">The mixer.</param>
    public static implicit operator MixerPattern(MixerConfig mixer) => Create([mixer]);

    /// <summary>As <see cref="Parse"/>.</summary>
    /// <param name="text">The text.</param>
    public static MixerPattern FromString(string text) => Parse(text);

    /// <summary>One mixer for all blocks.</summary>
    /// <param name="mixer">The mixer.</param>
    public static MixerPattern FromMixerConfig(MixerConfig mixer) => Create([mixer]);

    /// <summary>The blocks that were given as those with the model's own sLSTM.</summary>
    internal BlockList GivenSLstmAt => _slstmAt;

    /// <summary>The mixer of a block; <c>mlstm</c> and <c>slstm</c> stand for the model's own.</summary>
    internal MixerConfig At(int block) => _slstmAt.Contains(block) ? OwnMixer.SLstm : _period[block % _period.Length];

    /// <summary>The blocks with the model's own sLSTM; as they were given, if they were.</summary>
    internal BlockList SLstmAt(int blockCount) =>
        _slstmAt.Count > 0 || !_period.Contains(OwnMixer.SLstm)
            ? _slstmAt
            : [.. Enumerable.Range(0, blockCount).Where(block => At(block) == OwnMixer.SLstm)];

    /// <inheritdoc/>
    public bool Equals(MixerPattern? other) =>
        other is not null && _period.AsSpan().SequenceEqual(other._period) && _slstmAt.Equals(other._slstmAt);

    /// <inheritdoc/>
    public override bool Equals(object? obj) => Equals(obj as MixerPattern);

    /// <inheritdoc/>
    public override int GetHashCode() => _period.Aggregate(_slstmAt.GetHashCode(), HashCode.Combine);

    /// <inheritdoc/>
    public override string ToString() =>
        string.Join(", ", _period.Select(mixer => mixer.Kind)) + (_slstmAt.Count > 0 ? $", slstm at {_slstmAt}" : "");

    /// <inheritdoc/>
    public IEnumerator<MixerConfig> GetEnumerator() => _period.AsEnumerable().GetEnumerator();

    /// <inheritdoc/>
    IEnumerator IEnumerable.GetEnumerator() => GetEnumerator();

    private static int Number(Group group) => int.Parse(group.Value, NumberStyles.None, CultureInfo.InvariantCulture);

    [GeneratedRegex(@"^\s*([\w-]*)\s*\[(\d{1,4}):(\d{1,4})\]\s*([\w-]*)\s*$", RegexOptions.CultureInvariant)]
    private static partial Regex Ratio();
}
