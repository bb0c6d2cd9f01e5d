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

    /// <summary>How long a cell may take to end by itself: the compiler must not be aborted in its caches.</summary>
    private static readonly TimeSpan Grace = TimeSpan.FromSeconds(1);

    private Task _last = Task.CompletedTask;

    /// <summary>Whether code that cannot be aborted still runs.</summary>
    public bool HasAbandoned { get; private set; }

    /// <summary>Waits until the last code has ended or has been abandoned.</summary>
    public Task EndAsync() => _last;

    /// <summary>Runs code of a cell.</summary>
    /// <param name="code">The code.</param>
    /// <param name="cell">What it belongs to.</param>
    /// <param name="canAbort">
    /// Whether it is aborted where it is. Inside F# Interactive that hangs or ends the process: there the code is left to itself.
    /// </param>
    /// <param name="leftBehind">Called when an interrupted cell awaits work that goes on, and the cell after it.</param>
    /// <param name="interruption">Interrupts it.</param>
    public Task RunAsync(Func<Task> code, CellContext? cell, bool canAbort, Action? leftBehind, CancellationToken interruption) =>
        _last = RunCodeAsync(code, cell, canAbort, leftBehind, interruption);

    private async Task RunCodeAsync(Func<Task> code, CellContext? cell, bool canAbort, Action? leftBehind, CancellationToken interruption)
    {
        HasAbandoned = false;
        TaskCompletionSource done = new(TaskCreationOptions.RunContinuationsAsynchronously);

        // Never disposed: the thread may outlive this call.
        CancellationTokenSource abort = new();
        using var registration = interruption.Register(() => abort.CancelAfter(Grace));

        // A thread of its own leaves the scheduler's free and can be aborted without harm to a pool; deep recursion gets room.
        Thread thread = new(() =>
        {
            CellContext.Current = cell;
            TrainingWatch.Current = cell is null ? null : cell.Watch;
            CellConsole.Attach();
            try
            {
                if (canAbort)
                {
                    Run(code, leftBehind, abort.Token);
                }
                else
                {
                    code().GetAwaiter().GetResult();
                }

                done.SetResult();
            }
            catch (OperationCanceledException) when (interruption.IsCancellationRequested)
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
        if (canAbort)
        {
            await done.Task.ConfigureAwait(false);
            return;
        }

        try
        {
            await done.Task.WaitAsync(abort.Token).ConfigureAwait(false);
        }
        catch (OperationCanceledException) when (abort.IsCancellationRequested)
        {
            HasAbandoned = !done.Task.IsCompleted;
        }
    }

    private static void Run(Func<Task> code, Action? leftBehind, CancellationToken abort)
    {
        Task? task = null;
#pragma warning disable SYSLIB0046 // The only way to stop a loop that asks nobody; the thread ends with the cell.
        ControlledExecution.Run(() => task = code(), abort);
#pragma warning restore SYSLIB0046
        try
        {
            Task.WaitAny([task!], abort);
        }
        catch (OperationCanceledException) when (!task!.IsCompleted)
        {
            // Code that is at its end takes the engine a moment more, in which no other cell may compile.
            if (Task.WaitAny([task!], Grace) < 0)
            {
                leftBehind?.Invoke();
                return;
            }
        }

        task!.GetAwaiter().GetResult();
    }
}
