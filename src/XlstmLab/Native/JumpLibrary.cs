using System.Buffers.Binary;
using System.Runtime.InteropServices;
using System.Security.Cryptography;
using System.Text;

namespace XlstmLab.Native;

/// <summary>
/// Writes a native library whose functions do nothing but jump: to the addresses in its table, which is filled in once it is loaded.
/// </summary>
/// <remarks>
/// An import of .NET is bound to a name in a library. A library with that name in it is thus a way to have an import of another
/// assembly arrive elsewhere, and one that needs no compiler, no access to code that is loaded, and nothing of the runtime's insides.
/// </remarks>
internal static class JumpLibrary
{
    /// <summary>The exported table: one address a function, in the order in which the functions were given.</summary>
    public const string Table = "xlstm_jump_table";

    private const int JumpBytes = 16;

    /// <summary>A library for this machine, in the user's cache.</summary>
    /// <param name="name">Its name, without what the system puts around it.</param>
    /// <param name="functions">The names of the functions.</param>
    /// <exception cref="PlatformNotSupportedException">Libraries of this system or processor are not known here.</exception>
    /// <exception cref="IOException">The cache cannot be written.</exception>
    public static string File(string name, IReadOnlyList<string> functions)
    {
        var system = OperatingSystem.IsWindows() ? OSPlatform.Windows : OperatingSystem.IsLinux() ? OSPlatform.Linux : OSPlatform.OSX;
        var image = Write(system, RuntimeInformation.ProcessArchitecture, functions);
        var file = Path.Combine(
            UserCache.Folder("native", Convert.ToHexStringLower(SHA256.HashData(image))[..16]), NativePlatform.Current.FileName(name));
        if (!System.IO.File.Exists(file))
        {
            var aside = $"{file}.tmp-{Guid.NewGuid():N}";
            System.IO.File.WriteAllBytes(aside, image);
            System.IO.File.Move(aside, file, overwrite: true);
        }

        return file;
    }

    /// <summary>The bytes of a library for <paramref name="system"/>.</summary>
    /// <param name="system">Linux (ELF) or Windows (PE).</param>
    /// <param name="processor">x64 or arm64.</param>
    /// <param name="functions">The names of the functions.</param>
    /// <exception cref="PlatformNotSupportedException">Libraries of that system or processor are not known here.</exception>
    public static byte[] Write(OSPlatform system, Architecture processor, IReadOnlyList<string> functions)
    {
        if (processor is not (Architecture.X64 or Architecture.Arm64))
        {
            throw new PlatformNotSupportedException($"No jump is known for a processor of the kind {processor}: x64 and arm64 are.");
        }

        return system == OSPlatform.Linux ? Elf(processor, functions)
            : system == OSPlatform.Windows ? Pe(processor, functions)
            : throw new PlatformNotSupportedException($"No library format is known for {system}: Linux's and Windows's are.");
    }

    /// <summary>ELF: one page of headers and names, one of code, one of data, all of the same few bytes of file.</summary>
    private static byte[] Elf(Architecture processor, IReadOnlyList<string> functions)
    {
        // The largest page that a kernel for arm64 has. A segment's address and its place in the file differ by a multiple of it.
        const int Page = 0x10000;
        const int HeaderBytes = 64, SegmentBytes = 56, SymbolBytes = 24, Segments = 5;
        var count = functions.Count;
        var symbols = HeaderBytes + Segments * SegmentBytes;
        var hash = symbols + (count + 2) * SymbolBytes;
        var names = hash + (2 + 1 + count + 2) * 4;
        using var strings = new MemoryStream();
        strings.WriteByte(0);
        var nameAt = functions.Append(Table).Select(name => AddName(strings, name)).ToArray();
        var code = Align(names + (int)strings.Length, JumpBytes);
        var data = code + count * JumpBytes;
        const int DynamicBytes = 6 * 16;
        var table = data + DynamicBytes;
        var image = new byte[table + count * 8];
        int codeAddress = Page + code, dataAddress = 2 * Page + data, tableAddress = 2 * Page + table;

        ReadOnlySpan<byte> identity = [0x7f, (byte)'E', (byte)'L', (byte)'F', 2, 1, 1];
        identity.CopyTo(image);
        Put16(image, 16, 3); // a shared object
        Put16(image, 18, processor == Architecture.X64 ? 62 : 183);
        Put32(image, 20, 1);
        Put64(image, 32, HeaderBytes);
        Put16(image, 52, HeaderBytes);
        Put16(image, 54, SegmentBytes);
        Put16(image, 56, Segments);
        Put16(image, 58, 64);

        const int Load = 1, Dynamic = 2, Stack = 0x6474e551, Execute = 1, WriteFlag = 2, Read = 4;
        PutSegment(0, Load, Read, 0, 0, code, Page);
        PutSegment(1, Load, Read | Execute, code, codeAddress, count * JumpBytes, Page);
        PutSegment(2, Load, Read | WriteFlag, data, dataAddress, image.Length - data, Page);
        PutSegment(3, Dynamic, Read | WriteFlag, data, dataAddress, DynamicBytes, 8);
        PutSegment(4, Stack, Read | WriteFlag, 0, 0, 0, 16);

        // Symbol 0 stands for none. A section of 1 says that a symbol is defined here and moves with the library.
        for (var s = 0; s <= count; s++)
        {
            var at = symbols + (s + 1) * SymbolBytes;
            var isTable = s == count;
            Put32(image, at, (uint)nameAt[s]);
            image[at + 4] = (byte)(isTable ? 0x11 : 0x12); // global object, global function
            Put16(image, at + 6, 1);
            Put64(image, at + 8, isTable ? tableAddress : codeAddress + s * JumpBytes);
            Put64(image, at + 16, isTable ? count * 8 : JumpBytes);
        }

        // A hash table of one bucket is a list.
        Put32(image, hash, 1);
        Put32(image, hash + 4, (uint)(count + 2));
        Put32(image, hash + 8, 1);
        for (var s = 1; s <= count; s++)
        {
            Put32(image, hash + 12 + s * 4, (uint)(s + 1));
        }

        strings.ToArray().CopyTo(image, names);
        WriteJumps(image.AsSpan(code), processor, codeAddress, tableAddress, count);
        (long Tag, long Value)[] entries = [(4, hash), (5, names), (6, symbols), (10, strings.Length), (11, SymbolBytes), (0, 0)];
        for (var e = 0; e < entries.Length; e++)
        {
            Put64(image, data + e * 16, entries[e].Tag);
            Put64(image, data + e * 16 + 8, entries[e].Value);
        }

        return image;

        void PutSegment(int index, uint type, uint flags, int offset, int address, int size, int align)
        {
            var at = HeaderBytes + index * SegmentBytes;
            Put32(image, at, type);
            Put32(image, at + 4, flags);
            Put64(image, at + 8, offset);
            Put64(image, at + 16, address);
            Put64(image, at + 24, address);
            Put64(image, at + 32, size);
            Put64(image, at + 40, size);
            Put64(image, at + 48, align);
        }
    }

    /// <summary>PE: sections for code, for exports with an empty list of relocations, and for data.</summary>
    private static byte[] Pe(Architecture processor, IReadOnlyList<string> functions)
    {
        const int FilePage = 0x200, Page = 0x1000, Signature = 0x80, Optional = Signature + 24, Sections = Optional + 240;
        const int CodeAddress = Page, ExportAddress = 2 * Page, DataAddress = 3 * Page, ExportHeader = 40;
        var count = functions.Count;

        // The loader searches names by halves: they are sorted as bytes.
        var exported = functions.Select((name, i) => (Name: name, Address: CodeAddress + i * JumpBytes))
            .Append((Name: Table, Address: DataAddress))
            .OrderBy(e => e.Name, StringComparer.Ordinal).ToArray();
        var lists = ExportHeader + exported.Length * 10;
        using var strings = new MemoryStream();
        var libraryName = AddName(strings, "xlstm-jumps.dll");
        var nameAt = exported.Select(e => AddName(strings, e.Name)).ToArray();
        var relocations = Align(lists + (int)strings.Length, 4);
        var exportBytes = relocations + 12;
        var codeFile = FilePage * 2;
        var exportFile = codeFile + Align(count * JumpBytes, FilePage);
        var dataFile = exportFile + Align(exportBytes, FilePage);
        var image = new byte[dataFile + Align(count * 8, FilePage)];

        "MZ"u8.CopyTo(image);
        Put32(image, 0x3c, Signature);
        "PE\0\0"u8.CopyTo(image.AsSpan(Signature));
        Put16(image, Signature + 4, processor == Architecture.X64 ? 0x8664 : 0xaa64);
        Put16(image, Signature + 6, 3);
        Put16(image, Signature + 20, 240);
        Put16(image, Signature + 22, 0x2022); // a library for 64 bits
        Put16(image, Optional, 0x20b);
        Put32(image, Optional + 4, (uint)Align(count * JumpBytes, FilePage));
        Put32(image, Optional + 8, (uint)(image.Length - exportFile));
        Put32(image, Optional + 20, CodeAddress);
        Put64(image, Optional + 24, 0x180000000);
        Put32(image, Optional + 32, Page);
        Put32(image, Optional + 36, FilePage);
        Put16(image, Optional + 40, 6);
        Put16(image, Optional + 48, 6);
        Put32(image, Optional + 56, DataAddress + Page);
        Put32(image, Optional + 60, FilePage * 2);
        Put16(image, Optional + 68, 2);
        Put16(image, Optional + 70, 0x160); // any address, no execution of data
        Put64(image, Optional + 72, 0x100000);
        Put64(image, Optional + 80, 0x1000);
        Put64(image, Optional + 88, 0x100000);
        Put64(image, Optional + 96, 0x1000);
        Put32(image, Optional + 108, 16);
        Put32(image, Optional + 112, ExportAddress);
        Put32(image, Optional + 116, (uint)relocations);
        Put32(image, Optional + 112 + 5 * 8, (uint)(ExportAddress + relocations));
        Put32(image, Optional + 116 + 5 * 8, 12);
        PutSection(0, ".text", CodeAddress, count * JumpBytes, codeFile, 0x60000020);
        PutSection(1, ".rdata", ExportAddress, exportBytes, exportFile, 0x40000040);
        PutSection(2, ".data", DataAddress, count * 8, dataFile, 0xc0000040);

        var addresses = exportFile + ExportHeader;
        var pointers = addresses + exported.Length * 4;
        var ordinals = pointers + exported.Length * 4;
        Put32(image, exportFile + 12, (uint)(ExportAddress + lists + libraryName));
        Put32(image, exportFile + 16, 1);
        Put32(image, exportFile + 20, (uint)exported.Length);
        Put32(image, exportFile + 24, (uint)exported.Length);
        Put32(image, exportFile + 28, (uint)(ExportAddress + addresses - exportFile));
        Put32(image, exportFile + 32, (uint)(ExportAddress + pointers - exportFile));
        Put32(image, exportFile + 36, (uint)(ExportAddress + ordinals - exportFile));
        for (var e = 0; e < exported.Length; e++)
        {
            Put32(image, addresses + e * 4, (uint)exported[e].Address);
            Put32(image, pointers + e * 4, (uint)(ExportAddress + lists + nameAt[e]));
            Put16(image, ordinals + e * 2, e);
        }

        strings.ToArray().CopyTo(image, exportFile + lists);

        // One block for the code's page whose two entries stand for nothing: without a list a library is taken for one that cannot move.
        Put32(image, exportFile + relocations, CodeAddress);
        Put32(image, exportFile + relocations + 4, 12);
        WriteJumps(image.AsSpan(codeFile), processor, CodeAddress, DataAddress, count);
        return image;

        void PutSection(int index, string name, int address, int size, int offset, uint flags)
        {
            var at = Sections + index * 40;
            Encoding.ASCII.GetBytes(name).CopyTo(image, at);
            Put32(image, at + 8, (uint)size);
            Put32(image, at + 12, (uint)address);
            Put32(image, at + 16, (uint)Align(size, FilePage));
            Put32(image, at + 20, (uint)offset);
            Put32(image, at + 36, flags);
        }
    }

    /// <summary>A jump a function, each to the address at its place in the table; arguments stay in the registers where they are.</summary>
    private static void WriteJumps(Span<byte> code, Architecture processor, int codeAddress, int tableAddress, int count)
    {
        for (var f = 0; f < count; f++)
        {
            var jump = code.Slice(f * JumpBytes, JumpBytes);
            int from = codeAddress + f * JumpBytes, slot = tableAddress + f * 8;
            if (processor == Architecture.X64)
            {
                // endbr64; jmp [rip + slot]; int3 ...
                jump.Fill(0xcc);
                ReadOnlySpan<byte> start = [0xf3, 0x0f, 0x1e, 0xfa, 0xff, 0x25];
                start.CopyTo(jump);
                BinaryPrimitives.WriteInt32LittleEndian(jump[6..], slot - (from + 10));
            }
            else
            {
                // bti c; adrp x16, page of slot; ldr x16, [x16, offset in page]; br x16
                var pages = (uint)((slot >> 12) - (from >> 12));
                BinaryPrimitives.WriteUInt32LittleEndian(jump, 0xd503245f);
                BinaryPrimitives.WriteUInt32LittleEndian(jump[4..], 0x90000010 | ((pages & 3) << 29) | (((pages >> 2) & 0x7ffff) << 5));
                BinaryPrimitives.WriteUInt32LittleEndian(jump[8..], 0xf9400210 | ((uint)((slot & 0xfff) / 8) << 10));
                BinaryPrimitives.WriteUInt32LittleEndian(jump[12..], 0xd61f0200);
            }
        }
    }

    private static int AddName(MemoryStream strings, string name)
    {
        var at = (int)strings.Length;
        strings.Write(Encoding.ASCII.GetBytes(name + '\0'));
        return at;
    }

    private static int Align(int value, int to) => (value + to - 1) / to * to;

    private static void Put16(byte[] image, int at, int value) => BinaryPrimitives.WriteUInt16LittleEndian(image.AsSpan(at), (ushort)value);

    private static void Put32(byte[] image, int at, uint value) => BinaryPrimitives.WriteUInt32LittleEndian(image.AsSpan(at), value);

    private static void Put64(byte[] image, int at, long value) => BinaryPrimitives.WriteInt64LittleEndian(image.AsSpan(at), value);
}
