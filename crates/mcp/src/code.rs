//! JSON-RPC error codes, the protocol's and ours.

/// The text is not JSON (JSON-RPC 2.0 §5.1).
pub const PARSE_ERROR: i32 = -32700;
/// JSON, but no message this revision allows (JSON-RPC 2.0 §5.1).
pub const INVALID_REQUEST: i32 = -32600;
/// Unknown method, or one whose feature is not offered (spec.md ).
pub const METHOD_NOT_FOUND: i32 = -32601;
/// A known method with parameters it cannot take (spec.md ).
pub const INVALID_PARAMS: i32 = -32602;
/// The receiver failed (JSON-RPC 2.0 §5.1).
pub const INTERNAL_ERROR: i32 = -32603;
/// A header and the body disagree (spec.md A-26…A-35).
pub const HEADER_MISMATCH: i32 = -32020;
/// A client capability is required that this request did not declare (spec.md A-20).
pub const MISSING_CAPABILITY: i32 = -32021;
/// A person has to open a URL first: to 2025-11-25 clients that declared `elicitation.url`, and to no others (spec.md
/// A-45, B-41).
pub const URL_ELICITATION_REQUIRED: i32 = -32042;
/// A protocol version that is not spoken here (spec.md A-28).
pub const UNSUPPORTED_VERSION: i32 = -32022;

// Ours. They lie outside -32768…-32000, which JSON-RPC and MCP keep for themselves (spec.md ).

/// The caller is not known here; sign in first.
pub const UNAUTHENTICATED: i32 = -31001;
/// The caller is known and may not do this.
pub const FORBIDDEN: i32 = -31003;
/// A definition or an answer is withheld until the operator has looked at it.
pub const WITHHELD: i32 = -31005;
/// No such endpoint, session or handle.
pub const NOT_FOUND: i32 = -31004;
/// The caller has to link an account of theirs at the server.
pub const NEEDS_LINKING: i32 = -31006;
/// A limit of the gateway is reached.
pub const LIMIT: i32 = -31029;
/// Client and server speak different protocol eras.
pub const ERA_MISMATCH: i32 = -31010;
/// The server cannot be reached, or went away before it answered.
pub const UPSTREAM_UNAVAILABLE: i32 = -31020;
/// The server did not answer in time.
pub const UPSTREAM_TIMEOUT: i32 = -31021;
/// The server answered with something the protocol does not allow.
pub const UPSTREAM_PROTOCOL: i32 = -31022;
/// The server lost its session; it has been opened anew and the call was not repeated.
pub const UPSTREAM_RESTARTED: i32 = -31023;
