using XlstmLab.Checkpoints;
using XlstmLab.Cli.Verification;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Cli;

public sealed class GoldenVerifierTests
{
    [Fact]
    public void Verify_GoldenFolder_PassesEveryCase()
    {
        var rows = GoldenVerifier.Verify(TestSetup.Golden()).ToList();

        Assert.DoesNotContain(rows, r => r.Outcome != GoldenOutcome.Pass);
        foreach (var kind in new[] { "mlstm_exp_", "mlstm_sig_", "slstm_cell", "xlstm_large_", "xlstm_v1_",
            "hf_xlstm", "hf_llama", "hf_mamba_", "hf_mamba2_", "gated_delta_", "muon_", "tokenizer" })
        {
            Assert.Contains(rows, r => r.Case.StartsWith(kind, StringComparison.Ordinal));
        }
    }

    [Theory]
    [InlineData("mlstm_exp_c_state", "h", "h, ")]
    [InlineData("mlstm_exp_c_state", "n_last", "last state, ")]
    [InlineData("mlstm_exp_c_state", "dc0", "dq dk dv dc0 dn0, ")]
    [InlineData("mlstm_sig_c_norm", "df", "di df, ")]
    [InlineData("slstm_cell", "grad._bias_", "d bias, ")]
    [InlineData("xlstm_large_tiny", "logits", "logits")]
    [InlineData("xlstm_large_tiny", "grad.lm_head.weight", "gradients")]
    [InlineData("xlstm_v1_mixed", "logits_recurrent", "logits, recurrent")]
    [InlineData("xlstm_v1_mixed", "grad.xlstm_block_stack.blocks.1.xlstm.igate.weight", "gradients")]
    [InlineData("gated_delta_b", "o", "o, ")]
    [InlineData("gated_delta_c", "s_last", "last state, ")]
    [InlineData("gated_delta_a", "dg", "gradients, ")]
    [InlineData("muon_c", "w.3", "change of the weights, step 3")]
    public void Verify_ChangedNumber_FailsThere(string name, string tensor, string quantity)
    {
        using var folder = new TempFolder();
        Rewrite(name, folder["."], (n, value) => n == tensor ? value * 1.01 + 1e-3 : value);

        var failed = GoldenVerifier.Verify(folder["."]).Where(r => r.Outcome == GoldenOutcome.Fail).ToList();

        Assert.NotEmpty(failed);
        Assert.All(failed, r => Assert.StartsWith(quantity, r.Quantity, StringComparison.Ordinal));
    }

    [Fact]
    public void Verify_BrokenCases_AreRowsThatFail()
    {
        using var folder = new TempFolder();
        File.WriteAllText(Path.Combine(folder["."], "mlstm_exp_x.safetensors"), "not a case");
        Rewrite("slstm_cell", folder["."], (n, value) => n == "dy" ? null : value);
        File.Copy(TestSetup.Golden("mlstm_exp_c.safetensors"), Path.Combine(folder["."], "other_kind.safetensors"));

        var rows = GoldenVerifier.Verify(folder["."]).ToList();

        Assert.Contains(rows, r => r is { Case: "mlstm_exp_x", Outcome: GoldenOutcome.Fail, Note: not null });
        Assert.Contains(
            rows, r => r is { Case: "slstm_cell", Outcome: GoldenOutcome.Fail } && r.Note!.Contains("'dy'", StringComparison.Ordinal));
        Assert.Contains(rows, r => r is { Case: "other_kind", Outcome: GoldenOutcome.Unknown });
    }

    [Fact]
    public void Verify_NoCases_SaysWhatWasExpected()
    {
        using var folder = new TempFolder();
        Assert.Contains(
            "golden", Assert.Throws<FileNotFoundException>(() => GoldenVerifier.Verify(folder["."])).Message, StringComparison.Ordinal);
        Assert.Throws<DirectoryNotFoundException>(() => GoldenVerifier.Verify(Path.Combine(folder["."], "nowhere")));
    }

    private static void Rewrite(string name, string folder, Func<string, Tensor, Tensor?> change)
    {
        using var scope = NewDisposeScope();
        using var file = SafetensorsFile.Open(TestSetup.Golden($"{name}.safetensors"));
        var tensors = file.Names.Select(n => (Name: n, Value: change(n, file.Read(n)))).Where(p => p.Value is not null);
        Safetensors.Write(
            Path.Combine(folder, $"{name}.safetensors"), tensors.Select(p => KeyValuePair.Create(p.Name, p.Value!)), file.Metadata);
    }
}
