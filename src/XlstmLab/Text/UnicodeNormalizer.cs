using System.Globalization;
using System.Text;

namespace XlstmLab.Text;

/// <summary>Unicode normalization forms, one after another.</summary>
internal sealed class UnicodeNormalizer
{
    /// <summary>Without ICU, .NET's Normalize returns its argument as it is and says nothing.</summary>
    private static readonly bool IsAvailable = "e\u0301".Normalize(NormalizationForm.FormC).Length == 1;

    // Characters from U+0300 on, other than marks and Hangul jamo, that normalization form C replaces (Unicode 14).
    private static readonly (int First, int Last)[] Replaced =
    [
        (0x374, 0x374), (0x37E, 0x37E), (0x387, 0x387), (0x958, 0x95F), (0x9DC, 0x9DF), (0xA33, 0xA36), (0xA59, 0xA5E),
        (0xB5C, 0xB5D), (0xF43, 0xF69), (0x1F71, 0x1F7D), (0x1FBB, 0x1FBE), (0x1FC9, 0x1FCB), (0x1FD3, 0x1FD3), (0x1FDB, 0x1FDB),
        (0x1FE3, 0x1FE3), (0x1FEB, 0x1FEF), (0x1FF9, 0x2001), (0x2126, 0x2126), (0x212A, 0x212B), (0x2329, 0x232A),
        (0x2ADC, 0x2ADC), (0xF900, 0xFAD9), (0xFB1D, 0xFB4E), (0x1D15E, 0x1D1C0), (0x2F800, 0x2FA1D),
    ];

    private readonly List<NormalizationForm> _forms = [];

    /// <summary>Reads the normalizer of a tokenizer.json.</summary>
    /// <exception cref="InvalidDataException">It is of a kind that is not supported.</exception>
    public UnicodeNormalizer(StepJson? json)
    {
        if (json is not null)
        {
            Add(json);
        }

        void Add(StepJson? step)
        {
            switch (step?.Type)
            {
                case "NFC": _forms.Add(NormalizationForm.FormC); break;
                case "NFD": _forms.Add(NormalizationForm.FormD); break;
                case "NFKC": _forms.Add(NormalizationForm.FormKC); break;
                case "NFKD": _forms.Add(NormalizationForm.FormKD); break;
                case "Sequence" when step.Normalizers is not null: step.Normalizers.ForEach(Add); break;
                default:
                    throw new InvalidDataException(
                        $"its normalizer is of type '{step?.Type ?? "none"}'; supported are NFC, NFD, NFKC, NFKD and a Sequence of them");
            }
        }
    }

    /// <summary>Whether there is a form that texts are brought into.</summary>
    public bool ChangesText => _forms.Count > 0;

    /// <summary>The text in normal form.</summary>
    /// <exception cref="PlatformNotSupportedException">The text may need normalization and .NET runs without ICU.</exception>
    public string Normalize(string text)
    {
        foreach (var form in _forms)
        {
            if (IsAvailable)
            {
                text = text.Normalize(form);
            }
            else if (form == NormalizationForm.FormC ? MayChangeInFormC(text) : text.AsSpan().ContainsAnyExceptInRange('\0', '\x7F'))
            {
                throw new PlatformNotSupportedException(
                    $"The tokenizer asks for Unicode normalization ({form}), the text has characters that it may change, and .NET runs in "
                    + "invariant mode, which has no normalization. Install ICU (libicu) and set DOTNET_SYSTEM_GLOBALIZATION_INVARIANT=0.");
            }
        }

        return text;
    }

    /// <summary>False only if normalization form C surely leaves the text as it is.</summary>
    internal static bool MayChangeInFormC(string text)
    {
        if (!text.AsSpan().ContainsAnyExceptInRange('\0', '\u02FF'))
        {
            return false;
        }

        foreach (var rune in text.EnumerateRunes())
        {
            // Variation selectors are marks that never combine.
            if (rune.Value >= 0x300 && rune.Value is not (>= 0xFE00 and <= 0xFE0F)
                && (Rune.GetUnicodeCategory(rune)
                        is UnicodeCategory.NonSpacingMark or UnicodeCategory.SpacingCombiningMark or UnicodeCategory.EnclosingMark
                    || rune.Value is >= 0x1100 and <= 0x11FF
                    || Array.Exists(Replaced, range => rune.Value >= range.First && rune.Value <= range.Last)))
            {
                return true;
            }
        }

        return false;
    }
}
