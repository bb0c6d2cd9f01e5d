using System.Net;
using System.Text;

namespace XlstmLab.Notebooks;

/// <summary>
/// Turns the TeX that formulas of papers mostly use into MathML, which browsers draw themselves; other formulas are shown as they are
/// written.
/// </summary>
internal static class MathHtml
{
    private const int DeepestNesting = 40;

    private static readonly Dictionary<string, string> Letters = Pairs(
        "alpha α beta β gamma γ delta δ epsilon ϵ varepsilon ε zeta ζ eta η theta θ kappa κ lambda λ mu μ nu ν xi ξ "
        + "pi π rho ρ sigma σ tau τ phi ϕ varphi φ chi χ psi ψ omega ω Gamma Γ Delta Δ Theta Θ Lambda Λ Sigma Σ Phi Φ "
        + "Psi Ψ Omega Ω infty ∞ top ⊤ ell ℓ partial ∂ nabla ∇ ldots … dots … cdots ⋯");

    private static readonly Dictionary<string, string> Operators = Pairs(
        "cdot ⋅ times × odot ⊙ oplus ⊕ otimes ⊗ pm ± le ≤ leq ≤ ge ≥ geq ≥ ne ≠ neq ≠ approx ≈ sim ∼ propto ∝ equiv ≡ "
        + "in ∈ to → rightarrow → leftarrow ← mapsto ↦ sum ∑ prod ∏ int ∫ mid ∣ ll ≪ gg ≫ | ‖ { { } } lfloor ⌊ rfloor ⌋ "
        + "lceil ⌈ rceil ⌉ langle ⟨ rangle ⟩ forall ∀ exists ∃ cup ∪ cap ∩ subset ⊂ circ ∘ star ⋆");

    private static readonly HashSet<string> Functions =
        ["log", "exp", "max", "min", "sin", "cos", "tanh", "ln", "lim", "sup", "inf", "det", "arg", "argmax", "argmin", "Pr"];

    private static readonly Dictionary<string, string> Variants = new(StringComparer.Ordinal)
    {
        ["mathbf"] = "font-weight:bold;font-style:normal",
        ["boldsymbol"] = "font-weight:bold",
        ["mathrm"] = "font-style:normal",
        ["mathcal"] = "font-family:cursive",
        ["mathbb"] = "font-weight:bold;font-style:normal",
        ["operatorname"] = "font-style:normal",
    };

    private static readonly Dictionary<string, string> Accents = new(StringComparer.Ordinal)
    {
        ["tilde"] = "~",
        ["hat"] = "^",
        ["bar"] = "¯",
        ["overline"] = "¯",
        ["vec"] = "→",
        ["dot"] = "˙",
    };

    private static readonly Dictionary<string, string> Spaces = new(StringComparer.Ordinal)
    {
        [","] = "0.17em",
        [";"] = "0.28em",
        [":"] = "0.22em",
        [" "] = "0.33em",
        ["!"] = "-0.17em",
        ["quad"] = "1em",
        ["qquad"] = "2em",
    };

    /// <param name="tex">The formula without its dollar signs.</param>
    /// <param name="display">Whether it stands on a line of its own.</param>
    public static string Render(string tex, bool display)
    {
        tex = tex.Trim();
        try
        {
            Parser parser = new(tex);
            string content = parser.Row(end: null, depth: 0);
            return $"<math{(display ? " display=\"block\"" : "")}><mrow>{content}</mrow></math>";
        }
        catch (FormatException)
        {
            return $"<code class=\"tex\">{WebUtility.HtmlEncode(tex)}</code>";
        }
    }

    /// <summary>Commands and their signs, in turns.</summary>
    private static Dictionary<string, string> Pairs(string table) =>
        table.Split(' ').Chunk(2).ToDictionary(pair => pair[0], pair => pair[1], StringComparer.Ordinal);

    /// <summary>A recursive descent over the formula; what it does not know is a <see cref="FormatException"/>.</summary>
    private sealed class Parser(string tex)
    {
        private int _at;

        /// <summary>Everything up to an end mark, which is taken: <c>}</c>, or the command <c>right</c>, or the end of the text.</summary>
        public string Row(string? end, int depth)
        {
            StringBuilder row = new();
            while (true)
            {
                SkipBlanks();
                if (_at == tex.Length)
                {
                    return end is null ? row.ToString() : throw new FormatException();
                }

                if (end == "}" && tex[_at] == '}')
                {
                    _at++;
                    return row.ToString();
                }

                if (end == "right" && string.CompareOrdinal(tex, _at, "\\right", 0, 6) == 0
                    && (_at + 6 == tex.Length || !char.IsLetter(tex[_at + 6])))
                {
                    _at += 6;
                    return row.ToString();
                }

                row.Append(Scripted(depth));
            }
        }

        private string Scripted(int depth)
        {
            string atom = Atom(depth);
            string? below = null, above = null;
            for (SkipBlanks(); _at < tex.Length && tex[_at] is '_' or '^' or '\''; SkipBlanks())
            {
                char kind = tex[_at++];
                string script = kind == '\'' ? "<mo>′</mo>" : Atom(depth);
                (below, above) = kind == '_' && below is null ? (script, above)
                    : kind != '_' && above is null ? (below, script) : throw new FormatException();
                if (_at == tex.Length)
                {
                    break;
                }
            }

            bool limits = atom is "<mo>∑</mo>" or "<mo>∏</mo>" or "<mi>max</mi>" or "<mi>min</mi>" or "<mi>lim</mi>";
            return (below, above) switch
            {
                (null, null) => atom,
                (_, null) => limits ? $"<munder>{atom}{below}</munder>" : $"<msub>{atom}{below}</msub>",
                (null, _) => limits ? $"<mover>{atom}{above}</mover>" : $"<msup>{atom}{above}</msup>",
                _ => limits ? $"<munderover>{atom}{below}{above}</munderover>" : $"<msubsup>{atom}{below}{above}</msubsup>",
            };
        }

        private string Atom(int depth)
        {
            if (depth > DeepestNesting)
            {
                throw new FormatException();
            }

            SkipBlanks();
            if (_at == tex.Length)
            {
                throw new FormatException();
            }

            char c = tex[_at++];
            switch (c)
            {
                case '{':
                    return $"<mrow>{Row("}", depth + 1)}</mrow>";
                case '\\':
                    return Command(Name(), depth + 1);
                case '}' or '_' or '^' or '&' or '#' or '%' or '$':
                    throw new FormatException();
            }

            if (char.IsAsciiDigit(c))
            {
                int start = _at - 1;
                while (_at < tex.Length
                    && (char.IsAsciiDigit(tex[_at]) || (tex[_at] == '.' && _at + 1 < tex.Length && char.IsAsciiDigit(tex[_at + 1]))))
                {
                    _at++;
                }

                return $"<mn>{tex[start.._at]}</mn>";
            }

            string text = WebUtility.HtmlEncode(c == '-' ? "−" : c.ToString());
            return char.IsLetter(c) ? $"<mi>{text}</mi>" : c is '|' or '(' or ')' or '[' or ']' ? Fence(text) : $"<mo>{text}</mo>";
        }

        private string Command(string name, int depth)
        {
            if (Letters.TryGetValue(name, out string? letter))
            {
                return $"<mi>{letter}</mi>";
            }

            if (Operators.TryGetValue(name, out string? sign))
            {
                return name is "{" or "}" or "|" ? Fence(sign) : $"<mo>{sign}</mo>";
            }

            if (Functions.Contains(name))
            {
                return $"<mi>{name}</mi>";
            }

            if (Variants.TryGetValue(name, out string? style))
            {
                return $"<mrow style=\"{style}\">{(name is "mathrm" or "operatorname" ? $"<mtext>{Text()}</mtext>" : Atom(depth))}</mrow>";
            }

            if (Accents.TryGetValue(name, out string? accent))
            {
                return $"<mover accent=\"true\">{Atom(depth)}<mo>{accent}</mo></mover>";
            }

            return Spaces.TryGetValue(name, out string? space) ? $"<mspace width=\"{space}\"></mspace>" : name switch
            {
                "frac" or "tfrac" or "dfrac" => $"<mfrac>{Atom(depth)}{Atom(depth)}</mfrac>",
                "sqrt" => $"<msqrt>{Atom(depth)}</msqrt>",
                "text" or "textrm" => $"<mtext>{Text()}</mtext>",
                "left" => $"<mrow>{Delimiter()}{Row("right", depth)}{Delimiter()}</mrow>",
                _ => throw new FormatException(),
            };
        }

        /// <summary>A bracket that does not grow by itself.</summary>
        private static string Fence(string sign) => $"<mo stretchy=\"false\">{sign}</mo>";

        private string Delimiter()
        {
            SkipBlanks();
            if (_at == tex.Length)
            {
                throw new FormatException();
            }

            char c = tex[_at++];
            string sign = c != '\\' ? c.ToString() : Operators.TryGetValue(Name(), out string? known) ? known : throw new FormatException();
            return sign == "." ? "" : $"<mo stretchy=\"true\">{WebUtility.HtmlEncode(sign)}</mo>";
        }

        private string Text()
        {
            SkipBlanks();
            int end = _at < tex.Length && tex[_at] == '{' ? tex.IndexOf('}', _at) : -1;
            if (end < 0)
            {
                throw new FormatException();
            }

            string text = tex[(_at + 1)..end];
            _at = end + 1;
            return text.AsSpan().IndexOfAny("\\{$") < 0 ? WebUtility.HtmlEncode(text) : throw new FormatException();
        }

        private string Name()
        {
            if (_at == tex.Length)
            {
                throw new FormatException();
            }

            int start = _at++;
            while (char.IsAsciiLetter(tex[start]) && _at < tex.Length && char.IsAsciiLetter(tex[_at]))
            {
                _at++;
            }

            return tex[start.._at];
        }

        private void SkipBlanks()
        {
            while (_at < tex.Length && char.IsWhiteSpace(tex[_at]))
            {
                _at++;
            }
        }
    }
}
