//! Where people decide what waits for them: on a page, if there are any, or by a command.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use arc_swap::ArcSwapOption;
use url::Url;

use super::Policy;

/// Where people decide.
#[derive(Default)]
pub(super) struct Places {
    /// Where they reach the pages, if there are any.
    pages: ArcSwapOption<Url>,
    /// Whether what waits is kept for `bartizan wrap`, in the user's own state folder, where commands look only if they are told so.
    are_users: AtomicBool,
}

impl Places {
    /// The command that decides about what `id` names: `bartizan tools {verb} {id}`, as it works here.
    fn command(&self, verb: &str, id: &str) -> String {
        let place = if self.are_users.load(Ordering::Relaxed) { " --wrapped" } else { "" };
        format!("`bartizan tools {verb}{place} {id}`")
    }
}

impl Policy {
    /// Sends people to the approval pages below `base` from now on; without, to the command line.
    pub fn serve_pages(&self, base: Option<Url>) {
        self.places.pages.store(base.map(Arc::new));
    }

    /// Says from now on how commands reach what `bartizan wrap` keeps.
    pub fn serve_wrapped(&self) {
        self.places.are_users.store(true, Ordering::Relaxed);
    }

    /// The address of the page at `path`, where there are pages.
    pub fn page(&self, path: &str) -> Option<String> {
        Some(self.places.pages.load_full()?.join(path).ok()?.into())
    }

    /// The command that decides about what `id` names, as people type it here.
    pub fn command(&self, verb: &str, id: &str) -> String {
        self.places.command(verb, id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_named_as_it_works_here() {
        let places = Places::default();
        assert_eq!(places.command("approvals grant", "a1"), "`bartizan tools approvals grant a1`");
        places.are_users.store(true, Ordering::Relaxed);
        assert_eq!(places.command("approvals grant", "a1"), "`bartizan tools approvals grant --wrapped a1`");
    }
}
