using System.Collections.Concurrent;
using System.Reflection;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using TorchSharp;

namespace XlstmLab.Native;

/// <summary>Frees late what the garbage collector's finaliser lets go of TorchSharp's tensors and numbers.</summary>
/// <remarks>
/// TorchSharp hands native code the bare address of a tensor or a number, and nothing keeps the managed object alive during the call:
/// a collection in that moment finds it unused, its finaliser frees the native object, and libtorch goes on reading it. So the
/// functions by which TorchSharp frees (<see cref="Functions"/>) are bound to this class before their first call. What a finaliser
/// frees waits here until calls that could still hold it have ended; whatever is freed by <c>Dispose</c> or a scope is freed at once.
/// docs/torchsharp-finalizers.md tells the whole story.
/// </remarks>
internal static unsafe class LateFree
{
    /// <summary>How long something waits, in milliseconds: longer than a call to libtorch reads what a finaliser could free.</summary>
    private const long WaitMilliseconds = 10_000;

    /// <summary>
    /// The bytes of tensors that may wait so long. Beyond them tensors wait a second, and beyond four times as many a twentieth of one.
    /// </summary>
    private const long ManyBytes = 1L << 29;

    /// <summary>The functions that free what a bare address stands for and that TorchSharp's finalisers call.</summary>
    private static readonly (string Name, nint Late)[] Functions =
    [
        ("THSTensor_dispose", (nint)(delegate* unmanaged<nint, void>)&FreeTensor),
        ("THSTorch_dispose_scalar", (nint)(delegate* unmanaged<nint, void>)&FreeScalar),
        ("THSGenerator_dispose", (nint)(delegate* unmanaged<nint, void>)&FreeGenerator),
        ("THSAutograd_SavedVariable_dispose", (nint)(delegate* unmanaged<nint, void>)&FreeSavedVariable),
        ("THSJIT_CompilationUnit_dispose", (nint)(delegate* unmanaged<nint, void>)&FreeCompilationUnit),
    ];

    private static readonly ConcurrentQueue<Waiter> Tensors = new();
    private static readonly ConcurrentQueue<Waiter> Others = new();
    private static readonly Lock Gate = new();
    private static readonly Timer Alarm = new(static _ => Wake());
    private static readonly delegate* unmanaged<nint, void>[] Free = new delegate* unmanaged<nint, void>[Functions.Length];
    private static delegate* unmanaged<nint, long> _elements;
    private static delegate* unmanaged<nint, long> _elementSize;
    private static long _waitingBytes;
    private static long _freedLate;
    private static int _seen;
    private static int _alarmSet;
    private static int _collectionsBefore;
    private static volatile bool _finalizerKnown;
    private static bool _ending;

    [ThreadStatic]
    private static bool _isFinalizer;

    [ThreadStatic]
    private static bool _isBinding;

    private static nint _jumps;

    /// <summary>Why finalisers of TorchSharp free at once, as they do without this library; null where they free late.</summary>
    public static string? Absence { get; private set; } = "libtorch is not loaded.";

    /// <summary>What waits now, its bytes as far as they are tensors', and how many have been freed late so far.</summary>
    public static (int Things, long Bytes, long Freed) Counts =>
        (Tensors.Count + Others.Count, Interlocked.Read(ref _waitingBytes), Interlocked.Read(ref _freedLate));

    /// <summary>The library in which TorchSharp's import of this moment is to be looked up.</summary>
    public static nint Library(nint bridge) => _isBinding ? _jumps : bridge;

    /// <summary>
    /// Binds TorchSharp's freeing functions to this class. The resolver of TorchSharp's imports has to ask <see cref="Library"/>.
    /// </summary>
    /// <param name="bridge">TorchSharp's own library, loaded.</param>
    public static void Activate(nint bridge)
    {
        try
        {
            Absence = Bind(bridge);
        }
        catch (Exception e) when (e is PlatformNotSupportedException or IOException or UnauthorizedAccessException or DllNotFoundException
                                      or BadImageFormatException or EntryPointNotFoundException)
        {
            Absence = e.Message;
        }
    }

    private static string? Bind(nint bridge)
    {
        var imports = typeof(torch).Assembly.GetType("TorchSharp.PInvoke.NativeMethods");
        var methods =
            Functions.Select(f => imports?.GetMethod(f.Name, BindingFlags.Static | BindingFlags.NonPublic | BindingFlags.Public)).ToArray();
        if (Array.FindIndex(methods, m => m is null) is var missing and >= 0)
        {
            return $"this TorchSharp has no import {Functions[missing].Name}: it is another version than the one this library knows.";
        }

        _elements = (delegate* unmanaged<nint, long>)NativeLibrary.GetExport(bridge, "THSTensor_numel");
        _elementSize = (delegate* unmanaged<nint, long>)NativeLibrary.GetExport(bridge, "THSTensor_element_size");
        _jumps = NativeLibrary.Load(JumpLibrary.File("xlstm-jumps", [.. Functions.Select(f => f.Name)]));
        var table = (nint*)NativeLibrary.GetExport(_jumps, JumpLibrary.Table);
        for (var f = 0; f < Functions.Length; f++)
        {
            Free[f] = (delegate* unmanaged<nint, void>)NativeLibrary.GetExport(bridge, Functions[f].Name);
            table[f] = Functions[f].Late;
        }

        AppDomain.CurrentDomain.ProcessExit += static (_, _) => End();
        _collectionsBefore = GC.CollectionCount(0);
        LetTheFinalizerTellItsThread();
        _isBinding = true;
        try
        {
            foreach (var method in methods)
            {
                Marshal.Prelink(method!);
            }
        }
        finally
        {
            _isBinding = false;
        }

        // An import that was called before stays bound to where it went then.
        Scalar number = 1;
        number.Dispose();
        return (_seen & 1 << 1) != 0
            ? null : "TorchSharp was in use before this library was: touch XlstmLab first, by NativeTorch.EnsureLoaded() for example.";
    }

    [UnmanagedCallersOnly]
    private static void FreeTensor(nint handle) => FreeOrWait(0, handle);

    [UnmanagedCallersOnly]
    private static void FreeScalar(nint handle) => FreeOrWait(1, handle);

    [UnmanagedCallersOnly]
    private static void FreeGenerator(nint handle) => FreeOrWait(2, handle);

    [UnmanagedCallersOnly]
    private static void FreeSavedVariable(nint handle) => FreeOrWait(3, handle);

    [UnmanagedCallersOnly]
    private static void FreeCompilationUnit(nint handle) => FreeOrWait(4, handle);

    private static void FreeOrWait(int kind, nint handle)
    {
        // Before a first collection no finaliser has run; between it and the word of the finaliser's thread anything may be one.
        if (!_isFinalizer && (_finalizerKnown || GC.CollectionCount(0) == _collectionsBefore))
        {
            _seen |= 1 << kind;
            Free[kind](handle);
            return;
        }

        var waiter = new Waiter(kind, handle, kind == 0 ? _elements(handle) * _elementSize(handle) : 0, Environment.TickCount64);
        Interlocked.Add(ref _waitingBytes, waiter.Bytes);
        (kind == 0 ? Tensors : Others).Enqueue(waiter);
        FreeDue();
    }

    private static void FreeDue()
    {
        if (Gate.TryEnter())
        {
            try
            {
                while (!_ending && Tensors.TryPeek(out var oldest) && IsDue(oldest, TensorWait()))
                {
                    FreeFirst(Tensors);
                }

                while (!_ending && Others.TryPeek(out var oldest) && IsDue(oldest, WaitMilliseconds))
                {
                    FreeFirst(Others);
                }
            }
            finally
            {
                Gate.Exit();
            }
        }

        // What comes last has no later one to free it.
        if (!(Tensors.IsEmpty && Others.IsEmpty) && Interlocked.Exchange(ref _alarmSet, 1) == 0)
        {
            Alarm.Change(1000, Timeout.Infinite);
        }
    }

    /// <summary>
    /// Nothing waiting is freed any more, and what is being freed has been. The system takes all of it in a moment, and libtorch's memory
    /// of a GPU cannot be given back while CUDA's own libraries end: that is a C++ exception in a destructor, which ends the process as a
    /// crash.
    /// </summary>
    private static void End()
    {
        lock (Gate)
        {
            _ending = true;
        }
    }

    private static void Wake()
    {
        Volatile.Write(ref _alarmSet, 0);
        FreeDue();
    }

    private static long TensorWait() => Interlocked.Read(ref _waitingBytes) switch
    {
        > 4 * ManyBytes => 50,
        > ManyBytes => 1000,
        _ => WaitMilliseconds,
    };

    private static bool IsDue(Waiter waiter, long wait) => Environment.TickCount64 - waiter.Since >= wait;

    private static void FreeFirst(ConcurrentQueue<Waiter> queue)
    {
        if (queue.TryDequeue(out var waiter))
        {
            Interlocked.Add(ref _waitingBytes, -waiter.Bytes);
            Free[waiter.Kind](waiter.Handle);
            _freedLate++;
        }
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static void LetTheFinalizerTellItsThread() => _ = new FinalizerThread();

    private readonly record struct Waiter(int Kind, nint Handle, long Bytes, long Since);

    /// <summary>Nothing holds it: its finaliser runs after the first collection, on the thread of all finalisers.</summary>
    private sealed class FinalizerThread
    {
        ~FinalizerThread()
        {
            _isFinalizer = true;
            _finalizerKnown = true;
        }
    }
}
