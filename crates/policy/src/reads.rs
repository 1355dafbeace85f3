//! What a policy looks at, read from its syntax tree, so that nothing else has to be computed for a decision.

use std::collections::BTreeSet;

use serde_json::{Value, json};

/// Some argument names, or all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Names {
    #[default]
    None,
    Some(BTreeSet<String>),
    All,
}

impl Names {
    pub fn has(&self, name: &str) -> bool {
        match self {
            Self::None => false,
            Self::Some(names) => names.contains(name),
            Self::All => true,
        }
    }

    fn add(&mut self, name: &str) {
        match self {
            Self::None => *self = Self::Some(BTreeSet::from([name.to_owned()])),
            Self::Some(names) => drop(names.insert(name.to_owned())),
            Self::All => {}
        }
    }

    fn join(&mut self, other: &Self) {
        match other {
            Self::None => {}
            Self::Some(names) => names.iter().for_each(|name| self.add(name)),
            Self::All => *self = Self::All,
        }
    }
}

/// The parts of `context` that a policy reads and that cost something to build.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reads {
    /// `args`, `paths`, `urls` or `unmapped`.
    pub arguments: bool,
    pub paths: Names,
    pub urls: Names,
    pub address: bool,
    pub time: bool,
    pub auth_age: bool,
}

impl Reads {
    /// Whatever a policy may read.
    pub fn everything() -> Self {
        Self {
            arguments: true,
            paths: Names::All,
            urls: Names::All,
            address: true,
            time: true,
            auth_age: true,
        }
    }

    /// What a policy in Cedar's JSON format reads.
    pub fn of_policy(policy: &Value) -> Self {
        let mut reads = Self::default();
        if let Some(conditions) = policy.get("conditions") {
            reads.visit(conditions);
        }
        reads
    }

    pub fn of_expression(expression: &Value) -> Self {
        let mut reads = Self::default();
        reads.visit(expression);
        reads
    }

    pub fn join(&mut self, other: &Self) {
        self.arguments |= other.arguments;
        self.address |= other.address;
        self.time |= other.time;
        self.auth_age |= other.auth_age;
        self.paths.join(&other.paths);
        self.urls.join(&other.urls);
    }

    fn visit(&mut self, node: &Value) {
        match node {
            Value::Object(object) => {
                for (key, child) in object {
                    if (key == "." || key == "has") && self.access(child) {
                        continue;
                    }
                    // The context as a whole, compared or passed on: it may be anything.
                    if key == "Var" && child == "context" {
                        *self = Self::everything();
                    }
                    self.visit(child);
                }
            }
            Value::Array(children) => children.iter().for_each(|child| self.visit(child)),
            _ => {}
        }
    }

    /// Notes `left.attr` or `left has attr`, and says whether `left` needs no further visit.
    fn access(&mut self, access: &Value) -> bool {
        let (Some(left), Some(attribute)) = (access.get("left"), access.get("attr").and_then(Value::as_str))
        else {
            return false;
        };
        if *left == json!({ "Var": "context" }) {
            match attribute {
                "args" | "unmapped" => self.arguments = true,
                "paths" => (self.arguments, self.paths) = (true, Names::All),
                "urls" => (self.arguments, self.urls) = (true, Names::All),
                "address" => self.address = true,
                "time" => self.time = true,
                "auth_age_s" => self.auth_age = true,
                _ => {}
            }
            return true;
        }
        let of = |part: &str| *left == json!({ ".": { "left": { "Var": "context" }, "attr": part } });
        let names = match (of("paths"), of("urls")) {
            (true, _) => &mut self.paths,
            (_, true) => &mut self.urls,
            _ => return false,
        };
        names.add(attribute);
        self.arguments = true;
        true
    }
}

/// `policy` without the conditions that read arguments: it matches wherever some arguments could make `policy` match.
///
/// Only what must be true for the policy to match is dropped, so a permit without it permits at least as much. `None`
/// if nothing had to be dropped.
pub(crate) fn without_arguments(policy: &Value) -> Option<Value> {
    if !Reads::of_policy(policy).arguments {
        return None;
    }
    let mut kept = Vec::new();
    for condition in policy.get("conditions").and_then(Value::as_array).into_iter().flatten() {
        let body = condition.get("body").unwrap_or(&Value::Null);
        if condition.get("kind").and_then(Value::as_str) == Some("when") {
            let mut parts = Vec::new();
            conjuncts(body, &mut parts);
            let free = parts.into_iter().filter(|part| !Reads::of_expression(part).arguments);
            kept.extend(free.map(|part| json!({ "kind": "when", "body": part })));
        } else if !Reads::of_expression(body).arguments {
            kept.push(condition.clone());
        }
    }
    let mut loose = policy.clone();
    loose.as_object_mut()?.insert("conditions".into(), Value::Array(kept));
    Some(loose)
}

fn conjuncts<'a>(expression: &'a Value, into: &mut Vec<&'a Value>) {
    match expression.get("&&") {
        Some(both) => {
            for side in ["left", "right"] {
                conjuncts(both.get(side).unwrap_or(&Value::Null), into);
            }
        }
        None => into.push(expression),
    }
}

#[cfg(test)]
mod tests {
    use cedar_policy::Policy;

    use super::*;

    fn json_of(text: &str) -> Value {
        Policy::parse(None, text).unwrap().to_json().unwrap()
    }

    fn reads(condition: &str) -> Reads {
        Reads::of_policy(&json_of(&format!("permit(principal, action, resource) when {{ {condition} }};")))
    }

    #[test]
    fn finds_what_a_policy_reads() {
        let one = |name: &str| Names::Some(BTreeSet::from([name.to_owned()]));
        assert_eq!(reads("principal.app && context.era == \"modern\""), Reads::default());
        assert!(reads("context.args.n == 1").arguments);
        assert!(reads("context has args && true").arguments);
        assert!(reads("context.unmapped").arguments);
        assert_eq!(reads("context.paths.p.ancestors.contains(\"/a\")").paths, one("p"));
        assert_eq!(reads("context.paths has p").paths, one("p"));
        assert!(reads("context has paths.p").paths.has("p"));
        assert_eq!(reads("context.urls.u.hosts.contains(\"a\")").urls, one("u"));
        assert_eq!(reads("context.urls == context.urls").urls, Names::All);
        assert_eq!(reads("context == {}"), Reads::everything());
        assert_eq!(reads("{\"x\": context}.x.era == \"\""), Reads::everything());
        assert!(reads("if context.address.isLoopback() then true else false").address);
        assert!(reads("[context.time].contains(datetime(\"2024-01-01\"))").time);
    }

    #[test]
    fn drops_only_what_reads_arguments() {
        let loose = |text: &str| {
            without_arguments(&json_of(text)).map(|j| Policy::from_json(None, j).unwrap().to_cedar().unwrap())
        };
        assert_eq!(loose("permit(principal, action, resource) when { principal.app };"), None);
        let kept = loose(
            "permit(principal, action, resource) when { principal.app && context.args.n == 1 && resource.destructive }
             unless { context.args.n == 2 || principal.app } unless { resource.sends_out };",
        )
        .unwrap();
        assert!(
            kept.contains("principal.app")
                && kept.contains("resource.destructive")
                && kept.contains("resource.sends_out")
        );
        assert!(!kept.contains("args"), "{kept}");
    }
}
