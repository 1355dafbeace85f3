//! Believing a token for another resource than the one it was verified for.

use bartizan_oauth::VerifiedToken;

fn for_another_resource(token: VerifiedToken) -> VerifiedToken {
    VerifiedToken { resource: "https://mcp.example.com/mcp/b".to_owned(), ..token }
}

fn main() {}
