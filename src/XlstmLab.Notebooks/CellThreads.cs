using System.Runtime;
using XlstmLab.Training;

namespace XlstmLab.Notebooks;

/// <summary>
/// Runs code of cells on threads of their own, so that an interrupt ends a cell that never looks at a token, such as an endless loop. The
/// engine alone would hang after it.
/// </summary>
internal sealed class CellThreads
{
    private const int StackBytes = 16 << 20;

    private Task _last = Task.CompletedTask;

    /// <summary>Whether code that cannot be aborted still runs.</summary>
    public bool HasAbandoned { get; private set; }

    /// <summary>Waits until the last code has ended or has been abandoned.</summary>
    public Task EndAsync() => _last;

    /// <summary>Runs code of a cell.</summary>
    /// <param name="code">The code.</param>
    /// <param name="cell">What it belongs to.</param>
    /// <param name="canLeave">
    /// Whether it is left to itself when it does not end. F# Interactive must be: an abort inside it hangs or ends the process.
    /// </param>
    public Task RunAsync(Func<Task> code, CellContext? cell, bool canLeave) => _last = RunCodeAsync(code, cell, canLeave);

    /// <summary>Does something that is aborted, wherever it is, when a token says so.</summary>
    /// <param name="work">What a cell does: nothing that leaves the engine in pieces if it ends half-way.</param>
    /// <param name="abort">Aborts it.</param>
    /// <exception cref="OperationCanceledException">It was aborted.</exception>
    public static T Abortable<T>(Func<T> work, CancellationToken abort)
    {
        T result = default!;
#pragma warning disable SYSLIB0046 // The only way to stop a loop that asks nobody; the thread ends with the cell.
        ControlledExecution.Run(() => result = work(), abort);
#pragma warning restore SYSLIB0046
        return result;
    }

    /// <summary>
    /// Starts work as <see cref="Abortable"/> does and waits for its end on the calling thread. What it awaits cannot be aborted, and goes
    /// on by itself.
    /// </summary>
    /// <param name="work">What a cell does.</param>
    /// <param name="abort">Aborts it, or the wait.</param>
    /// <exception cref="OperationCanceledException">It was aborted, or left to itself.</exception>
    public static T Await<T>(Func<Task<T>> work, CancellationToken abort)
    {
        var task = Abortable(work, abort);
        Task.WaitAny([task], abort);
        return task.GetAwaiter().GetResult();
    }

    private async Task RunCodeAsync(Func<Task> code, CellContext? cell, bool canLeave)
    {
        HasAbandoned = false;
        TaskCompletionSource done = new(TaskCreationOptions.RunContinuationsAsynchronously);

        // A thread of its own leaves the scheduler's free and can be aborted without harm to a pool; deep recursion gets room.
        Thread thread = new(() =>
        {
            CellContext.Current = cell;
            TrainingWatch.Current = cell?.Trainings;
            CellConsole.Attach();
            try
            {
                code().GetAwaiter().GetResult();
                done.SetResult();
            }
            catch (OperationCanceledException) when (cell?.Cancellation.IsCancellationRequested == true)
            {
                done.SetResult();
            }
            catch (Exception e)
            {
                done.SetException(e);
            }
            finally
            {
                CellConsole.Detach();
            }
        }, StackBytes)
        {
            IsBackground = true,
            Name = "cell",
        };
        thread.Start();
        if (!canLeave || cell is null)
        {
            await done.Task.ConfigureAwait(false);
            return;
        }

        try
        {
            await done.Task.WaitAsync(cell.Abort).ConfigureAwait(false);
        }
        catch (OperationCanceledException) when (cell.Abort.IsCancellationRequested)
        {
            HasAbandoned = !done.Task.IsCompleted;
        }
    }
}
