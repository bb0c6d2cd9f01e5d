namespace XlstmLab.Serving;

/// <summary>Why a request is not answered, in the form of OpenAI's API.</summary>
/// <param name="status">The HTTP status.</param>
/// <param name="type">The kind, such as <c>invalid_request_error</c>.</param>
/// <param name="message">What was expected, what came, and what to do.</param>
/// <param name="parameter">The field that is wrong; null where it is none.</param>
/// <param name="code">What a program may look for; null where there is nothing more to tell.</param>
internal sealed class ApiError(int status, string type, string message, string? parameter = null, string? code = null) : Exception(message)
{
    /// <summary>The HTTP status.</summary>
    public int Status => status;

    /// <summary>After how many seconds asking again makes sense; null where it does not.</summary>
    public int? RetryAfter { get; init; }

    /// <summary>The methods that the path takes, where the request's is none of them.</summary>
    public string? Allow { get; init; }

    /// <summary>The document.</summary>
    public object Body => new { Error = new { Message, Type = type, Param = parameter, Code = code } };

    /// <summary>A field that is wrong.</summary>
    public static ApiError Invalid(string parameter, string message, string? code = null) =>
        new(400, "invalid_request_error", message, parameter, code);

    /// <summary>A request that is wrong as a whole.</summary>
    public static ApiError Invalid(string message) => new(400, "invalid_request_error", message);
}
