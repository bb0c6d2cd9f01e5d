namespace XlstmLab.Operations;

/// <summary>bfloat16 on the host: the upper 16 bits of a float32.</summary>
internal static class UpperHalves
{
    /// <summary>The nearest bfloat16, of two the even one; what is no number stays none.</summary>
    public static ushort Of(float x)
    {
        var bits = BitConverter.SingleToUInt32Bits(x);
        return (ushort)(float.IsNaN(x) ? (bits >> 16) | 0x40 : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
    }

    /// <summary>The same number as a float32.</summary>
    public static float Widen(ushort half) => BitConverter.UInt32BitsToSingle((uint)half << 16);
}
