using System.Globalization;
using System.Text.RegularExpressions;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;
using Microsoft.CodeAnalysis.CSharp.Syntax;

namespace XlstmLab.Notebooks;

/// <summary>
/// Puts values for a run into a notebook: a cell of assignments after the cell tagged <c>parameters</c>, which declares the
/// parameters and their defaults.
/// </summary>
public static partial class NotebookParameters
{
    /// <summary>The tag of the cell that declares the parameters.</summary>
    public const string Tag = "parameters";

    /// <summary>The tag of the cell that this class adds.</summary>
    public const string InjectedTag = "injected-parameters";

    /// <summary>
    /// Removes the cell that an earlier run added, and adds one for the given values unless there are none.
    /// </summary>
    /// <param name="notebook">The notebook to change.</param>
    /// <param name="values">
    /// Values by name. Text is read as the declared type, as a command line needs it; <c>var</c> takes the type of its initial value.
    /// Types: the integers, <c>float</c>, <c>double</c>, <c>decimal</c>, <c>bool</c>, <c>char</c>, <c>string</c>, and the nullable forms.
    /// </param>
    /// <exception cref="NotebookException">
    /// No cell is tagged <c>parameters</c>, a name is not declared there, or a value does not fit its declared type.
    /// </exception>
    public static void Inject(Notebook notebook, IReadOnlyDictionary<string, object?> values)
    {
        ArgumentNullException.ThrowIfNull(notebook);
        ArgumentNullException.ThrowIfNull(values);
        foreach (var old in notebook.Cells.Where(cell => cell.Tags.Contains(InjectedTag)).ToList())
        {
            notebook.Cells.Remove(old);
        }

        if (values.Count == 0)
        {
            return;
        }

        var declaring = Declaring(notebook) ?? throw new NotebookException(
            $"The notebook takes no parameters: no code cell is tagged '{Tag}', so '{values.Keys.First()}' cannot be set.");
        bool isFSharp = IsFSharp(notebook, declaring);
        var declared = Declarations(declaring.Source, isFSharp);
        var lines = values.Select(value => Assignment(value.Key, value.Value, declared, isFSharp));
        var magic = declaring.Source.TrimStart().StartsWith("#!", StringComparison.Ordinal) ? declaring.FirstLine + "\n" : "";
        NotebookCell injected = new(CellKind.Code, magic + "// Parameters\n" + string.Join("\n", lines), InjectedTag);
        if (declaring.Metadata["polyglot_notebook"] is { } language)
        {
            injected.Metadata["polyglot_notebook"] = language.DeepClone();
        }

        injected.Metadata["tags"] = new System.Text.Json.Nodes.JsonArray(InjectedTag);
        notebook.Cells.Insert(notebook.Cells.IndexOf(declaring) + 1, injected);
    }

    /// <summary>The parameters that a notebook declares.</summary>
    /// <param name="notebook">The notebook.</param>
    public static IReadOnlyCollection<string> Names(Notebook notebook)
    {
        ArgumentNullException.ThrowIfNull(notebook);
        return Declaring(notebook) is { } cell ? Declarations(cell.Source, IsFSharp(notebook, cell)).Keys : [];
    }

    private static NotebookCell? Declaring(Notebook notebook) => notebook.CodeCells.FirstOrDefault(cell => cell.Tags.Contains(Tag));

    private static bool IsFSharp(Notebook notebook, NotebookCell cell) =>
        (cell.FirstLine.StartsWith("#!", StringComparison.Ordinal) ? CellLanguage.Kernel(cell.FirstLine[2..])
            : NotebookLanguage.Of(cell) ?? NotebookLanguage.Default(notebook)) == CellLanguage.FSharp;

    private static Dictionary<string, string> Declarations(string source, bool isFSharp)
    {
        if (isFSharp)
        {
            return FSharpValue().Matches(source).GroupBy(match => match.Groups["name"].Value).ToDictionary(
                group => group.Key,
                group => FSharpType(group.Last()));
        }

        source = string.Join('\n', source.Split('\n').Where(line => !line.StartsWith("#!", StringComparison.Ordinal)));
        var options = new CSharpParseOptions(LanguageVersion.Latest, DocumentationMode.None, SourceCodeKind.Script);
        Dictionary<string, string> declared = [];
        foreach (var field in CSharpSyntaxTree.ParseText(source, options).GetRoot().ChildNodes().OfType<FieldDeclarationSyntax>())
        {
            foreach (var variable in field.Declaration.Variables)
            {
                string type = field.Modifiers.Any(SyntaxKind.ConstKeyword) ? "const"
                    : field.Declaration.Type.IsVar ? TypeOf(variable.Initializer?.Value)
                    : field.Declaration.Type.ToString();
                declared[variable.Identifier.ValueText] = type;
            }
        }

        return declared;
    }

    /// <summary>The keyword of a literal's type; the expression itself if it is none.</summary>
    private static string TypeOf(ExpressionSyntax? value) => value switch
    {
        PrefixUnaryExpressionSyntax { RawKind: (int)SyntaxKind.UnaryMinusExpression or (int)SyntaxKind.UnaryPlusExpression } sign =>
            TypeOf(sign.Operand),
        LiteralExpressionSyntax { Token.Value: { } constant } => constant switch
        {
            int => "int",
            uint => "uint",
            long => "long",
            ulong => "ulong",
            float => "float",
            double => "double",
            decimal => "decimal",
            bool => "bool",
            char => "char",
            string => "string",
            _ => constant.GetType().Name,
        },
        InterpolatedStringExpressionSyntax => "string",
        _ => $"var = {value}",
    };

    /// <summary>The C# keyword of the type that an F# value is declared with, or that its literal has.</summary>
    private static string FSharpType(Match value) => value.Groups["type"].Value.Trim() switch
    {
        "" => TypeOf(SyntaxFactory.ParseExpression(value.Groups["value"].Value)),
        "float" or "double" => "double",
        "float32" or "single" => "float",
        "int64" => "long",
        "uint64" => "ulong",
        "uint32" => "uint",
        "int16" => "short",
        "uint16" => "ushort",
        "string option" or "int option" or "float option" => "option",
        var type => type,
    };

    private static string Assignment(string name, object? value, Dictionary<string, string> declared, bool isFSharp)
    {
        if (!declared.TryGetValue(name, out string? type))
        {
            string known = declared.Count == 0 ? "it declares none" : "it declares " + string.Join(", ", declared.Keys);
            throw new NotebookException(
                $"The cell tagged '{Tag}' does not declare '{name}'; {known}.{NearestName.Hint(name, declared.Keys)}");
        }

        if (type == "const")
        {
            throw new NotebookException($"The parameter '{name}' is declared const: it cannot be set. Declare it without const.");
        }

        // F# values are declared anew: cells after this one see the new value.
        return isFSharp ? $"let {name} = {FSharpLiteral(Literal(name, value, type), type)}" : $"{name} = {Literal(name, value, type)};";
    }

    /// <summary>A C# literal as F# writes it.</summary>
    private static string FSharpLiteral(string literal, string type) => type switch
    {
        "double" when literal.EndsWith('d') => literal.AsSpan().IndexOfAny(".E") >= 0 ? literal[..^1] : literal[..^1] + ".0",
        "float" when literal.EndsWith('f') => literal.AsSpan().IndexOfAny(".E") >= 0 ? literal : literal[..^1] + ".0f",
        "decimal" => literal[..^1] + "M",
        "short" => literal + "s",
        "ushort" => literal + "us",
        "byte" => literal + "uy",
        "sbyte" => literal + "y",
        _ => literal,
    };

    private static string Literal(string name, object? value, string declaredType)
    {
        string type = declaredType.TrimEnd('?');
        if (value is null || (value is "null" && declaredType.EndsWith('?')))
        {
            return declaredType.EndsWith('?') || type == "string" ? "null" : throw Misfit(name, "null", declaredType);
        }

        string text = value switch
        {
            string s => s,
            bool b => b ? "true" : "false",
            IFormattable number => number.ToString(null, CultureInfo.InvariantCulture),
            _ => value.ToString() ?? "",
        };
        var invariant = CultureInfo.InvariantCulture;
        const NumberStyles whole = NumberStyles.AllowLeadingSign;
        const NumberStyles real = NumberStyles.Float;
        return type switch
        {
            "string" => SymbolDisplay.FormatLiteral(text, quote: true),
            "char" when text.Length == 1 => SymbolDisplay.FormatLiteral(text[0], quote: true),
            "bool" when bool.TryParse(text, out bool b) => b ? "true" : "false",
            "sbyte" when sbyte.TryParse(text, whole, invariant, out var n) => n.ToString(invariant),
            "byte" when byte.TryParse(text, whole, invariant, out var n) => n.ToString(invariant),
            "short" when short.TryParse(text, whole, invariant, out var n) => n.ToString(invariant),
            "ushort" when ushort.TryParse(text, whole, invariant, out var n) => n.ToString(invariant),
            "int" when int.TryParse(text, whole, invariant, out var n) => n.ToString(invariant),
            "uint" when uint.TryParse(text, whole, invariant, out var n) => n.ToString(invariant) + "u",
            "long" when long.TryParse(text, whole, invariant, out var n) => n.ToString(invariant) + "L",
            "ulong" when ulong.TryParse(text, whole, invariant, out var n) => n.ToString(invariant) + "UL",
            "float" when float.TryParse(text, real, invariant, out float n) => Real("float", n, n.ToString("R", invariant) + "f"),
            "double" when double.TryParse(text, real, invariant, out double n) => Real("double", n, n.ToString("R", invariant) + "d"),
            "decimal" when decimal.TryParse(text, real, invariant, out decimal n) => n.ToString(invariant) + "m",
            "char" or "bool" or "sbyte" or "byte" or "short" or "ushort" or "int" or "uint" or "long"
            or "ulong" or "float" or "double" or "decimal" =>
                throw Misfit(name, text, declaredType),
            _ => throw new NotebookException(
                $"The parameter '{name}' is declared as '{declaredType}', a type that cannot be set from outside. "
                + "Declare it as a number, bool, char or string."),
        };
    }

    private static string Real(string type, double value, string literal) => value switch
    {
        double.PositiveInfinity => $"{type}.PositiveInfinity",
        double.NegativeInfinity => $"{type}.NegativeInfinity",
        double.NaN => $"{type}.NaN",
        _ => literal,
    };

    private static NotebookException Misfit(string name, string text, string type) =>
        new($"The parameter '{name}' is declared as {type}; '{text}' is not a value of that type.");

    [GeneratedRegex(@"^let\s+(mutable\s+)?(?<name>\w+)\s*(:(?<type>[^=]*))?=\s*(?<value>.*?)\s*(//.*)?$", RegexOptions.Multiline)]
    private static partial Regex FSharpValue();
}
