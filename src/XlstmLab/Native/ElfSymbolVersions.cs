using System.Buffers.Binary;
using System.Security.Cryptography;
using System.Text;

namespace XlstmLab.Native;

/// <summary>Makes a Linux library load where one of the symbol versions it names is missing.</summary>
/// <remarks>
/// TorchSharp 0.107 names GLIBCXX_3.4.32 for one start-up symbol that every older C++ runtime does without. The ELF format
/// has a flag for a version that is wanted and not needed (VER_FLG_WEAK, in the table of versions needed); a copy with that
/// flag set loads on Debian 12 and Ubuntu 22.04.
/// </remarks>
internal static class ElfSymbolVersions
{
    private const uint VersionNeedSection = 0x6ffffffe;
    private const ushort WeakFlag = 2;

    /// <summary>Writes a copy of <paramref name="library"/> into the user's cache folder, once for each content.</summary>
    public static string WeakenedCopy(string library, string version)
    {
        var image = File.ReadAllBytes(library);
        var key = Convert.ToHexStringLower(SHA256.HashData(image))[..16];
        var folder = UserCache.Folder("native", key);
        var copy = Path.Combine(folder, Path.GetFileName(library));
        if (File.Exists(copy))
        {
            return copy;
        }

        if (!Weaken(image, version))
        {
            throw new DllNotFoundException($"{library} does not name {version}: there is nothing to weaken.");
        }

        var aside = $"{copy}.tmp-{Guid.NewGuid():N}";
        File.WriteAllBytes(aside, image);
        File.Move(aside, copy, overwrite: true);
        return copy;
    }

    /// <summary>Sets the weak flag on each need of <paramref name="version"/>; false if there is none.</summary>
    public static bool Weaken(Span<byte> elf, string version)
    {
        if (elf.Length < 64 || !elf[..4].SequenceEqual("\u007fELF"u8) || elf[4] != 2 || elf[5] != 1)
        {
            throw new BadImageFormatException("Expected a 64-bit little-endian ELF library.");
        }

        var sectionTable = (int)BinaryPrimitives.ReadUInt64LittleEndian(elf[0x28..]);
        int entrySize = BinaryPrimitives.ReadUInt16LittleEndian(elf[0x3a..]);
        int sectionCount = BinaryPrimitives.ReadUInt16LittleEndian(elf[0x3c..]);
        var found = false;
        for (var s = 0; s < sectionCount; s++)
        {
            var section = elf[(sectionTable + s * entrySize)..];
            if (BinaryPrimitives.ReadUInt32LittleEndian(section[4..]) == VersionNeedSection)
            {
                var names = elf[(sectionTable + (int)BinaryPrimitives.ReadUInt32LittleEndian(section[40..]) * entrySize)..];
                found |= WeakenNeeds(
                    elf,
                    (int)BinaryPrimitives.ReadUInt64LittleEndian(section[24..]),
                    BinaryPrimitives.ReadUInt32LittleEndian(section[44..]),
                    (int)BinaryPrimitives.ReadUInt64LittleEndian(names[24..]),
                    version);
            }
        }

        return found;
    }

    private static bool WeakenNeeds(Span<byte> elf, int need, uint fileCount, int names, string version)
    {
        var found = false;
        for (var file = 0; file < fileCount; file++)
        {
            int count = BinaryPrimitives.ReadUInt16LittleEndian(elf[(need + 2)..]);
            var entry = need + (int)BinaryPrimitives.ReadUInt32LittleEndian(elf[(need + 8)..]);
            for (var v = 0; v < count; v++)
            {
                var name = elf[(names + (int)BinaryPrimitives.ReadUInt32LittleEndian(elf[(entry + 8)..]))..];
                if (Encoding.ASCII.GetString(name[..name.IndexOf((byte)0)]) == version)
                {
                    var flags = elf[(entry + 4)..];
                    BinaryPrimitives.WriteUInt16LittleEndian(flags, (ushort)(BinaryPrimitives.ReadUInt16LittleEndian(flags) | WeakFlag));
                    found = true;
                }

                entry += (int)BinaryPrimitives.ReadUInt32LittleEndian(elf[(entry + 12)..]);
            }

            need += (int)BinaryPrimitives.ReadUInt32LittleEndian(elf[(need + 12)..]);
        }

        return found;
    }
}
