using System.Reflection.Metadata;
using System.Reflection.Metadata.Ecma335;
using System.Reflection.PortableExecutable;
using XlstmLab.Models;
using XlstmLab.Training;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Training;

public sealed class RunningMeansTests
{
    [Theory]
    [InlineData(0.05)]
    [InlineData(0.95)]
    public void MoveTowards_AnyShare_IsTheInterpolation(double share)
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(4);
        var (mean, value) = (randn([7, 5], generator: generator), randn([7, 5], generator: generator));
        var expected = mean * (1 - share) + value * share;
        Assert.Same(mean, mean.MoveTowards(value, share));
        Assert.True((mean - expected).abs().max().item<float>() <= 1e-6);
    }

    /// <summary>
    /// A number that TorchSharp takes for a tensor is one on the CPU: a GPU that computes with it waits for its copy, and a graph cannot be
    /// recorded.
    /// </summary>
    [Fact]
    public void Library_NoOperation_MakesATensorOfANumberUnseen()
    {
        using var image = new PEReader(File.OpenRead(typeof(LanguageModel).Assembly.Location));
        Assert.Empty(Conversions(image));

        // The test would find what it is for.
        using var own = new PEReader(File.OpenRead(typeof(RunningMeansTests).Assembly.Location));
        Assert.Contains($"{nameof(RunningMeansTests)}.{nameof(Unseen)}", Conversions(own));
    }

    private static Tensor Unseen(Tensor mean, Tensor value) => mean.lerp(value, 0.5);

    /// <summary>The methods that call a conversion from a number to a tensor; writing a tensor's element by its index is none.</summary>
    private static IEnumerable<string> Conversions(PEReader image)
    {
        var reader = image.GetMetadataReader();
        var conversions = Enumerable.Range(1, reader.GetTableRowCount(TableIndex.MemberRef))
            .Select(MetadataTokens.MemberReferenceHandle)
            .Where(handle => IsConversion(reader, reader.GetMemberReference(handle)))
            .Select(handle => MetadataTokens.GetToken(handle))
            .ToHashSet();
        foreach (var method in reader.MethodDefinitions.Select(reader.GetMethodDefinition).Where(m => m.RelativeVirtualAddress != 0))
        {
            var code = image.GetMethodBody(method.RelativeVirtualAddress).GetILBytes()!;
            for (var k = 0; k + 4 < code.Length; k++)
            {
                const byte call = 0x28;
                if (code[k] == call && conversions.Contains(BitConverter.ToInt32(code, k + 1)))
                {
                    var type = reader.GetTypeDefinition(method.GetDeclaringType());
                    yield return $"{reader.GetString(type.Name)}.{reader.GetString(method.Name)}";
                }
            }
        }
    }

    private static bool IsConversion(MetadataReader reader, MemberReference member)
    {
        const byte real = 0x0d, single = 0x0c, whole = 0x08, wide = 0x0a;
        return member.Parent.Kind == HandleKind.TypeReference
            && reader.GetString(reader.GetTypeReference((TypeReferenceHandle)member.Parent).Name) == nameof(Tensor)
            && reader.GetString(member.Name) == "op_Implicit"
            && reader.GetBlobBytes(member.Signature)[^1] is real or single or whole or wide;
    }
}
