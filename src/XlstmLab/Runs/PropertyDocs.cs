using System.Reflection;
using System.Text;
using System.Text.RegularExpressions;
using System.Xml;
using System.Xml.Linq;

namespace XlstmLab.Runs;

/// <summary>What the documentation beside an assembly says of properties.</summary>
internal static partial class PropertyDocs
{
    private static readonly Dictionary<Assembly, Dictionary<string, XElement>> Read = [];

    /// <summary>A property's summary in plain words; empty where the documentation does not lie beside its assembly.</summary>
    public static string Summary(PropertyInfo property)
    {
        for (var type = property.DeclaringType; type is not null && type != typeof(object); type = type.BaseType)
        {
            if (Members(type.Assembly).GetValueOrDefault($"P:{type.FullName}.{property.Name}")?.Element("summary") is { } summary)
            {
                var words = new StringBuilder();
                Append(words, summary);
                return Blanks().Replace(words.ToString(), " ").Trim();
            }
        }

        return "";
    }

    private static void Append(StringBuilder words, XElement element)
    {
        foreach (var node in element.Nodes())
        {
            switch (node)
            {
                case XText text:
                    words.Append(text.Value);
                    break;
                case XElement inner when !inner.HasAttributes:
                    Append(words, inner);
                    break;
                case XElement reference:
                    var named = reference.Attributes().First().Value.Split('(')[0];
                    words.Append(named[(named.LastIndexOf('.') + 1)..]);
                    break;
            }
        }
    }

    private static Dictionary<string, XElement> Members(Assembly assembly)
    {
        lock (Read)
        {
            if (!Read.TryGetValue(assembly, out var members))
            {
                Read[assembly] = members = Load(Path.ChangeExtension(assembly.Location, ".xml"));
            }

            return members;
        }
    }

    private static Dictionary<string, XElement> Load(string path)
    {
        try
        {
            return File.Exists(path)
                ? XDocument.Load(path).Descendants("member").ToDictionary(m => (string?)m.Attribute("name") ?? "", StringComparer.Ordinal)
                : [];
        }
        catch (Exception e) when (e is XmlException or IOException or UnauthorizedAccessException or ArgumentException)
        {
            // The names speak for themselves.
            return [];
        }
    }

    [GeneratedRegex(@"\s+")]
    private static partial Regex Blanks();
}
