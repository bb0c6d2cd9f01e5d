using System.Numerics;
using System.Runtime.CompilerServices;
using System.Text.Json;
using System.Text.Json.Serialization;
using static TorchSharp.torch;

namespace XlstmLab.Mixers;

/// <summary>The configuration of a mixer: a record to vary by <c>with</c> that makes it.</summary>
/// <remarks>
/// One of your own needs <see cref="Create"/> alone; what it costs is then found out by making it once. Its properties with an <c>init</c>
/// are written to <c>config.json</c> in snake case, unless <see cref="JsonPropertyNameAttribute"/> says otherwise; to be read again, its
/// type must be known (<see cref="Know{T}"/>).
/// </remarks>
public abstract record MixerConfig
{
    /// <summary>
    /// The kind's name in <c>config.json</c>: by default the record's name in snake case, without <c>Mixer</c> and <c>Config</c>.
    /// </summary>
    [JsonIgnore]
    public virtual string Kind => MixerKinds.NameOf(GetType());

    /// <summary>The names of what the mixer shows an observer.</summary>
    [JsonIgnore]
    public virtual IReadOnlyList<string> Observables => [];

    /// <summary>Makes the mixer; its weights may be anything until it is initialised or loaded.</summary>
    /// <param name="site">Its place in a model.</param>
    public abstract Mixer Create(MixerSite site);

    /// <summary>Checks that the mixer can be made for a place.</summary>
    /// <param name="site">The place.</param>
    /// <exception cref="ConfigException">It cannot; the message names every value that is wrong.</exception>
    public virtual void Validate(MixerSite site)
    {
    }

    /// <summary>The number of its parameters; by default those of the mixer made.</summary>
    /// <param name="site">The place.</param>
    public virtual BigInteger CountParameters(MixerSite site) => Made(site, mixer => mixer.parameters().Sum(p => p.NumberOfElements));

    /// <summary>
    /// Floating-point operations for one token, forward, a multiply-add counting 2; by default 2 for each element of its matrices.
    /// </summary>
    /// <param name="site">The place.</param>
    /// <param name="length">The sequence's length S in tokens.</param>
    public virtual double ForwardFlopsPerToken(MixerSite site, long length) =>
        Made(site, mixer => mixer.parameters().Where(p => p.dim() >= 2).Sum(p => 2.0 * p.NumberOfElements));

    /// <summary>The bytes of what it keeps of one sequence, in float32; by default those of a token read.</summary>
    /// <param name="site">The place.</param>
    /// <param name="length">The tokens read so far.</param>
    public virtual BigInteger StateBytes(MixerSite site, long length) => Made(site, mixer =>
    {
        var kept = new Dictionary<string, Tensor>();
        var x = zeros(1, 1, site.Width);
        mixer.Forward(x, x, new MixerPass(after: kept) { Stream = site.StreamWidth == site.Width ? null : zeros(1, 1, site.StreamWidth) });
        return kept.Values.Sum(t => t.NumberOfElements * t.ElementSize);
    });

    /// <summary>
    /// Makes a type of mixer known, so that a <c>config.json</c> with its kind can be read; again for a newer one of the same kind.
    /// </summary>
    /// <typeparam name="T">The configuration's record.</typeparam>
    /// <exception cref="ArgumentException">The kind is one of the library's own.</exception>
    public static void Know<T>()
        where T : MixerConfig => MixerKinds.Know(typeof(T));

    /// <summary>Makes every mixer of a class library known.</summary>
    /// <param name="assembly">The library.</param>
    /// <returns>The names of their kinds.</returns>
    /// <exception cref="ArgumentException">It has none, or one of a kind that is the library's own.</exception>
    public static IReadOnlyList<string> KnowAll(System.Reflection.Assembly assembly) => MixerKinds.KnowAll(assembly);

    /// <summary>A mixer by its kind's name, as its record is made.</summary>
    /// <param name="kind">
    /// <c>mlstm</c> and <c>slstm</c> for those that the model's own properties describe, <c>attention</c>, <c>sliding_window</c>,
    /// <c>mlstm_window</c>, <c>gla</c>, <c>delta</c>, <c>gated_delta</c>, <c>mamba</c>, <c>mamba2</c>, <c>mamba3</c>, <c>lstm</c>,
    /// <c>gru</c>, or one that was made known. A hyphen counts as an underscore.
    /// </param>
    /// <exception cref="ConfigException">There is none of that name.</exception>
    public static implicit operator MixerConfig(string kind) => MixerKinds.ByName(kind);

    /// <summary>As the conversion.</summary>
    /// <param name="kind">The kind's name.</param>
    public static MixerConfig FromString(string kind) => MixerKinds.ByName(kind);

    private T Made<T>(MixerSite site, Func<Mixer, T> measure)
    {
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        using var mixer = Create(site);
        return measure(mixer);
    }
}

/// <summary>The mLSTM or sLSTM that the properties of the model's own configuration describe.</summary>
/// <param name="Name"><c>mlstm</c> or <c>slstm</c>.</param>
internal sealed record OwnMixer(string Name) : MixerConfig
{
    public static OwnMixer MLstm { get; } = new("mlstm");

    public static OwnMixer SLstm { get; } = new("slstm");

    public override string Kind => Name;

    public override Mixer Create(MixerSite site) => throw new InvalidOperationException(
        $"The {Name} of a model is described by the model's configuration.");
}

/// <summary>The kinds of mixers by their names.</summary>
internal static class MixerKinds
{
    private static readonly Lock Change = new();

    private static readonly Dictionary<string, Type> OfLibrary = new MixerConfig[]
    {
        new MLstmMixerConfig(), new SLstmMixerConfig(), new AttentionMixerConfig(), new SlidingWindowMixerConfig(),
        new MLstmWindowMixerConfig(), new GlaMixerConfig(), new DeltaMixerConfig(), new GatedDeltaMixerConfig(), new MambaMixerConfig(),
        new Mamba2MixerConfig(), new Mamba3MixerConfig(), new LstmMixerConfig(), new GruMixerConfig(),
    }.ToDictionary(config => config.Kind, config => config.GetType(), StringComparer.Ordinal);

    private static readonly Dictionary<string, Type> OfUsers = new(StringComparer.Ordinal);

    /// <summary>The names of all kinds.</summary>
    public static IReadOnlyList<string> Names
    {
        get
        {
            lock (Change)
            {
                return [.. OfLibrary.Keys, .. OfUsers.Keys];
            }
        }
    }

    /// <summary>The name that a record's type implies.</summary>
    public static string NameOf(Type type)
    {
        var name = type.Name;
        foreach (var ending in new[] { "Config", "Mixer" })
        {
            name = name.Length > ending.Length && name.EndsWith(ending, StringComparison.Ordinal) ? name[..^ending.Length] : name;
        }

        return JsonNamingPolicy.SnakeCaseLower.ConvertName(name);
    }

    public static void Know(Type type)
    {
        var kind = KindOf(type);
        if (OfLibrary.ContainsKey(kind))
        {
            throw new ArgumentException(
                $"{type.Name} has the kind '{kind}', which is the library's own; expected another name, by its property Kind.");
        }

        lock (Change)
        {
            OfUsers[kind] = type;
        }
    }

    public static IReadOnlyList<string> KnowAll(System.Reflection.Assembly assembly)
    {
        ArgumentNullException.ThrowIfNull(assembly);
        var types = assembly.GetExportedTypes()
            .Where(type => !type.IsAbstract && type.IsAssignableTo(typeof(MixerConfig)))
            .ToList();
        types.ForEach(Know);
        return types.Count > 0
            ? [.. types.Select(KindOf)]
            : throw new ArgumentException(
                $"{assembly.GetName().Name} has no mixer; expected a public record that derives from {nameof(MixerConfig)}.");
    }

    /// <summary>The record of a kind.</summary>
    /// <exception cref="ConfigException">There is none.</exception>
    public static Type TypeOf(string kind)
    {
        lock (Change)
        {
            return Find(kind) ?? Find(kind.Replace('-', '_')) ?? throw Unknown(kind);
        }

        static Type? Find(string name) => OfLibrary.GetValueOrDefault(name) ?? OfUsers.GetValueOrDefault(name);
    }

    /// <summary>The mixer of a kind as its record is made; the model's own mLSTM and sLSTM.</summary>
    /// <exception cref="ConfigException">There is none.</exception>
    public static MixerConfig ByName(string kind)
    {
        ArgumentNullException.ThrowIfNull(kind);
        return kind switch
        {
            "mlstm" => OwnMixer.MLstm,
            "slstm" => OwnMixer.SLstm,
            _ => TypeOf(kind) is var type && type.GetConstructor(Type.EmptyTypes) is null
                ? throw new ConfigException($"The mixer '{kind}' has no values of its own; expected an object with those of {type.Name}.")
                : (MixerConfig)Activator.CreateInstance(type)!,
        };
    }

    /// <summary>The kind of a record, which none of its values changes.</summary>
    private static string KindOf(Type type) => ((MixerConfig)RuntimeHelpers.GetUninitializedObject(type)).Kind;

    private static ConfigException Unknown(string kind)
    {
        var names = Names;
        return new(
            $"There is no mixer '{kind}'.{NearestName.Hint(kind, names)} Known are {string.Join(", ", names)}. "
            + "One of your own is known after MixerConfig.Know<ItsConfig>(), and to a command with --plugin its.dll.");
    }
}
