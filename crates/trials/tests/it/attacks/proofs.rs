//! Proofs of possession at several gates behind one address, which count together in Redis (RFC 9449 §11.1).

use std::{
    collections::HashSet,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use aws_lc_rs::digest;
use bartizan_trials::{Gate, Issuer, Upstream};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

const BASE: &str = "https://gate.example";

/// As much of Redis as is asked here: what was set, and a count that lets everything pass.
struct Redis {
    port: u16,
    set: Arc<Mutex<HashSet<String>>>,
    is_silent: Arc<AtomicBool>,
}

impl Redis {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (set, is_silent) = (Arc::<Mutex<HashSet<String>>>::default(), Arc::<AtomicBool>::default());
        let (kept, silence) = (Arc::clone(&set), Arc::clone(&is_silent));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (kept, silence) = (Arc::clone(&kept), Arc::clone(&silence));
                thread::spawn(move || serve(&stream, &kept, &silence));
            }
        });
        Self { port, set, is_silent }
    }
}

fn serve(stream: &TcpStream, kept: &Mutex<HashSet<String>>, is_silent: &AtomicBool) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let number = |reader: &mut BufReader<&TcpStream>| {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        line.trim().get(1..)?.parse::<usize>().ok()
    };
    loop {
        let count = number(&mut reader)?;
        let mut words = Vec::new();
        for _ in 0..count {
            let mut word = vec![0; number(&mut reader)? + 2];
            reader.read_exact(&mut word).ok()?;
            words.push(String::from_utf8_lossy(word.strip_suffix(b"\r\n")?).into_owned());
        }
        if is_silent.load(Ordering::Relaxed) {
            continue;
        }
        let reply = match words.first()?.as_str() {
            "SET" => {
                assert!(words[3..].iter().any(|word| word == "NX"), "{words:?}");
                let milliseconds: u64 = words.last()?.parse().ok()?;
                assert!((60_000..=300_000).contains(&milliseconds), "{words:?}");
                if kept.lock().unwrap().insert(words[1].clone()) { "+OK\r\n" } else { "$-1\r\n" }
            }
            "EVALSHA" => "*2\r\n:0\r\n:0\r\n",
            _ => "+OK\r\n",
        };
        let mut out = stream;
        out.write_all(reply.as_bytes()).ok()?;
    }
}

#[test]
fn aa_39_a_proof_works_once_at_all_gates_that_count_together() {
    let (issuer, key, up) = (Issuer::start(1), Issuer::start(9), Upstream::modern(|_, _| false));
    let redis = Redis::start();
    let start = |limits: &str| {
        Gate::start(&format!(
            "[server]\nlisten = \"127.0.0.1:0\"\npublic_url = \"{BASE}\"\n[identity]\nmode = \"resource-server\"\n{}\
             [limits]\ncaller = {{ per_minute = 60000 }}\n{limits}\n\
             [policy.roles.people]\ngroups = [\"people\"]\n[[policy.grants]]\ntemplate = \"operator\"\nrole = \"people\"\n{}",
            issuer.config(),
            up.config("up", ""),
        ))
    };
    let shared = format!("shared = \"redis://127.0.0.1:{}\"\ndangerous_fail_open = true", redis.port);
    // Each has a database of its own.
    let (one, other, alone) = (start(&shared), start(&shared), start(""));
    let hash = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, bytes));
    let jwk = key.jwk();
    // RFC 8037, appendix A.3.
    let jkt = hash(format!(r#"{{"crv":"Ed25519","kty":"OKP","x":{}}}"#, jwk["x"]).as_bytes());
    let audience = format!("{BASE}/mcp/up");
    let token = issuer.token("ann", &audience, json!({ "cnf": { "jkt": jkt } }));
    let issued: Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap();
    let ask = |gate: &Gate, id: &str| {
        let header = json!({ "typ": "dpop+jwt", "alg": "EdDSA", "jwk": jwk });
        let claims = json!({
            "htm": "POST", "htu": audience, "iat": issued["iat"], "jti": id, "ath": hash(token.as_bytes()),
        });
        gate.stranger()
            .modern("/mcp/up", "tools/call", r#""name":"echo","arguments":{}"#)
            .line("Authorization", &format!("DPoP {token}"))
            .line("DPoP", &key.sign(&header.to_string(), &claims.to_string()))
            .send()
    };
    assert_eq!(ask(&one, "1").outcome(), 200);
    assert_eq!(ask(&one, "1").status, 401);
    let again = ask(&other, "1");
    assert_eq!(again.status, 401, "{}", again.text());
    assert!(
        again.line("www-authenticate").unwrap().contains("used before"),
        "{:?}",
        again.lines("www-authenticate")
    );
    assert_eq!(ask(&alone, "1").outcome(), 200, "one that counts alone knows its own");
    assert_eq!(ask(&other, "2").outcome(), 200);
    assert!(redis.set.lock().unwrap().iter().all(|name| !name.contains("ann")), "it learns digests alone");

    // What may have been used is not taken, whatever the operator said of the limits.
    redis.is_silent.store(true, Ordering::Relaxed);
    let heard = up.heard_of("tools/call").len();
    let refused = ask(&other, "3");
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(refused.line("retry-after").is_some());
    assert_eq!(up.heard_of("tools/call").len(), heard);
    assert!(other.log().contains("[limits] shared"), "{}", other.log());
}
