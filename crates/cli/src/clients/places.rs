//! Where MCP clients keep their servers.

use std::{
    io,
    path::{Path, PathBuf},
};

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

/// The folders of whoever calls.
pub struct Folders {
    home: Option<PathBuf>,
    settings: Option<PathBuf>,
    here: PathBuf,
}

impl Folders {
    /// Those of this process.
    ///
    /// # Errors
    /// There is no working folder.
    pub fn of_process() -> io::Result<Self> {
        let home = std::env::home_dir().filter(|home| home.is_absolute());
        let chosen = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
        Ok(Self::new(home, chosen, std::env::current_dir()?))
    }

    /// Those of a user with this home who chose `chosen` for settings, and is in the folder `here`.
    fn new(home: Option<PathBuf>, chosen: Option<PathBuf>, here: PathBuf) -> Self {
        let settings = if cfg!(target_os = "macos") {
            home.as_ref().map(|home| home.join("Library/Application Support"))
        } else {
            let chosen = chosen.filter(|folder| folder.is_absolute());
            chosen.or_else(|| home.as_ref().map(|home| home.join(".config")))
        };
        Self { home, settings, here }
    }
}

impl Client {
    /// Where its file would be.
    pub fn file(&self, folders: &Folders) -> Option<PathBuf> {
        let folder = match self.root {
            Root::Home => folders.home.as_deref()?,
            Root::Settings => folders.settings.as_deref()?,
            Root::Project => &folders.here,
        };
        Some(folder.join(self.file))
    }

    /// The client whose file is called as the one at `path`, which is absolute.
    pub fn of_file(path: &Path) -> Option<&'static Self> {
        CLIENTS.iter().find(|client| path.ends_with(client.file))
    }

    /// The folder that the file at `path`, which is absolute, came with, if it is not one of the user's own.
    pub fn project_of(path: &Path, folders: &Folders) -> Option<PathBuf> {
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let is_own = |client: &Self| {
            !matches!(client.root, Root::Project)
                && client.file(folders).is_some_and(|file| real(&file) == real(path))
        };
        if CLIENTS.iter().any(is_own) {
            return None;
        }
        let depth = Self::of_file(path).map_or(1, |client| Path::new(client.file).components().count());
        let folder = path.ancestors().nth(depth)?;
        Some(real(folder))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_the_users_own_or_came_with_a_folder() {
        let folders = Folders::new(Some("/home/u".into()), Some("/cfg".into()), "/nowhere/p".into());
        let project = |path: &str| Client::project_of(Path::new(path), &folders);
        assert_eq!(project("/home/u/.claude.json"), None);
        assert_eq!(project("/home/u/.cursor/mcp.json"), None);
        assert_eq!(project("/nowhere/p/.cursor/mcp.json"), Some("/nowhere/p".into()));
        assert_eq!(project("/nowhere/p/.mcp.json"), Some("/nowhere/p".into()));
        assert_eq!(project("/nowhere/other.json"), Some("/nowhere".into()));
        assert_eq!(Client::of_file(Path::new("/nowhere/p/.vscode/mcp.json")).unwrap().key, "servers");
    }

    #[test]
    #[cfg(not(target_os = "macos"))]
    fn settings_are_where_the_user_wants_them() {
        let desktop = &CLIENTS[0];
        let file = |chosen: Option<&str>| {
            desktop.file(&Folders::new(Some("/home/u".into()), chosen.map(Into::into), "/p".into())).unwrap()
        };
        assert_eq!(file(Some("/cfg")), Path::new("/cfg/Claude/claude_desktop_config.json"));
        for none in [None, Some(""), Some("relative")] {
            assert_eq!(file(none), Path::new("/home/u/.config/Claude/claude_desktop_config.json"));
        }
    }
}
