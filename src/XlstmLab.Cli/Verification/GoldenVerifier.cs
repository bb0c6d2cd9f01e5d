using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using TorchSharp;
using TorchSharp.Modules;
using XlstmLab.Checkpoints;
using XlstmLab.Models;
using XlstmLab.Native;
using XlstmLab.Operations;
using XlstmLab.Text;
using XlstmLab.Training;
using static TorchSharp.torch;

namespace XlstmLab.Cli.Verification;

/// <summary>Runs every golden case of a folder against the library: the numbers of the published implementations.</summary>
public static partial class GoldenVerifier
{
    /// <summary>The chunk sizes that the chunkwise form is tried with: dividing the length or not, one token, more than all.</summary>
    private static readonly int[] ChunkSizes = [1, 7, 16, 64, 1024];

    private static readonly string[] MLstmInputs = ["q", "k", "v", "i", "f", "c0", "n0"];

    private static readonly string[] DeltaInputs = ["q", "k", "v", "beta", "g", "s0"];

    /// <summary>Verifies the cases in the order of their names.</summary>
    /// <param name="folder">A folder of golden files.</param>
    /// <param name="device">Where to compute; null is the CPU.</param>
    /// <param name="cancellationToken">Ends the run between two cases.</param>
    /// <returns>Rows as they are computed, a few for each case; a broken case is a row that fails.</returns>
    /// <exception cref="DirectoryNotFoundException">There is no such folder.</exception>
    /// <exception cref="FileNotFoundException">The folder holds no case.</exception>
    public static IEnumerable<GoldenRow> Verify(string folder, Device? device = null, CancellationToken cancellationToken = default)
    {
        NativeTorch.EnsureLoaded();
        if (!Directory.Exists(folder))
        {
            throw new DirectoryNotFoundException(
                $"There is no folder '{folder}'. Expected a folder of golden cases, such as tests/golden of the repository.");
        }

        var cases = Directory.GetFiles(folder, "*.safetensors").Order(StringComparer.Ordinal).ToList();
        var tokenizer = Path.Combine(folder, "tokenizer", "cases.json");
        if (cases.Count == 0 && !File.Exists(tokenizer))
        {
            throw new FileNotFoundException(
                $"The folder '{folder}' holds no golden case: expected NAME.safetensors files or tokenizer/cases.json.");
        }

        return Run();

        IEnumerable<GoldenRow> Run()
        {
            foreach (var path in cases)
            {
                cancellationToken.ThrowIfCancellationRequested();
                foreach (var row in VerifyCase(path, device ?? CPU))
                {
                    yield return row;
                }
            }

            if (File.Exists(tokenizer))
            {
                foreach (var row in Guarded("tokenizer", () => Tokenizer(tokenizer)))
                {
                    yield return row;
                }
            }
        }
    }

    private static List<GoldenRow> VerifyCase(string path, Device device)
    {
        var name = Path.GetFileNameWithoutExtension(path);
        Func<GoldenCase, IEnumerable<GoldenRow>>? verify = name switch
        {
            _ when name.StartsWith("mlstm_exp_", StringComparison.Ordinal) => MLstm,
            _ when name.StartsWith("mlstm_sig_", StringComparison.Ordinal) => MLstm,
            _ when name.StartsWith("slstm_cell", StringComparison.Ordinal) => SLstm,
            _ when name.StartsWith("xlstm_large_", StringComparison.Ordinal) => XlstmLarge,
            _ when name.StartsWith("xlstm_v1_", StringComparison.Ordinal) => FirstPaperGolden.Verify,
            _ when name.StartsWith("gated_delta_", StringComparison.Ordinal) => GatedDelta,
            _ when name.StartsWith("muon_", StringComparison.Ordinal) => MuonSteps,
            _ when name.StartsWith("hf_", StringComparison.Ordinal) => golden => HuggingFace(golden, Path.GetDirectoryName(path)!),
            _ => null,
        };
        return verify is null
            ? [new(name, "case", double.NaN, double.NaN, GoldenOutcome.Unknown, "a kind this version does not know")]
            : Guarded(name, () => verify(GoldenCase.Read(path, device)));
    }

    /// <summary>Computes a case's rows in one dispose scope; whatever goes wrong is a row that fails.</summary>
    internal static List<GoldenRow> Guarded(string name, Func<IEnumerable<GoldenRow>> verify)
    {
        using var scope = NewDisposeScope();
        var rows = new List<GoldenRow>();
        try
        {
            rows.AddRange(verify());
            if (rows.Count == 0)
            {
                rows.Add(GoldenRow.Broken(name, "nothing was compared"));
            }
        }
        catch (Exception e) when (e is not OutOfMemoryException)
        {
            rows.Add(GoldenRow.Broken(name, e.Message));
        }

        return rows;
    }

    private static IEnumerable<GoldenRow> MLstm(GoldenCase golden)
    {
        var options = new MLstmOptions
        {
            InputGate = golden.Name.StartsWith("mlstm_sig_", StringComparison.Ordinal) ? InputGate.Sigmoid : InputGate.Exponential,
            Normalize = (bool?)golden.About["normalize"] ?? !golden.Name.EndsWith("_nonorm", StringComparison.Ordinal),
            Epsilon = (double?)golden.About["eps"] ?? 1e-6,
        };
        var forms = new List<(string Name, MLstmOptions Options)>
        {
            ("recurrent", options with { Form = MLstmForm.Recurrent }),
            ("parallel", options with { Form = MLstmForm.Parallel }),
        };
        forms.AddRange(ChunkSizes.Select(size => ($"chunkwise {size}", options with { Form = MLstmForm.Chunkwise, ChunkSize = size })));
        foreach (var (form, formOptions) in forms)
        {
            var inputs = MLstmInputs.Where(golden.Has)
                .ToDictionary(n => n, n => golden[n].detach().clone().requires_grad_());
            var initial = inputs.TryGetValue("c0", out var c0) ? new MLstmState(c0, inputs["n0"], golden["m0"]) : null;
            var (h, last) = MLstmCell.Forward(inputs["q"], inputs["k"], inputs["v"], inputs["i"], inputs["f"], initial, null, formOptions);
            Gradients.Backward((h * golden["dh"]).sum());

            yield return GoldenRow.Compare(golden.Name, $"h, {form}", GoldenCase.RelativeRms(golden["h"], h), 1e-9);
            if (golden.Has("c_last"))
            {
                var state = Worst(("c_last", last.C), ("n_last", last.N), ("m_last", last.M));
                yield return GoldenRow.Compare(golden.Name, $"last state, {form}", state, 1e-9);
            }

            var gates = Worst(("di", inputs["i"].grad!), ("df", inputs["f"].grad!));
            var others = Worst([.. inputs.Where(p => p.Key is not ("i" or "f")).Select(p => ("d" + p.Key, p.Value.grad!))]);
            yield return GoldenRow.Compare(golden.Name, $"dq dk dv{(initial is null ? "" : " dc0 dn0")}, {form}", others, 1e-8);
            yield return GoldenRow.Compare(golden.Name, $"di df, {form}", gates, 1e-8);
        }

        double Worst(params (string Name, Tensor Value)[] pairs) => GoldenCase.Largest(
            pairs.Select(p => GoldenCase.RelativeRms(golden[p.Name], p.Value)));
    }

    private static IEnumerable<GoldenRow> GatedDelta(GoldenCase golden)
    {
        var forms = ChunkSizes.Select(size => ($"chunkwise {size}", DeltaRuleForm.Chunkwise, size))
            .Prepend(("recurrent", DeltaRuleForm.Recurrent, 1));
        foreach (var (name, form, size) in forms)
        {
            // The case has heads after tokens, and keys and queries before they are brought to length 1.
            var inputs = DeltaInputs.Where(golden.Has).ToDictionary(n => n, n => golden[n].detach().clone().requires_grad_());
            Tensor Heads(string input) => inputs[input].transpose(1, 2);
            var (o, last) = GatedDeltaRule.Forward(
                GatedDeltaRule.Normalize(Heads("q")), GatedDeltaRule.Normalize(Heads("k")), Heads("v"), Heads("beta"), Heads("g"),
                inputs.GetValueOrDefault("s0"), returnState: true, form: form, chunkSize: size);
            o = o.transpose(1, 2);
            Gradients.Backward((o * golden["do"]).sum() + (last! * golden["ds_last"]).sum());

            yield return GoldenRow.Compare(golden.Name, $"o, {name}", GoldenCase.RelativeRms(golden["o"], o), 1e-9);
            yield return GoldenRow.Compare(golden.Name, $"last state, {name}", GoldenCase.RelativeRms(golden["s_last"], last!), 1e-9);
            var worst = GoldenCase.Largest(inputs.Select(p => GoldenCase.RelativeRms(golden["d" + p.Key], p.Value.grad!)));
            yield return GoldenRow.Compare(golden.Name, $"gradients, {name}", worst, 1e-8);
        }
    }

    private static IEnumerable<GoldenRow> MuonSteps(GoldenCase golden)
    {
        var about = golden.About;
        var settings = new MuonSettings
        {
            Momentum = (double?)about["momentum"] ?? 0.95,
            Nesterov = (bool?)about["nesterov"] ?? true,
            NewtonSchulzSteps = (int?)about["ns_steps"] ?? 5,
            Scale = (string?)about["adjust_lr_fn"] switch
            {
                null or "original" => MuonScale.Original,
                "match_rms_adamw" => MuonScale.MatchRmsAdamW,
                var other => throw new InvalidDataException($"There is no adjust_lr_fn '{other}': expected original or match_rms_adamw."),
            },
        };
        var rate = (double?)about["lr"] ?? throw new InvalidDataException("The case names no lr.");
        using var weight = new Parameter(golden["w0"].clone());
        using var muon = new Muon([("w", weight)], settings, (double?)about["weight_decay"] ?? 0.1);
        for (var step = 0; golden.Has($"grad.{step}"); step++)
        {
            weight.grad = golden[$"grad.{step}"];
            muon.Step(rate);
            var change = golden[$"w.{step + 1}"] - golden["w0"];
            yield return GoldenRow.Compare(
                golden.Name, $"change of the weights, step {step + 1}", GoldenCase.RelativeRms(change, weight.detach() - golden["w0"]),
                1e-2);

            // Single values of the published steps lie between 0.5 and 1.2: what is near 1 is their mean size.
            var values = linalg.svdvals(Muon.Orthogonalize(muon.StateDict()["momentum_buffer.w"], settings.NewtonSchulzSteps));
            yield return GoldenRow.Compare(
                golden.Name, $"singular values, their root mean square from 1, step {step + 1}",
                Math.Abs(values.square().mean().sqrt().item<float>() - 1), 0.3);
        }
    }

    private static IEnumerable<GoldenRow> SLstm(GoldenCase golden)
    {
        var y = golden["y"]; // (B, NH, S, D)
        var (batch, heads, length, dim) = (y.shape[0], y.shape[1], y.shape[2], y.shape[3]);

        // The fused form is code for the CPU.
        foreach (var form in golden.Device.type == DeviceType.CPU ? new[] { "fused", "eager" } : ["eager"])
        {
            var x = golden["x"].detach().clone().requires_grad_();
            var kernel = golden["param._recurrent_kernel_"].detach().clone().requires_grad_();
            var bias = golden["param._bias_"].detach().clone().requires_grad_();
            var (gates, r, b) = (x.view(batch, length, 4, heads, dim), kernel.view(heads, 4, dim, dim), bias.view(4, heads, dim));
            var (h, last) = form == "fused" ? SLstmFused.Forward(gates, r, b) : SLstmRecurrent.Forward(gates, r, b);
            Gradients.Backward((h * golden["dy"]).sum());

            yield return GoldenRow.Compare(golden.Name, $"y, {form}", GoldenCase.RelativeRms(y, h), 1e-5);
            var expected = golden["state_last"].view(4, batch, heads, dim).unbind(0);
            var state = new[] { last.H, last.C, last.N, last.M };
            yield return GoldenRow.Compare(
                golden.Name, $"last state, {form}", GoldenCase.Largest(expected.Zip(state, GoldenCase.RelativeRms)), 1e-5);
            yield return GoldenRow.Compare(golden.Name, $"dx, {form}", GoldenCase.RelativeRms(golden["dx"], x.grad!), 1e-5);
            yield return GoldenRow.Compare(
                golden.Name, $"d kernel, {form}", GoldenCase.RelativeRms(golden["grad._recurrent_kernel_"], kernel.grad!), 1e-5);
            yield return GoldenRow.Compare(golden.Name, $"d bias, {form}", GoldenCase.RelativeRms(golden["grad._bias_"], bias.grad!), 1e-5);
        }
    }

    /// <summary>Logits, loss and gradients of a language model that reads the tokens but the last.</summary>
    /// <param name="golden">The case, with <c>input_ids</c>.</param>
    /// <param name="model">A model with its weights.</param>
    /// <param name="published">The case's name of a parameter.</param>
    internal static GoldenRow[] Whole(GoldenCase golden, LanguageModel model, Func<string, string> published)
    {
        var ids = golden["input_ids"];
        var length = ids.shape[1] - 1;
        var logits = model.Forward(ids.narrow(1, 0, length)).Logits;
        var loss = nn.functional.cross_entropy(logits.flatten(0, 1), ids.narrow(1, 1, length).flatten());
        Gradients.Backward(loss);
        var gradients = model.named_parameters().Select(
            p => GoldenCase.RelativeRms(golden["grad." + published(p.name)], p.parameter.grad!));
        return
        [
            GoldenRow.Compare(golden.Name, "logits", GoldenCase.LargestDifference(golden["logits"], logits), 1e-4),
            GoldenRow.Compare(golden.Name, "loss", GoldenCase.LargestDifference(golden["loss"].squeeze(), loss), 1e-4),
            GoldenRow.Compare(golden.Name, "gradients", GoldenCase.Largest(gradients), 1e-3),
        ];
    }

    private static IEnumerable<GoldenRow> XlstmLarge(GoldenCase golden)
    {
        var config = golden.About["config"] as JsonObject ?? throw new InvalidDataException("The case names no config.");
        config = (JsonObject)config.DeepClone();
        config["model_type"] = "xlstm";
        config["norm_eps"] = golden.About["norm_eps"]?.DeepClone() ?? 1e-6;
        config["eps"] = golden.About["eps"]?.DeepClone() ?? 1e-6;
        config["ffn_proj_factor"] ??= 2.6667;
        using var model = ModelConfigJson.Parse(config.ToJsonString(), golden.Name).CreateModel();
        model.to(golden.Device);
        model.eval();
        using (no_grad())
        {
            foreach (var (parameter, value) in model.named_parameters())
            {
                value.copy_(golden["param." + Published(parameter)]);
            }
        }

        var ids = golden["input_ids"];
        var length = ids.shape[1] - 1;
        var context = ids.narrow(1, 0, length);
        foreach (var row in Whole(golden, model, Published))
        {
            yield return row;
        }

        using var grad = no_grad();
        var first = Math.Min(20, length);
        var (part, state) = model.Forward(context.narrow(1, 0, first), returnState: true);
        var parts = new List<Tensor> { part };
        for (var t = first; t < length; t++)
        {
            using var before = state;
            (part, state) = model.Forward(context.narrow(1, t, 1), before, returnState: true);
            parts.Add(part);
        }

        using var last = state!;
        yield return GoldenRow.Compare(
            golden.Name, "logits, recurrent", GoldenCase.LargestDifference(golden["logits_recurrent"], cat(parts, 1)), 1e-4);
        var states = golden.Names.Where(n => n.StartsWith("state.", StringComparison.Ordinal))
            .Select(n => GoldenCase.RelativeRms(golden[n], last["blocks." + n["state.".Length..]]));
        yield return GoldenRow.Compare(golden.Name, "last state", GoldenCase.Largest(states), 1e-4);
        yield return Greedy(model, golden, 7);
    }

    private static IEnumerable<GoldenRow> HuggingFace(GoldenCase golden, string folder)
    {
        var checkpoint = (string?)golden.About["checkpoint"] ?? golden.Name.Replace("_io", "", StringComparison.Ordinal);
        using var files = HuggingFaceFolder.Open(Path.Combine(folder, checkpoint));
        using var model = files.Config.CreateModel();
        files.LoadInto(model);
        model.to(golden.Device);
        model.eval();
        using var grad = no_grad();
        yield return GoldenRow.Compare(
            golden.Name, "logits", GoldenCase.LargestDifference(golden["logits"], model.Forward(golden["input_ids"]).Logits), 1e-4);
        yield return GoldenRow.Compare(
            golden.Name, "logits, in pieces", GoldenCase.LargestDifference(golden["logits"], InPieces(model, golden["input_ids"])), 1e-4);
        if (golden.Has("loss"))
        {
            var ids = golden["input_ids"];
            var length = ids.shape[1] - 1;
            var logits = model.Forward(ids.narrow(1, 0, length)).Logits;
            var loss = nn.functional.cross_entropy(logits.flatten(0, 1), ids.narrow(1, 1, length).flatten());
            yield return GoldenRow.Compare(golden.Name, "loss", GoldenCase.LargestDifference(golden["loss"].squeeze(), loss), 1e-4);
        }

        if (golden.Has("greedy"))
        {
            yield return Greedy(model, golden, 9);
        }
    }

    /// <summary>The logits of tokens that are read in pieces of 1, 2, 3, ..., with the state between them.</summary>
    private static Tensor InPieces(LanguageModel model, Tensor ids)
    {
        ModelState? state = null;
        var parts = new List<Tensor>();
        for (long start = 0, length = 1; start < ids.shape[1]; start += length, length++)
        {
            using var before = state;
            (var part, state) = model.Forward(ids.narrow(1, start, Math.Min(length, ids.shape[1] - start)), before, returnState: true);
            parts.Add(part);
        }

        state!.Dispose();
        return cat(parts, 1);
    }

    /// <summary>The share of greedy tokens that differ; the prompt's length stands in the case's note.</summary>
    private static GoldenRow Greedy(LanguageModel model, GoldenCase golden, int defaultPrompt)
    {
        var note = $"{golden.About["note"]} {golden.About["kind"]}";
        var prompt = PromptLength().Match(note) is { Success: true } match
            ? int.Parse(match.Groups[1].Value, CultureInfo.InvariantCulture)
            : defaultPrompt;
        var expected = golden["greedy"].flatten().cpu().data<long>().ToArray();
        var tokens = golden["input_ids"].narrow(0, 0, 1).narrow(1, 0, prompt);
        var (logits, state) = model.Forward(tokens, returnState: true);
        var wrong = 0;
        foreach (var id in expected)
        {
            using var before = state;
            var next = logits.select(1, -1).argmax(-1, keepdim: true);
            wrong += next.item<long>() == id ? 0 : 1;
            (logits, state) = model.Forward(next, before, returnState: true);
        }

        state!.Dispose();
        return GoldenRow.Compare(golden.Name, $"greedy, {expected.Length} tokens, share that differs", (double)wrong / expected.Length, 0);
    }

    private static IEnumerable<GoldenRow> Tokenizer(string cases)
    {
        var tokenizer = BpeTokenizer.Load(Path.Combine(Path.GetDirectoryName(cases)!, "tokenizer.json"));
        using var document = JsonDocument.Parse(File.ReadAllText(cases));
        var (count, ids, texts) = (0, 0, 0);
        foreach (var entry in document.RootElement.EnumerateArray())
        {
            count++;
            var expected = entry.GetProperty("ids").EnumerateArray().Select(e => e.GetInt32()).ToArray();
            ids += tokenizer.Encode(entry.GetProperty("text").GetString()!).AsSpan().SequenceEqual(expected) ? 0 : 1;
            texts += tokenizer.Decode(expected, keepSpecialTokens: true) == entry.GetProperty("decoded").GetString() ? 0 : 1;
        }

        if (count == 0)
        {
            throw new InvalidDataException("cases.json holds no case.");
        }

        yield return GoldenRow.Compare("tokenizer", $"ids, {count} texts, share that differs", (double)ids / count, 0);
        yield return GoldenRow.Compare("tokenizer", $"decoded, {count} texts, share that differs", (double)texts / count, 0);
    }

    /// <summary>The first xLSTM repository keeps the embedding outside of the backbone.</summary>
    private static string Published(string parameter) =>
        parameter.Replace("backbone.embeddings.", "embedding.", StringComparison.Ordinal);

    [GeneratedRegex(@"input_ids\[:1,\s*:(\d+)\]")]
    private static partial Regex PromptLength();
}
