//! What of a configuration is taken, and how mistakes in it are told.

use base64::{Engine, engine::general_purpose::STANDARD};

use super::*;

fn problems(text: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bartizan.toml");
    std::fs::write(&path, text).unwrap();
    load(Some(&path)).err().map(|p| p.found).unwrap_or_default()
}

const GOOD: &str = "[[servers]]\nname = \"a\"\ncommand = [\"true\"]\n";

#[test]
fn reports_every_problem_at_once() {
    assert_eq!(problems(GOOD), Vec::<String>::new());
    let found = problems(
        "[server]\nlisten = \"0.0.0.0:8787\"\nallowed_origins = [\"https://a/b\"]\n[identity]\ndangerous_open = true\n\
         [[servers]]\nname = \"a\"\n[[servers]]\nname = \"a\"\ncommand = []\n[[servers]]\nname = \"b\"\nurl = \"http://h/\"\nshared = true\n",
    );
    assert_eq!(found.len(), 8, "{found:#?}");
}

#[test]
fn limits_are_shared_on_this_machine_or_by_tls() {
    let found = |limits: &str| problems(&format!("[limits]\n{limits}\n{GOOD}"));
    assert_eq!(found("shared = \"redis://127.0.0.1\"\ntool = { per_minute = 60 }"), Vec::<String>::new());
    assert!(found("shared = \"redis://redis.example\"")[0].contains("rediss://"));
    assert!(found("dangerous_fail_open = true")[0].contains("are for `shared`"));
    assert!(found("tool = { per_minute = 0 }")[0].contains("nonzero"));
}

#[test]
fn the_log_is_kept_as_long_as_is_said() {
    let found = problems(&format!("[audit]\nkeep_days = 0\n{GOOD}"));
    assert!(found[0].contains("nonzero"), "{found:?}");
    let of = |audit: &str| toml::from_str::<Config>(&format!("{audit}{GOOD}")).unwrap();
    let options = of("").audit.options();
    assert_eq!((options.keep_for, options.keep_bytes), (None, None));

    let config = of("[audit]\nkeep_days = 30\nkeep_mib = 512\n\
         [[audit.export]]\nname = \"siem\"\nkind = \"file\"\npath = \"out.jsonl\"\n\
         [policy.review]\nevery = \"30d\"\n");
    let options = config.audit.options();
    assert_eq!(options.keep_for, Some(std::time::Duration::from_secs(30 * 86_400)));
    assert_eq!(options.keep_bytes, Some(512 * 1024 * 1024));
    assert_eq!(options.needed_by, ["siem"]);
    let warnings = config.warnings();
    assert!(warnings.iter().any(|warning| warning.contains("look unused")), "{warnings:?}");
}

/// Whoever writes a secret where it does not belong is told so, and does not find it in a log.
#[test]
fn what_is_wrong_is_told_by_its_place_and_not_by_what_stands_there() {
    let opinion =
        "[shield.second_opinion.azure]\nkind = \"azure-prompt-shields\"\nendpoint = \"https://x.example\"\n";
    let server = "[[servers]]\nname = \"a\"\nurl = \"http://127.0.0.1:1/\"\n";
    for (text, said) in [
        (format!("{opinion}key = \"hunter2\"\n{GOOD}"), "a secret does not stand here"),
        (
            format!("{server}credential = {{ kind = \"secret\", value = \"hunter2\" }}\n"),
            "a secret does not stand here",
        ),
        (format!("{GOOD}\u{fc} = \"hunter2\n"), "line 4, column"),
        (format!("{GOOD}password = \"hunter2\"\n"), "password"),
        (format!("{GOOD}shared = \"hunter2"), "line 4, column"),
    ] {
        let found = problems(&text);
        assert!(found.len() == 1 && found[0].contains(said), "{found:?}");
        assert!(!found[0].contains("hunter2"), "{found:?}");
    }
}

#[test]
fn unknown_keys_and_bad_names_are_errors() {
    assert!(problems(&format!("{GOOD}frobnicate = 1\n"))[0].contains("frobnicate"));
    assert!(problems("[[servers]]\nname = \"Big\"\ncommand = [\"x\"]\n")[0].contains("1 to 32"));
    assert!(problems("[serve]\n")[0].contains("serve"));
    for name in ["write_timeout_s", "idle_timeout_s"] {
        assert!(problems(&format!("[server]\n{name} = 0\n{GOOD}"))[0].contains(name));
        assert!(problems(&format!("[server]\n{name} = 4000\n{GOOD}"))[0].contains(name));
    }
}

#[test]
fn one_secret_for_two_servers_is_worth_a_warning() {
    let server = |name: &str, secret: &str| {
        format!(
            "[[servers]]\nname = \"{name}\"\nurl = \"http://127.0.0.1:1/\"\ncredential = {{ kind = \"secret\", value = \
             {{ file = \"{secret}\" }} }}\n"
        )
    };
    let warnings = |text: &str| toml::from_str::<Config>(text).unwrap().warnings();
    assert_eq!(warnings(&format!("{}{}", server("a", "one"), server("b", "two"))), Vec::<String>::new());
    let found = warnings(&format!("{}{}", server("a", "one"), server("b", "one")));
    assert!(found.len() == 1 && found[0].contains("`a`, `b`"), "{found:?}");
    let command = "[[servers]]\nname = \"c\"\ncommand = [\"x\"]\nset_env = { KEY = { file = \"one\" } }\n";
    assert_eq!(warnings(&format!("{}{command}", server("a", "one"))).len(), 1);
}

#[test]
fn a_role_that_nobody_has_releases_nothing_and_is_worth_a_warning() {
    let warnings = |field: &str, role: &str| {
        let text =
            format!("[policy]\n{field} = \"{role}\"\n[policy.roles.readers]\ngroups = [\"readers\"]\n{GOOD}");
        toml::from_str::<Config>(&text).unwrap().warnings()
    };
    for field in ["release_role", "hold_role"] {
        assert_eq!(warnings(field, "readers"), Vec::<String>::new());
        let found = warnings(field, "raeders");
        let words = format!("[policy] {field}: nobody has");
        assert!(found.len() == 1 && found[0].starts_with(&words), "{found:?}");
    }
}

#[test]
fn sign_in_is_checked_before_the_gate_starts() {
    let facade = "[server]\npublic_url = \"https://mcp.example\"\n[identity]\nmode = \"facade\"\n";
    let provider = "[identity.provider]\nkind = \"oidc\"\nissuer = \"https://id.example\"\nclient_id = \"gate\"\n\
                    credential = { method = \"client_secret_basic\", secret = { env = \"S\" } }\n";
    let good = format!("{facade}{provider}");
    assert_eq!(problems(&format!("{good}{GOOD}")), Vec::<String>::new());
    let only = |text: &str, word: &str| {
        let found = problems(&format!("{text}{GOOD}"));
        assert!(found.len() == 1 && found[0].contains(word), "`{word}` once: {found:#?}");
    };
    only(&format!("{good}recheck = {{ by = \"userinfo\", grace_s = 100000 }}\n"), "recheck.grace_s");
    only(&good.replace("\"gate\"", "\"\""), "client_id");
    only(facade, "needs [identity.provider]");
    let browsers = |line: &str| format!("[identity.browsers]\n{line}\n");
    // Without [identity], the mode is `local`.
    for mode in [good.as_str(), ""] {
        only(&format!("{mode}{}", browsers("decision_max_age_s = 0")), "decision_max_age_s");
        only(&format!("{mode}{}", browsers("idle_timeout_s = 0")), "idle_timeout_s");
    }
    for name in ["decision_methods", "decision_contexts"] {
        let values = |values: &str| browsers(&format!("{name} = {values}"));
        assert_eq!(problems(&format!("{good}{}{GOOD}", values("[\"mfa\"]"))), Vec::<String>::new());
        only(&format!("{good}{}", values("[\"mfa\", \"\"]")), &format!("{name} holds an empty value"));
        only(&values("[\"mfa\"]"), "need an identity provider");
        only(&format!("{facade}{}", values("[\"mfa\"]")), "needs [identity.provider]");
    }
}

#[test]
fn a_credential_is_for_urls_and_in_a_header_of_its_own() {
    let problems = |more: &str, credential: &str| {
        problems(&format!("[[servers]]\nname = \"a\"\n{more}\ncredential = {credential}\n"))
    };
    let url = "url = \"http://127.0.0.1:1/\"";
    let secret = |more: &str| format!("{{ kind = \"secret\", value = {{ env = \"X\" }}{more} }}");
    assert_eq!(problems(url, &secret(", header = \"X-Api-Key\"")), Vec::<String>::new());
    assert_eq!(problems(url, "{ kind = \"none\" }"), Vec::<String>::new());
    assert_eq!(problems("command = [\"x\"]", &secret("")).len(), 1);
    for header in ["Host", "mcp-session-id", "Transfer-Encoding", "a b", "x\\r\\ny"] {
        assert_eq!(problems(url, &secret(&format!(", header = \"{header}\""))).len(), 1, "{header}");
    }
    assert_eq!(problems(url, &secret(", scheme = \"two words\"")).len(), 1);
    assert!(!problems(url, &secret(", value_text = \"s\"")).is_empty(), "unknown keys are errors");
}

#[test]
fn a_second_opinion_is_named_whole_and_its_key_is_a_reference() {
    let opinion =
        "[shield.second_opinion.azure]\nkind = \"azure-prompt-shields\"\nendpoint = \"https://x.example\"\n";
    let key = "key = { env = \"K\" }\n";
    let server = format!("{GOOD}second_opinions = [\"azure\"]\n");
    assert_eq!(problems(&format!("{opinion}{key}{server}")), Vec::<String>::new());
    assert!(problems(&server)[0].contains("there is no [shield.second_opinion.azure]"));
    assert!(problems(&format!("{opinion}{server}"))[0].contains("needs a `key`"));
    assert!(!problems(&format!("{opinion}key = \"in the clear\"\n{server}")).is_empty());
    let nowhere = opinion.replace("https://x.example", "nowhere");
    assert!(problems(&format!("{nowhere}{key}{server}"))[0].contains("no URL"));
}

#[test]
fn a_key_pin_is_whole_and_for_https() {
    let found = |url: &str, pin: &str| {
        problems(&format!("[[servers]]\nname = \"a\"\nurl = \"{url}\"\ntls = {{ pin = [\"{pin}\"] }}\n"))
    };
    let good = format!("sha256//{}", STANDARD.encode([7; 32]));
    assert_eq!(found("https://mcp.example", &good), Vec::<String>::new());
    assert!(found("http://127.0.0.1:1", &good)[0].contains("https"));
    for bad in ["", "sha256//AAAA", good.trim_start_matches("sha256//"), &good.replace("256", "512")] {
        assert!(found("https://mcp.example", bad)[0].contains("tls.pin"), "{bad}");
    }
}

#[test]
fn the_embedded_default_is_good_and_reads_back() {
    let config = load(None).unwrap().config;
    assert_eq!(config.problems(), Vec::<String>::new());
    let again: Config = toml::from_str(&toml::to_string_pretty(&config).unwrap()).unwrap();
    assert_eq!(again.servers.len(), config.servers.len());
}
