using static TorchSharp.torch;

namespace XlstmLab.Models;

/// <summary>Evaluation mode for a while: nothing is dropped and no gradient kept; then every part is back in the mode it was in.</summary>
/// <remarks>
/// Whatever evaluates, generates or looks into a model enters it, whatever mode the model is in. It is held while something is computed,
/// never across a <c>yield</c> or an <c>await</c>: the caller's own code in between finds its model as it left it.
/// </remarks>
public sealed class EvaluationMode
{
    /// <summary>A part comes before its own parts.</summary>
    private readonly List<nn.Module> _parts = [];

    /// <summary>Looks up a model's parts, so that <see cref="Enter"/> costs little.</summary>
    /// <exception cref="ObjectDisposedException">The model was disposed.</exception>
    public EvaluationMode(nn.Module model)
    {
        ArgumentNullException.ThrowIfNull(model);
        (model as LanguageModel)?.ThrowIfDisposed();
        Collect(model);
    }

    /// <summary>Enters evaluation mode of a model once.</summary>
    /// <inheritdoc cref="EvaluationMode(nn.Module)" path="/exception"/>
    public static Scope Of(nn.Module model) => new EvaluationMode(model).Enter();

    /// <summary>Enters evaluation mode, until the scope is disposed, on the same thread.</summary>
    public Scope Enter()
    {
        var modes = _parts.Exists(part => part.training) ? _parts.ConvertAll(part => part.training) : null;
        if (modes is not null)
        {
            _parts[0].eval();
        }

        return new(_parts, modes, no_grad());
    }

    /// <summary>Leaves the modes as they are, and puts every part back into its own when the scope is disposed.</summary>
    internal Scope Keep() => new(_parts, _parts.ConvertAll(part => part.training), null);

    private void Collect(nn.Module part)
    {
        _parts.Add(part);
        foreach (var child in part.children())
        {
            Collect(child);
        }
    }

    /// <summary>The time in evaluation mode.</summary>
    public readonly struct Scope : IDisposable
    {
        private readonly List<nn.Module> _parts;
        private readonly List<bool>? _modes;
        private readonly IDisposable? _noGrad;

        internal Scope(List<nn.Module> parts, List<bool>? modes, IDisposable? noGrad) => (_parts, _modes, _noGrad) = (parts, modes, noGrad);

        /// <summary>Puts every part back.</summary>
        public void Dispose()
        {
            _noGrad?.Dispose();

            // A part's mode is set for all below it, which then get their own.
            for (var k = 0; k < (_modes?.Count ?? 0); k++)
            {
                _parts[k].train(_modes![k]);
            }
        }
    }
}
