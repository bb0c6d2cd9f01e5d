using System.Buffers.Binary;
using System.Runtime.InteropServices;
using XlstmLab.Native;
using Xunit;

namespace XlstmLab.Tests.Native;

public sealed unsafe class JumpLibraryTests
{
    private static readonly string[] Functions = ["second_of_two", "first_of_two", "another"];

    [Fact]
    public void Write_ForThisMachine_LoadsAndJumps()
    {
        Assert.SkipWhen(OperatingSystem.IsMacOS(), "Not written for macOS.");
        using var folder = new TempFolder();
        var system = OperatingSystem.IsWindows() ? OSPlatform.Windows : OSPlatform.Linux;
        File.WriteAllBytes(folder["jumps.bin"], JumpLibrary.Write(system, RuntimeInformation.ProcessArchitecture, Functions));
        var library = NativeLibrary.Load(folder["jumps.bin"]);
        var table = (nint*)NativeLibrary.GetExport(library, JumpLibrary.Table);
        table[0] = (nint)(delegate* unmanaged<long, long>)&Twice;
        table[1] = (nint)(delegate* unmanaged<int, double, int, double, long, long, long, long, double>)&Sum;
        table[2] = (nint)(delegate* unmanaged<long, long>)&Negative;

        Assert.Equal(14, ((delegate* unmanaged<long, long>)NativeLibrary.GetExport(library, "second_of_two"))(7));
        Assert.Equal(-7, ((delegate* unmanaged<long, long>)NativeLibrary.GetExport(library, "another"))(7));
        var sum =
            (delegate* unmanaged<int, double, int, double, long, long, long, long, double>)NativeLibrary.GetExport(library, "first_of_two");
        Assert.Equal(36.5, sum(1, 2, 3, 4.5, 5, 6, 7, 8));
        Assert.False(NativeLibrary.TryGetExport(library, "nothing", out _));
    }

    /// <summary>Every jump reads its own place of the table, wherever code and table lie.</summary>
    [Theory]
    [InlineData("linux", Architecture.X64)]
    [InlineData("linux", Architecture.Arm64)]
    [InlineData("windows", Architecture.X64)]
    [InlineData("windows", Architecture.Arm64)]
    public void Write_ForAnyMachine_EachJumpReadsItsPlace(string system, Architecture processor)
    {
        var image = JumpLibrary.Write(OSPlatform.Create(system), processor, Functions);
        var (code, codeAddress, table) = system == "linux" ? ElfPlaces(image) : PePlaces(image);

        for (var f = 0; f < Functions.Length; f++)
        {
            var jump = image.AsSpan(code + f * 16, 16);
            Assert.Equal(
                table + f * 8,
                processor == Architecture.X64
                    ? SlotOfX64(jump, codeAddress + f * 16) : SlotOfArm64(jump, codeAddress + f * 16));
        }
    }

    [Fact]
    public void Write_ForWhatItDoesNotKnow_SaysSo()
    {
        Assert.Contains("OSX", Assert.Throws<PlatformNotSupportedException>(
            () => JumpLibrary.Write(OSPlatform.OSX, Architecture.Arm64, Functions)).Message, StringComparison.OrdinalIgnoreCase);
        Assert.Contains("Wasm", Assert.Throws<PlatformNotSupportedException>(
            () => JumpLibrary.Write(OSPlatform.Linux, Architecture.Wasm, Functions)).Message, StringComparison.Ordinal);
    }

    private static (int Code, long CodeAddress, long Table) ElfPlaces(byte[] image)
    {
        // The second segment is code; the table follows the six entries of the dynamic section, which begin the third.
        long Word(int at) => BinaryPrimitives.ReadInt64LittleEndian(image.AsSpan(at));
        return ((int)Word(64 + 56 + 8), Word(64 + 56 + 16), Word(64 + 112 + 16) + 96);
    }

    private static (int Code, long CodeAddress, long Table) PePlaces(byte[] image)
    {
        int Word(int at) => BinaryPrimitives.ReadInt32LittleEndian(image.AsSpan(at));
        var sections = Word(0x3c) + 24 + 240;
        return (Word(sections + 20), Word(sections + 12), Word(sections + 80 + 12));
    }

    private static long SlotOfX64(ReadOnlySpan<byte> jump, long address)
    {
        Assert.Equal([0xf3, 0x0f, 0x1e, 0xfa, 0xff, 0x25], jump[..6].ToArray());
        return address + 10 + BinaryPrimitives.ReadInt32LittleEndian(jump[6..]);
    }

    private static long SlotOfArm64(ReadOnlySpan<byte> jump, long address)
    {
        var page = BinaryPrimitives.ReadUInt32LittleEndian(jump[4..]);
        var load = BinaryPrimitives.ReadUInt32LittleEndian(jump[8..]);
        Assert.Equal(0x90000010u, page & 0x9f00001f);
        Assert.Equal(0xf9400210u, load & 0xffc003ff);
        Assert.Equal(0xd61f0200u, BinaryPrimitives.ReadUInt32LittleEndian(jump[12..]));
        long pages = ((page >> 5 & 0x7ffff) << 2) | (page >> 29 & 3);
        return (address & ~0xfffL) + (pages << 12) + (load >> 10 & 0xfff) * 8;
    }

    [UnmanagedCallersOnly]
    private static long Twice(long value) => 2 * value;

    [UnmanagedCallersOnly]
    private static long Negative(long value) => -value;

    [UnmanagedCallersOnly]
    private static double Sum(int a, double b, int c, double d, long e, long f, long g, long h) => a + b + c + d + e + f + g + h;
}
