using System.Collections.Concurrent;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;
using Microsoft.CodeAnalysis.CSharp.Syntax;

namespace XlstmLab.Tests;

/// <summary>
/// Finds in C# sources what the analyzers do not: texts whose numbers, and orders whose texts, depend on the user's culture.
/// </summary>
internal static class CultureScan
{
    private const string ImplicitUsings = """
        global using System; global using System.IO; global using System.Linq; global using System.Net.Http; global using System.Threading;
        global using System.Threading.Tasks; global using System.Collections.Generic;
        """;

    private static readonly string[] Sorting =
        ["OrderBy", "OrderByDescending", "ThenBy", "ThenByDescending", "Order", "OrderDescending", "Sort"];

    private static readonly ConcurrentDictionary<string, MetadataReference> References = new(StringComparer.Ordinal);

    /// <summary>Every place, as FILE(LINE): code, in order.</summary>
    public static IReadOnlyList<string> Find(string source, IEnumerable<string> assemblies)
    {
        var options = new CSharpParseOptions(LanguageVersion.Preview);
        var trees = Directory.EnumerateFiles(source, "*.cs", SearchOption.AllDirectories)
            .Where(file => !file.Split(Path.DirectorySeparatorChar).Any(part => part is "bin" or "obj"))
            .Order(StringComparer.Ordinal)
            .Select(file => CSharpSyntaxTree.ParseText(File.ReadAllText(file), options, file))
            .ToList();
        var compilation = CSharpCompilation.Create(
            "scan",
            [.. trees, CSharpSyntaxTree.ParseText(ImplicitUsings, options)],
            assemblies.Select(path => References.GetOrAdd(path, p => MetadataReference.CreateFromFile(p))),

            // Without the analysis of null references, which changes none of the types asked for and takes half of the time.
            new CSharpCompilationOptions(OutputKind.ConsoleApplication, allowUnsafe: true));
        return [.. trees.AsParallel().AsOrdered().SelectMany(tree => Find(tree, compilation.GetSemanticModel(tree)))];
    }

    private static IEnumerable<string> Find(SyntaxTree tree, SemanticModel model)
    {
        foreach (var node in tree.GetRoot().DescendantNodes())
        {
            var isFound = node switch
            {
                InterpolatedStringExpressionSyntax text => IsSensitive(text, model),
                BinaryExpressionSyntax { RawKind: (int)SyntaxKind.AddExpression } sum => IsText(model.GetTypeInfo(sum).Type)
                    && (IsSensitive(model.GetTypeInfo(sum.Left).Type, "") || IsSensitive(model.GetTypeInfo(sum.Right).Type, "")),
                InvocationExpressionSyntax call => MayBeSensitive(call) && model.GetSymbolInfo(call).Symbol is IMethodSymbol method
                    && IsSensitive(call, method),
                ObjectCreationExpressionSyntax made =>
                    model.GetTypeInfo(made).Type is INamedTypeSymbol { Name: "SortedDictionary" or "SortedSet" or "SortedList" } sorted
                        && IsText(sorted.TypeArguments[0]) && model.GetSymbolInfo(made).Symbol is IMethodSymbol built
                        && !Takes(built, "IComparer"),
                _ => false,
            };
            if (isFound)
            {
                var line = tree.GetLineSpan(node.Span).StartLinePosition.Line + 1;
                yield return FormattableString.Invariant($"{tree.FilePath}({line}): {node.ToString().Split('\n')[0].Trim()}");
            }
        }
    }

    private static bool IsSensitive(InterpolatedStringExpressionSyntax text, SemanticModel model)
    {
        // A sum of interpolated texts is passed on as one.
        ExpressionSyntax whole = text;
        while (whole.Parent is BinaryExpressionSyntax { RawKind: (int)SyntaxKind.AddExpression } sum)
        {
            whole = sum;
        }

        var target = model.GetTypeInfo(whole).ConvertedType;
        if (target?.Name is "FormattableString" or "IFormattable")
        {
            return false;
        }

        if (!IsText(target) && text.FirstAncestorOrSelf<ArgumentSyntax>()?.Parent is BaseArgumentListSyntax arguments
            && arguments.Arguments.Any(a => IsProvider(model.GetTypeInfo(a.Expression).Type)))
        {
            return false;
        }

        return text.Contents.OfType<InterpolationSyntax>()
            .Any(hole => IsSensitive(model.GetTypeInfo(hole.Expression).Type, hole.FormatClause?.FormatStringToken.ValueText ?? ""));
    }

    /// <summary>Whether a call has one of the names: binding all calls takes most of a scan.</summary>
    private static bool MayBeSensitive(InvocationExpressionSyntax call)
    {
        var name = call.Expression switch
        {
            MemberAccessExpressionSyntax member => member.Name,
            MemberBindingExpressionSyntax member => member.Name,
            SimpleNameSyntax simple => simple,
            _ => null,
        };
        return name?.Identifier.ValueText is { } text
            && (text is "Join" or "Concat" or "AppendJoin" or "Parse" or "TryParse" || Sorting.Contains(text));
    }

    private static bool IsSensitive(InvocationExpressionSyntax call, IMethodSymbol method)
    {
        if (method.Parameters.Any(p => IsProvider(p.Type)))
        {
            return false;
        }

        return method.Name switch
        {
            "Join" or "Concat" or "AppendJoin" => method.ContainingType.Name is "String" or "StringBuilder"
                && method.TypeArguments.Any(t => IsSensitive(t, "")),
            "Parse" or "TryParse" => method.IsStatic && IsNumberOrTime(method.ContainingType),
            _ => Sorting.Contains(method.Name) && !Takes(method, "IComparer") && !Takes(method, "Comparison")
                && (method.TypeArguments.LastOrDefault()
                    ?? (method.ContainingType as INamedTypeSymbol)?.TypeArguments.FirstOrDefault()) is { } key && HoldsText(key),
        };
    }

    private static bool Takes(IMethodSymbol method, string type) => method.Parameters.Any(p => p.Type.Name == type);

    private static bool HoldsText(ITypeSymbol type) =>
        IsText(type) || (type is INamedTypeSymbol { IsTupleType: true } tuple && tuple.TupleElements.Any(e => HoldsText(e.Type)));

    /// <summary>Whether the text of a value depends on the culture: fractions and times always, whole numbers with a format.</summary>
    private static bool IsSensitive(ITypeSymbol? type, string format)
    {
        type = type is INamedTypeSymbol { OriginalDefinition.SpecialType: SpecialType.System_Nullable_T } nullable
            ? nullable.TypeArguments[0] : type;
        return type switch
        {
            null => false,
            { SpecialType: >= SpecialType.System_SByte and <= SpecialType.System_UInt64 } => format.Length > 0
                && char.ToUpperInvariant(format[0]) is not ('D' or 'X' or 'B'),
            INamedTypeSymbol { IsTupleType: true } tuple => tuple.TupleElements.Any(e => IsSensitive(e.Type, format)),
            INamedTypeSymbol { Name: "TimeSpan" } => format.Length > 0 && format[0] != 'c',
            INamedTypeSymbol { IsRecord: true } record => !record.GetMembers("ToString").Any(m => !m.IsImplicitlyDeclared)
                && record.GetMembers().OfType<IPropertySymbol>().Any(
                    p => !p.IsStatic && p.DeclaredAccessibility == Accessibility.Public && IsSensitive(p.Type, "")),
            _ => IsNumberOrTime(type) && type.SpecialType is not (>= SpecialType.System_SByte and <= SpecialType.System_UInt64),
        };
    }

    private static bool IsNumberOrTime(ITypeSymbol type) =>
        type.SpecialType is (>= SpecialType.System_SByte and <= SpecialType.System_Double) or SpecialType.System_DateTime
        || (type.ContainingNamespace?.ToDisplayString() is "System" or "System.Numerics"
            && type.Name is "Half" or "Int128" or "UInt128" or "BigInteger" or "DateTimeOffset" or "DateOnly" or "TimeOnly");

    private static bool IsProvider(ITypeSymbol? type) => type?.Name is "IFormatProvider" or "CultureInfo" or "NumberFormatInfo";

    private static bool IsText(ITypeSymbol? type) => type?.SpecialType == SpecialType.System_String;
}
