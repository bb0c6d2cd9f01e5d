using static TorchSharp.torch;

namespace XlstmLab.Collectives;

/// <summary>One rank's part in a group of processes that compute together.</summary>
/// <remarks>
/// Every rank calls the same methods in the same order with tensors of the same types and sizes. A rank that is gone, or says nothing for
/// the group's time limit, makes the calls of all others fail with its name. One thread at a time.
/// </remarks>
public interface ICommunicator : IDisposable
{
    /// <summary>This process's number, from 0.</summary>
    int Rank { get; }

    /// <summary>The number of ranks.</summary>
    int World { get; }

    /// <summary>What moves the numbers, such as <c>NCCL 2.28.9</c>.</summary>
    string Name { get; }

    /// <summary>
    /// Begins to replace each tensor by its sum over all ranks, the same bits on each, beside what the caller does next. On a GPU it takes
    /// its place behind what was given to the calling thread's stream, and may become part of a graph that is being recorded there.
    /// </summary>
    /// <param name="values">
    /// Contiguous, float32, float64 or bfloat16, on the communicator's device; alive and left alone until <see cref="Finish"/>.
    /// </param>
    /// <exception cref="CollectiveException">A rank is gone.</exception>
    void BeginAllReduce(IReadOnlyList<Tensor> values);

    /// <summary>
    /// Whatever was begun is done for all that the caller does next: on a GPU for what is given to the calling thread's stream from now on.
    /// </summary>
    /// <exception cref="CollectiveException">A rank is gone, or out of step.</exception>
    void Finish();

    /// <summary>Gives a tensor on all ranks the bits that it has on one.</summary>
    /// <param name="values">Contiguous, of any type, in the host's memory or on the communicator's device.</param>
    /// <param name="root">The rank that has them.</param>
    /// <exception cref="CollectiveException">A rank is gone, or out of step.</exception>
    void Broadcast(Tensor values, int root);

    /// <summary>The same for several tensors, each with the rank that has its bits.</summary>
    /// <inheritdoc cref="Broadcast(Tensor, int)"/>
    void Broadcast(IReadOnlyList<(Tensor Values, int Root)> values)
    {
        ArgumentNullException.ThrowIfNull(values);
        foreach (var (tensor, root) in values)
        {
            Broadcast(tensor, root);
        }
    }

    /// <summary>What each rank says, in their order, told to all: a few bytes, by the host's network. It is a barrier too.</summary>
    /// <param name="own">What this rank says; each may say another length.</param>
    /// <exception cref="CollectiveException">A rank is gone, or out of step.</exception>
    IReadOnlyList<byte[]> Gather(ReadOnlySpan<byte> own);

    /// <summary>
    /// Waits for work of the device that other ranks take part in: where one of them is gone or too late, the work is given up, and this
    /// says so.
    /// </summary>
    /// <param name="wait">Waits for it.</param>
    /// <exception cref="CollectiveException">A rank is gone.</exception>
    T Await<T>(Func<T> wait);

    /// <summary>Tells the other ranks that this one cannot go on, and why: their calls fail with it.</summary>
    /// <param name="reason">What happened, for the user.</param>
    void Fail(string reason);
}
