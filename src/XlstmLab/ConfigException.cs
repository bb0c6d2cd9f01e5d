namespace XlstmLab;

/// <summary>A configuration cannot be; the message says which value, what was expected and what came.</summary>
public sealed class ConfigException(string message, Exception? inner = null) : ArgumentException(message, inner);
