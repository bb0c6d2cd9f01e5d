namespace XlstmLab.Operations;

/// <summary>Work in pieces, each of which writes what no other reads or writes.</summary>
internal interface ISharedWork
{
    /// <summary>Does a piece.</summary>
    void Do(int piece);
}

/// <summary>Threads that wait awake for the next work for a while: work of microseconds is worth sharing out with them.</summary>
/// <remarks>
/// The thread that shares its work out does pieces too, and waits only for those that another has begun. Work that comes while other work
/// is being done is done by its own thread alone.
/// </remarks>
internal static class WorkTeam
{
    /// <summary>How often a helper looks for work before it goes to sleep: some tenths of a millisecond.</summary>
    private const int Patience = 4000;

    private const int PieceBits = 16;
    private const long PieceMask = (1L << PieceBits) - 1;

    private static readonly Lock Turn = new();
    private static readonly object Bed = new();

    /// <summary>From the highest bits on: the work's number, its pieces, and the next of them that nobody has begun.</summary>
    private static long _ticket;

    private static ISharedWork? _work;
    private static int _open;
    private static int _helpers;
    private static int _wanted;
    private static int _asleep;
    private static Exception? _failure;

    /// <summary>Does all pieces.</summary>
    /// <param name="work">The work.</param>
    /// <param name="pieces">Their number, below 65,536.</param>
    /// <param name="threads">How many threads may do it.</param>
    public static void Run(ISharedWork work, int pieces, int threads)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(pieces, PieceMask);
        if (threads < 2 || pieces < 2 || !Turn.TryEnter())
        {
            for (var piece = 0; piece < pieces; piece++)
            {
                work.Do(piece);
            }

            return;
        }

        try
        {
            while (_helpers < threads - 1)
            {
                var number = _helpers++;
                new Thread(() => Help(number)) { IsBackground = true, Name = "XlstmLab token step" }.Start();
            }

            (_work, _failure) = (work, null);
            Volatile.Write(ref _wanted, threads - 1);
            Volatile.Write(ref _open, pieces);
            var next = (Volatile.Read(ref _ticket) >>> (2 * PieceBits)) + 1;
            Interlocked.Exchange(ref _ticket, (next << (2 * PieceBits)) | ((long)pieces << PieceBits));
            if (Volatile.Read(ref _asleep) > 0)
            {
                lock (Bed)
                {
                    Monitor.PulseAll(Bed);
                }
            }

            while (TryTake(out var piece))
            {
                Do(work, piece);
            }

            var spinner = new SpinWait();
            while (Volatile.Read(ref _open) > 0)
            {
                spinner.SpinOnce(sleep1Threshold: -1);
            }

            _work = null;
            if (_failure is { } failure)
            {
                throw new InvalidOperationException(failure.Message, failure);
            }
        }
        finally
        {
            Turn.Exit();
        }
    }

    private static void Help(int number)
    {
        var idle = 0;
        while (true)
        {
            if (IsWanted(number) && TryTake(out var piece))
            {
                // Whoever has taken a piece keeps the work from ending, and so what it is from changing.
                Do(_work!, piece);
                idle = 0;
            }
            else if (++idle < Patience)
            {
                Thread.SpinWait(8);
            }
            else
            {
                lock (Bed)
                {
                    // Counted before it looks once more: whoever has work afterwards sees that someone sleeps.
                    Interlocked.Increment(ref _asleep);
                    while (!IsWanted(number) || !IsOpen(Volatile.Read(ref _ticket)))
                    {
                        Monitor.Wait(Bed);
                    }

                    Interlocked.Decrement(ref _asleep);
                }

                idle = 0;
            }
        }
    }

    private static bool IsWanted(int helper) => helper < Volatile.Read(ref _wanted);

    private static bool IsOpen(long ticket) => Next(ticket) < (int)((ticket >> PieceBits) & PieceMask);

    private static int Next(long ticket) => (int)(ticket & PieceMask);

    private static bool TryTake(out int piece)
    {
        while (true)
        {
            var ticket = Volatile.Read(ref _ticket);
            piece = Next(ticket);
            if (!IsOpen(ticket))
            {
                return false;
            }

            if (Interlocked.CompareExchange(ref _ticket, ticket + 1, ticket) == ticket)
            {
                return true;
            }
        }
    }

    private static void Do(ISharedWork work, int piece)
    {
        try
        {
            work.Do(piece);
        }
        catch (Exception e)
        {
            _failure = e;
        }
        finally
        {
            Interlocked.Decrement(ref _open);
        }
    }
}
