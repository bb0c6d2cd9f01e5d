using System.Numerics;
using System.Text.Json.Serialization;
using TorchSharp;
using XlstmLab.Layers;
using static TorchSharp.torch;

namespace XlstmLab.Models;

/// <summary>The architecture of a language model, as a record to vary by <c>with</c>.</summary>
/// <remarks>The JSON names of a derived record are those of its kind's Hugging Face <c>config.json</c>.</remarks>
public abstract record LanguageModelConfig
{
    /// <summary>The name of the kind of model, <c>model_type</c> in <c>config.json</c>.</summary>
    [JsonIgnore]
    public abstract string ModelType { get; }

    /// <summary>The number of token ids, V.</summary>
    [JsonIgnore]
    public abstract int VocabularySize { get; init; }

    /// <summary>The width of the residual stream, d.</summary>
    [JsonIgnore]
    public abstract int EmbeddingDim { get; init; }

    /// <summary>The number of blocks, L.</summary>
    [JsonIgnore]
    public abstract int BlockCount { get; init; }

    /// <summary>Whether the head uses the embedding's matrix.</summary>
    [JsonIgnore]
    public abstract bool TieWordEmbeddings { get; init; }

    /// <summary>The embedding's name in the state dict.</summary>
    [JsonIgnore]
    public virtual string EmbeddingName => "backbone.embeddings.weight";

    /// <summary>The parameters of embedding and head, one matrix if they are tied.</summary>
    internal BigInteger TableParameters => (BigInteger)VocabularySize * EmbeddingDim * (TieWordEmbeddings ? 1 : 2);

    /// <summary>Checks that a model of these values can be built.</summary>
    /// <exception cref="ConfigException">It cannot; the message names every value that is wrong.</exception>
    public abstract void Validate();

    /// <summary>Checks that a model of these values can be built, and that this machine's memory holds its parameters.</summary>
    /// <exception cref="ConfigException">It cannot, or does not.</exception>
    internal void ValidateToBuild()
    {
        Validate();
        MemoryNeed.RequireModel(this);
    }

    /// <summary>
    /// A model with fresh weights, initialised as the architecture's paper does, in training mode as every new module of torch.
    /// </summary>
    /// <param name="seed">Two models of one configuration and seed are equal.</param>
    /// <exception cref="ConfigException">The configuration cannot be.</exception>
    public abstract LanguageModel CreateModel(int seed = 0);

    /// <summary>
    /// A model whose weights are to be loaded: already where it shall be, projections and tables in a type of choice, and no number drawn.
    /// Until they are loaded, projections and tables hold anything.
    /// </summary>
    /// <param name="device">Where it shall be; null is the CPU.</param>
    /// <param name="projections">The type of projections and tables; norms, gates and biases are float32.</param>
    /// <exception cref="ConfigException">The configuration cannot be.</exception>
    internal LanguageModel CreateUnloaded(Device? device = null, ScalarType projections = ScalarType.Float32)
    {
        var place = new Parameters.Place(device ?? CPU, projections);
        var model = Parameters.Unloaded(place, () => CreateModel());

        // Buffers, what torch's own modules have, and all of an architecture that another program brings.
        model.to(place.Device);
        return model;
    }

    /// <summary>The number of parameters, without building the model.</summary>
    public abstract long CountParameters();

    /// <summary>
    /// Floating-point operations of a forward pass for one token of a sequence, a multiply-add counting 2; logits included, embedding,
    /// norms and residuals not.
    /// </summary>
    /// <param name="length">The sequence's length S in tokens.</param>
    public abstract double ForwardFlopsPerToken(long length);

    /// <summary>The bytes of what the model keeps of one sequence to go on from, in float32.</summary>
    /// <param name="length">The tokens read so far; only a cache of keys and values grows with them.</param>
    public abstract long StateBytes(long length);
}
