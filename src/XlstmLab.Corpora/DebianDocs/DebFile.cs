using System.ComponentModel;
using System.Diagnostics;
using System.Formats.Tar;
using System.Globalization;
using System.Text;
using ICSharpCode.SharpZipLib.GZip;

namespace XlstmLab.Corpora.DebianDocs;

/// <summary>Reads the files in a Debian package, without root and without writing them anywhere.</summary>
internal static class DebFile
{
    private const int HeaderBytes = 60;
    private const long MaximumEntry = 64 << 20;

    /// <summary>The regular files that are wanted, in the package's order.</summary>
    /// <param name="path">The .deb file.</param>
    /// <param name="wanted">Tells of a path, which begins with no slash, whether the file is wanted.</param>
    /// <exception cref="InvalidDataException">It is no Debian package, or damaged.</exception>
    /// <exception cref="InvalidOperationException">It is packed by xz and there is no dpkg-deb to unpack that.</exception>
    public static IEnumerable<(string Path, byte[] Content)> Read(string path, Func<string, bool> wanted)
    {
        using var file = File.OpenRead(path);
        var member = FindData(file, path);
        if (member.EndsWith(".xz", StringComparison.Ordinal))
        {
            foreach (var entry in ReadByDpkg(path, wanted))
            {
                yield return entry;
            }

            yield break;
        }

        using Stream tar = member switch
        {
            "data.tar" => file,
            "data.tar.gz" => new GZipInputStream(file),
            "data.tar.zst" => new ZstdSharp.DecompressionStream(file),
            _ => throw new InvalidDataException($"'{path}' is packed in an unknown way: {member}."),
        };
        foreach (var entry in ReadTar(tar, path, wanted))
        {
            yield return entry;
        }
    }

    /// <summary>Leads an ar archive to the content of its data.tar, and tells that member's name.</summary>
    private static string FindData(FileStream file, string path)
    {
        Span<byte> header = stackalloc byte[HeaderBytes];
        if (file.ReadAtLeast(header[..8], 8, throwOnEndOfStream: false) < 8 || !header[..8].SequenceEqual("!<arch>\n"u8))
        {
            throw new InvalidDataException($"'{path}' is no Debian package: it does not begin as an ar archive.");
        }

        while (file.ReadAtLeast(header, HeaderBytes, throwOnEndOfStream: false) == HeaderBytes)
        {
            var name = Encoding.ASCII.GetString(header[..16]).TrimEnd(' ').TrimEnd('/');
            if (name.StartsWith("data.tar", StringComparison.Ordinal))
            {
                return name;
            }

            if (!long.TryParse(Encoding.ASCII.GetString(header[48..58]), NumberStyles.AllowTrailingWhite,
                CultureInfo.InvariantCulture, out var size) || size < 0)
            {
                break;
            }

            file.Seek(size + size % 2, SeekOrigin.Current);
        }

        throw new InvalidDataException($"'{path}' is no whole Debian package: it has no data.tar. Fetch it again.");
    }

    private static IEnumerable<(string Path, byte[] Content)> ReadByDpkg(string path, Func<string, bool> wanted)
    {
        Process process;
        try
        {
            process = Process.Start(new ProcessStartInfo("dpkg-deb", ["--fsys-tarfile", path])
            {
                RedirectStandardOutput = true,
                RedirectStandardError = true,
            })!;
        }
        catch (Win32Exception e)
        {
            throw new InvalidOperationException(
                $"'{path}' is packed by xz, which takes dpkg-deb to unpack, and there is none here: install dpkg.", e);
        }

        using (process)
        {
            try
            {
                var error = process.StandardError.ReadToEndAsync();
                foreach (var entry in ReadTar(process.StandardOutput.BaseStream, path, wanted))
                {
                    yield return entry;
                }

                process.StandardOutput.BaseStream.CopyTo(Stream.Null);
                process.WaitForExit();
                if (process.ExitCode != 0)
                {
                    throw new InvalidDataException($"dpkg-deb cannot unpack '{path}': {error.Result.Trim()} Fetch it again.");
                }
            }
            finally
            {
                if (!process.HasExited)
                {
                    process.Kill();
                }
            }
        }
    }

    private static IEnumerable<(string Path, byte[] Content)> ReadTar(Stream stream, string path, Func<string, bool> wanted)
    {
        using var tar = new TarReader(stream, leaveOpen: true);
        while (Unpacked(path, () => tar.GetNextEntry()) is { } entry)
        {
            var name = entry.Name.TrimStart('.', '/');
            if (entry.EntryType is TarEntryType.RegularFile or TarEntryType.V7RegularFile && entry.Length is > 0 and <= MaximumEntry
                && wanted(name))
            {
                var content = new byte[entry.Length];
                Unpacked(path, () =>
                {
                    entry.DataStream!.ReadExactly(content);
                    return content;
                });
                yield return (name, content);
            }
        }
    }

    /// <summary>What is unpacked, with errors that name the package.</summary>
    private static T Unpacked<T>(string path, Func<T> read)
    {
        try
        {
            return read();
        }
#pragma warning disable CA1031 // On damaged bytes the libraries fail in whatever way they lead them to.
        catch (Exception e)
        {
            throw new InvalidDataException(
                $"'{path}' cannot be unpacked: {e.Message} The package is damaged or not whole: fetch it again.", e);
        }
#pragma warning restore CA1031
    }
}
