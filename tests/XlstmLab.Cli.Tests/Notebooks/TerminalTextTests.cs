using XlstmLab.Notebooks;
using Xunit;

namespace XlstmLab.Tests.Notebooks;

public sealed class TerminalTextTests
{
    [Theory]
    [InlineData("plain\ttext\n", "plain\ttext\n")]
    [InlineData("\e[31mred\e[0m \e[1;38;2;255;0;0mtrue\e[m \e[38:2::255:0:0mcolon\e[0m", "red true colon")]
    [InlineData("\e]8;;http://localhost/\e\\link\e]8;;\e\\ \e]8;;http://localhost/\abell\e]8;;\a", "link bell")]
    [InlineData("\e]0;title\arest", "rest")]
    [InlineData("\e(B\e[m\e)0\e#8charset", "charset")]
    [InlineData("\eP1$r0m\e\\dcs \e_apc\e\\end", "dcs end")]
    [InlineData("\e7\e[?25lhidden\e[?25h\e8\ec", "hidden")]
    [InlineData("\u009b31mred\u009b0m \u009d0;t\u009ctitle", "red title")]
    [InlineData("abc\b\bX", "aXc")]
    [InlineData("\b\babc", "abc")]
    [InlineData("10 %\r100 %\r\ndone", "100 %\ndone")]
    [InlineData("100 %\r10", "100 %", "10")]
    [InlineData("100 %\r\e[K10", "10")]
    [InlineData("long line\r\e[2Kshort", "short")]
    [InlineData("ab\e[5Cc\e[2Dd", "ab    dc")]
    [InlineData("ab\e[1Gc", "cb")]
    [InlineData("bell\a nul\0 vt\v ff\f del\u007f", "bell nul vt ff del")]
    [InlineData("\ud83d\ude00\bx e\u0301\b\bz", "x", "z")]
    [InlineData("cut \e", "cut ")]
    [InlineData("cut \e[38;5", "cut ")]
    [InlineData("cut \e]8;;http://x", "cut ")]
    [InlineData("far\e[999999999Cx", "far", "x")]
    public void Plain_WhatATerminalShows_IsLeft(string text, string expected, string? end = null)
    {
        string shown = TerminalText.Plain(text);

        if (end is null)
        {
            Assert.Equal(expected, shown);
        }
        else
        {
            Assert.True(shown.Contains(expected[..1], StringComparison.Ordinal) && shown.Contains(end, StringComparison.Ordinal), shown);
            Assert.InRange(shown.Length, 1, 10_100);
        }

        Assert.DoesNotContain(shown, c => char.IsControl(c) && c is not ('\n' or '\t'));
    }
}
