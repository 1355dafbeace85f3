use super::*;
use crate::{
    BadArguments, Claims, Grant,
    flow::FlowContext,
    scene::{call, load, owner, person, query, reader, surroundings, try_load},
};

fn code(decision: &Decision) -> &'static str {
    decision.denial().map_or("permit", |d| d.reason.code())
}

#[test]
fn by_default_nobody_may_do_anything_but_the_local_owner() {
    let bundle = load("");
    let (owner, rita) = (bundle.identify(owner()), bundle.identify(reader()));
    for action in [
        Action::Call { tool: "read_file", arguments: Some("{\"path\":\"/a\"}") },
        Action::List,
        Action::Notify,
        Action::Task,
        Action::SubscribeServer,
        Action::Get { prompt: "p", arguments: None },
        Action::CompletePrompt { prompt: "p" },
        Action::CompleteResource { uri: "file:///a" },
        Action::SubscribeResource { uri: "file:///a" },
        Action::Read { uri: "file:///a" },
    ] {
        assert_eq!(code(&bundle.authorize(&query(&owner, "files", action))), "permit", "{action:?}");
        let denied = bundle.authorize(&query(&rita, "files", action));
        assert_eq!(code(&denied), "policy.no_permit", "{action:?}");
        assert!(!bundle.may_see(&query(&rita, "files", action)), "{action:?}");
    }
    assert_eq!(code(&call(&bundle, &owner_like(), "files", "read_file", "{}")), "policy.no_permit");
}

/// Someone whose subject is the owner's, from another issuer.
fn owner_like() -> Claims {
    Claims { issuer: "https://idp".into(), subject: "owner".into(), ..Claims::default() }
}

#[test]
fn what_is_not_pinned_is_unknown_even_to_the_owner() {
    let bundle = load("");
    for (server, tool) in [
        ("files", "format_disk"),
        ("nowhere", "read_file"),
        ("files", "Read_File"),
        ("files", "read_file "),
        ("files", "read_file\0"),
        ("files", "files.read_file"),
        ("Files", "read_file"),
    ] {
        assert_eq!(code(&call(&bundle, &owner(), server, tool, "{}")), "policy.unknown", "{server} {tool}");
    }
}

#[test]
fn what_a_prompt_is_given_is_read_as_the_arguments_of_tools_are() {
    let bundle = load(
        "permit (principal in Role::\"reader\", action == Action::\"get\", resource)
         when { context.args has topic && context.args.topic != \"secrets\" };
         forbid (principal, action == Action::\"get\", resource)
         when { context.paths has page && context.paths.page.any_ancestors.contains(\"/etc\") };",
    );
    let rita = bundle.identify(reader());
    let get = |prompt: &'static str, arguments: &'static str| {
        let action = Action::Get { prompt, arguments: Some(arguments) };
        code(&bundle.authorize(&query(&rita, "web", action)))
    };
    assert_eq!(get("p", r#"{"topic":"animals","page":"/data/a"}"#), "permit");
    for (arguments, expected) in [
        (r#"{"topic":"secrets"}"#, "policy.no_permit"),
        ("{}", "policy.no_permit"),
        (r#"{"topic":"animals","page":"/etc/passwd"}"#, "policy.forbidden"),
        (r#"{"topic":"animals","page":"/data/../etc/passwd"}"#, "policy.arguments"),
        (r#"{"topic":"animals","topic":"secrets"}"#, "policy.arguments"),
        (r#"{"topic":["animals"]}"#, "policy.unmapped"),
        (r#"{"topic":"animals","more":"x"}"#, "policy.unmapped"),
    ] {
        assert_eq!(get("p", arguments), expected, "{arguments}");
    }
    assert_eq!(get("another", r#"{"topic":"animals"}"#), "policy.unmapped", "nobody pinned it");
    // It is listed: some arguments let her use it.
    assert!(bundle.may_see(&query(&rita, "web", Action::Get { prompt: "p", arguments: None })));
    let schema = crate::publish_schema(&crate::scene::catalog()).unwrap();
    assert!(schema.contains("topic") && schema.contains("page"), "{schema}");
    assert!(
        try_load(
            "permit (principal, action == Action::\"get\", resource) when { context.args.nothing == \"x\" };",
            Vec::new()
        )
        .is_err()
    );
}

#[test]
fn a_path_rule_holds_against_every_way_to_write_the_path() {
    let bundle = load(
        "permit (principal in Role::\"reader\", action == Action::\"call:files.read_file\", resource)
         when { context.paths.path.ancestors.contains(\"/data\") };",
    );
    assert_eq!(code(&call(&bundle, &reader(), "files", "read_file", r#"{"path":"/data/a"}"#)), "permit");
    for (arguments, expected) in [
        (r#"{"path":"/etc/passwd"}"#, "policy.no_permit"),
        (r#"{"path":"/database"}"#, "policy.no_permit"),
        (r#"{"path":"/data/../etc/passwd"}"#, "policy.arguments"),
        (r#"{"path":"/work%2f.."}"#, "policy.arguments"),
        (r#"{"path":"//etc"}"#, "policy.arguments"),
        (r#"{"path":"data/a"}"#, "policy.arguments"),
        (r#"{"path":"\uff0fetc"}"#, "policy.arguments"),
        (r#"{"path":"/data/a","path":"/etc"}"#, "policy.arguments"),
        (r#"{"path":["/data/a","/etc"]}"#, "policy.unmapped"),
        (r#"{"path":{"path":"/data/a"}}"#, "policy.unmapped"),
        (r#"{"path":7}"#, "policy.unmapped"),
        (r#"{"path":null}"#, "policy.unmapped"),
        (r#"{"path":"/data/a","Path":"/etc"}"#, "policy.unmapped"),
        (r#"{"a":{"b":{"c":{"d":{"path":"/data/a"}}}}}"#, "policy.unmapped"),
        (r#"["/data/a"]"#, "policy.arguments"),
        ("", "policy.arguments"),
    ] {
        assert_eq!(code(&call(&bundle, &reader(), "files", "read_file", arguments)), expected, "{arguments}");
    }
}

#[test]
fn a_url_rule_sees_the_host_that_is_dialled() {
    let bundle = load(
        "permit (principal, action == Action::\"call:web.fetch\", resource) when { context.urls.url.domains.contains(\"example.com\") };",
    );
    for url in ["https://example.com/", "https://api.example.com:8443/x"] {
        assert_eq!(
            code(&call(&bundle, &reader(), "web", "fetch", &format!("{{\"url\":\"{url}\"}}"))),
            "permit"
        );
    }
    assert_eq!(
        code(&call(&bundle, &reader(), "web", "fetch", r#"{"url":"https://example.com.evil.test/"}"#)),
        "policy.no_permit"
    );
    assert_eq!(
        code(&call(&bundle, &reader(), "web", "fetch", r#"{"url":"https://example.com@evil.test/"}"#)),
        "policy.arguments"
    );
    assert_eq!(
        code(&call(&bundle, &reader(), "web", "fetch", r#"{"url":"https://example.com/","weird":1}"#)),
        "policy.unmapped"
    );
}

#[test]
fn arguments_that_no_policy_reads_are_not_judged() {
    let bundle = load("permit (principal, action in Action::\"call\", resource);");
    assert_eq!(code(&call(&bundle, &reader(), "web", "fetch", r#"{"url":"::","weird":{}}"#)), "permit");
}

#[test]
fn a_closed_schema_is_held_when_arguments_matter() {
    let bundle = load(
        "permit (principal, action == Action::\"call:mail.send\", resource) when { context.args has body };",
    );
    let decision = call(&bundle, &reader(), "mail", "send", r#"{"body":"x","bcc":"me@evil.test"}"#);
    assert_eq!(decision.denial().unwrap().reason, Reason::Arguments(BadArguments::Undeclared("bcc".into())));
}

#[test]
fn step_up_names_every_scope_but_only_if_nothing_else_forbids() {
    let text = "permit (principal, action in Action::\"call\", resource);
        @id(\"a\") @step_up(\"files:write\") forbid (principal, action, resource) when { resource is Tool && resource.destructive }
            unless { principal.scopes.contains(\"files:write\") };
        @id(\"b\") @step_up(\"files:delete\") forbid (principal, action, resource) when { resource is Tool && resource.destructive }
            unless { principal.scopes.contains(\"files:delete\") };
        @id(\"c\") forbid (principal in Group::\"banned\", action, resource);";
    let bundle = load(text);
    let delete = |who: &Claims| call(&bundle, who, "files", "delete_file", r#"{"path":"/a"}"#);
    let denial = delete(&reader());
    let denial = denial.denial().unwrap();
    let step = |s: &str| Obligation::StepUp(s.into());
    assert_eq!(denial.obligations, [step("files:delete"), step("files:write")]);
    assert_eq!(denial.policies, ["a", "b"]);
    assert_eq!(code(&delete(&person("bob", &["banned"]))), "policy.forbidden");
    assert!(delete(&person("bob", &["banned"])).denial().unwrap().obligations.is_empty());
    // Exact tokens: nothing that merely looks like them (attacks.md AA-21).
    for scope in [
        "files:write files:delete",
        "FILES:WRITE",
        "files:write\u{a0}",
        "files:write,files:delete",
        "files:*",
        "[\"files:write\"]",
    ] {
        let who = Claims { scopes: [scope.to_owned()].into(), ..reader() };
        assert_eq!(delete(&who).denial().unwrap().obligations.len(), 2, "{scope}");
    }
    let who = Claims { scopes: ["files:write".to_owned(), "files:delete".to_owned()].into(), ..reader() };
    assert!(delete(&who).is_permit());
}

#[test]
fn nobody_is_asked_to_prove_more_for_what_nothing_permits() {
    let bundle = load("@approval(\"boss\") forbid (principal, action in Action::\"call\", resource);");
    assert_eq!(code(&call(&bundle, &reader(), "files", "read_file", r#"{"path":"/a"}"#)), "policy.no_permit");
}

#[test]
fn an_approval_lifts_the_forbid_that_asks_for_it_and_no_other() {
    let bundle = load(
        "permit (principal, action in Action::\"call\", resource);
         @approval(\"boss\") forbid (principal, action == Action::\"call:files.delete_file\", resource);
         @id(\"etc\") forbid (principal, action == Action::\"call:files.delete_file\", resource) when { context.paths.path.ancestors.contains(\"/etc\") };",
    );
    let rita = bundle.identify(reader());
    let with = |path: &str, approved: &[&str]| {
        let arguments = format!("{{\"path\":\"{path}\"}}");
        let approved: Vec<String> = approved.iter().map(|a| (*a).to_owned()).collect();
        let action = Action::Call { tool: "delete_file", arguments: Some(&arguments) };
        code(&bundle.authorize(&Query { approved: &approved, ..query(&rita, "files", action) }))
    };
    assert_eq!(with("/a", &[]), "policy.obligation");
    assert_eq!(with("/a", &["self"]), "policy.obligation");
    assert_eq!(with("/a", &["boss"]), "permit");
    assert_eq!(with("/etc/x", &["boss"]), "policy.forbidden");
}

#[test]
fn what_met_in_the_window_does_not_go_out_unless_approved() {
    let bundle = load("permit (principal, action in Action::\"call\", resource);");
    let rita = bundle.identify(reader());
    let met = FlowContext { untrusted: true, private: true, destructive: false };
    let with = |server, tool, flow, approved: &[String]| {
        let base = query(&rita, server, Action::Call { tool, arguments: None });
        code(&bundle.authorize(&Query {
            surroundings: Surroundings { flow, ..surroundings() },
            approved,
            ..base
        }))
    };
    assert_eq!(with("mail", "send", met, &[]), "policy.obligation");
    assert_eq!(with("web", "fetch", met, &[]), "policy.obligation");
    assert_eq!(with("mail", "send", met, &["self".into()]), "permit");
    assert_eq!(with("mail", "search", met, &[]), "permit");
    for one in [FlowContext { private: false, ..met }, FlowContext { untrusted: false, ..met }] {
        assert_eq!(with("mail", "send", one, &[]), "permit");
    }
}

#[test]
fn a_servers_own_hints_permit_nothing() {
    let mut catalog = crate::scene::catalog();
    let files = catalog.0.get_mut("files").unwrap();
    let delete = files.tools.get_mut("delete_file").unwrap();
    delete.hints = crate::Hints { read_only: true, ..crate::Hints::default() };
    let grants = vec![Grant { template: "reader".into(), role: "reader".into(), server: None }];
    let sources = crate::Sources { grants, ..crate::Sources::default() };
    let bundle =
        Bundle::load(&sources, &catalog, &crate::scene::roles()).unwrap_or_else(|p| panic!("{p}")).bundle;
    assert_eq!(code(&call(&bundle, &reader(), "files", "delete_file", "{}")), "policy.no_permit");
    assert_eq!(code(&call(&bundle, &reader(), "files", "read_file", "{}")), "permit");
}

#[test]
fn templates_give_what_they_say_where_they_say() {
    let grant = |template: &str, role: &str, server: Option<&str>| Grant {
        template: template.into(),
        role: role.into(),
        server: server.map(str::to_owned),
    };
    let bundle = try_load(
        "",
        vec![
            grant("reader", "reader", Some("files")),
            grant("operator", "writer", None),
            grant("contractor", "reader", Some("mail")),
        ],
    )
    .unwrap_or_else(|p| panic!("{p}"))
    .bundle;
    assert!(call(&bundle, &reader(), "files", "read_file", "{}").is_permit());
    assert!(!call(&bundle, &reader(), "web", "fetch", "{}").is_permit());
    let mfa = |who: Claims| Claims {
        amr: ["mfa".to_owned()].into(),
        auth_time: Some(surroundings().now.as_unix() - 60),
        ..who
    };
    assert!(!call(&bundle, &mfa(reader()), "mail", "search", "{}").is_permit());
    let writer = person("will", &["writers"]);
    let denied = call(&bundle, &writer, "files", "delete_file", "{}");
    assert_eq!(denied.denial().unwrap().obligations, [Obligation::MaxAge(3600), Obligation::Mfa]);
    assert!(call(&bundle, &mfa(writer), "files", "delete_file", "{}").is_permit());
    assert!(try_load("", vec![grant("raeder", "reader", None)]).is_err());
}

#[test]
fn a_server_gets_nothing_until_a_policy_gives_it() {
    let none = load("");
    let some = load(
        "permit (principal == Server::\"files\", action == Action::\"sample\", resource) when { context.max_tokens <= 1000 && context.include_context == \"none\" };
         permit (principal == Server::\"files\", action == Action::\"connect\", resource in Host::\"example.com\") when { resource.port == 443 };
         permit (principal == Server::\"files\", action == Action::\"secret\", resource == Secret::\"key\");
         permit (principal in Fleet::\"all\", action == Action::\"offer\", resource) when { resource.ancestors.contains(\"/srv\") };",
    );
    let ask = |bundle: &Bundle, server, action| {
        code(&bundle.authorize_server(&ServerQuery {
            server,
            client: "agent",
            action,
            now: surroundings().now,
            era: crate::Era::Modern,
        }))
    };
    let sample = |max_tokens, include_context| ServerAction::Sample {
        max_tokens,
        model_hints: &[],
        include_context,
        with_tools: false,
    };
    for (server, action, expected) in [
        ("files", sample(1000, "none"), "permit"),
        ("files", sample(1_000_000_000, "none"), "policy.no_permit"),
        ("files", sample(1, "allServers"), "policy.no_permit"),
        ("web", sample(1, "none"), "policy.no_permit"),
        ("files", ServerAction::Connect { host: "api.Example.com", port: 443 }, "permit"),
        ("files", ServerAction::Connect { host: "example.com", port: 80 }, "policy.no_permit"),
        ("files", ServerAction::Connect { host: "badexample.com", port: 443 }, "policy.no_permit"),
        ("files", ServerAction::Connect { host: "example.com@evil.test", port: 443 }, "policy.address"),
        ("files", ServerAction::Connect { host: "0x7f.1", port: 443 }, "policy.address"),
        ("files", ServerAction::Connect { host: "::1", port: 443 }, "policy.no_permit"),
        ("files", ServerAction::Secret { name: "key" }, "permit"),
        ("files", ServerAction::Secret { name: "other" }, "policy.no_permit"),
        ("web", ServerAction::Offer { uri: "file:///srv/a" }, "permit"),
        ("web", ServerAction::Offer { uri: "file:///srv/../etc" }, "policy.address"),
        ("web", ServerAction::Offer { uri: "http://169.254.169.254/" }, "policy.no_permit"),
        ("web", ServerAction::Roots, "policy.no_permit"),
        ("web", ServerAction::Elicit { mode: "form", url: None }, "policy.no_permit"),
        ("nowhere", ServerAction::Roots, "policy.unknown"),
    ] {
        assert_eq!(ask(&some, server, action), expected, "{server} {action:?}");
        assert_ne!(ask(&none, server, action), "permit");
    }
}

#[test]
fn an_identity_of_another_bundle_is_judged_by_this_one() {
    let (before, after) = (load("permit (principal in Role::\"reader\", action, resource);"), load(""));
    let rita = before.identify(reader());
    let asked = query(&rita, "files", Action::List);
    assert!(before.authorize(&asked).is_permit() && !after.authorize(&asked).is_permit());
    assert_ne!(before.version(), after.version());
    assert_eq!(before.version(), load("permit (principal in Role::\"reader\", action, resource);").version());
}

#[test]
fn a_policy_that_cannot_be_evaluated_denies() {
    let bundle = load(
        "permit (principal, action in Action::\"call\", resource);
         @id(\"sum\") forbid (principal, action == Action::\"call:web.fetch\", resource) when { context.args has timeout && context.args.timeout + 1 > 60 };",
    );
    assert!(call(&bundle, &reader(), "web", "fetch", r#"{"url":"https://a.test/","timeout":1}"#).is_permit());
    let decision = call(
        &bundle,
        &reader(),
        "web",
        "fetch",
        r#"{"url":"https://a.test/","timeout":9223372036854775807}"#,
    );
    assert_eq!(
        (code(&decision), decision.denial().unwrap().policies.clone()),
        ("policy.error", vec!["sum".to_owned()])
    );
}

#[test]
fn the_list_shows_what_some_arguments_or_a_stronger_sign_in_could_use() {
    let bundle = load(
        "permit (principal in Role::\"reader\", action == Action::\"call:files.read_file\", resource) when { context.paths.path.ancestors.contains(\"/data\") };
         permit (principal in Role::\"reader\", action == Action::\"call:web.fetch\", resource) when { context.args.url == \"x\" && principal.app };
         permit (principal in Role::\"reader\", action == Action::\"call:mail.send\", resource);
         @step_up(\"mail\") forbid (principal, action == Action::\"call:mail.send\", resource) unless { principal.scopes.contains(\"mail\") };
         permit (principal in Role::\"reader\", action == Action::\"call:mail.search\", resource);
         forbid (principal, action == Action::\"call:mail.search\", resource) when { resource.reads_private };",
    );
    let rita = bundle.identify(reader());
    let seen = |server, tools: &[&'static str]| {
        let sees =
            |tool: &&str| bundle.may_see(&query(&rita, server, Action::Call { tool, arguments: None }));
        tools.iter().copied().filter(sees).collect::<Vec<_>>()
    };
    assert_eq!(seen("files", &["read_file", "read_many", "delete_file", "unknown"]), ["read_file"]);
    assert!(seen("web", &["fetch"]).is_empty());
    assert_eq!(seen("mail", &["search", "send"]), ["send"]);
}

#[test]
fn bad_bundles_are_refused_with_every_problem_and_unpinned_tools_only_warned_of() {
    let problems = |text: &str| try_load(text, Vec::new()).err().map(|p| p.0).unwrap_or_default();
    assert_eq!(problems("permit (principal, action"), ["test:1: unexpected end of input"]);
    let found = problems(
        "@id(\"x\") permit (principal, action == Action::\"read\", resource) when { resource.colour == 1 };
         @id(\"x\") permit (principal, action == Action::\"red\", resource);
         @id(\"y\") permit (principal, action == Action::\"call:web.fetch\", resource) when { context.args.url == 1 };
         @step_up(\"a b\") forbid (principal, action, resource);
         @approval(\"boss\") permit (principal, action, resource);",
    );
    assert!(found.len() >= 4, "{found:#?}");
    let loaded = try_load(
        "@id(\"later\") permit (principal, action == Action::\"call:web.post\", resource);
         @id(\"both\") permit (principal, action in [Action::\"call:web.post\", Action::\"call:web.fetch\"], resource);
         @id(\"typo\") @aproval(\"boss\") forbid (principal in Role::\"ghost\", action, resource);",
        Vec::new(),
    )
    .unwrap_or_else(|p| panic!("{p}"));
    assert_eq!(loaded.warnings.len(), 4, "{:#?}", loaded.warnings);
    assert!(call(&loaded.bundle, &reader(), "web", "fetch", "{}").is_permit());
    assert!(loaded.bundle.policy_ids().all(|id| id != "later"));
}
