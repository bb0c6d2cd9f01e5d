using System.Buffers.Binary;
using System.Collections.Immutable;
using System.Runtime.ExceptionServices;
using System.Runtime.InteropServices;
using System.Security.Cryptography;
using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using XlstmLab.Text;

namespace XlstmLab.Corpora.DebianDocs;

/// <summary>How the corpus of Debian's documentation is made.</summary>
public sealed record DebianCorpusOptions
{
    /// <summary>The packages' names; one that is empty stands for the documentation it depends on.</summary>
    public IReadOnlyList<string> Packages { get; init; } = DebianCorpus.DefaultPackages;

    /// <summary>
    /// A folder of .deb files, named as apt-get download names them, to take in place of <see cref="Packages"/>; nothing is then
    /// downloaded.
    /// </summary>
    public string? PackageFolder { get; init; }

    /// <summary>How documents are split.</summary>
    public SplitRule Split { get; init; } = new() { Validation = 0.005, Test = 0.005 };

    /// <summary>How many files are made into text side by side; the corpus does not depend on it.</summary>
    public int Workers { get; init; } = Environment.ProcessorCount;
}

/// <summary>How far the corpus of Debian's documentation is.</summary>
/// <param name="Bytes">The size of the packages that are done.</param>
/// <param name="TotalBytes">The size of all packages.</param>
/// <param name="Package">The package at work; empty where the documents are put together at the end.</param>
/// <param name="Documents">The documents found so far.</param>
/// <param name="TextBytes">The UTF-8 bytes of their text.</param>
public readonly record struct DebianCorpusProgress(long Bytes, long TotalBytes, string Package, int Documents, long TextBytes);

/// <summary>
/// Makes a corpus of English text out of the documentation that Debian packages hold, for machines that reach nothing but a Debian mirror.
/// </summary>
/// <remarks>
/// Packages are downloaded by apt and read without being installed. A document is a page, a manual page or an Info file; its name is
/// PACKAGE/PATH. Its navigation, code, tables of numbers, and what is not English sentences are left out, and so is a paragraph of
/// <see cref="ParagraphToCompare"/> characters or more that came before in any document; plain text beside more HTML in a package is taken
/// for its source and left out too. Documents stand in the order of the SHA-256 of their names, so that a beginning of the file is a sample
/// of the whole. The same packages give the same bytes. What was extracted from a package is kept, beside the corpus, until it is finished:
/// the same call goes on after a kill.
/// </remarks>
public static class DebianCorpus
{
    /// <summary>The characters from which on paragraphs are compared with those before.</summary>
    public const int ParagraphToCompare = 60;

    /// <summary>Large English manuals in the main part of Debian, less those that are mostly code, pictures or lists.</summary>
    public static readonly ImmutableArray<string> DefaultPackages =
    [
        "abs-guide", "ada-reference-manual-2012", "anarchism", "apache2-doc", "aptitude-doc-en", "autoconf-doc", "automake", "bash-doc",
        "bacula-doc",
        "bind9-doc", "buildbot-doc", "cinder-doc", "clang-doc", "cmake-doc", "coreutils", "cppreference-doc-en-html", "dar-docs",
        "debian-edu-doc-en",
        "debian-faq", "debian-handbook", "debian-kernel-handbook", "debian-policy", "debian-reference-en", "default-jdk-doc",
        "developers-reference",
        "docbook-xsl-doc-html", "dpkg-dev", "erlang-doc", "erlang-manpages", "exim4-doc-html", "fish-common", "flex-doc", "fp-docs",
        "freedombox-doc-en",
        "gap-doc", "gimp-help-en", "git-annex", "git-buildpackage", "git-doc", "glance-doc", "glibc-doc", "gnome-devel-docs",
        "gnu-standards", "gnuplot-doc",
        "gnuradio-doc", "grass-doc", "guile-3.0-doc", "harden-doc", "haskell98-report", "heat-doc", "icinga2-doc", "info",
        "installation-guide-amd64",
        "ironic-doc", "keystone-doc", "kicad-doc-en", "krb5-doc", "libboost-doc", "libeigen3-doc", "libglib2.0-doc", "libgtk-3-doc",
        "libreoffice-help-en-us",
        "libsdl2-doc", "libtool-doc", "libvirt-doc", "lilypond-doc-html", "linux-doc", "llvm-doc", "maint-guide", "manpages",
        "manpages-dev", "maxima-doc",
        "miscfiles", "neutron-doc", "nmap", "nodejs-doc", "nova-doc", "octave-doc", "openafs-doc", "openmpi-doc", "openvswitch-doc",
        "perl-doc",
        "petsc-doc", "postfix-doc", "postgis-doc", "postgresql-doc", "python-astropy-doc", "python-django-doc", "python-matplotlib-doc",
        "python-pandas-doc",
        "python-scipy-doc", "python-skimage-doc", "python-sklearn-doc", "python-sqlalchemy-doc", "python-statsmodels-doc",
        "python-sympy-doc", "python3-doc",
        "qtbase5-doc-html", "qtcreator-doc", "qtdeclarative5-doc-html", "qttools5-doc-html", "r-doc-html", "racket-doc", "ruby-doc",
        "rust-doc", "sbcl-doc",
        "shorewall-doc", "slurm-wlm-doc", "sphinx-doc", "sqlite3-doc", "swift-doc", "systemd", "tcl-doc", "tcllib", "tk-doc", "twisted-doc",
        "vim-doc",
        "wireshark-doc", "wx3.2-doc", "xen-doc", "xorg-docs", "yade-doc", "zsh-doc",
    ];

    private static readonly JsonSerializerOptions Json = new() { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    /// <summary>Makes the corpus, a dataset's folder, or what is missing of it.</summary>
    /// <param name="folder">The folder, whose name becomes the dataset's.</param>
    /// <param name="options">How; null is the default.</param>
    /// <param name="progress">Told from the calling thread.</param>
    /// <param name="cancellationToken">Stops; the packages that are done are kept.</param>
    /// <returns>The card.</returns>
    /// <exception cref="InvalidOperationException">There is no apt, it fails, or the folder holds something else.</exception>
    /// <exception cref="InvalidDataException">A package is damaged or not of Debian's main part, or there is too little text.</exception>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    public static DatasetCard Build(
        string folder, DebianCorpusOptions? options = null, IProgress<DebianCorpusProgress>? progress = null,
        CancellationToken cancellationToken = default)
    {
        options ??= new();
        ArgumentOutOfRangeException.ThrowIfLessThan(options.Workers, 1);
        options.Split.Check();
        folder = Path.TrimEndingDirectorySeparator(Path.GetFullPath(folder));
        if (Directory.Exists(folder) && Directory.EnumerateFileSystemEntries(folder).Any())
        {
            throw new InvalidOperationException($"The folder '{folder}' is there already and not empty. Choose another, or delete it.");
        }

        var work = folder + ".part";
        Directory.CreateDirectory(work);
        var debs = options.PackageFolder is { } given ? FindFiles(given) : null;
        var (packages, missing) = debs is not null ? ([.. debs.Keys], []) : Apt.Find(options.Packages, cancellationToken);
        var (done, total, documents, textBytes) = (0L, packages.Sum(p => p.Bytes), 0, 0L);
        var extracts = new List<string>();
        foreach (var package in packages)
        {
            cancellationToken.ThrowIfCancellationRequested();
            progress?.Report(new(done, total, package.Name, documents, textBytes));
            var extract = Path.Combine(work, $"{package.Name}-{package.Sha256[..16]}.jsonl.zst");
            if (!File.Exists(extract))
            {
                Extract(
                    package, debs?[package] ?? Apt.Download(package, work, cancellationToken), extract, options.Workers, cancellationToken);
                foreach (var downloaded in Directory.EnumerateFiles(work, "*.deb"))
                {
                    File.Delete(downloaded);
                }
            }

            extracts.Add(extract);
            done += package.Bytes;
            foreach (var document in ReadExtract(extract))
            {
                documents++;
                textBytes += Encoding.UTF8.GetByteCount(document.Text);
            }
        }

        progress?.Report(new(done, total, "", documents, textBytes));
        var card = DatasetArchive.Write(
            folder,
            Card(Path.GetFileName(folder), packages, missing, options.Split),
            Distinct(extracts, cancellationToken),
            cancellationToken);
        Directory.Delete(work, recursive: true);
        return card;
    }

    private static DatasetCard Card(string name, IReadOnlyList<SourcePackage> packages, IReadOnlyList<string> missing, SplitRule split) =>
        new()
        {
            Name = name,
            Title = "Documentation in Debian packages",
            Origin = $"{packages.Count} packages of Debian's main part, listed under packages with versions and checksums"
            + (missing.Count > 0 ? $"; this release has no {string.Join(", ", missing)}" : ""),
            Licence = "free licences of many kinds (GPL, GFDL, BSD, MIT, Creative Commons and others): "
                + "each package's is in its /usr/share/doc/PACKAGE/copyright",
            Preparation =
                "Text of HTML pages, manual pages, Info files and plain text; a document is one such file, its field package says of which "
                + "package, and its name is PACKAGE/PATH. Navigation, code, tables of numbers and what is not English sentences were left "
                + "out, and paragraphs of "
                + FormattableString.Invariant(
                    $"{ParagraphToCompare} characters or more that came before in any document; documents of less than ")
                + FormattableString.Invariant($"{Prose.MinimumDocument} characters were left out. ")
                + "The order of documents is that of the SHA-256 of their names.",
            File = "text.jsonl.zst",
            Split = split,
            Packages = packages,
        };

    private static Dictionary<SourcePackage, string> FindFiles(string folder)
    {
        var files = Directory.Exists(folder) ? Directory.EnumerateFiles(folder, "*.deb").Order(StringComparer.Ordinal).ToArray() : [];
        return files.Length > 0
            ? files.ToDictionary(DebianPackages.OfFile)
            : throw new InvalidOperationException($"There is no .deb file in '{folder}'.");
    }

    private static void Extract(SourcePackage package, string deb, string extract, int workers, CancellationToken cancellationToken)
    {
        // Files of a package that are the same, such as a page under two names, are read once.
        var seen = new HashSet<UInt128>();
        (string Path, string Text)[] documents;
        try
        {
            documents = [.. DebFile.Read(deb, DocumentationFile.IsWanted)
                .Where(file => seen.Add(Hash(file.Content)))
                .AsParallel().AsOrdered().WithDegreeOfParallelism(workers).WithCancellation(cancellationToken)
                .Select(file =>
                    (file.Path, Text: DocumentationFile.Paragraphs(file.Path, file.Content) is { } kept ? string.Join("\n\n", kept) : ""))
                .Where(file => file.Text.Length > 0)];
        }
        catch (AggregateException e)
        {
            ExceptionDispatchInfo.Throw(e.Flatten().InnerExceptions[0]);
            throw;
        }

        // Plain text beside more HTML is its source, or the same once more.
        var dropsText = documents.Sum(d => DocumentationFile.IsHtml(d.Path) ? d.Text.Length : 0L)
            > documents.Sum(d => DocumentationFile.IsText(d.Path) ? d.Text.Length : 0L);
        AtomicFile.Write(extract, stream =>
        {
            using var zstd = new ZstdSharp.CompressionStream(stream, 3, leaveOpen: true);
            foreach (var (path, text) in documents.Where(d => !(dropsText && DocumentationFile.IsText(d.Path))))
            {
                cancellationToken.ThrowIfCancellationRequested();
                JsonSerializer.Serialize(
                    (Stream)zstd, new Dictionary<string, string> { ["name"] = $"{package.Name}/{path}", ["text"] = text }, Json);
                zstd.WriteByte((byte)'\n');
            }
        });
    }

    private static IEnumerable<Document> ReadExtract(string path) => new DocumentFile(path, "").ReadNamed(CancellationToken.None);

    /// <summary>The documents less what came before, in the order of their names' hashes.</summary>
    private static List<Document> Distinct(IReadOnlyList<string> extracts, CancellationToken cancellationToken)
    {
        var seen = new HashSet<UInt128>();
        var documents = new List<(byte[] Order, Document Document)>();
        var repeated = RepeatedLines(extracts);
        foreach (var document in extracts.SelectMany(ReadExtract))
        {
            cancellationToken.ThrowIfCancellationRequested();
            var package = document.Name[..document.Name.IndexOf('/', StringComparison.Ordinal)];
            var paragraphs = document.Text.Split("\n\n")
                .Where(p => p.Length < ParagraphToCompare ? !repeated.Contains((package, p)) : seen.Add(Hash(p)));
            if (Prose.Keep(paragraphs) is { } kept)
            {
                documents.Add((
                    SHA256.HashData(Encoding.UTF8.GetBytes(document.Name)),
                    new Document(document.Name, string.Join("\n\n", kept))
                    {
                        Fields = new Dictionary<string, string> { ["package"] = package },
                    }));
            }
        }

        documents.Sort((a, b) => a.Order.AsSpan().SequenceCompareTo(b.Order));
        return documents.ConvertAll(d => d.Document);
    }

    /// <summary>Short paragraphs that are in very many documents of a package: parts of its pages' frame.</summary>
    private static HashSet<(string Package, string Text)> RepeatedLines(IReadOnlyList<string> extracts)
    {
        var repeated = new HashSet<(string, string)>();
        foreach (var extract in extracts)
        {
            var (documents, counts, package) = (0, new Dictionary<string, int>(), "");
            foreach (var document in ReadExtract(extract))
            {
                documents++;
                package = document.Name[..document.Name.IndexOf('/', StringComparison.Ordinal)];
                foreach (var line in document.Text.Split("\n\n").Where(p => p.Length < ParagraphToCompare).Distinct())
                {
                    CollectionsMarshal.GetValueRefOrAddDefault(counts, line, out _)++;
                }
            }

            repeated.UnionWith(counts.Where(c => c.Value >= Math.Max(20, documents / 5)).Select(c => (package, c.Key)));
        }

        return repeated;
    }

    /// <summary>Of a paragraph's letters and digits: spelt with other spaces or marks it is the same.</summary>
    private static UInt128 Hash(string paragraph) => Hash(MemoryMarshal.AsBytes<char>(paragraph.Where(char.IsLetterOrDigit).ToArray()));

    private static UInt128 Hash(ReadOnlySpan<byte> content) => BinaryPrimitives.ReadUInt128BigEndian(SHA256.HashData(content));
}
