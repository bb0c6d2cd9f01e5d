using System.Globalization;
using System.Text;

namespace XlstmLab.Text.Patterns;

/// <summary>The classes of code points that Oniguruma's patterns name, and which code points are one where case is ignored.</summary>
/// <remarks>
/// General categories are those of .NET's Unicode data; what .NET does not know, such as scripts, is as of Unicode 14, that of
/// Oniguruma 6.9.8. The two differ only where a later version assigned a code point.
/// </remarks>
internal static class CodePointClasses
{
    private const string OtherAlphabetic =
        "345 5B0-5BD 5BF 5C1-5C2 5C4-5C5 5C7 610-61A 64B-657 659-65F 670 6D6-6DC 6E1-6E4 6E7-6E8 6ED 711 730-73F 7A6-7B0 816-817 " +
        "81B-823 825-827 829-82C 8D4-8DF 8E3-8E9 8F0-903 93A-93B 93E-94C 94E-94F 955-957 962-963 981-983 9BE-9C4 9C7-9C8 9CB-9CC " +
        "9D7 9E2-9E3 A01-A03 A3E-A42 A47-A48 A4B-A4C A51 A70-A71 A75 A81-A83 ABE-AC5 AC7-AC9 ACB-ACC AE2-AE3 AFA-AFC B01-B03 " +
        "B3E-B44 B47-B48 B4B-B4C B56-B57 B62-B63 B82 BBE-BC2 BC6-BC8 BCA-BCC BD7 C00-C03 C3E-C44 C46-C48 C4A-C4C C55-C56 C62-C63 " +
        "C81-C83 CBE-CC4 CC6-CC8 CCA-CCC CD5-CD6 CE2-CE3 D00-D03 D3E-D44 D46-D48 D4A-D4C D57 D62-D63 D81-D83 DCF-DD4 DD6 DD8-DDF " +
        "DF2-DF3 E31 E34-E3A E4D EB1 EB4-EB9 EBB-EBC ECD F71-F81 F8D-F97 F99-FBC 102B-1036 1038 103B-103E 1056-1059 105E-1060 " +
        "1062-1064 1067-106D 1071-1074 1082-108D 108F 109A-109D 1712-1713 1732-1733 1752-1753 1772-1773 17B6-17C8 1885-1886 18A9 " +
        "1920-192B 1930-1938 1A17-1A1B 1A55-1A5E 1A61-1A74 1ABF-1AC0 1ACC-1ACE 1B00-1B04 1B35-1B43 1B80-1B82 1BA1-1BA9 1BAC-1BAD " +
        "1BE7-1BF1 1C24-1C36 1DE7-1DF4 24B6-24E9 2DE0-2DFF A674-A67B A69E-A69F A802 A80B A823-A827 A880-A881 A8B4-A8C3 A8C5 A8FF " +
        "A926-A92A A947-A952 A980-A983 A9B4-A9BF A9E5 AA29-AA36 AA43 AA4C-AA4D AA7B-AA7D AAB0 AAB2-AAB4 AAB7-AAB8 AABE AAEB-AAEF " +
        "AAF5 ABE3-ABEA FB1E 10376-1037A 10A01-10A03 10A05-10A06 10A0C-10A0F 10D24-10D27 10EAB-10EAC 11000-11002 11038-11045 " +
        "11073-11074 11082 110B0-110B8 110C2 11100-11102 11127-11132 11145-11146 11180-11182 111B3-111BF 111CE-111CF 1122C-11234 " +
        "11237 1123E 112DF-112E8 11300-11303 1133E-11344 11347-11348 1134B-1134C 11357 11362-11363 11435-11441 11443-11445 " +
        "114B0-114C1 115AF-115B5 115B8-115BE 115DC-115DD 11630-1163E 11640 116AB-116B5 1171D-1172A 1182C-11838 11930-11935 " +
        "11937-11938 1193B-1193C 11940 11942 119D1-119D7 119DA-119DF 119E4 11A01-11A0A 11A35-11A39 11A3B-11A3E 11A51-11A5B " +
        "11A8A-11A97 11C2F-11C36 11C38-11C3E 11C92-11CA7 11CA9-11CB6 11D31-11D36 11D3A 11D3C-11D3D 11D3F-11D41 11D43 11D47 " +
        "11D8A-11D8E 11D90-11D91 11D93-11D96 11EF3-11EF6 16F4F 16F51-16F87 16F8F-16F92 16FF0-16FF1 1BC9E 1E000-1E006 1E008-1E018 " +
        "1E01B-1E021 1E023-1E024 1E026-1E02A 1E947 1F130-1F149 1F150-1F169 1F170-1F189";

    private const string OtherUppercase = "2160-216F 24B6-24CF 1F130-1F149 1F150-1F169 1F170-1F189";

    private const string OtherLowercase =
        "AA BA 2B0-2B8 2C0-2C1 2E0-2E4 345 37A 1D2C-1D6A 1D78 1D9B-1DBF 2071 207F 2090-209C 2170-217F 24D0-24E9 2C7C-2C7D " +
        "A69C-A69D A770 A7F8-A7F9 AB5C-AB5F 10780 10783-10785 10787-107B0 107B2-107BA";

    private const string Han =
        "2E80-2E99 2E9B-2EF3 2F00-2FD5 3005 3007 3021-3029 3038-303B 3400-4DBF 4E00-9FFF F900-FA6D FA70-FAD9 16FE2-16FE3 " +
        "16FF0-16FF1 20000-2A6DF 2A700-2B738 2B740-2B81D 2B820-2CEA1 2CEB0-2EBE0 2F800-2FA1D 30000-3134A";

    private const string Hiragana = "3041-3096 309D-309F 1B001-1B11F 1B150-1B152 1F200";

    private const string Katakana =
        "30A1-30FA 30FD-30FF 31F0-31FF 32D0-32FE 3300-3357 FF66-FF6F FF71-FF9D 1AFF0-1AFF3 1AFF5-1AFFB 1AFFD-1AFFE 1B000 " +
        "1B120-1B122 1B164-1B167";

    private const string Hangul =
        "1100-11FF 302E-302F 3131-318E 3200-321E 3260-327E A960-A97C AC00-D7A3 D7B0-D7C6 D7CB-D7FB FFA0-FFBE FFC2-FFC7 FFCA-FFCF " +
        "FFD2-FFD7 FFDA-FFDC";

    private const string Latin =
        "41-5A 61-7A AA BA C0-D6 D8-F6 F8-2B8 2E0-2E4 1D00-1D25 1D2C-1D5C 1D62-1D65 1D6B-1D77 1D79-1DBE 1E00-1EFF 2071 207F " +
        "2090-209C 212A-212B 2132 214E 2160-2188 2C60-2C7F A722-A787 A78B-A7CA A7D0-A7D1 A7D3 A7D5-A7D9 A7F2-A7FF AB30-AB5A " +
        "AB5C-AB64 AB66-AB69 FB00-FB06 FF21-FF3A FF41-FF5A 10780-10785 10787-107B0 107B2-107BA 1DF00-1DF1E";

    private const string Greek =
        "370-373 375-377 37A-37D 37F 384 386 388-38A 38C 38E-3A1 3A3-3E1 3F0-3FF 1D26-1D2A 1D5D-1D61 1D66-1D6A 1DBF 1F00-1F15 " +
        "1F18-1F1D 1F20-1F45 1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D 1F5F-1F7D 1F80-1FB4 1FB6-1FC4 1FC6-1FD3 1FD6-1FDB 1FDD-1FEF " +
        "1FF2-1FF4 1FF6-1FFE 2126 AB65 10140-1018E 101A0 1D200-1D245";

    private const string Cyrillic = "400-484 487-52F 1C80-1C88 1D2B 1D78 2DE0-2DFF A640-A69F FE2E-FE2F";

    private const string Arabic =
        "600-604 606-60B 60D-61A 61C-61E 620-63F 641-64A 656-66F 671-6DC 6DE-6FF 750-77F 870-88E 890-891 898-8E1 8E3-8FF " +
        "FB50-FBC2 FBD3-FD3D FD40-FD8F FD92-FDC7 FDCF FDF0-FDFF FE70-FE74 FE76-FEFC 10E60-10E7E 1EE00-1EE03 1EE05-1EE1F " +
        "1EE21-1EE22 1EE24 1EE27 1EE29-1EE32 1EE34-1EE37 1EE39 1EE3B 1EE42 1EE47 1EE49 1EE4B 1EE4D-1EE4F 1EE51-1EE52 1EE54 1EE57 " +
        "1EE59 1EE5B 1EE5D 1EE5F 1EE61-1EE62 1EE64 1EE67-1EE6A 1EE6C-1EE72 1EE74-1EE77 1EE79-1EE7C 1EE7E 1EE80-1EE89 1EE8B-1EE9B " +
        "1EEA1-1EEA3 1EEA5-1EEA9 1EEAB-1EEBB 1EEF0-1EEF1";

    private const string Hebrew = "591-5C7 5D0-5EA 5EF-5F4 FB1D-FB36 FB38-FB3C FB3E FB40-FB41 FB43-FB44 FB46-FB4F";

    private const string Thai = "E01-E3A E40-E5B";

    private const string Devanagari = "900-950 955-963 966-97F A8E0-A8FF";

    /// <summary>Code points that Oniguruma's \w takes outside brackets, by a table of Latin-1, and nowhere else.</summary>
    private const string LatinWords = "B2-B3 B9 BC-BE";

    /// <summary>Code points whose full case folding is several: where case is ignored, they match texts of another length.</summary>
    private const string FoldedToSeveral =
        "DF 130 149 1F0 390 3B0 587 1E96-1E9A 1E9E 1F50 1F52 1F54 1F56 1F80-1FAF 1FB2-1FB4 1FB6-1FB7 1FBC 1FC2-1FC4 1FC6-1FC7 1FCC " +
        "1FD2-1FD3 1FD6-1FD7 1FE2-1FE4 1FE6-1FE7 1FF2-1FF4 1FF6-1FF7 1FFC FB00-FB06 FB13-FB17";

    /// <summary>The second characters of such foldings, but for Latin letters.</summary>
    private const string SecondOfSeveral = "2BE 300-301 307-308 30A 30C 313 331 342 345 399 3B9 1FBE 535 53B 53D 546 552 "
        + "565 56B 56D 576 582";

    private static readonly Lazy<Dictionary<UnicodeCategory, CodePointSet>> Categories = new(FindCategories);

    private static readonly Lazy<Dictionary<int, int[]>> Folds = new(FindFolds);

    /// <summary>\s and [[:space:]]: white space.</summary>
    public static CodePointSet Space { get; } = CodePointSet.Parse("9-D 20 85 A0 1680 2000-200A 2028-2029 202F 205F 3000");

    /// <summary>\h and [[:xdigit:]]: hexadecimal digits of ASCII.</summary>
    public static CodePointSet HexDigit { get; } = CodePointSet.Parse("30-39 41-46 61-66");

    /// <summary>\d: decimal digits.</summary>
    public static CodePointSet Digit => Category("Nd");

    /// <summary>\w in brackets, and [[:word:]].</summary>
    public static CodePointSet WordInBrackets =>
        Category("L", "M", "Nd", "Nl", "Pc").Union(CodePointSet.Parse("24B6-24E9 1F130-1F149 1F150-1F169 1F170-1F189"));

    /// <summary>\w outside brackets, which \b goes by.</summary>
    public static CodePointSet Word => WordInBrackets.Union(CodePointSet.Parse(LatinWords));

    /// <summary>The class of a POSIX bracket such as [:alpha:]; null if there is none of that name.</summary>
    public static CodePointSet? Posix(string name) => name switch
    {
        "alnum" => Alphabetic.Union(Digit),
        "alpha" => Alphabetic,
        "ascii" => CodePointSet.Range(0, 0x7F),
        "blank" => Category("Zs").Union(CodePointSet.Of('\t')),
        "cntrl" => Category("Cc"),
        "digit" => Digit,
        "graph" => Graph,
        "lower" => Category("Ll").Union(CodePointSet.Parse(OtherLowercase)),
        "print" => Graph.Union(Category("Zs")),
        "punct" => Category("P"),
        "space" => Space,
        "upper" => Category("Lu").Union(CodePointSet.Parse(OtherUppercase)),
        "xdigit" => HexDigit,
        "word" => WordInBrackets,
        _ => null,
    };

    /// <summary>The class of a property such as \p{Lu}, \p{Alphabetic} or \p{Han}; null if it is not known here.</summary>
    public static CodePointSet? Property(string name)
    {
        // Case, spaces, hyphens and low lines do not tell properties apart.
        var plain = string.Concat(name.Where(c => c is not (' ' or '-' or '_'))).ToUpperInvariant();
        return plain switch
        {
            "ANY" => CodePointSet.All,
            "ASSIGNED" => Category("Cn").Complement,
            "L" or "LETTER" => Category("L"),
            "LC" or "CASEDLETTER" => Category("Lu", "Ll", "Lt"),
            "LU" or "UPPERCASELETTER" => Category("Lu"),
            "LL" or "LOWERCASELETTER" => Category("Ll"),
            "LT" or "TITLECASELETTER" => Category("Lt"),
            "LM" or "MODIFIERLETTER" => Category("Lm"),
            "LO" or "OTHERLETTER" => Category("Lo"),
            "M" or "MARK" or "COMBININGMARK" => Category("M"),
            "MN" or "NONSPACINGMARK" => Category("Mn"),
            "MC" or "SPACINGMARK" => Category("Mc"),
            "ME" or "ENCLOSINGMARK" => Category("Me"),
            "N" or "NUMBER" => Category("N"),
            "ND" or "DECIMALNUMBER" => Category("Nd"),
            "NL" or "LETTERNUMBER" => Category("Nl"),
            "NO" or "OTHERNUMBER" => Category("No"),
            "P" or "PUNCTUATION" => Category("P"),
            "PC" or "CONNECTORPUNCTUATION" => Category("Pc"),
            "PD" or "DASHPUNCTUATION" => Category("Pd"),
            "PS" or "OPENPUNCTUATION" => Category("Ps"),
            "PE" or "CLOSEPUNCTUATION" => Category("Pe"),
            "PI" or "INITIALPUNCTUATION" => Category("Pi"),
            "PF" or "FINALPUNCTUATION" => Category("Pf"),
            "PO" or "OTHERPUNCTUATION" => Category("Po"),
            "S" or "SYMBOL" => Category("S"),
            "SM" or "MATHSYMBOL" => Category("Sm"),
            "SC" or "CURRENCYSYMBOL" => Category("Sc"),
            "SK" or "MODIFIERSYMBOL" => Category("Sk"),
            "SO" or "OTHERSYMBOL" => Category("So"),
            "Z" or "SEPARATOR" => Category("Z"),
            "ZS" or "SPACESEPARATOR" => Category("Zs"),
            "ZL" or "LINESEPARATOR" => Category("Zl"),
            "ZP" or "PARAGRAPHSEPARATOR" => Category("Zp"),
            "C" or "OTHER" => Category("C"),
            "CC" or "CONTROL" => Category("Cc"),
            "CF" or "FORMAT" => Category("Cf"),
            "CN" or "UNASSIGNED" => Category("Cn"),
            "CO" or "PRIVATEUSE" => Category("Co"),
            "ALPHABETIC" => Alphabetic,
            "UPPERCASE" => Posix("upper"),
            "LOWERCASE" => Posix("lower"),
            "WHITESPACE" => Space,
            "HAN" or "HANI" => CodePointSet.Parse(Han),
            "HIRAGANA" or "HIRA" => CodePointSet.Parse(Hiragana),
            "KATAKANA" or "KANA" => CodePointSet.Parse(Katakana),
            "HANGUL" or "HANG" => CodePointSet.Parse(Hangul),
            "LATIN" or "LATN" => CodePointSet.Parse(Latin),
            "GREEK" or "GREK" => CodePointSet.Parse(Greek),
            "CYRILLIC" or "CYRL" => CodePointSet.Parse(Cyrillic),
            "ARABIC" or "ARAB" => CodePointSet.Parse(Arabic),
            "HEBREW" or "HEBR" => CodePointSet.Parse(Hebrew),
            "THAI" => CodePointSet.Parse(Thai),
            "DEVANAGARI" or "DEVA" => CodePointSet.Parse(Devanagari),
            _ => Posix(string.Concat(plain.Select(char.ToLowerInvariant))),
        };
    }

    /// <summary>A set with all code points that are the same as one of its own where case is ignored.</summary>
    public static CodePointSet IgnoringCase(CodePointSet set) =>
        set.Union(CodePointSet.Of(Folds.Value.Where(f => set.Contains(f.Key)).SelectMany(f => f.Value)));

    /// <summary>Whether one of the code points is the same as a text of several where case is ignored.</summary>
    public static bool FoldsToSeveral(CodePointSet set) => !set.Intersect(CodePointSet.Parse(FoldedToSeveral)).IsEmpty;

    /// <summary>Whether two code points in a row may be the same as one, such as ss and \u00DF, where case is ignored.</summary>
    public static bool MayFoldToOne(int first, int second)
    {
        var pair = $"{char.ToLowerInvariant((char)Math.Min(first, 0xFFFF))}{char.ToLowerInvariant((char)Math.Min(second, 0xFFFF))}";
        return pair is "ss" or "st" or "ff" or "fi" or "fl" or "\u02BCn"
            || CodePointSet.Parse(SecondOfSeveral).Contains(second);
    }

    private static CodePointSet Alphabetic => Category("L", "Nl").Union(CodePointSet.Parse(OtherAlphabetic));

    private static CodePointSet Graph => Category("Cc", "Cn", "Cs", "Z").Complement.Intersect(Space.Complement);

    /// <summary>The code points of categories: two letters for one, one letter for all that begin with it.</summary>
    private static CodePointSet Category(params string[] names) => Categories.Value
        .Where(c => names.Any(n => Abbreviation(c.Key).StartsWith(n, StringComparison.Ordinal)))
        .Aggregate(CodePointSet.Empty, (all, c) => all.Union(c.Value));

    private static string Abbreviation(UnicodeCategory category) => category switch
    {
        UnicodeCategory.UppercaseLetter => "Lu",
        UnicodeCategory.LowercaseLetter => "Ll",
        UnicodeCategory.TitlecaseLetter => "Lt",
        UnicodeCategory.ModifierLetter => "Lm",
        UnicodeCategory.OtherLetter => "Lo",
        UnicodeCategory.NonSpacingMark => "Mn",
        UnicodeCategory.SpacingCombiningMark => "Mc",
        UnicodeCategory.EnclosingMark => "Me",
        UnicodeCategory.DecimalDigitNumber => "Nd",
        UnicodeCategory.LetterNumber => "Nl",
        UnicodeCategory.OtherNumber => "No",
        UnicodeCategory.SpaceSeparator => "Zs",
        UnicodeCategory.LineSeparator => "Zl",
        UnicodeCategory.ParagraphSeparator => "Zp",
        UnicodeCategory.Control => "Cc",
        UnicodeCategory.Format => "Cf",
        UnicodeCategory.Surrogate => "Cs",
        UnicodeCategory.PrivateUse => "Co",
        UnicodeCategory.ConnectorPunctuation => "Pc",
        UnicodeCategory.DashPunctuation => "Pd",
        UnicodeCategory.OpenPunctuation => "Ps",
        UnicodeCategory.ClosePunctuation => "Pe",
        UnicodeCategory.InitialQuotePunctuation => "Pi",
        UnicodeCategory.FinalQuotePunctuation => "Pf",
        UnicodeCategory.OtherPunctuation => "Po",
        UnicodeCategory.MathSymbol => "Sm",
        UnicodeCategory.CurrencySymbol => "Sc",
        UnicodeCategory.ModifierSymbol => "Sk",
        UnicodeCategory.OtherSymbol => "So",
        UnicodeCategory.OtherNotAssigned => "Cn",
        _ => throw new ArgumentOutOfRangeException(nameof(category), category, "There is no such category."),
    };

    private static Dictionary<UnicodeCategory, CodePointSet> FindCategories()
    {
        var members = new Dictionary<UnicodeCategory, List<int>>();
        for (var c = 0; c < CodePointSet.Limit; c++)
        {
            var category = CharUnicodeInfo.GetUnicodeCategory(c);
            if (!members.TryGetValue(category, out var list))
            {
                members.Add(category, list = []);
            }

            list.Add(c);
        }

        return members.ToDictionary(m => m.Key, m => CodePointSet.Of(m.Value));
    }

    /// <summary>Of each code point that has them, the others that simple case folding makes the same.</summary>
    private static Dictionary<int, int[]> FindFolds()
    {
        var classOf = new Dictionary<int, HashSet<int>>();
        Join('s', 0x17F);
        for (var c = 0; c < CodePointSet.Limit; c++)
        {
            if (Rune.IsValid(c))
            {
                Join(c, Rune.ToUpperInvariant(new Rune(c)).Value);
                Join(c, Rune.ToLowerInvariant(new Rune(c)).Value);
            }
        }

        return classOf.ToDictionary(c => c.Key, c => c.Value.Where(o => o != c.Key).ToArray());

        void Join(int one, int other)
        {
            if (one == other)
            {
                return;
            }

            HashSet<int> joined = [.. classOf.GetValueOrDefault(one, [one]), .. classOf.GetValueOrDefault(other, [other])];
            foreach (var c in joined)
            {
                classOf[c] = joined;
            }
        }
    }
}
