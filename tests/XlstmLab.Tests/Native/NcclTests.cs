using System.ComponentModel;
using System.Diagnostics;
using XlstmLab.Native.Cuda;
using Xunit;

namespace XlstmLab.Tests.Native;

/// <summary>The calls of NCCL against a library in C that has its published interface and looks at what it is given.</summary>
public sealed class NcclTests
{
    private const string Source = """
        #include <stddef.h>
        #include <string.h>
        typedef struct { char internal[128]; } ncclUniqueId;
        static long seen[8];
        int ncclGetVersion(int* version) { *version = 22809; return 0; }
        const char* ncclGetErrorString(int code) { return code == 5 ? "invalid usage" : "some error"; }
        int ncclGetUniqueId(ncclUniqueId* id) { for (int k = 0; k < 128; k++) id->internal[k] = (char)(k * 3 + 1); return 0; }
        int ncclCommInitRank(void** comm, int ranks, ncclUniqueId id, int rank) {
            for (int k = 0; k < 128; k++) if (id.internal[k] != (char)(k * 3 + 1)) return 5;
            *comm = (void*)(long)(ranks * 1000 + rank); return 0; }
        int ncclCommAbort(void* comm) { return 0; }
        int ncclCommDestroy(void* comm) { return 0; }
        int ncclCommGetAsyncError(void* comm, int* error) { *error = (long)comm == 1 ? 6 : 0; return 0; }
        int ncclAllReduce(const void* send, void* receive, size_t count, int type, int op, void* comm, void* stream) {
            return send == receive && (long)send == 11 && count == 5000000000UL && type == 7 && op == 0 && (long)comm == 3001 && (long)stream == 13 ? 0 : 4; }
        int ncclBroadcast(const void* send, void* receive, size_t count, int type, int root, void* comm, void* stream) {
            return send == receive && (long)send == 11 && count == 5000000000UL && type == 1 && root == 2 && (long)comm == 3001 && (long)stream == 13 ? 0 : 4; }
        int ncclGroupStart(void) { return 0; }
        int ncclGroupEnd(void) { return 2; }
        """;

    [Fact]
    public void Calls_OfTheLibrary_HaveItsArgumentsAndTellItsErrors()
    {
        using var folder = new TempFolder();
        var (nccl, absence) = Nccl.Load([folder["none.so"], Compiled(folder, "whole", Source)]);
        Assert.True(nccl is not null, absence);
        Assert.Equal("2.28.9", nccl.Version);
        var id = nccl.NewId();
        Assert.Equal(Nccl.IdBytes, id.Length);
        var group = nccl.Join(id, 3, 1);
        Assert.Equal(3001, group);
        nccl.BeginTogether();
        nccl.AllReduce(11, 5_000_000_000, Nccl.DataType.Float32, group, 13);
        nccl.Broadcast(11, 5_000_000_000, 2, group, 13);
        Assert.Null(nccl.Fault(group));
        Assert.Contains("some error (6)", nccl.Fault(1), StringComparison.Ordinal);
        Assert.Contains(
            "NCCL could not begin what ranks do together: some error (2)",
            Assert.Throws<CudaException>(nccl.EndTogether).Message, StringComparison.Ordinal);
        id[127]++;
        Assert.Contains(
            "NCCL could not connect the GPUs: invalid usage (5)",
            Assert.Throws<CudaException>(() => nccl.Join(id, 3, 1)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Load_OtherLibraries_AreRefusedWithWords()
    {
        using var folder = new TempFolder();
        Assert.Contains(
            "has no ncclAllReduce",
            Nccl.Load([Compiled(folder, "other", Source.Replace("ncclAllReduce", "ncclOther", StringComparison.Ordinal))]).Absence,
            StringComparison.Ordinal);
        Assert.Contains(
            "is NCCL 2.9.6", Nccl.Load([Compiled(folder, "old", Source.Replace("22809", "20906", StringComparison.Ordinal))]).Absence,
            StringComparison.Ordinal);
        Assert.Contains("There is no NCCL", Nccl.Load([folder["none.so"]]).Absence, StringComparison.Ordinal);
    }

    [Fact]
    public void Candidates_OfAPyTorch_AreWherePipPutsThem() =>
        Assert.Equal(
            Path.Combine(Path.GetTempPath(), "site-packages", "nvidia", "nccl", "lib", "libnccl.so.2"),
            Nccl.Candidates(null, Path.Combine(Path.GetTempPath(), "site-packages", "torch", "lib"))[0]);

    private static string Compiled(TempFolder folder, string name, string source)
    {
        var file = folder.Write($"{name}.c", source);
        var library = folder[$"{name}.so"];
        try
        {
            using var compiler = Process.Start("cc", ["-shared", "-fPIC", "-o", library, file]);
            Assert.True(compiler.WaitForExit(TimeSpan.FromSeconds(60)) && compiler.ExitCode == 0, "The C compiler failed.");
        }
        catch (Win32Exception)
        {
            Assert.Skip("There is no C compiler 'cc'.");
        }

        return library;
    }
}
