using Xunit;

namespace XlstmLab.Tests;

/// <summary>Tests that make no tensor and change nothing of the process: they run one after another, beside those that do.</summary>
[CollectionDefinition(nameof(TextCollection))]
#pragma warning disable CA1711 // What xunit calls it.
public sealed class TextCollection;
#pragma warning restore CA1711
