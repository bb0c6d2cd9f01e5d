namespace XlstmLab.Operations;

/// <summary>
/// e4m3: a sign, 4 bits of exponent, 3 of fraction, and no infinity (Micikevicius et al., FP8 Formats for Deep Learning, 2022).
/// </summary>
internal static class Float8
{
    /// <summary>The largest number.</summary>
    public const float Largest = 448;

    private const int DroppedBits = 20; // of float32's fraction

    /// <summary>The nearest e4m3, of two the even one, and the largest for what is beyond; not for NaN.</summary>
    public static byte Of(float x)
    {
        const float smallestNormal = 1f / 64, smallest = smallestNormal / 8;
        const int exponents = 120; // between what the exponents of both begin at
        var sign = BitConverter.SingleToInt32Bits(x) >>> 24 & 0x80;
        var size = Math.Min(MathF.Abs(x), Largest);
        if (size < smallestNormal)
        {
            return (byte)(sign | (int)MathF.Round(size / smallest));
        }

        var bits = BitConverter.SingleToInt32Bits(size);
        var rounded = bits + (1 << DroppedBits - 1) - 1 + (bits >> DroppedBits & 1);
        return (byte)(sign | ((rounded >> DroppedBits) - (exponents << 3)));
    }

    /// <summary>The same number as a float32.</summary>
    public static float Widen(byte code)
    {
        var size = code & 0x7f;
        var x = size == 0x7f ? float.NaN
            : size < 8 ? size / 512f
            : BitConverter.Int32BitsToSingle((size << DroppedBits) + (120 << 23));
        return code < 0x80 ? x : -x;
    }

    /// <summary>
    /// Where codes begin: a number's is how many of these it reaches, without its sign. Halfway between two numbers, or just beyond it, so
    /// that the even one of both has the middle.
    /// </summary>
    public static float[] Boundaries() =>
    [
        .. Enumerable.Range(0, Of(Largest)).Select(code =>
        {
            var middle = (Widen((byte)code) + Widen((byte)(code + 1))) / 2;
            return code % 2 == 0 ? MathF.BitIncrement(middle) : middle;
        }),
    ];
}
