namespace XlstmLab.Native.Cuda;

/// <summary>How many threads a launch has, and what they share.</summary>
/// <param name="Blocks">Blocks in x, or in all where the others are 1.</param>
/// <param name="Threads">Threads of a block.</param>
/// <param name="SharedBytes">Dynamic shared memory of a block.</param>
internal readonly record struct LaunchShape(long Blocks, int Threads, int SharedBytes = 0)
{
    /// <summary>Blocks in y.</summary>
    public int BlocksY { get; init; } = 1;

    /// <summary>Blocks in z.</summary>
    public int BlocksZ { get; init; } = 1;

    /// <summary>Neighbouring blocks in x that reach each other's shared memory.</summary>
    public int Cluster { get; init; } = 1;

    /// <summary>
    /// Whether as much as there is of a multiprocessor's own memory is to be shared memory, and little of it a cache. Blocks of two kernels
    /// that want it divided in different ways are not there at the same time: the next one's then start when the last of one's have ended.
    /// </summary>
    public bool MostlyShared { get; init; }
}

/// <summary>What runs compiled kernels: a GPU, or in tests an emulator.</summary>
internal interface IKernelDevice
{
    /// <summary>Whether kernels may be launched on this tensor's memory.</summary>
    bool Serves(TorchSharp.torch.Tensor tensor);

    /// <summary>The number of multiprocessors, which tells how many blocks run at a time.</summary>
    int Multiprocessors(int device);

    /// <summary>The bytes of its memory.</summary>
    long Memory(int device);

    /// <summary>Compiles a source, or takes what an earlier call, or an earlier process, made of it.</summary>
    /// <param name="file">The source's name, such as <c>RmsNorm.cu</c>.</param>
    /// <param name="defines">Macros, <c>NAME=VALUE</c>, in a fixed order.</param>
    /// <param name="device">The index of the device.</param>
    /// <param name="function">The kernel.</param>
    nint Load(string file, IReadOnlyList<string> defines, int device, string function);

    /// <summary>
    /// Begins to compile a source, if nobody has, beside what else the program does; what becomes of it <see cref="Load"/> tells.
    /// </summary>
    /// <param name="file">The source's name.</param>
    /// <param name="defines">Macros, <c>NAME=VALUE</c>, in a fixed order.</param>
    /// <param name="device">The index of the device.</param>
    void Prepare(string file, IReadOnlyList<string> defines, int device);

    /// <summary>Why work cannot be recorded; null where it can.</summary>
    string? RecorderAbsence { get; }

    /// <summary>What records work of the calling thread, which from now on, until it is disposed, goes to a stream of its own.</summary>
    /// <param name="device">The index of the device.</param>
    IWorkRecorder Recorder(int device);

    /// <summary>Starts a kernel on the calling thread's stream, which libtorch uses too, and does not wait for it.</summary>
    /// <param name="function">What <see cref="Load"/> gave.</param>
    /// <param name="shape">Blocks and threads.</param>
    /// <param name="device">The index of the device.</param>
    /// <param name="arguments">The addresses of the arguments.</param>
    unsafe void Launch(nint function, LaunchShape shape, int device, void** arguments);
}

/// <summary>Work that was recorded, to be done as often as it is started.</summary>
internal interface IRecordedWork : IDisposable
{
    /// <summary>Starts it in the order of the calling thread's work, and does not wait for it.</summary>
    void Start();
}

/// <summary>Records work for one thread, which starts none of it before the one before is given to the device.</summary>
internal interface IWorkRecorder : IDisposable
{
    /// <summary>Records what <paramref name="work"/> gives to the device; it may be done then or not.</summary>
    /// <param name="work">The work; it was done before, so that nothing has to be compiled or looked up.</param>
    /// <exception cref="CudaException">It cannot be recorded; all is as before.</exception>
    IRecordedWork Record(Action work);
}
