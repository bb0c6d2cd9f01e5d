using System.Runtime.InteropServices;
using System.Security.Cryptography;
using System.Text;
using XlstmLab.Models;
using static TorchSharp.torch;

namespace XlstmLab.Checkpoints;

/// <summary>Which model something belongs to: a state, or the moments of an optimiser.</summary>
/// <remarks>
/// It covers the whole configuration and every byte of every tensor of the state dict, with names, types and shapes: two models of one
/// identity compute the same. All of the weights go through SHA-256, on all cores; those of a GPU are copied piece by piece.
/// </remarks>
/// <param name="Config">SHA-256 of the configuration's text, in hexadecimal.</param>
/// <param name="Weights">SHA-256 over all weights, in hexadecimal.</param>
public sealed record ModelIdentity(string Config, string Weights)
{
    private const long PieceBytes = 16 << 20;

    /// <summary>The identity of a model as it is now; another one after the next update of its weights.</summary>
    /// <exception cref="ObjectDisposedException">The model was disposed.</exception>
    public static ModelIdentity Of(LanguageModel model)
    {
        ArgumentNullException.ThrowIfNull(model);
        model.ThrowIfDisposed();
        var config = SHA256.HashData(Encoding.UTF8.GetBytes(ModelConfigJson.Text(model.Config)));
        return new(Convert.ToHexStringLower(config), HashOf(model.state_dict()));
    }

    /// <summary>SHA-256 over tensors with their names, types and shapes, in hexadecimal.</summary>
    internal static string HashOf(IReadOnlyDictionary<string, Tensor> tensors)
    {
        var ordered = tensors.OrderBy(t => t.Key, StringComparer.Ordinal).ToArray();
        var pieces = new List<(Tensor Tensor, long Start, long Count)>();
        foreach (var (_, tensor) in ordered)
        {
            var most = Math.Max(1, PieceBytes / tensor.ElementSize);
            for (var start = 0L; start < tensor.NumberOfElements; start += most)
            {
                pieces.Add((tensor, start, Math.Min(most, tensor.NumberOfElements - start)));
            }
        }

        var digests = new byte[pieces.Count][];
        Parallel.For(0, pieces.Count, k =>
        {
            using var scope = NewDisposeScope();
            var (tensor, start, count) = pieces[k];
            digests[k] = SHA256.HashData(tensor.detach().contiguous().view(-1).narrow(0, start, count).cpu().bytes);
        });
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        foreach (var (name, tensor) in ordered)
        {
            hash.AppendData(Encoding.UTF8.GetBytes($"{name}\n{tensor.dtype}\n"));
            hash.AppendData(MemoryMarshal.AsBytes(tensor.shape.AsSpan()));
        }

        foreach (var digest in digests)
        {
            hash.AppendData(digest);
        }

        return Convert.ToHexStringLower(hash.GetHashAndReset());
    }
}
