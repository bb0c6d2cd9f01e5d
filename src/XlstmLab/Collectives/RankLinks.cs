using System.Buffers;
using System.Buffers.Binary;
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Security.Cryptography;
using System.Text;

namespace XlstmLab.Collectives;

/// <summary>
/// The TCP connections of a rank: rank 0 has two to each other rank, one for what they do together, and one by which the end of a process,
/// or its reason, is known at once.
/// </summary>
/// <remarks>Rank 0 takes in who proves by a keyed hash that it knows the secret, and proves the same; nobody else is answered.</remarks>
internal sealed class RankLinks : IDisposable
{
    private const int Nonce = 32;
    private const int Greeting = 4 + 1 + 4 + 4 + Nonce + 32;
    private const int Header = 16;
    private const int MostGathered = 1 << 24; // bytes
    private const int Chunk = 1 << 20; // bytes
    private const byte Bye = (byte)'B';
    private const byte Failure = (byte)'F';
    private const int MostReason = 4096; // bytes
    private static readonly byte[] Magic = "XLR1"u8.ToArray();
    private static readonly TimeSpan GreetingLimit = TimeSpan.FromSeconds(5);

    private readonly RankPlace _place;
    private readonly Socket?[] _data;
    private readonly Socket?[] _watch;
    private readonly List<Thread> _watchers = [];
    private readonly ManualResetEventSlim _isLost = new();
    private readonly Lock _gate = new();
    private string? _lost;
    private volatile bool _isDisposed;
    private uint _sequence;

    private RankLinks(RankPlace place) => (_place, _data, _watch) = (place, new Socket?[place.World], new Socket?[place.World]);

    private enum Frame : uint
    {
        Part = 1,
        Whole = 2,
    }

    public int Rank => _place.Rank;

    public int World => _place.World;

    public RankPlace Place => _place;

    /// <summary>Called once, by a thread of this class, when another rank is gone.</summary>
    public Action? Lost { get; set; }

    /// <summary>Has the ranks meet.</summary>
    /// <param name="place">Which this is, with port and secret.</param>
    /// <param name="listener">The socket that rank 0 listens on already; null to listen at the place's port.</param>
    /// <param name="cancellationToken">Gives up.</param>
    /// <exception cref="CollectiveException">Some did not come in time, or are not those that were meant.</exception>
    public static RankLinks Open(RankPlace place, Socket? listener, CancellationToken cancellationToken)
    {
        var links = new RankLinks(place);
        try
        {
            if (place.Rank == 0)
            {
                using var own = listener ?? Listen(place);
                links.Receive(own, cancellationToken);
            }
            else
            {
                links._watch[0] = links.Connect(isWatch: true, cancellationToken);
                links._data[0] = links.Connect(isWatch: false, cancellationToken);
            }

            links.Watch();
            return links;
        }
        catch
        {
            links.Dispose();
            throw;
        }
    }

    /// <summary>A socket that rank 0 listens on.</summary>
    /// <exception cref="CollectiveException">The port is taken.</exception>
    public static Socket Listen(RankPlace place)
    {
        var isHere = place.Host is "127.0.0.1" or "localhost";
        var socket = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        try
        {
            socket.Bind(new IPEndPoint(isHere ? IPAddress.Loopback : IPAddress.Any, place.Port));
            socket.Listen(2 * place.World + 8);
            return socket;
        }
        catch (SocketException e)
        {
            socket.Dispose();
            throw new CollectiveException(
                $"Rank 0 cannot listen on port {place.Port} ({e.Message}): set {RankPlace.PortVariable} to a free one for all ranks.", e);
        }
    }

    /// <summary>Why a rank is gone, as an exception; nothing while none is.</summary>
    public void ThrowIfLost()
    {
        if (_lost is { } reason)
        {
            throw new CollectiveException(reason);
        }
    }

    /// <summary>What each rank says, told to all.</summary>
    public byte[][] Gather(ReadOnlySpan<byte> own)
    {
        var all = new byte[World][];
        all[Rank] = own.ToArray();
        _sequence++;
        if (Rank != 0)
        {
            SendWhole(0, own);
            for (var rank = 0; rank < World; rank++)
            {
                all[rank] = ReceiveWhole(0);
            }

            return all;
        }

        for (var rank = 1; rank < World; rank++)
        {
            all[rank] = ReceiveWhole(rank);
        }

        for (var rank = 1; rank < World; rank++)
        {
            foreach (var said in all)
            {
                SendWhole(rank, said);
            }
        }

        return all;
    }

    /// <summary>Gives memory on all ranks the bytes that it has on one.</summary>
    public void Broadcast(RawMemory memory, int root)
    {
        _sequence++;
        if (Rank == root && root != 0)
        {
            SendPart(0, [memory]);
        }
        else if (Rank == 0 && root != 0)
        {
            ReceivePart(root, [memory], adds: false);
        }

        if (Rank == 0)
        {
            for (var rank = 1; rank < World; rank++)
            {
                if (rank != root)
                {
                    SendPart(rank, [memory]);
                }
            }
        }
        else if (Rank != root)
        {
            ReceivePart(0, [memory], adds: false);
        }
    }

    /// <summary>
    /// Replaces memory by its sum over the ranks: rank 0 adds what the others send in their order, and tells the sums, so that all have the
    /// same bits at every run.
    /// </summary>
    public void AllReduce(IReadOnlyList<RawMemory> memory)
    {
        _sequence++;
        if (Rank != 0)
        {
            SendPart(0, memory);
            ReceivePart(0, memory, adds: false);
            return;
        }

        for (var rank = 1; rank < World; rank++)
        {
            ReceivePart(rank, memory, adds: true);
        }

        for (var rank = 1; rank < World; rank++)
        {
            SendPart(rank, memory);
        }
    }

    /// <summary>Tells the others that this rank ends, and why.</summary>
    public void Fail(string reason)
    {
        var told = Encoding.UTF8.GetBytes($"Rank {Rank} of {World} has ended: {reason}");
        TellAll(Failure, told.AsSpan(0, Math.Min(told.Length, MostReason)), except: Rank);
    }

    public void Dispose()
    {
        if (_isDisposed)
        {
            return;
        }

        _isDisposed = true;
        TellAll(Bye, [], except: Rank);
        foreach (var socket in _data.Concat(_watch))
        {
            socket?.Dispose();
        }

        foreach (var thread in _watchers)
        {
            if (thread != Thread.CurrentThread)
            {
                thread.Join();
            }
        }
    }

    private static string Seconds(TimeSpan time) => time.TotalSeconds.ToString("0.###", CultureInfo.InvariantCulture);

    private static byte[] Proof(string token, string who, params byte[][] said) =>
        HMACSHA256.HashData(Encoding.UTF8.GetBytes(token), (byte[])[.. Encoding.ASCII.GetBytes(who), .. said.SelectMany(part => part)]);

    private static byte[] ReadExactly(Socket socket, int count)
    {
        var bytes = new byte[count];
        ReceiveAll(socket, bytes);
        return bytes;
    }

    private static void ReceiveAll(Socket socket, Span<byte> bytes)
    {
        while (bytes.Length > 0)
        {
            var got = socket.Receive(bytes);
            bytes = got > 0 ? bytes[got..] : throw new SocketException((int)SocketError.ConnectionReset);
        }
    }

    private static void SendAll(Socket socket, ReadOnlySpan<byte> bytes)
    {
        while (bytes.Length > 0)
        {
            bytes = bytes[socket.Send(bytes)..];
        }
    }

    private static void Prepare(Socket socket, TimeSpan limit)
    {
        socket.NoDelay = true;
        socket.SetSocketOption(SocketOptionLevel.Socket, SocketOptionName.KeepAlive, true);
        socket.SetSocketOption(SocketOptionLevel.Tcp, SocketOptionName.TcpKeepAliveTime, 10);
        socket.SetSocketOption(SocketOptionLevel.Tcp, SocketOptionName.TcpKeepAliveInterval, 5);
        socket.SetSocketOption(SocketOptionLevel.Tcp, SocketOptionName.TcpKeepAliveRetryCount, 4);
        socket.ReceiveTimeout = socket.SendTimeout = (int)Math.Min(int.MaxValue, Math.Ceiling(limit.TotalMilliseconds));
    }

    /// <summary>Rank 0 waits for both connections of each other rank.</summary>
    private void Receive(Socket listener, CancellationToken cancellationToken)
    {
        var end = DateTime.UtcNow + _place.Timeout;
        while (Missing() is { Length: > 0 } missing)
        {
            cancellationToken.ThrowIfCancellationRequested();
            var left = end - DateTime.UtcNow;
            if (left <= TimeSpan.Zero)
            {
                throw new CollectiveException(
                    $"Rank 0 has waited {Seconds(_place.Timeout)} s for {(missing.Length == 1 ? "rank" : "ranks")} "
                    + $"{string.Join(", ", missing)} of {World}: they did not start, cannot reach this host, or do not know the secret.");
            }

            if (!listener.Poll(TimeSpan.FromMilliseconds(Math.Min(100, left.TotalMilliseconds)), SelectMode.SelectRead))
            {
                continue;
            }

            var socket = listener.Accept();
            try
            {
                Greet(socket);
            }
            catch (SocketException)
            {
                socket.Dispose(); // a stranger who says nothing, or hangs up
            }
            catch
            {
                socket.Dispose();
                throw;
            }
        }
    }

    private int[] Missing() => [.. Enumerable.Range(1, World - 1).Where(rank => _data[rank] is null || _watch[rank] is null)];

    private void Greet(Socket socket)
    {
        Prepare(socket, GreetingLimit);
        var nonce = RandomNumberGenerator.GetBytes(Nonce);
        SendAll(socket, nonce);
        var greeting = ReadExactly(socket, Greeting);
        var said = greeting[..^32];
        if (!said.AsSpan(0, Magic.Length).SequenceEqual(Magic)
            || !CryptographicOperations.FixedTimeEquals(greeting.AsSpan(said.Length), Proof(_place.Token, "rank", nonce, said)))
        {
            socket.Dispose();
            return;
        }

        var links = said[4] != 0 ? _watch : _data;
        var rank = BinaryPrimitives.ReadInt32LittleEndian(said.AsSpan(5));
        var world = BinaryPrimitives.ReadInt32LittleEndian(said.AsSpan(9));
        if (world != World || rank < 1 || rank >= World)
        {
            throw new CollectiveException(
                $"A process came as rank {rank} of {world}, and this is rank 0 of {World}: start all ranks for the same number.");
        }

        if (links[rank] is not null)
        {
            throw new CollectiveException($"Two processes came as rank {rank} of {World}: each rank is started once.");
        }

        SendAll(socket, Proof(_place.Token, "root", said));
        Prepare(socket, _place.Timeout);
        links[rank] = socket;
    }

    private Socket Connect(bool isWatch, CancellationToken cancellationToken)
    {
        var end = DateTime.UtcNow + _place.Timeout;
        while (true)
        {
            cancellationToken.ThrowIfCancellationRequested();
            var socket = new Socket(SocketType.Stream, ProtocolType.Tcp);
            var isThere = false;
            try
            {
                socket.Connect(_place.Host, _place.Port);
                isThere = true;
                Prepare(socket, _place.Timeout);
                var nonce = ReadExactly(socket, Nonce);
                var said = new byte[Greeting - 32];
                Magic.CopyTo(said, 0);
                said[4] = isWatch ? (byte)1 : (byte)0;
                BinaryPrimitives.WriteInt32LittleEndian(said.AsSpan(5), Rank);
                BinaryPrimitives.WriteInt32LittleEndian(said.AsSpan(9), World);
                RandomNumberGenerator.Fill(said.AsSpan(13));
                SendAll(socket, [.. said, .. Proof(_place.Token, "rank", nonce, said)]);
                if (!CryptographicOperations.FixedTimeEquals(ReadExactly(socket, 32), Proof(_place.Token, "root", said)))
                {
                    throw new CollectiveException(
                        $"Whoever listens at {_place.Host}:{_place.Port} is not rank 0 of these ranks: it does not know the secret.");
                }

                return socket;
            }
            catch (SocketException e)
            {
                socket.Dispose();
                if (isThere)
                {
                    throw new CollectiveException(
                        $"Rank 0 at {_place.Host}:{_place.Port} has not taken rank {Rank} of {World} in: it has another secret, "
                        + "was started for another number of ranks, or has ended.",
                        e);
                }

                if (DateTime.UtcNow >= end)
                {
                    throw new CollectiveException(
                        $"Rank {Rank} of {World} has tried for {Seconds(_place.Timeout)} s to reach rank 0 at {_place.Host}:{_place.Port} "
                        + $"({e.Message}): it did not start, or a firewall is between them.",
                        e);
                }

                cancellationToken.WaitHandle.WaitOne(TimeSpan.FromMilliseconds(50));
            }
            catch
            {
                socket.Dispose();
                throw;
            }
        }
    }

    /// <summary>Listens for the end of other ranks.</summary>
    private void Watch()
    {
        for (var rank = 0; rank < World; rank++)
        {
            if (_watch[rank] is { } socket)
            {
                var of = rank;
                socket.ReceiveTimeout = 0;
                var thread = new Thread(() => Watch(of, socket)) { IsBackground = true, Name = $"watch of rank {of}" };
                _watchers.Add(thread);
                thread.Start();
            }
        }
    }

    private void Watch(int rank, Socket socket)
    {
        try
        {
            var kind = ReadExactly(socket, 1)[0];
            if (kind == Bye)
            {
                return;
            }

            var length = BinaryPrimitives.ReadInt32LittleEndian(ReadExactly(socket, 4));
            Lose(rank, kind == Failure && length is >= 0 and <= MostReason
                ? Encoding.UTF8.GetString(ReadExactly(socket, length))
                : $"Rank {rank} of {World} has said what no rank says: the ranks are of different versions.");
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException)
        {
            Lose(
                rank,
                $"Rank {rank} of {World} is gone: its process ended without a word, was killed, or its host cannot "
                + "be reached any more.");
        }
    }

    private void Lose(int rank, string reason)
    {
        lock (_gate)
        {
            if (_isDisposed || _lost is not null)
            {
                return;
            }

            _lost = reason;
        }

        // Who hears of it only through this rank is told; whoever waits for the lost one is woken.
        TellAll(Failure, Encoding.UTF8.GetBytes(reason), except: rank);
        Lost?.Invoke();
        _isLost.Set();
        foreach (var socket in _data)
        {
            try
            {
                socket?.Shutdown(SocketShutdown.Both);
            }
            catch (Exception e) when (e is SocketException or ObjectDisposedException)
            {
                // It is closed already.
            }
        }
    }

    private void TellAll(byte kind, ReadOnlySpan<byte> reason, int except)
    {
        var message = new byte[kind == Bye ? 1 : 5 + reason.Length];
        message[0] = kind;
        if (kind != Bye)
        {
            BinaryPrimitives.WriteInt32LittleEndian(message.AsSpan(1), reason.Length);
            reason.CopyTo(message.AsSpan(5));
        }

        for (var rank = 0; rank < World; rank++)
        {
            try
            {
                if (rank != except && _watch[rank] is { } socket)
                {
                    SendAll(socket, message);
                }
            }
            catch (Exception e) when (e is SocketException or ObjectDisposedException)
            {
                // It is gone too.
            }
        }
    }

    private void SendWhole(int peer, ReadOnlySpan<byte> bytes)
    {
        if (bytes.Length > MostGathered)
        {
            throw new ArgumentException($"A rank may say {MostGathered} bytes at once; this is {bytes.Length}.");
        }

        SendHeader(peer, Frame.Whole, bytes.Length);
        Send(peer, bytes);
    }

    private byte[] ReceiveWhole(int peer)
    {
        var length = ReceiveHeader(peer, Frame.Whole);
        if (length is < 0 or > MostGathered)
        {
            throw OutOfStep(peer, $"it announces {length} bytes");
        }

        var bytes = new byte[length];
        Receive(peer, bytes);
        return bytes;
    }

    private void SendPart(int peer, IReadOnlyList<RawMemory> memory)
    {
        SendHeader(peer, Frame.Part, memory.Sum(m => m.Bytes));
        foreach (var piece in memory.SelectMany(m => m.Pieces(Chunk)))
        {
            Send(peer, piece.Span);
        }
    }

    private void ReceivePart(int peer, IReadOnlyList<RawMemory> memory, bool adds)
    {
        var expected = memory.Sum(m => m.Bytes);
        var length = ReceiveHeader(peer, Frame.Part);
        if (length != expected)
        {
            throw OutOfStep(peer, $"it sends {length} bytes where this rank has {expected}");
        }

        var buffer = adds ? ArrayPool<byte>.Shared.Rent(Chunk) : [];
        try
        {
            foreach (var piece in memory.SelectMany(m => m.Pieces(Chunk)))
            {
                if (adds)
                {
                    Receive(peer, buffer.AsSpan(0, (int)piece.Bytes));
                    piece.Add(buffer);
                }
                else
                {
                    Receive(peer, piece.Span);
                }
            }
        }
        finally
        {
            if (adds)
            {
                ArrayPool<byte>.Shared.Return(buffer);
            }
        }
    }

    private void SendHeader(int peer, Frame kind, long length)
    {
        Span<byte> header = stackalloc byte[Header];
        BinaryPrimitives.WriteUInt32LittleEndian(header, (uint)kind);
        BinaryPrimitives.WriteUInt32LittleEndian(header[4..], _sequence);
        BinaryPrimitives.WriteInt64LittleEndian(header[8..], length);
        Send(peer, header);
    }

    private long ReceiveHeader(int peer, Frame kind)
    {
        Span<byte> header = stackalloc byte[Header];
        Receive(peer, header);
        var (sentKind, sequence) = (BinaryPrimitives.ReadUInt32LittleEndian(header), BinaryPrimitives.ReadUInt32LittleEndian(header[4..]));
        return sentKind == (uint)kind && sequence == _sequence
            ? BinaryPrimitives.ReadInt64LittleEndian(header[8..])
            : throw OutOfStep(peer, $"it is at message {sequence} of kind {sentKind}, this rank at {_sequence} of kind {(uint)kind}");
    }

    private CollectiveException OutOfStep(int peer, string how) => new(
        $"Rank {peer} of {World} is out of step with rank {Rank}: {how}. All ranks need the same program, settings and data.");

    private void Send(int peer, ReadOnlySpan<byte> bytes)
    {
        try
        {
            SendAll(_data[peer]!, bytes);
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException)
        {
            throw Gone(peer, e);
        }
    }

    private void Receive(int peer, Span<byte> bytes)
    {
        try
        {
            ReceiveAll(_data[peer]!, bytes);
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException)
        {
            throw Gone(peer, e);
        }
    }

    private CollectiveException Gone(int peer, Exception e)
    {
        if (e is SocketException { SocketErrorCode: SocketError.TimedOut or SocketError.WouldBlock })
        {
            return new(
                $"Rank {peer} of {World} has said nothing for {Seconds(_place.Timeout)} s: it hangs, or takes longer than it may. "
                + $"{RankPlace.TimeoutVariable} sets another limit, in seconds.",
                e);
        }

        // Why it is gone comes by the other connection, at about the same time.
        _isLost.Wait(TimeSpan.FromSeconds(2));
        return new(_lost ?? $"Rank {peer} of {World} has ended before rank {Rank} was done.", e);
    }
}
