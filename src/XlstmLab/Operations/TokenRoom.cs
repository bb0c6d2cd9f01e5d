using System.Runtime.CompilerServices;
using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>
/// What is remembered of each token, in memory with room for further ones: to append a token writes that token, and copies the others only
/// when the room is full.
/// </summary>
/// <remarks>
/// What was given stays as it is, since only places behind it are written, and each of those once: whoever appends to the same tokens a
/// second time gets a copy. So states can be forked as if they were copied.
/// </remarks>
internal static class TokenRoom
{
    private const long LeastRoom = 64;

    /// <summary>What lies in a room; of others' tensors nothing is known, and copies are such.</summary>
    private static readonly ConditionalWeakTable<Tensor, Room> Rooms = [];

    /// <summary>Puts tokens behind those before.</summary>
    /// <param name="before">[B, N, T, D], left as it is.</param>
    /// <param name="next">[B, N, S, D].</param>
    /// <returns>[B, N, T + S, D] in the type of the second, a part of a larger tensor unless gradients are recorded.</returns>
    public static Tensor Append(Tensor before, Tensor next)
    {
        var (length, more) = (before.shape[2], next.shape[2]);
        if (is_grad_enabled())
        {
            return cat([before.to(next.dtype), next], 2);
        }

        Tensor all;
        if (before.dtype == next.dtype && Rooms.TryGetValue(before, out var room) && room.Claims(length, length + more))
        {
            all = before.as_strided([.. before.shape[..2], length + more, before.shape[3]], before.stride(), before.storage_offset());
        }
        else
        {
            room = new(Size(length + more), length + more);
            all = empty([.. next.shape[..2], room.Length, next.shape[3]], next.dtype, next.device).narrow(2, 0, length + more);
            all.narrow(2, 0, length).copy_(before);
        }

        all.narrow(2, length, more).copy_(next);
        Rooms.Add(all, room);
        return all;
    }

    /// <summary>The places of a room that is half as large again as what is there.</summary>
    /// <param name="length">The tokens that are there.</param>
    public static long Size(long length) => length + Math.Max(LeastRoom, length / 2);

    /// <summary>A room that tensors of several states lie in, each a beginning of it.</summary>
    private sealed class Room(long length, long filled)
    {
        /// <summary>What is made in inference mode is written in that mode only.</summary>
        private readonly bool _isInference = is_inference_mode_enabled();

        private long _filled = filled;

        public long Length => length;

        /// <summary>Takes the places from one to another, if nobody has them and there are as many.</summary>
        public bool Claims(long from, long to) =>
            to <= length && _isInference == is_inference_mode_enabled() && Interlocked.CompareExchange(ref _filled, to, from) == from;
    }
}
