//! `bartizan shield bundle`: make, sign, check and read bundles.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::OpenOptions,
    io::Write as _,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use bartizan_audit::event::Moment;
use bartizan_model::{Clock, Entropy, SystemClock, Timestamp};
use bartizan_shield::{
    bundle::{
        Chain, Difference, Envelope, KeyId, Manifest, PublicKey, Refusal, SigningKey, Span, Vector, fill_in,
    },
    classifier::Classifier,
};
use bartizan_store::{Digest, OsEntropy};
use clap::{Args, Subcommand};

use crate::{config, state::State};

#[derive(Subcommand)]
pub enum BundleCommand {
    /// Make a key that signs bundles, and print the public key for `[shield.bundle] keys`.
    Keygen {
        /// Where the private key goes (PKCS #8, PEM), for you alone.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Make a bundle of rule packs, a model, or both, put it to the test, and sign it.
    ///
    /// Have ready: a pack of rules, and a private key of `keygen` whose public key gates have in `[shield.bundle] keys`. A pack
    /// is a TOML file of [[rule]] tables, each with two texts or more that it must catch (`caught`) and two that it must leave
    /// alone (`harmless`). A pack named as one of the build's takes its place; any other is added.
    ///
    /// What comes out: one JSON file for `[shield.bundle] path` or `url`, which has passed here the tests that every gate puts it
    /// to, and on standard error which rules of the build it changes. One that fails a test is not written. Without --key nobody
    /// has signed it, and no gate takes it: add signatures by `sign`, on other machines if you like. The version must rise with
    /// every bundle you sign.
    #[command(after_help = "Examples:
  bartizan shield bundle make --name acme --bundle-version 7 --rules house.toml \\
      --key acme.pem --out acme.json
  bartizan shield bundle make --name acme --bundle-version 8 --rules house.toml \\
      --chain acme.keys --key new.pem --out acme.json
  bartizan shield bundle verify acme.json --config bartizan.toml     # then: as the gate would")]
    Make(MakeArgs),
    /// Say that other keys sign from now on, in a chain of keys that goes with every bundle (`make --chain`).
    ///
    /// Have ready: the chain's file, if you have changed keys before; the private keys that sign until now; and new ones of
    /// `keygen`, whose public keys --next names. As many of the old keys as gates want signatures (`threshold`) must sign, and as
    /// many of the new ones; keys on other machines do so by `sign CHAIN`.
    ///
    /// What comes out: the file with one link more, and on standard error every link, and whose signature the last one still
    /// wants. Gates follow it from the keys of their configuration, which need not change, and never back. A key that the last
    /// link does not name signs nothing any more: that is how a key is revoked. Keep the file; each `make` wants it.
    #[command(after_help = "Examples:
  bartizan shield bundle keygen --out new.pem                        # prints ed25519:NEW
  bartizan shield bundle rotate acme.keys --next ed25519:NEW --key old.pem --key new.pem
  bartizan shield bundle make --name acme --bundle-version 8 --rules house.toml \\
      --chain acme.keys --key new.pem --out acme.json")]
    Rotate {
        /// The chain; begun if there is none.
        chain: PathBuf,
        /// A public key that signs from now on. May be repeated.
        #[arg(long, value_name = "KEY", required = true)]
        next: Vec<PublicKey>,
        /// Sign it with this private key (PKCS #8, PEM). May be repeated.
        #[arg(long, value_name = "FILE")]
        key: Vec<PathBuf>,
    },
    /// Add a signature to a bundle, or to the last link of a chain of keys.
    Sign {
        /// The bundle, or the chain.
        file: PathBuf,
        /// The private key (PKCS #8, PEM).
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Check a bundle as a gate would: signatures, files, dates, its own tests. Exit code 0 if it is good, 1 if not.
    Verify(VerifyArgs),
    /// Show what a bundle says of itself and how it differs from the build, or what a chain of keys says. Nobody vouches for
    /// it: see `verify`.
    Show {
        /// The bundle, or the chain.
        file: PathBuf,
    },
}

#[derive(Args)]
pub struct MakeArgs {
    /// Whose it is, for people: a-z, 0-9, . and -.
    #[arg(long)]
    name: String,
    /// Its version, from 1.
    #[arg(long, value_name = "N")]
    bundle_version: u64,
    /// From which age on no gate takes it up any more.
    #[arg(long, default_value = "90d")]
    expires: Span,
    /// A pack of rules; its name is the file's. May be repeated.
    #[arg(long, value_name = "FILE")]
    rules: Vec<PathBuf>,
    /// A model, as `ml` trains it. It needs --vectors.
    #[arg(long, value_name = "FILE", requires = "vectors")]
    model: Option<PathBuf>,
    /// Texts the model is tried on wherever it is loaded: a JSON list of `text`, `kind` and `attack`; scores are filled in.
    #[arg(long, value_name = "FILE", requires = "model")]
    vectors: Option<PathBuf>,
    /// Sign it with this private key (PKCS #8, PEM). May be repeated.
    #[arg(long, value_name = "FILE")]
    key: Vec<PathBuf>,
    /// The chain that leads from the keys gates know to those that sign, see `rotate`.
    #[arg(long, value_name = "FILE")]
    chain: Option<PathBuf>,
    /// Where it goes.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Args)]
#[command(group = clap::ArgGroup::new("whose").required(true).args(["keys", "config"]))]
pub struct VerifyArgs {
    /// The bundle.
    file: PathBuf,
    /// A public key that counts, as `keys` of a configuration would have it: its chain of keys begins there. May be repeated.
    #[arg(long = "public-key", value_name = "KEY", conflicts_with = "config")]
    keys: Vec<PublicKey>,
    /// How many of them must have signed it; one, if you do not say.
    #[arg(long, conflicts_with = "config")]
    threshold: Option<usize>,
    /// Check it as the gate of this configuration would, versions it has seen included.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub fn bundle(command: BundleCommand) -> anyhow::Result<ExitCode> {
    match command {
        BundleCommand::Keygen { out } => keygen(&out),
        BundleCommand::Make(arguments) => make(&arguments),
        BundleCommand::Rotate { chain, next, key } => rotate(&chain, &next, &key),
        BundleCommand::Sign { file, key } => sign(&file, &key),
        BundleCommand::Verify(arguments) => verify(&arguments),
        BundleCommand::Show { file } => show(&file),
    }
}

fn keygen(out: &Path) -> anyhow::Result<ExitCode> {
    let key = fresh_key();
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(out)
        .with_context(|| format!("cannot make {}", out.display()))?;
    file.write_all(key.to_pem()?.reveal().as_bytes())?;
    crate::print(&format!("{}\n", key.public()))?;
    Ok(ExitCode::SUCCESS)
}

fn fresh_key() -> SigningKey {
    let mut seed = [0; 32];
    OsEntropy.fill(&mut seed);
    SigningKey::from_seed(&seed)
}

fn make(arguments: &MakeArgs) -> anyhow::Result<ExitCode> {
    let mut files = BTreeMap::new();
    for path in &arguments.rules {
        let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        if files.insert(format!("rules/{name}.toml"), read(path)?).is_some() {
            bail!("two packs are called `{name}`");
        }
    }
    if let (Some(model), Some(vectors)) = (&arguments.model, &arguments.vectors) {
        let model_bytes = read(model)?;
        let classifier = Classifier::parse(&model_bytes).with_context(|| model.display().to_string())?;
        let mut values: Vec<Vector> =
            serde_json::from_slice(&read(vectors)?).with_context(|| vectors.display().to_string())?;
        fill_in(&classifier, &mut values);
        files.insert("model/ngrams.bin".to_owned(), model_bytes);
        files.insert("model/vectors.json".to_owned(), serde_json::to_vec(&values)?);
    }
    let now = SystemClock.now();
    let mut envelope =
        Envelope::new(&arguments.name, arguments.bundle_version, now, now.plus(arguments.expires.0), files)?;
    if let Some(path) = &arguments.chain {
        envelope = envelope.with_chain(read_chain(path, &read(path)?)?);
    }
    let difference = tried(&envelope)?;
    for path in &arguments.key {
        let key = read_key(path)?;
        must_count(&key, path, envelope.chain())?;
        envelope.sign(&key);
    }
    write(&arguments.out, &envelope.to_json())?;
    let by = envelope.signers().count();
    crate::say_error(&format!(
        "{}: version {}, {by} signature(s)\n{}",
        arguments.out.display(),
        arguments.bundle_version,
        words(&difference)
    ));
    Ok(ExitCode::SUCCESS)
}

/// What a bundle would change, if it passes its tests; a signature of our own stands in for any.
fn tried(envelope: &Envelope) -> anyhow::Result<Difference> {
    let key = fresh_key();
    let mut signed = envelope.clone();
    signed.sign(&key);
    Ok(signed.verify(&[key.public()], 1)?.prove()?.against_shipped())
}

fn sign(file: &Path, key_file: &Path) -> anyhow::Result<ExitCode> {
    let (bytes, key) = (read(file)?, read_key(key_file)?);
    if is_chain(&bytes) {
        let mut chain = read_chain(file, &bytes)?;
        chain.sign(&key);
        write(file, &chain.to_json())?;
        crate::say_error(&described_chain(&chain));
        warn_of_last(&chain);
        return Ok(ExitCode::SUCCESS);
    }
    let mut envelope = read_bundle(file, &bytes)?;
    must_count(&key, key_file, envelope.chain())?;
    envelope.sign(&key);
    write(file, &envelope.to_json())?;
    let ids: Vec<String> = envelope.signers().map(ToString::to_string).collect();
    crate::say_error(&format!("{}: signed by {}\n", file.display(), ids.join(", ")));
    Ok(ExitCode::SUCCESS)
}

/// Refuses a key that a gate which follows `chain` would not count.
fn must_count(key: &SigningKey, file: &Path, chain: &Chain) -> anyhow::Result<()> {
    let Some((_, keys, _)) = chain.links().last() else { return Ok(()) };
    if keys.contains(&key.public()) {
        return Ok(());
    }
    bail!(
        "{} is {}, which the last link of the chain of keys does not name: it has been replaced, or is none of the chain's, \
         and no gate counts what it signs. Sign with one of {}",
        file.display(),
        key.public().id(),
        ids(keys)
    )
}

fn rotate(path: &Path, next: &[PublicKey], keys: &[PathBuf]) -> anyhow::Result<ExitCode> {
    let mut chain = match path.exists() {
        true => read_chain(path, &read(path)?)?,
        false => Chain::default(),
    };
    if let Some((_, known, _)) = chain.links().last()
        && known.iter().all(|key| next.contains(key))
        && next.iter().all(|key| known.contains(key))
    {
        bail!(
            "link {} of {} names these keys already; `bartizan shield bundle sign` adds a signature to it",
            chain.len(),
            path.display()
        );
    }
    if let Some(missing) = missing_of_last(&chain).first() {
        bail!(
            "no gate follows link {} of {}: {missing}. Only the last link can be signed, so sign it \
             (`bartizan shield bundle sign`) before you add another",
            chain.len(),
            path.display()
        );
    }
    let keys = keys.iter().map(|path| read_key(path)).collect::<anyhow::Result<Vec<_>>>()?;
    chain.add(next, SystemClock.now())?;
    for key in &keys {
        chain.sign(key);
    }
    write(path, &chain.to_json())?;
    crate::say_error(&described_chain(&chain));
    warn_of_last(&chain);
    Ok(ExitCode::SUCCESS)
}

/// Says what the last link of `chain` wants before any gate follows it.
fn warn_of_last(chain: &Chain) {
    let number = chain.len();
    for missing in missing_of_last(chain) {
        crate::say_error(&format!(
            "warning: no gate follows link {number} yet: {missing}. Sign it with such a key: `bartizan shield bundle sign`\n"
        ));
    }
    if number == 1
        && let Some((_, keys, signers)) = chain.links().last()
        && !signers.is_empty()
        && signers.iter().all(|id| keys.iter().any(|key| key.id() == **id))
    {
        crate::say_error(
            "warning: only keys that link 1 names itself signed it: no gate follows it that has none of them in its \
             configuration, until a key from there signs it\n",
        );
    }
}

/// Whose signatures the last link of `chain` wants, as far as the chain alone can tell: the keys before the first link are in
/// gates' configurations, and so is how many of them must sign.
fn missing_of_last(chain: &Chain) -> Vec<String> {
    let links: Vec<_> = chain.links().collect();
    let Some(((_, own, signers), before)) = links.split_last() else { return Vec::new() };
    let has_signed = |keys: &[PublicKey]| signers.iter().any(|id| keys.iter().any(|key| key.id() == **id));
    let mut missing = Vec::new();
    match before.last() {
        Some((_, old, _)) if !has_signed(old) => {
            missing.push(format!("none of the keys before it signed it ({})", ids(old)));
        }
        None if signers.is_empty() => {
            missing.push(
                "none of the keys before it signed it, which gates have in their configuration".to_owned(),
            );
        }
        _ => {}
    }
    if !has_signed(own) {
        missing.push(format!("none of the keys that it names signed it ({})", ids(own)));
    }
    missing
}

fn ids(keys: &[PublicKey]) -> String {
    keys.iter().map(|key| key.id().to_string()).collect::<Vec<_>>().join(", ")
}

fn described_chain(chain: &Chain) -> String {
    let mut text = String::new();
    for ((created, keys, signers), number) in chain.links().zip(1..) {
        let keys: Vec<String> = keys.iter().map(|key| format!("{key} ({})", key.id())).collect();
        let signers: Vec<&str> = signers.iter().map(|id| id.as_str()).collect();
        let by = if signers.is_empty() { "nobody".to_owned() } else { signers.join(", ") };
        let _ = writeln!(
            text,
            "link {number}   {}: from then on {}; signed by {by}",
            Moment::from(created),
            keys.join(", ")
        );
    }
    text
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn verify(arguments: &VerifyArgs) -> anyhow::Result<ExitCode> {
    let bytes = read(&arguments.file)?;
    if is_chain(&bytes) {
        bail!(
            "{} is a chain of keys, and a bundle is wanted; `bartizan shield bundle make --chain` puts the chain into one",
            arguments.file.display()
        );
    }
    let now = SystemClock.now();
    let checked = match &arguments.config {
        None => {
            let checking = super::check(&bytes, arguments.threshold.unwrap_or(1), &arguments.keys, None, now);
            crate::runtime()?.block_on(checking).map(|checked| checked.verified)
        }
        Some(path) => {
            let loaded = config::load(Some(path))?;
            let settings = loaded.config.shield.bundle.with_context(|| {
                format!(
                    "{} has no [shield.bundle]: add one with `keys`, or name the keys by --public-key instead",
                    path.display()
                )
            })?;
            let keys = settings.public_keys().map_err(anyhow::Error::msg)?;
            crate::runtime()?.block_on(async {
                let store = State::look(Some(path))?.known_bundles().await?;
                let checked = super::check(&bytes, settings.threshold, &keys, store.as_ref(), now).await;
                Ok::<_, anyhow::Error>(checked.map(|checked| checked.verified))
            })?
        }
    };
    let proven = checked.and_then(|verified| match verified.prove() {
        Ok(arms) => Ok((verified, arms)),
        Err(refusal) => Err(refusal.into()),
    });
    match proven {
        Ok((verified, arms)) => {
            let by: Vec<&str> = verified.signers().iter().map(KeyId::as_str).collect();
            crate::print(&format!(
                "good: {} version {}, signed by {}\n{}",
                verified.manifest().name,
                verified.version(),
                by.join(", "),
                words(&arms.against_shipped())
            ))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(unfit) => {
            crate::print(&format!("{}: {unfit}\n", unfit.code()))?;
            if unfit.is_about_keys() {
                let keys = match &arguments.config {
                    Some(path) => format!("[shield.bundle] keys of {}", path.display()),
                    None => "--public-key".to_owned(),
                };
                crate::say_error(&format!(
                    "note: {keys} must name the keys that signed it, or those from which its chain of keys leads there; `bartizan \
                     shield bundle show {}` says who signed, and by which chain\n",
                    arguments.file.display()
                ));
            }
            Ok(ExitCode::from(1))
        }
    }
}

fn show(file: &Path) -> anyhow::Result<ExitCode> {
    let bytes = read(file)?;
    if is_chain(&bytes) {
        crate::print(&described_chain(&read_chain(file, &bytes)?))?;
        return Ok(ExitCode::SUCCESS);
    }
    let envelope = read_bundle(file, &bytes)?;
    let mut text = described(envelope.manifest());
    text.push_str(&described_chain(envelope.chain()));
    let ids: Vec<String> = envelope.signers().map(ToString::to_string).collect();
    let _ = writeln!(text, "digest   {}", Digest(envelope.digest()));
    let _ =
        writeln!(text, "signed   {}", if ids.is_empty() { "by nobody".to_owned() } else { ids.join(", ") });
    match tried(&envelope) {
        Ok(difference) => text.push_str(&words(&difference)),
        Err(error) => {
            let _ = writeln!(text, "it would be refused: {error:#}");
        }
    }
    crate::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn described(manifest: &Manifest) -> String {
    let at = |seconds: u64| Moment::from(Timestamp::from_unix(seconds));
    let mut text = format!(
        "name     {}\nversion  {}\ncreated  {}\nexpires  {}\n",
        manifest.name,
        manifest.version,
        at(manifest.created),
        at(manifest.expires)
    );
    for file in &manifest.files {
        let _ = writeln!(text, "file     {} {} bytes, sha256 {}", file.path, file.size, file.sha256);
    }
    text
}

fn words(difference: &Difference) -> String {
    let mut text = String::new();
    for (what, rules) in
        [("added", &difference.added), ("changed", &difference.changed), ("REMOVED", &difference.removed)]
    {
        if !rules.is_empty() {
            let _ = writeln!(text, "rules {what}: {}", rules.join(", "));
        }
    }
    if difference.other_model {
        text.push_str("another model\n");
    }
    text
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Whether a file is meant as a chain of keys, good or not: a bundle's `chain` is a list.
fn is_chain(bytes: &[u8]) -> bool {
    let parsed: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
    parsed.get("chain").is_some_and(serde_json::Value::is_string)
}

fn read_chain(path: &Path, bytes: &[u8]) -> anyhow::Result<Chain> {
    match Chain::read(bytes) {
        Ok(chain) => Ok(chain),
        Err(_) if Envelope::read(bytes).is_ok() => bail!(
            "{} is a bundle, and a chain of keys is wanted, as `bartizan shield bundle rotate` makes one",
            path.display()
        ),
        Err(Refusal::Format(words)) => bail!("{}: it is no chain of keys: {words}", path.display()),
        Err(refusal) => Err(refusal).with_context(|| path.display().to_string()),
    }
}

fn read_bundle(path: &Path, bytes: &[u8]) -> anyhow::Result<Envelope> {
    Envelope::read(bytes).with_context(|| path.display().to_string())
}

fn read_key(path: &Path) -> anyhow::Result<SigningKey> {
    let text = bartizan_model::Secret::new(String::from_utf8(read(path)?).unwrap_or_default());
    SigningKey::from_pem(&text).map_err(|_| {
        anyhow::anyhow!(
            "{} holds no Ed25519 key in PKCS #8 (PEM); `bartizan shield bundle keygen` makes one",
            path.display()
        )
    })
}
