//! Names in policies that stand for nothing. Types and attributes the schema checks; names of things it cannot: a forbid of a
//! server that there is not holds nobody back, and a claim about it is true of everything.

use cedar_policy::Policy;

use crate::{
    catalog::Catalog,
    claims::{OWNER, Roles},
    schema::{FLEET, Types},
};

/// What `policy` names that there is not. Where no server is known at all, nothing can be said of their names.
pub(crate) fn unknown(policy: &Policy, (catalog, roles): (&Catalog, &Roles), types: &Types) -> Vec<String> {
    let mut found = Vec::new();
    for literal in policy.entity_literals() {
        let (kind, name): (_, &str) = (literal.type_name(), literal.id().unescaped());
        let is_place = [&types.server, &types.tool, &types.resource, &types.prompt].contains(&kind);
        if *kind == types.role && name != OWNER && !roles.0.contains_key(name) {
            found.push(format!("nobody has the role `{name}`; it is not configured"));
        } else if *kind == types.fleet && name != FLEET {
            found.push(format!("there is no fleet `{name}`; all servers are `{FLEET}`"));
        } else if is_place && !catalog.0.is_empty() {
            // Only tools have to be known one by one: prompts and resources come and go.
            let (server, inside) = name.split_once('/').map_or((name, None), |(of, what)| (of, Some(what)));
            let known = catalog.0.iter().find(|(known, _)| known.as_str() == server).map(|(_, known)| known);
            match (known, inside) {
                (None, _) => found.push(format!("there is no server `{server}`")),
                (Some(_), None) if *kind != types.server => {
                    found.push(format!("`{name}` is at no server: write `server/name`"));
                }
                (Some(known), Some(tool)) if *kind == types.tool && !known.tools.contains_key(tool) => {
                    found.push(format!("the tool `{name}` is not pinned"));
                }
                (Some(_), _) => {}
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use crate::scene::try_load;

    fn warnings(text: &str) -> Vec<String> {
        try_load(text, Vec::new()).unwrap_or_else(|p| panic!("{p}")).warnings
    }

    #[test]
    fn a_policy_that_names_what_there_is_not_is_told() {
        for (text, told) in [
            (
                "forbid (principal, action in Action::\"call\", resource in Server::\"fils\");",
                "policy `test#0`: there is no server `fils`",
            ),
            (
                "forbid (principal, action in Action::\"call\", resource == Tool::\"files/delete_fil\");",
                "policy `test#0`: the tool `files/delete_fil` is not pinned",
            ),
            (
                "forbid (principal, action in Action::\"call\", resource) when { resource in Server::\"fils\" };",
                "policy `test#0`: there is no server `fils`",
            ),
            (
                "forbid (principal, action == Action::\"get\", resource == Prompt::\"wb/p\");",
                "policy `test#0`: there is no server `wb`",
            ),
            (
                "forbid (principal, action == Action::\"read\", resource == Resource::\"files\");",
                "policy `test#0`: `files` is at no server: write `server/name`",
            ),
            (
                "permit (principal in Role::\"raeder\", action, resource in Fleet::\"al\");",
                "policy `test#0`: there is no fleet `al`; all servers are `all`",
            ),
            (
                "@approval(\"bos\") forbid (principal, action in Action::\"call\", resource);",
                "policy `test#0`: nobody has the role `bos` that is to approve, so only commands on the gate's machine can",
            ),
        ] {
            let found = warnings(text);
            assert!(found.iter().any(|one| one == told), "{text}: {found:#?}");
        }
    }

    #[test]
    fn what_there_is_is_not_told() {
        let text = "forbid (principal in Role::\"reader\", action in Action::\"call\", resource in Server::\"files\");
            forbid (principal, action == Action::\"call:files.delete_file\", resource == Tool::\"files/delete_file\");
            forbid (principal, action == Action::\"get\", resource == Prompt::\"web/any\");
            forbid (principal, action == Action::\"read\", resource == Resource::\"files/file:///a/b\");
            @approval(\"self\") forbid (principal, action in Action::\"call\", resource in Fleet::\"all\");
            @approval(\"writer\") forbid (principal, action in Action::\"call\", resource);";
        assert_eq!(warnings(text), Vec::<String>::new());
    }
}
