using XlstmLab.Operations;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Operations;

public sealed class TokenRoomTests
{
    [Theory]
    [InlineData(1)]
    [InlineData(3)]
    [InlineData(150)]
    public void Append_PieceByPiece_IsAllTogetherAndSeldomCopies(int piece)
    {
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        var whole = Draw(1, 1800);
        var all = whole.narrow(2, 0, piece).clone();
        var moves = 0;
        for (var length = piece; length < whole.shape[2]; length += piece)
        {
            var before = Kernel.Address(all);
            all = TokenRoom.Append(all, whole.narrow(2, length, piece));
            moves += Kernel.Address(all) == before ? 0 : 1;
            Assert.True(all.equal(whole.narrow(2, 0, length + piece)).all().item<bool>());
        }

        Assert.InRange(moves, 3, 9);
    }

    [Fact]
    public void Append_TwiceToTheSame_DisturbsNeither()
    {
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        var (trunk, first, second) = (TokenRoom.Append(Draw(1, 5), Draw(2, 1)), Draw(3, 2), Draw(4, 3));
        var kept = trunk.clone();
        var one = TokenRoom.Append(trunk, first);
        var other = TokenRoom.Append(trunk, second);
        var further = TokenRoom.Append(one, second);
        var shorter = TokenRoom.Append(trunk.narrow(2, 0, 4), second);
        AssertSame(kept, trunk);
        AssertSame(cat([kept, first], 2), one);
        AssertSame(cat([kept, second], 2), other);
        AssertSame(cat([kept, first, second], 2), further);
        AssertSame(cat([kept.narrow(2, 0, 4), second], 2), shorter);
        Assert.Equal(Kernel.Address(trunk), Kernel.Address(one));
        Assert.NotEqual(Kernel.Address(trunk), Kernel.Address(other));
    }

    [Fact]
    public void Append_InAnotherModeOrType_IsACopy()
    {
        using var scope = NewDisposeScope();
        Tensor made;
        using (inference_mode())
        {
            made = TokenRoom.Append(Draw(1, 5), Draw(2, 1));
        }

        using var grad = no_grad();
        var after = TokenRoom.Append(made, Draw(3, 1));
        AssertSame(cat([made, Draw(3, 1)], 2), after);
        Assert.Equal(Kernel.Address(after), Kernel.Address(TokenRoom.Append(after, Draw(4, 1))));
        var wide = TokenRoom.Append(after, Draw(5, 1).to(ScalarType.Float64));
        AssertSame(cat([after.to(ScalarType.Float64), Draw(5, 1).to(ScalarType.Float64)], 2), wide);
    }

    [Fact]
    public void Append_WhileGradientsAreRecorded_LetsThemThrough()
    {
        using var scope = NewDisposeScope();
        Tensor before;
        using (no_grad())
        {
            before = TokenRoom.Append(Draw(1, 5), Draw(2, 1));
        }

        var next = Draw(3, 1).requires_grad_();
        var all = TokenRoom.Append(before, next);
        Assert.NotEqual(Kernel.Address(before), Kernel.Address(all));
        all.square().sum().backward();
        AssertSame(2 * next.detach(), next.grad!);
    }

    private static Tensor Draw(int seed, long length) => randn(2, 3, length, 4, generator: new Generator((ulong)seed));

    private static void AssertSame(Tensor expected, Tensor actual) => Assert.True(expected.equal(actual).all().item<bool>());
}
