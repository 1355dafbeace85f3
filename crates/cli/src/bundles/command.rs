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
    bundle::{Chain, Difference, Envelope, KeyId, Manifest, PublicKey, SigningKey, Span, Vector, fill_in},
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
    /// A pack is a TOML file of [[rule]] tables, each with two texts it catches and two it leaves alone. A pack named as one
    /// of the build's takes its place; any other is added. The version must rise with every bundle you sign:
    ///   bartizan shield bundle make --name acme --bundle-version 7 --rules house.toml --key acme.pem --out acme.json
    Make(MakeArgs),
    /// Say that other keys sign from now on, in a chain of keys that goes with every bundle (`make --chain`).
    ///
    /// Gates follow it from the keys of their configuration. As many of the old keys as gates want signatures must sign, and
    /// as many of the new ones; keys on other machines do so by `sign CHAIN`. A key that is not named signs nothing any more:
    ///   bartizan shield bundle rotate acme.keys --next ed25519:… --key old.pem --key new.pem
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
pub struct VerifyArgs {
    /// The bundle.
    file: PathBuf,
    /// A public key whose signature counts. May be repeated.
    #[arg(long = "public-key", value_name = "KEY", conflicts_with = "config")]
    keys: Vec<PublicKey>,
    /// How many of them must have signed it.
    #[arg(long, default_value_t = 1, conflicts_with = "config")]
    threshold: usize,
    /// Check it as the gate of this configuration would, versions it has seen included.
    #[arg(long, value_name = "FILE", required_unless_present = "keys")]
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
        envelope =
            envelope.with_chain(Chain::read(&read(path)?).with_context(|| path.display().to_string())?);
    }
    let difference = tried(&envelope)?;
    for path in &arguments.key {
        envelope.sign(&read_key(path)?);
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

fn sign(file: &Path, key: &Path) -> anyhow::Result<ExitCode> {
    let (bytes, key) = (read(file)?, read_key(key)?);
    if let Ok(mut chain) = Chain::read(&bytes) {
        chain.sign(&key);
        write(file, &chain.to_json())?;
        crate::say_error(&described_chain(&chain));
        return Ok(ExitCode::SUCCESS);
    }
    let mut envelope = Envelope::read(&bytes)?;
    envelope.sign(&key);
    write(file, &envelope.to_json())?;
    let ids: Vec<String> = envelope.signers().map(ToString::to_string).collect();
    crate::say_error(&format!("{}: signed by {}\n", file.display(), ids.join(", ")));
    Ok(ExitCode::SUCCESS)
}

fn rotate(path: &Path, next: &[PublicKey], keys: &[PathBuf]) -> anyhow::Result<ExitCode> {
    let mut chain = match path.exists() {
        true => Chain::read(&read(path)?).with_context(|| path.display().to_string())?,
        false => Chain::default(),
    };
    chain.add(next, SystemClock.now())?;
    for key in keys {
        chain.sign(&read_key(key)?);
    }
    write(path, &chain.to_json())?;
    crate::say_error(&described_chain(&chain));
    Ok(ExitCode::SUCCESS)
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
    let now = SystemClock.now();
    let checked = match &arguments.config {
        None => Envelope::read(&bytes)
            .and_then(|envelope| {
                let keys = envelope.chain().follow(&arguments.keys, arguments.threshold)?;
                envelope.verify(&keys, arguments.threshold)
            })
            .and_then(|verified| verified.current(now).map(|()| verified))
            .map_err(super::Unfit::from),
        Some(path) => {
            let loaded = config::load(Some(path))?;
            let settings = loaded.config.shield.bundle.context("the configuration has no [shield.bundle]")?;
            let keys = settings.public_keys().map_err(anyhow::Error::msg)?;
            crate::runtime()?.block_on(async {
                let state = State::for_config(Some(path))?;
                let store = state.bundles(state.database().await?).await?;
                let checked = super::check(&bytes, &settings, &keys, &store, now).await;
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
            Ok(ExitCode::from(1))
        }
    }
}

fn show(file: &Path) -> anyhow::Result<ExitCode> {
    let bytes = read(file)?;
    if let Ok(chain) = Chain::read(&bytes) {
        crate::print(&described_chain(&chain))?;
        return Ok(ExitCode::SUCCESS);
    }
    let envelope = Envelope::read(&bytes)?;
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

fn read_key(path: &Path) -> anyhow::Result<SigningKey> {
    let text = bartizan_model::Secret::new(String::from_utf8(read(path)?).unwrap_or_default());
    SigningKey::from_pem(&text).map_err(|_| {
        anyhow::anyhow!(
            "{} holds no Ed25519 key in PKCS #8 (PEM); `bartizan shield bundle keygen` makes one",
            path.display()
        )
    })
}
