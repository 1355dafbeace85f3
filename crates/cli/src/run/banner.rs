//! What `bartizan run` says when it listens.

use std::{fmt::Write, io::IsTerminal, path::Path};

use bartizan_model::Secret;

use super::dangers;
use crate::{config::Loaded, identity::Mode, state::State};

/// What a newcomer needs, ready to paste.
pub(super) fn banner(
    loaded: &Loaded,
    (address, admin): (std::net::SocketAddr, Option<std::net::SocketAddr>),
    state: &State,
    link: Option<&Secret>,
) -> anyhow::Result<String> {
    let config = &loaded.config;
    let base = config.base_url(address);
    let scheme = if config.server.tls.is_some() { "https" } else { "http" };
    let mut text = format!("Bartizan {} listens on {scheme}://{address}\n\n", env!("CARGO_PKG_VERSION"));
    for server in &config.servers {
        writeln!(text, "  {base}/mcp/{}", server.name)?;
    }
    writeln!(text, "  {base}/mcp{:width$} all of them as one\n", "", width = 4)?;
    if let Some(admin) = admin {
        let scheme = if admin.ip().is_loopback() { "http" } else { "https" };
        writeln!(text, "Metrics: {scheme}://{admin}/metrics\n")?;
    }
    let name = config.servers.first().map(|s| s.name.to_string()).unwrap_or_default();
    let url = if config.servers.len() == 1 { format!("{base}/mcp/{name}") } else { format!("{base}/mcp") };
    let option = loaded.path.as_ref().map(|p| format!(" --config {}", shell_word(p))).unwrap_or_default();
    if let Some(link) = link {
        writeln!(text, "Sign in, once a client asks you to (good for ten minutes):\n  {}\n", link.reveal())?;
    } else if config.identity.mode == Mode::Local && !config.identity.dangerous_open {
        writeln!(text, "Sign in, once a client asks you to, by the link of `bartizan login{option}`.\n")?;
    }
    if matches!(config.identity.mode, Mode::Local | Mode::Facade) && !config.identity.dangerous_open {
        writeln!(text, "What you allow, and how to take it back:\n  {base}/account\n")?;
    }
    writeln!(text, "Claude Code:\n  claude mcp add --transport http bartizan {url}")?;
    if !config.identity.dangerous_open {
        writeln!(text, "  claude mcp login bartizan")?;
    }
    writeln!(text)?;
    writeln!(
        text,
        "VS Code:\n  code --add-mcp \"{{\\\"name\\\":\\\"bartizan\\\",\\\"type\\\":\\\"http\\\",\\\"url\\\":\\\"{url}\\\"}}\"\n"
    )?;
    writeln!(
        text,
        "Cursor, in .cursor/mcp.json:\n  {{ \"mcpServers\": {{ \"bartizan\": {{ \"url\": \"{url}\" }} }} }}\n"
    )?;
    // Scripts have no browser. A log is no place for a token; a terminal is where it was asked for.
    let token = match config.identity.mode {
        _ if config.identity.dangerous_open => None,
        Mode::Facade | Mode::ResourceServer => Some("$TOKEN".to_owned()),
        Mode::Local if std::io::stderr().is_terminal() => Some(state.token()?.reveal().to_owned()),
        Mode::Local => Some(format!("$(bartizan token{option})")),
    };
    let curl = token.map(|t| format!(" -H \"Authorization: Bearer {t}\"")).unwrap_or_default();
    writeln!(
        text,
        "curl, for servers that speak 2026-07-28:\n  curl -s {url}{curl} -H 'Content-Type: application/json' -H 'Accept: application/json, text/event-stream' \\\n    \
         -H 'MCP-Protocol-Version: 2026-07-28' -H 'Mcp-Method: tools/list' \\\n    \
         -d '{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/list\",\"params\":{{\"_meta\":{{\"io.modelcontextprotocol/protocolVersion\":\"2026-07-28\",\"io.modelcontextprotocol/clientCapabilities\":{{}}}}}}}}'\n"
    )?;
    if config.servers.iter().any(|server| !server.trust_on_first_use && !server.dangerous_unpinned) {
        writeln!(
            text,
            "What waits for your approval, and is not shown before:\n  bartizan tools list{option}\n"
        )?;
    }
    for danger in dangers(config) {
        writeln!(text, "WARNING: {danger}")?;
    }
    Ok(text)
}

/// A path as one word for a shell, however it is called.
fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain =
        |c: char| c.is_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | '+' | ',' | ':' | '@');
    if !text.is_empty() && text.chars().all(is_plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_word_for_a_shell() {
        for (path, word) in [
            ("conf/bartizan.toml", "conf/bartizan.toml"),
            ("/srv/Tür/b.toml", "/srv/Tür/b.toml"),
            ("/srv/my gate/b.toml", "'/srv/my gate/b.toml'"),
            ("/srv/it's $(id)/b.toml", r"'/srv/it'\''s $(id)/b.toml'"),
        ] {
            assert_eq!(shell_word(Path::new(path)), word);
        }
    }
}
