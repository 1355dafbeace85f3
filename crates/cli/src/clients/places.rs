//! Where MCP clients keep their servers.

use std::path::{Path, PathBuf};

/// A client whose file we know.
#[derive(Debug)]
pub struct Client {
    /// What its makers call it, in one word.
    pub name: &'static str,
    /// In which of the user's folders.
    root: Root,
    /// The file there.
    file: &'static str,
    /// What its file calls its servers.
    pub key: &'static str,
    /// What an entry has for a server that is reached by URL.
    pub by_url: ByUrl,
}

#[derive(Debug)]
enum Root {
    /// The home folder.
    Home,
    /// Where programs keep settings: `~/.config`, or `~/Library/Application Support`.
    Settings,
    /// The folder of a project, where the command is called.
    Project,
}

/// How an entry says that a server is reached by URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByUrl {
    /// `"type": "http", "url": …`
    Typed,
    /// `"url": …`
    Plain,
    /// `"httpUrl": …`
    HttpUrl,
    /// `"serverUrl": …`
    ServerUrl,
    /// Not at all: it starts all its servers itself.
    Never,
}

/// `mcpServers`, as most clients have it.
pub const USUAL_KEY: &str = "mcpServers";

/// All that are known. One client may have several files.
pub const CLIENTS: &[Client] = &[
    client("claude-desktop", Root::Settings, "Claude/claude_desktop_config.json", USUAL_KEY, ByUrl::Never),
    client("claude-code", Root::Home, ".claude.json", USUAL_KEY, ByUrl::Typed),
    client("claude-code", Root::Project, ".mcp.json", USUAL_KEY, ByUrl::Typed),
    client("cursor", Root::Home, ".cursor/mcp.json", USUAL_KEY, ByUrl::Plain),
    client("cursor", Root::Project, ".cursor/mcp.json", USUAL_KEY, ByUrl::Plain),
    client("vscode", Root::Settings, "Code/User/mcp.json", "servers", ByUrl::Typed),
    client("vscode", Root::Project, ".vscode/mcp.json", "servers", ByUrl::Typed),
    client("windsurf", Root::Home, ".codeium/windsurf/mcp_config.json", USUAL_KEY, ByUrl::ServerUrl),
    client("gemini", Root::Home, ".gemini/settings.json", USUAL_KEY, ByUrl::HttpUrl),
    client("gemini", Root::Project, ".gemini/settings.json", USUAL_KEY, ByUrl::HttpUrl),
    client("lm-studio", Root::Home, ".lmstudio/mcp.json", USUAL_KEY, ByUrl::Plain),
];

const fn client(
    name: &'static str,
    root: Root,
    file: &'static str,
    key: &'static str,
    by_url: ByUrl,
) -> Client {
    Client { name, root, file, key, by_url }
}

impl Client {
    /// The end of its file's path.
    pub fn file_name(&self) -> &'static str {
        self.file
    }

    /// Where its file would be, for a user with this home who is in the folder `here`.
    pub fn file(&self, home: Option<&Path>, here: &Path) -> Option<PathBuf> {
        let folder = match self.root {
            Root::Home => home?.to_owned(),
            Root::Settings if cfg!(target_os = "macos") => home?.join("Library/Application Support"),
            Root::Settings => home?.join(".config"),
            Root::Project => here.to_owned(),
        };
        Some(folder.join(self.file))
    }
}
