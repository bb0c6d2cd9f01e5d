using TorchSharp;
using XlstmLab.Models;
using XlstmLab.Native.Cuda;

namespace XlstmLab.Training;

/// <summary>One training of a group.</summary>
/// <param name="Name">What it is called in messages.</param>
/// <param name="Model">The architecture, from which its memory is estimated.</param>
/// <param name="Training">The configuration, likewise.</param>
/// <param name="Train">Makes the model, trains it and disposes of it, all on the calling thread.</param>
public sealed record GroupMember(
    string Name, LanguageModelConfig Model, TrainingConfig Training, Func<CancellationToken, TrainingResult> Train);

/// <summary>
/// What became of a training of a group: a result, a failure, or neither if it was not begun before the group was stopped.
/// </summary>
/// <param name="Name">The member's name.</param>
/// <param name="Result">The result, or null.</param>
/// <param name="Failure">What ended it, or null.</param>
public sealed record GroupOutcome(string Name, TrainingResult? Result, Exception? Failure);

/// <summary>
/// Trainings side by side in one process, of other seeds, rates or architectures: a small model alone leaves most of a GPU idle.
/// </summary>
/// <remarks>
/// Each has a thread, a stream, graphs and a run folder of its own. What one of them comes to, a divergence, a stop or its end, leaves the
/// others as they are; losses are those that each has alone, bit for bit.
/// </remarks>
public static class TrainingGroup
{
    /// <summary>The most trainings side by side: beyond it an H100 gains nothing.</summary>
    public const int Most = 8;

    /// <summary>
    /// How many trainings fit beside each other, at least 1 and at most <see cref="Most"/>; 1 on a CPU, which one of them fills.
    /// </summary>
    /// <param name="members">The trainings.</param>
    /// <param name="device">Where they are to run.</param>
    public static int SideBySide(IReadOnlyCollection<GroupMember> members, torch.Device device)
    {
        ArgumentNullException.ThrowIfNull(members);
        ArgumentNullException.ThrowIfNull(device);
        return device.type != DeviceType.CUDA || members.Count == 0 ? 1
            : SideBySide(members, Gpu.Memory(Math.Max(0, device.index)).Free);
    }

    /// <summary>The same for so many bytes.</summary>
    internal static int SideBySide(IReadOnlyCollection<GroupMember> members, double bytes)
    {
        var largest = members.Max(m => TrainingMemory.Estimate(m.Model, m.Training, bytes));
        return (int)Math.Clamp(Math.Floor(bytes / largest), 1, Math.Min(Most, members.Count));
    }

    /// <summary>Trains all, some side by side and each as soon as there is room; returns when all have ended.</summary>
    /// <param name="members">The trainings.</param>
    /// <param name="sideBySide">How many at a time, at least 1.</param>
    /// <param name="cancellationToken">Stops those that run, with their checkpoints; the others are not begun.</param>
    /// <returns>In the order of the members.</returns>
    public static IReadOnlyList<GroupOutcome> Run(
        IReadOnlyList<GroupMember> members, int sideBySide, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(members);
        ArgumentOutOfRangeException.ThrowIfLessThan(sideBySide, 1);
        if (sideBySide > 1)
        {
            // A mixer of the user's may need it, too.
            LinearAlgebra.EnsureLoaded();
        }

        var outcomes = members.Select(m => new GroupOutcome(m.Name, null, null)).ToArray();
        var next = -1;
        var threads = Enumerable.Range(0, Math.Min(sideBySide, members.Count))
            .Select(k => new Thread(Work) { Name = FormattableString.Invariant($"training {k + 1}"), IsBackground = true }).ToArray();
        Array.ForEach(threads, thread => thread.Start());
        Array.ForEach(threads, thread => thread.Join());
        return outcomes;

        void Work()
        {
            for (var k = Interlocked.Increment(ref next); k < members.Count; k = Interlocked.Increment(ref next))
            {
                if (!cancellationToken.IsCancellationRequested)
                {
                    outcomes[k] = Outcome(members[k], cancellationToken);
                }
            }
        }
    }

    private static GroupOutcome Outcome(GroupMember member, CancellationToken cancellationToken)
    {
        try
        {
            return new(member.Name, member.Train(cancellationToken), null);
        }
        catch (OperationCanceledException) when (cancellationToken.IsCancellationRequested)
        {
            return new(member.Name, null, null);
        }
#pragma warning disable CA1031 // Whatever it is, it belongs to one member, and is handed on as its outcome.
        catch (Exception e)
#pragma warning restore CA1031
        {
            return new(member.Name, null, e);
        }
    }
}
